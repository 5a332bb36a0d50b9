import itertools

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from gramian.optim.parametrization import exponents
from gramian.optim.parametrization.exponents import ABC, classify
from gramian.optim.parametrization.rules import Parametrization


def chain(width, hidden=2, bias=True):
    sizes = [6] + [width] * hidden + [3]
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b, bias=bias), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def test_known_parametrizations():
    for hidden in (1, 2, 5):
        assert classify(exponents.standard(hidden)) == "unstable"
        assert classify(exponents.standard(hidden, c=1)) == "kernel"
        assert classify(exponents.standard(hidden, c=2)) == "trivial"
        assert exponents.neural_tangent(hidden).r == 0.5
        assert classify(exponents.neural_tangent(hidden)) == "kernel"
        assert exponents.maximal_update(hidden).r == 0
        assert classify(exponents.maximal_update(hidden)) == "feature"
    assert classify(exponents.mean_field()) == "feature"
    assert exponents.standard(2, c=0).r == -1
    # a start that explodes, and one whose output explodes
    assert classify(ABC((0, 0, 0.5), (0, 0, 0.5), 1)) == "unstable"
    assert classify(ABC((-0.5, 0.25), (0.5, 0.0), 0)) == "unstable"


@hypothesis.settings(max_examples=20)
@hypothesis.given(
    st.sampled_from(
        [
            exponents.standard(2), exponents.standard(2, 1), exponents.neural_tangent(3), exponents.mean_field(),
            exponents.maximal_update(2), exponents.maximal_update(1), ABC((0.0, 1.0), (0.0, 0.0), 0.5),
        ]
    ),
    st.floats(-2, 2),
)  # fmt: skip
def test_a_shift_changes_nothing(abc, theta):
    other = abc.shifted(theta)
    assert other.r == pytest.approx(abc.r)
    assert classify(other) == classify(abc)


def test_mean_field_is_maximal_update():
    shifted = exponents.mean_field().shifted(-0.5)
    assert shifted == exponents.maximal_update(1)


def test_powers_of_maximal_update_train_as_its_rule():
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    outputs = []
    for name in ("powers", "shifted", "rule"):
        model, generator = chain(32), torch.Generator().manual_seed(1)
        if name == "rule":
            model, groups = Parametrization("mup", chain(8), "sgd").apply(model, lr=0.1, generator=generator)
        else:
            abc = exponents.maximal_update(2).shifted(0.3 if name == "shifted" else 0)
            model, groups = abc.apply(model, chain(8), lr=0.1, generator=generator)
        tuner = torch.optim.SGD(groups)
        for _ in range(4):
            tuner.zero_grad()
            (model(x) - 1).square().mean().backward()
            tuner.step()
        outputs.append(model(x).detach())
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs[0], outputs[2], rtol=1e-4, atol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="force"):
        exponents.standard(2).apply(chain(16), chain(8), lr=0.1)
    exponents.standard(2).apply(chain(16), chain(8), lr=0.1, force=True)
    with pytest.raises(ValueError, match="give one for each"):
        exponents.maximal_update(3).apply(chain(16), chain(8), lr=0.1)
    with pytest.raises(ValueError, match="grow alike"):
        exponents.maximal_update(1).apply(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)), nn.Sequential(
            nn.Linear(2, 4), nn.Linear(4, 4)), lr=0.1)  # fmt: skip
    with pytest.raises(ValueError, match="base shape"):
        exponents.maximal_update(2).apply(chain(16), {}, lr=0.1)
    with pytest.raises(ValueError, match="at least two"):
        ABC((0,), (0,), 0)
    with pytest.raises(ValueError, match="finite"):
        ABC((0, float("nan")), (0, 0), 0)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="tied="):
        exponents.maximal_update(1).apply(tied, tied, lr=0.1)
