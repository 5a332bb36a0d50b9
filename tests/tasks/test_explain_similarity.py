"""Explaining similarities: tables that point at the shared words, a user's pairs, files that load again."""

import pytest

from gramian import data
from gramian.atlas import apply
from gramian.lab import Run
from gramian.tasks import explain_similarity as task

pytestmark = pytest.mark.skipif(not data.is_here("all_minilm_l6_v2"), reason="gramian data fetch all_minilm_l6_v2")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    path.write_text("first,second\nThe guitar is loud.,He plays the guitar.\n")
    return path


def test_every_method_says_what_the_texts_share(pairs, tmp_path):
    problem = task.load(str(pairs))
    assert problem.facts["pairs"] == 1
    for name, method in {**task.METHODS, **task.BASELINES}.items():
        figures, explained = task.evaluate(method, problem, Run(tmp_path, seed=0, show_progress=False))
        assert figures["faithfulness"] == pytest.approx(figures["coldest_gone"] - figures["hottest_gone"], abs=1e-6)
        frame = task.predict(explained, problem)
        if name in ("bilrp", "last-states", "word-embeddings"):
            assert frame["strongest in first"][0] == frame["strongest in second"][0] == "guitar", name
            assert figures["faithfulness"] > 0.1, name


def test_what_was_saved_explains_other_pairs(pairs, tmp_path):
    apply.apply("explain-similarity", "last-states", tmp_path / "out", data=str(pairs))
    assert (tmp_path / "out" / "model" / "pair0.png").stat().st_size > 1000
    other = tmp_path / "other.csv"
    other.write_text("first,second\nA cat sleeps.,The cat is asleep.\nIt rains.,Rain falls.\n")
    found = apply.reuse("explain-similarity", tmp_path / "out", data=str(other), out=tmp_path / "again")
    assert len(found.read_text().splitlines()) == 3


def test_bad_input(tmp_path):
    for text, match in (
        ("one,two\na b,c d\n", "'first' is missing"),
        ("first,second\nA cat.,  \n", "empty text"),
        ("first,second\nA cat.,x\n", "one token"),
        ("first,second\n", "no pair|no row|empty"),
    ):
        file = tmp_path / "pairs.csv"
        file.write_text(text)
        with pytest.raises(ValueError, match=match):
            task.load(str(file))
    with pytest.raises(ValueError, match="first and second"):
        task.load("nothing")
    with pytest.raises(ValueError, match="first and second"):
        task.load("pairs", target="y")
    with pytest.raises(ValueError, match="no encoder of sentences"):
        task.load("pairs", model="efficientnet-lite0")
