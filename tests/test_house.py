"""The house rules that no linter knows."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_short_enough_to_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("folder", sorted({p.parent for p in SOURCES}), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_folder_holds_no_more_than_fifteen_files(folder):
    if "papers" not in folder.parts:
        assert len([p for p in folder.glob("*.py") if p.name != "__init__.py"]) <= 15


def test_every_module_says_what_it_is():
    silent = [p for p in SOURCES if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    assert silent == []


def test_nothing_is_unpickled_and_weights_load_safely():
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "dill", "cloudpickle"} & set(names), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", path


def test_every_experiment_calls_checks_and_no_global_state_is_set():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert "torch.set_default" not in text, path
        if "papers" in path.parts and path.name != "__init__.py":
            assert "run.check(" in text or "check(" in text, path


def test_tests_mirror_papers():
    for path in SOURCES:
        if "papers" in path.parts and path.name != "__init__.py":
            names = {f"test_{path.stem}.py", f"test_{path.stem}_paper.py"}
            assert any((ROOT / "tests" / "papers" / path.parent.name / n).exists() for n in names), path
