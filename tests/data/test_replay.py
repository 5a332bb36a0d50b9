import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.data.replay import DFSBuffer, imagination_scores


def filled(steps, capacity=100, episode=10, **settings):
    """Frames and rewards that say which step they are."""
    buffer = DFSBuffer(capacity, (1, 1, 1), 3, **settings)
    for step in range(steps):
        over = step % episode == episode - 1
        buffer.add(
            torch.full((1, 1, 1), step % 256, dtype=torch.uint8), step % 3, float(step), over and step % 20 == 19, over
        )
    return buffer


@settings(max_examples=10)
@given(seed=st.integers(0, 99), alpha=st.floats(0, 2), beta=st.floats(0, 2), ratio=st.sampled_from([1.0, 4.0, 64.0]))
def test_probabilities_are_the_formula(seed, alpha, beta, ratio):
    buffer = filled(
        60, episode=60, temperature=7.0, imagination_temperature=3.0, alpha=alpha, beta=beta, batch_ratio=ratio
    )
    random = numpy.random.default_rng(seed)
    buffer.counts[:60] = torch.as_tensor(random.integers(0, 30, 60))
    buffer.imagined[:60] = torch.as_tensor(random.integers(0, 90, 60))
    c, i = buffer.counts[:56].numpy().astype(float), buffer.imagined[:56].numpy() / ratio
    model = numpy.exp(-c / 7)
    dream = numpy.exp((c - alpha * i - beta * numpy.maximum(0, c - i)) / 3)
    numpy.testing.assert_allclose(buffer.probabilities(5).numpy(), model / model.sum(), rtol=1e-9)
    numpy.testing.assert_allclose(buffer.probabilities(5, imagine=True).numpy(), dream / dream.sum(), rtol=1e-9)


def test_imagination_prefers_what_the_model_learnt_and_it_did_not_use():
    scores = imagination_scores(torch.tensor([0, 5, 5, 5]), torch.tensor([0, 0, 320, 640]), 1.0)
    assert scores.tolist() == [0.0, 0.0, 0.0, -5.0]
    # without the second weight, what the model learnt often is preferred outright
    assert imagination_scores(torch.tensor([0, 5]), torch.tensor([0, 0]), 1.0, beta=0.0).tolist() == [0.0, 5.0]


def test_draws_are_counted_once_a_window_and_follow_the_probabilities():
    buffer, generator = filled(40, episode=40, temperature=1.0), torch.Generator().manual_seed(0)
    for _ in range(50):
        window = buffer.sample(4, 3, generator=generator)
        assert window.frames.dtype == torch.uint8
        assert len({int(r) for r in window.rewards[:, 0]}) == 4
    assert int(buffer.counts.sum()) == 200
    assert int(buffer.imagined.sum()) == 0
    assert int(buffer.counts[:38].max() - buffer.counts[:38].min()) <= 6  # 5.3 each: the rare ones are caught up
    even = filled(40, episode=40, sampling="uniform")
    for _ in range(50):
        even.sample(4, 3, generator=generator)
    assert int(even.counts[:38].max() - even.counts[:38].min()) > 6
    buffer.sample(5, 3, imagine=True, generator=generator)
    assert int(buffer.imagined.sum()) == 5
    buffer.sample(200, 3, imagine=True, replacement=True, generator=generator)
    assert int(buffer.imagined.sum()) == 205


def test_windows_are_in_order_across_the_rings_seam_and_old_counts_go():
    buffer = filled(130, capacity=100)
    buffer.counts[:] = 9
    for step in range(130, 150):
        buffer.add(torch.zeros(1, 1, 1, dtype=torch.uint8), 0, float(step), False)
    assert len(buffer) == 100
    window = buffer.sample(90, 8, generator=torch.Generator().manual_seed(0))
    assert bool((window.rewards.diff(dim=1) == 1).all())
    assert float(window.rewards.min()) >= 50
    assert buffer.added == 150
    assert int(buffer.counts[30:50].max()) <= 1  # the twenty that were overwritten began anew


def test_a_mask_ends_with_the_episode_and_imagination_stays_within():
    buffer, generator = filled(100), torch.Generator().manual_seed(0)
    window = buffer.sample(60, 6, generator=generator)
    same = window.rewards.div(10).floor() == window.rewards[:, :1].div(10).floor()
    assert bool((window.mask == same).all())
    assert not bool(window.mask.all())
    assert bool((window.ends == ((window.rewards % 20 == 19).float())).all())
    dream = buffer.sample(40, 6, imagine=True, generator=generator)
    assert bool(dream.mask.all())
    with pytest.raises(ValueError, match="no episode in the buffer"):
        buffer.probabilities(11, imagine=True)


def test_what_does_not_fit_is_refused():
    buffer = filled(20)
    with pytest.raises(ValueError, match="windows of 21 steps from a buffer of 20"):
        buffer.sample(1, 21)
    with pytest.raises(ValueError, match="17 of them"):
        buffer.sample(18, 4)
    with pytest.raises(ValueError, match="outside 0 … 2"):
        buffer.add(torch.zeros(1, 1, 1, dtype=torch.uint8), 3, 0.0, False)
    with pytest.raises(ValueError, match="outside 0 … 2"):
        buffer.add(torch.zeros(1, 1, 1, dtype=torch.uint8), -1, 0.0, False)
    with pytest.raises(ValueError, match="shape"):
        buffer.add(torch.zeros(1, 2, 1, dtype=torch.uint8), 0, 0.0, False)
    with pytest.raises(ValueError, match="finite"):
        buffer.add(torch.zeros(1, 1, 1, dtype=torch.uint8), 0, float("nan"), False)
    assert len(buffer) == 20


@pytest.mark.parametrize(
    "bad", [{"capacity": 0}, {"temperature": 0.0}, {"alpha": -1.0}, {"batch_ratio": 0.0}, {"sampling": "newest"}]
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="="):
        DFSBuffer(**({"capacity": 4, "frame_shape": (1, 1, 1), "num_actions": 2} | bad))
