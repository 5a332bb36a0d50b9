import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.analysis.geometry import linearity
from gramian.analysis.geometry import linearity_profile as profile
from gramian.analysis.geometry.paired import PairedStatistics
from gramian.models.language.tiny import TinyTransformer


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stats_of(x, y):
    stats = PairedStatistics()
    stats.update(x, y)
    return stats


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), features=st.integers(1, 8), others=st.integers(1, 6))
def test_the_score_is_that_of_least_squares_on_rows(seed, features, others):
    x, y = normal(40, features, seed=seed), normal(40, others, seed=seed + 1)
    y = y + x[:, :1]
    ones = torch.cat((x, torch.ones(40, 1, dtype=torch.float64)), 1)
    left = y - ones @ torch.linalg.lstsq(ones, y).solution
    expected = 1 - float(left.square().sum() / (y - y.mean(0)).square().sum())
    assert linearity.linearity(x, y) == pytest.approx(expected, abs=1e-9)
    assert linearity.linearity(5 * x - 3, 0.2 * y + 9) == pytest.approx(expected, abs=1e-9)


def test_an_affine_map_is_found_beside_features_of_all_sizes_and_constant_ones():
    x = normal(200, 6) * torch.logspace(-4, 4, 6, dtype=torch.float64)
    x = torch.cat((x, torch.full((200, 1), 3.0, dtype=torch.float64)), 1)
    weight, bias = normal(7, 3, seed=1), normal(3, seed=2)
    fitted = linearity.affine_fit(stats_of(x, x @ weight + bias))
    assert torch.allclose(fitted(x), x @ weight + bias, rtol=1e-7, atol=1e-7)
    assert linearity.linearity(x.float(), (x @ weight + bias).float()) > 1 - 1e-6


def test_the_residual_is_taken_off():
    x = normal(300, 5)
    y = x + 0.01 * normal(300, 5, seed=1)
    assert linearity.linearity(x, y) > 0.999
    assert linearity.linearity(x, y, residual=False) < 0.05
    direct = linearity.linearity(x, y - x)
    assert linearity.linearity(x, y, residual=False) == pytest.approx(direct, abs=1e-9)


def test_other_samples_punish_a_map_of_noise():
    x, y, more, new = (normal(30, 20, seed=s) for s in range(4))
    assert linearity.linearity(x, y) > 0.5
    assert linearity.linearity(x, y, held_out=(more, new)) < 0
    shifted = linearity.linearity(x, x, held_out=(more, more + 10))
    assert shifted < -10  # the mean counts: the map misses it


def test_the_first_positions_can_be_left_out():
    x = normal(6, 10, 4)
    y = normal(6, 10, 4, seed=1)
    x[:, 0] *= 1e4
    y[:, 0] = x[:, 0]
    assert linearity.linearity(x, y) > 0.999
    rest = linearity.linearity(x, y, drop_first=1)
    assert rest == pytest.approx(linearity.linearity(x[:, 1:], y[:, 1:]), abs=1e-12)
    assert rest < 0.5


@pytest.mark.parametrize("cap", [None, 8 * 8 * 10 * 3, 8 * 8 * 10 * 5])
def test_a_profile_is_that_of_kept_states_whatever_the_memory(cap):
    torch.manual_seed(0)
    model = TinyTransformer(8, 3, 2, positions=16, vocabulary=50)
    model.train()
    ids = torch.randint(0, 50, (20, 12), generator=torch.Generator().manual_seed(1))
    states = []
    handles = [layer.register_forward_hook(lambda m, i, o: states.append((i[0], o))) for layer in model.layers]
    with torch.no_grad():
        model(ids)
    for handle in handles:
        handle.remove()
    found = profile.linearity_profile(model, ids.split(7), drop_first=2, max_bytes=cap, held_out=[ids[:9]])
    assert [b.name for b in found] == ["layers.0", "layers.1", "layers.2"]
    for block, (x, y) in zip(found, states, strict=True):
        assert block.score == pytest.approx(linearity.linearity(x, y, drop_first=2), abs=1e-8)
        assert block.held_out == pytest.approx(
            linearity.linearity_score(stats_of(x[:9, 2:].flatten(0, 1), y[:9, 2:].flatten(0, 1)), block.fitted),
            abs=1e-8,
        )
        assert block.samples == 200
        assert cap is None or block.nbytes <= cap
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_padded_positions_are_left_out():
    torch.manual_seed(0)
    model = TinyTransformer(4, 2, 2, positions=16, vocabulary=50)

    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, input_ids, attention_mask):
            return self.inner(input_ids)

    ids = torch.randint(0, 50, (10, 8), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[5:, :3] = 0  # padded on the left: the first positions are those of the text
    batch = {"input_ids": ids, "attention_mask": mask}
    both = profile.linearity_profile(Named(), [batch], "inner.layers.*", drop_first=(0, 2))
    assert [b.samples for b in both] == [65, 65, 45, 45]


def test_what_a_profile_refuses():
    model = TinyTransformer(8, 2, 2, positions=16, vocabulary=50)
    ids = torch.zeros(2, 8, dtype=torch.long)
    with pytest.raises(ValueError, match="no batch"):
        profile.linearity_profile(model, [])
    with pytest.raises(ValueError, match="no numbered module"):
        profile.linearity_profile(model, [ids], "blocks.*")
    with pytest.raises(ValueError, match="no module is named"):
        profile.linearity_profile(model, [ids], ["layers.7"])
    with pytest.raises(ValueError, match="max_bytes"):
        profile.linearity_profile(model, [ids], max_bytes=100)
    with pytest.raises(ValueError, match="drop_first"):
        profile.linearity_profile(model, [ids], drop_first=-1)


def test_what_a_score_refuses():
    x = normal(20, 4)
    with pytest.raises(ValueError, match="fits anything"):
        linearity.linearity(x[:4], x[:4])
    with pytest.raises(ValueError, match="same samples"):
        linearity.linearity(x, x[:10])
    with pytest.raises(ValueError, match="no variance"):
        linearity.linearity(x, torch.full_like(x, 0.3))
    with pytest.raises(ValueError, match="nothing to predict"):
        linearity.linearity(torch.full_like(x, 0.3), x)
    with pytest.raises(ValueError, match="equal widths"):
        linearity.linearity(x, x[:, :2], residual=False)
    with pytest.raises(ValueError, match="drop_first"):
        linearity.linearity(x, x, drop_first=1)
    with pytest.raises(ValueError, match="NaN"):
        linearity.linearity(x, x / 0)
