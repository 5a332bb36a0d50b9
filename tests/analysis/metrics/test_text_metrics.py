import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.analysis.metrics.text import bleu, mean_rouge, rouge, tokens
from gramian.data import ngrams

TEXT = st.lists(st.sampled_from(["the", "left", "is", "clear", ",", "no", ".", "1.5"]), max_size=12).map(" ".join)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6)


@settings(max_examples=30)
@given(TEXT, TEXT, st.integers(1, 3))
def test_rouge_is_the_packages(written, wanted, n):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer([f"rouge{n}"])
    score, found = scorer.score(wanted, written)[f"rouge{n}"], rouge(written, wanted, n)
    assert (found.precision, found.recall, found.f1) == pytest.approx(tuple(score))


@settings(max_examples=30)
@given(PAIRS, st.integers(1, 4), st.sampled_from(["none", "exp"]))
def test_bleu_is_the_packages(pairs, n, smoothing):
    measure = pytest.importorskip("sacrebleu.metrics").BLEU(
        max_ngram_order=n, smooth_method=smoothing, tokenize="none", force=True
    )
    written, wanted = ([" ".join(tokens(t)) for t in texts] for texts in zip(*pairs, strict=True))
    theirs = measure.corpus_score(written, [wanted]).score / 100
    assert bleu([p for p, _ in pairs], [r for _, r in pairs], n, smoothing=smoothing) == pytest.approx(theirs, abs=1e-9)


@settings(max_examples=20)
@given(TEXT, TEXT)
def test_rouge_lies_between_zero_and_one_and_is_symmetric(a, b):
    assert 0 <= rouge(a, b).f1 <= 1
    assert rouge(a, b).f1 == pytest.approx(rouge(b, a).f1)
    assert rouge(a, a).f1 == (1 if ngrams.words(a) else 0)


def test_by_hand():
    assert rouge("the cat the cat", "the cat sat", 1) == ngrams.Overlap(0.5, 2 / 3, 4 / 7)
    assert rouge("", "the cat") == ngrams.Overlap(0.0, 0.0, 0.0)
    assert mean_rouge(["a b", "c"], ["a b", "d"]) == 0.5
    # 3 of 4 words, 2 of 3 pairs of words; the reference is longer by 2
    want = math.exp(1 - 6 / 4) * math.sqrt(3 / 4 * 2 / 3)
    assert bleu(["a b c x"], ["a b c d e f"], 2) == pytest.approx(want)
    assert bleu(["", ""], ["a", "b"]) == 0
    assert bleu(["a b"], ["b a"], 2) == 0
    assert bleu(["a b"], ["b a"], 2, smoothing="exp") == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bleu([], []), "0 predictions"),
        (lambda: mean_rouge(["a"], ["a", "b"]), "1 predictions and 2"),
        (lambda: bleu(["a"], ["a"], 0), "at least one token"),
        (lambda: rouge("a", "a", 0), "at least one token"),
        (lambda: bleu(["a"], ["a"], smoothing="more"), "smoothing"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
