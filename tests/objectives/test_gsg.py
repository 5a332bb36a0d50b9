import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.data import ngrams
from gramian.objectives.gsg import gap_sentences

WORDS = st.sampled_from(["left", "right", "small", "effusion", "heart", "normal", "is", "the"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=5).map(lambda w: " ".join(w) + "."), min_size=2, max_size=6)


@settings(max_examples=25)
@given(TEXTS, st.floats(0.05, 0.95), st.sampled_from(["independent", "sequential"]))
def test_source_and_target_make_up_the_text(sentences, ratio, strategy):
    gap = gap_sentences(" ".join(sentences), ratio, strategy=strategy)
    assert 1 <= len(gap.chosen) < len(sentences)
    assert gap.target == " ".join(sentences[i] for i in gap.chosen)
    read = ["<mask>" if i in gap.chosen else s for i, s in enumerate(sentences)]
    assert gap.source == " ".join(read)
    hidden = min(gap.scores[i] for i in gap.chosen)
    if strategy == "independent":
        assert all(s <= hidden for i, s in enumerate(gap.scores) if i not in gap.chosen)


def test_the_sequential_choice_is_the_greedy_one():
    text = "Left effusion is small. Left effusion is small again. The heart is large. A large heart and left effusion."
    gap = gap_sentences(text, 0.5, strategy="sequential")
    tokens = [ngrams.words(s) for s in ngrams.sentences_of(text)]
    chosen: list[int] = []
    for _ in range(2):
        best = None
        for i in range(4):
            if i in chosen:
                continue
            inside = [w for j in [*chosen, i] for w in tokens[j]]
            rest = [w for j in range(4) if j not in [*chosen, i] for w in tokens[j]]
            score = ngrams.overlap(inside, rest).f1
            if best is None or score > best[0]:
                best = score, i
        chosen.append(best[1])
    assert gap.chosen == tuple(sorted(chosen))


def test_repetition_is_not_taken_twice_by_the_sequential_choice():
    text = (
        "Small left effusion seen. Small left effusion seen. Heart size normal today. Normal heart size. Effusion left."
    )
    together = gap_sentences(text, 0.4, strategy="independent").chosen
    assert together == (0, 1)
    assert gap_sentences(text, 0.4, strategy="sequential").chosen != together


def test_an_empty_mask_leaves_the_sentence_out():
    gap = gap_sentences("Small effusion. A small effusion is seen. The heart is normal.", mask="")
    assert "  " not in gap.source
    assert gap.target not in gap.source


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "is empty"),
        (("  ... ",), "is empty"),
        (("Only one sentence.",), "one sentence"),
        (("One. Two.", 0.0), "between 0 and 1"),
        (("One. Two.", 1.0), "between 0 and 1"),
        (("One. Two.", float("nan")), "between 0 and 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        gap_sentences(*arguments)


def test_an_unknown_strategy():
    with pytest.raises(ValueError, match="'sequential'"):
        gap_sentences("One. Two.", strategy="best")
