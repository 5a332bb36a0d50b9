import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.factor.streaming_svd import StreamingSVD


def rows(count=400, width=24, seed=0, decay=0.8, shift=3.0):
    """Correlated rows with a mean that drifts over the stream."""
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=g, dtype=torch.float64)).Q
    scale = decay ** torch.arange(width, dtype=torch.float64)
    drift = torch.linspace(0, shift, count, dtype=torch.float64)[:, None]
    return torch.randn(count, width, generator=g, dtype=torch.float64) * scale @ basis.T + drift


def angle(a, b):
    """The largest principal angle's sine between two row spaces."""
    return float(torch.linalg.svdvals(a - a @ b.T @ b)[0])


@pytest.mark.parametrize("center", [True, False])
def test_full_rank_is_exact_whatever_the_batches(center):
    x = rows()
    stream = StreamingSVD(24, center=center)
    for batch in x.split([1, 7, 2, 190, 200]):
        stream.update(batch)
    centred = x - x.mean(0) if center else x
    _, s, vh = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(stream.singular_values, s, rtol=1e-9, atol=1e-9)
    assert angle(stream.components[:5], vh[:5]) < 1e-8
    torch.testing.assert_close(stream.explained_ratio, s**2 / (centred**2).sum(), rtol=1e-8, atol=1e-12)
    assert stream.count == 400
    expected = x.var(0, correction=1).sum() if center else (x**2).sum() / 400
    torch.testing.assert_close(stream.explained_variance.sum(), expected)


@pytest.mark.parametrize("method", ["exact", "warm"])
def test_a_truncated_stream_finds_the_leading_directions(method):
    from sklearn.decomposition import PCA

    x = rows(2000, 60, decay=0.7)
    stream = StreamingSVD(12, method=method)
    for batch in x.split(100):
        stream.update(batch)
    oracle = PCA(6).fit(x.numpy())
    assert angle(stream.components[:6], torch.from_numpy(oracle.components_)) < 1e-3
    torch.testing.assert_close(
        stream.explained_ratio[:6], torch.from_numpy(oracle.explained_variance_ratio_), rtol=0.01, atol=0
    )
    gram = stream.components @ stream.components.T
    torch.testing.assert_close(gram, torch.eye(12, dtype=torch.float64), atol=1e-10, rtol=0)


@settings(max_examples=10)
@given(cut=st.integers(1, 199), seed=st.integers(0, 5))
def test_merging_shards_is_streaming_them(cut, seed):
    x = rows(200, 10, seed)
    whole, left, right = (StreamingSVD(10) for _ in range(3))
    whole.update(x)
    left.update(x[:cut])
    right.update(x[cut:])
    left.merge(right)
    torch.testing.assert_close(left.singular_values, whole.singular_values, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(left.mean, whole.mean)
    torch.testing.assert_close(left.explained_ratio, whole.explained_ratio, rtol=1e-8, atol=1e-10)
    assert left.count == 200


def test_merging_with_an_empty_stream_changes_nothing():
    full, empty = StreamingSVD(4), StreamingSVD(4)
    full.update(rows(50, 8))
    before = full.components.clone()
    full.merge(StreamingSVD(4))
    assert torch.equal(full.components, before)
    empty.merge(full)
    assert angle(empty.components, before) < 1e-8
    assert empty.count == 50


def test_components_settle_as_rows_come():
    x, stream = rows(3000, 30, decay=0.5, shift=0.0), StreamingSVD(4)
    stream.update(x[:20])
    assert not stream.settled(0.99).any()
    for batch in x[20:].split(100):
        stream.update(batch)
    assert stream.settled(0.99).all()
    for bad in (0.0, 1.5):
        with pytest.raises(ValueError, match="cosine"):
            stream.settled(bad)


def test_it_grows_from_batches_shorter_than_the_rank():
    stream = StreamingSVD(6)
    stream.update(rows(3, 10))
    assert stream.components.shape == (3, 10)
    stream.update(rows(5, 10, seed=1))
    assert stream.components.shape == (6, 10)
    stream.update(rows(0, 10))
    assert stream.count == 8


def test_half_precision_is_accumulated_in_float32_and_constant_rows_explain_nothing():
    stream = StreamingSVD(2)
    stream.update(rows(20, 6).bfloat16())
    assert stream.components.dtype == torch.float32
    still = StreamingSVD(2)
    still.update(torch.ones(10, 4))
    assert torch.equal(still.explained_ratio, torch.zeros(2))


def test_bad_input():
    with pytest.raises(ValueError, match="rank=0"):
        StreamingSVD(0)
    with pytest.raises(ValueError, match="method='fast'"):
        StreamingSVD(1, method="fast")
    stream = StreamingSVD(2)
    with pytest.raises(ValueError, match="no rows"):
        stream.explained_ratio  # noqa: B018
    stream.update(torch.ones(1, 4))
    with pytest.raises(ValueError, match="two rows"):
        stream.explained_variance  # noqa: B018
    with pytest.raises(ValueError, match="width 5 do not fit earlier ones of width 4"):
        stream.update(torch.ones(2, 5))
    with pytest.raises(ValueError, match="NaN"):
        stream.update(torch.tensor([[1.0, float("nan"), 0, 0]]))
    with pytest.raises(ValueError, match="centred"):
        stream.merge(StreamingSVD(2, center=False))
    other = StreamingSVD(2)
    other.update(torch.ones(2, 3))
    with pytest.raises(ValueError, match="widths differ"):
        stream.merge(other)
