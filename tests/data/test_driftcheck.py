import pytest

from gramian.data import driftcheck


def test_the_built_in_prompts_are_balanced_and_different():
    prompts = driftcheck.built_in_prompts()
    assert sum(p.safe for p in prompts) == len(prompts) / 2 == 12
    assert len({p.text for p in prompts}) == 24


def test_prompts_of_a_file(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("label,prompt\nsafe,How are you?\nUnsafe,Steal it.\n", encoding="utf-8")
    assert driftcheck.read_prompts(path) == [
        driftcheck.Prompt("How are you?", True), driftcheck.Prompt("Steal it.", False),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no column 'text'"):
        driftcheck.read_prompts(path, prompt="text")
    for rows, message in (("safe,\n", "row 1"), ("maybe,Hello\n", "'maybe'"), ("", "no prompt")):
        path.write_text("label,prompt\n" + rows, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            driftcheck.read_prompts(path)


def test_refusals():
    assert driftcheck.refusal_rate(["I’m sorry, no.", "Sure, here it is. " * 10 + "I can't"]) == 0.5
    with pytest.raises(ValueError, match="no answers"):
        driftcheck.refusal_rate([])
