import numpy as np
import pytest
import torch
from torch import nn

from gramian.data.synthetic.season_domains import season_domains
from gramian.data.windows import windows
from gramian.linalg.signal.transport import sinkhorn_divergence
from gramian.models.series import fa_nbeats
from gramian.models.series.nbeats import NBeats, seasonal_basis, trend_basis
from gramian.optim.fit import fit


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def model(**settings):
    return NBeats(12, 6, **{"width": 8, "layers": 2, "generator": seeded(), **settings})


def two_domains():
    values = torch.from_numpy(season_domains(2, 120, np.random.default_rng(0)).astype(np.float32))
    return [tuple(t[..., 0] for t in windows(v[:, None], 12, 6)) for v in values]


@pytest.mark.parametrize("stacks", [("generic",) * 3, ("trend", "seasonality"), ("pooled",) * 3])
def test_blocks_add_up(stacks):
    net = model(stacks=stacks)
    x = torch.randn(5, 12, 2, generator=seeded(1))
    parts = net.decompose(x.mT.flatten(0, 1))
    torch.testing.assert_close(parts.rest + parts.backcasts.sum(0), x.mT.flatten(0, 1))
    torch.testing.assert_close(net(x), x[:, -1:] + parts.forecasts.sum(0).view(5, 2, 6).mT)
    assert parts.features.shape == (len(stacks), 10, 8)
    net.from_last = False
    torch.testing.assert_close(net(x), parts.forecasts.sum(0).view(5, 2, 6).mT)


def test_bases_are_polynomials_and_turns():
    past, future = trend_basis(12, 6, 2)
    assert past.shape == (3, 12)
    torch.testing.assert_close(future[2], (torch.arange(6) / 6) ** 2)
    torch.testing.assert_close(past[1], torch.arange(-12, 0) / 12)
    past, future = seasonal_basis(12, 6, 3)
    assert torch.linalg.matrix_rank(future.double(), atol=1e-5) == 6
    # twelve steps back are two whole horizons: the same functions
    torch.testing.assert_close(past[:, :6], future, atol=1e-5, rtol=0)


def test_channels_are_forecast_apart():
    net = model()
    x = torch.randn(3, 12, 2, generator=seeded(2))
    torch.testing.assert_close(net(x)[..., :1], net(x[..., :1]))


def test_pooling_reads_maxima():
    net = model(stacks=("pooled",), pools=(4,), blocks=1)
    x = torch.randn(3, 12, generator=seeded(3))
    lower = x.clone()
    lower[:, 0] = x[:, :4].amin(1) - 1  # not the largest of its four
    where = x[:, :4].argmax(1) != 0
    assert where.any()
    torch.testing.assert_close(net.decompose(x).forecasts[0][where], net.decompose(lower).forecasts[0][where])


def test_the_alignment_moves_extractors_only():
    net = model()
    fa_nbeats.alignment_loss(net, torch.randn(2, 9, 12, generator=seeded(4))).backward()
    for name, parameter in net.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert moved == ("extractor" in name), name


def test_divergences_are_those_of_every_pair():
    features = torch.randn(2, 3, 7, 4, generator=seeded(5), dtype=torch.float64)
    found = fa_nbeats.stack_divergences(features, 1.0, "tanh", 500, 1e-9)
    assert found.shape == (2, 3)
    pair = sinkhorn_divergence(features[1, 0].tanh(), features[1, 2].tanh(), 1.0, 500, 1e-9)
    assert float(found[1, 1]) == pytest.approx(float(pair), rel=1e-6)
    both = features[:, :2]
    assert fa_nbeats.stack_divergences(both[:, [0, 0]], 1.0, "tanh", 500, 1e-9).abs().max() < 1e-6


def test_sums_are_at_least_maxima():
    net, past = model(), torch.randn(3, 9, 12, generator=seeded(6))
    most, total = (float(fa_nbeats.alignment_loss(net, past, r)) for r in fa_nbeats.REDUCTIONS)
    assert total > most > 0


def test_without_weight_it_is_plain_training():
    domains = two_domains()
    aligned, plain = model(), model()
    settings = {"steps": 5, "lr": 1e-3}
    fa_nbeats.fit(aligned, domains, weight=0, batch_size=4, generator=seeded(7), **settings)

    def draw(generator):
        chosen = [torch.randint(len(past), (4,), generator=generator) for past, _ in domains]
        return tuple(torch.cat([d[k][i] for d, i in zip(domains, chosen, strict=True)])[..., None] for k in (0, 1))

    def measure(module: nn.Module, past, future):
        return fa_nbeats.smape(module(past), future)

    fit(plain, draw, measure, generator=seeded(7), show_progress=False, **settings)
    for ours, theirs in zip(aligned.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_alignment_draws_domains_together():
    domains, found = two_domains(), []
    for weight in (0.0, 10.0):
        net = model(blocks=1)
        history = fa_nbeats.fit(net, domains, weight=weight, batch_size=16, steps=40, lr=3e-3, generator=seeded(8))
        assert history.steps == 40
        past = torch.stack([d[0] for d in domains])
        features = net.decompose(past.flatten(0, 1)).features.unflatten(1, past.shape[:2])
        found.append(float(fa_nbeats.stack_divergences(features).mean()))
    assert found[1] < 0.5 * found[0]


def test_smape_by_hand():
    forecast, future = torch.tensor([[[1.0], [0.0], [2.0]]]), torch.tensor([[[3.0], [0.0], [-2.0]]])
    assert float(fa_nbeats.smape(forecast, future)) == pytest.approx((1.0 + 0 + 2.0) / 3)


def test_bad_input_is_refused():
    domains = two_domains()
    with pytest.raises(ValueError, match="at least two"):
        fa_nbeats.fit(model(), domains[:1], weight=1.0, steps=1)
    with pytest.raises(ValueError, match="not be negative"):
        fa_nbeats.fit(model(), domains, weight=-1.0, steps=1)
    with pytest.raises(ValueError, match="eps="):
        fa_nbeats.fit(model(), domains, eps=0.0, steps=1)
    with pytest.raises(ValueError, match="domain 1 has windows"):
        fa_nbeats.fit(model(), [domains[0], (domains[1][0][:, 1:], domains[1][1])], steps=1)
    with pytest.raises(ValueError, match="normalizer"):
        fa_nbeats.stack_divergences(torch.randn(1, 2, 3, 4), normalizer="l2")
    with pytest.raises(ValueError, match="two domains"):
        fa_nbeats.stack_divergences(torch.randn(1, 1, 3, 4))
    with pytest.raises(ValueError, match="reduction"):
        fa_nbeats.alignment_loss(model(), torch.randn(2, 3, 12), "mean")
    with pytest.raises(ValueError, match="unknown"):
        model(stacks=("spline",))
    with pytest.raises(ValueError, match="at least 1"):
        model(blocks=0)
    with pytest.raises(ValueError, match="tell at most"):
        model(harmonics=4)
    with pytest.raises(ValueError, match="entries for"):
        model(pools=(1,))
    with pytest.raises(ValueError, match="reads look_back"):
        model()(torch.randn(2, 11, 1))
