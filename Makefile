# Every target is one script or one command; ./demo and ./test set up what they need.
.PHONY: demo test verify bench site lint

demo:
	./demo

test:
	./test

verify:
	.venv/bin/gramian verify --quick

bench:
	.venv/bin/gramian bench

site:
	.venv/bin/gramian site

lint:
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/basedpyright -p pyproject.toml --level error
	.venv/bin/lint-imports
