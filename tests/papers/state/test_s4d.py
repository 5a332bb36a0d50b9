import numpy as np
import pytest
import torch

from gramian.linalg import hippo
from gramian.linalg.scan import lti
from gramian.nn.state import s4d as layers
from gramian.papers.state import s4d
from support import status_of


def failed(run):
    return [check.claim for check in run.checks if not check.ok]


def test_quick_experiment_holds(tmp_path):
    status, run = status_of(s4d.experiment, tmp_path)
    assert status == "ok", failed(run)


@pytest.mark.parametrize("part", [s4d.kernel_is_exact, s4d.discretizations_agree])
def test_a_kernel_of_zeros_fails(part, monkeypatch, tmp_path):
    def zeros(A, B, C, dt, length, **options):
        return torch.zeros(A.shape[0], length, dtype=dt.dtype)

    monkeypatch.setattr(lti, "lti_kernel_diagonal", zeros)
    status, run = status_of(part, tmp_path)
    assert status == "failed"
    assert failed(run)


def test_phases_in_single_precision_fail(monkeypatch, tmp_path):
    def naive(A, B, C, dt, length, **options):
        exponents = torch.arange(length, dtype=dt.dtype)
        decay = torch.exp(A * dt[:, None])
        Bbar = B * (decay - 1) / A
        return 2 * (C * Bbar)[:, None].matmul(torch.exp((A * dt[:, None])[..., None] * exponents))[:, 0].real

    monkeypatch.setattr(lti, "lti_kernel_diagonal", naive)
    status, run = status_of(s4d.kernel_is_exact, tmp_path)
    assert status == "failed"
    claims = failed(run)
    assert "zoh kernel equals dense matrix powers over 4096 steps, float32" in claims
    assert "zoh kernel equals dense matrix powers over 4096 steps, float64" not in claims


def test_one_discretization_for_the_other_fails(monkeypatch, tmp_path):
    real = lti.lti_kernel_diagonal
    monkeypatch.setattr(
        lti, "lti_kernel_diagonal", lambda *a, discretization="zoh", **o: real(*a, discretization="zoh", **o)
    )
    status, run = status_of(s4d.kernel_is_exact, tmp_path)
    assert status == "failed"
    assert all("bilinear" in claim for claim in failed(run))


def test_a_layer_that_forgets_its_state_fails(monkeypatch, tmp_path):
    real = layers.S4D.forward
    monkeypatch.setattr(layers.S4D, "forward", lambda self, x, state=None, **o: real(self, x, None, **o))
    status, run = status_of(s4d.convolution_is_recurrence, tmp_path)
    assert status == "failed"
    assert any("state carried" in claim for claim in failed(run))


def test_an_identity_layer_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(layers.S4D, "kernel", lambda self, length: torch.zeros(self.channels, length))
    status, _ = status_of(s4d.convolution_is_recurrence, tmp_path)
    assert status == "failed"


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_another_input_vector_or_spectrum_fails(scale, monkeypatch, tmp_path):
    real = hippo.legs_diagonal

    def wrong(state_size):
        A, B = real(state_size)
        return (A, 2 * B) if scale == 1 else (torch.complex(A.real, A.imag / scale), B)

    monkeypatch.setattr(hippo, "legs_diagonal", wrong)
    status, run = status_of(s4d.normal_part_converges, tmp_path)
    assert status == "failed"
    assert failed(run)


def test_another_spectrum_for_inv_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(hippo, "inverse_diagonal", hippo.linear_diagonal)
    status, run = status_of(s4d.normal_part_converges, tmp_path)
    assert status == "failed"
    assert any("S4D-Inv" in claim for claim in failed(run))


class Commonest:
    """The baseline in a classifier's place: always the commonest label."""

    history_ = {"seconds": [0.0]}

    def __init__(self, *args, **options):
        pass

    def fit(self, x, y, show_progress=None):
        labels, counts = np.unique(y, return_counts=True)
        self.label = labels[counts.argmax()]

    def score(self, x, y):
        return float(np.mean(y == self.label))


def test_a_classifier_of_the_commonest_class_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(s4d.state_space, "StateSpaceClassifier", Commonest)
    for part, options in ((s4d.classifies_digits, {"seeds": 1}), (s4d.classifies_vowels, {})):
        status, run = status_of(part, tmp_path / part.__name__, quick=False, **options)
        assert status == "failed"
        assert failed(run)
