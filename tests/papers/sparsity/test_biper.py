import pytest
import torch

from gramian.linalg.factor.quant import binary as signs
from gramian.models.vision import binary_nets
from gramian.nn.quantized import binary
from gramian.papers.sparsity import biper
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def straight_through(w, frequency=20.0):
    return w + (torch.sign(torch.sin(frequency * w)) - w).detach()


def test_a_straight_through_gradient_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(binary, "square_wave", straight_through)
    status, run = status_of(biper.forward_is_binary_and_backward_a_sine, tmp_path)
    assert status == "failed"
    assert len(false_claims(run)) == 2


def test_a_sign_with_another_gradient_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(binary, "binary_sign", lambda a: a + (torch.where(a >= 0, 1.0, -1.0) - a).detach())
    status, run = status_of(biper.forward_is_binary_and_backward_a_sine, tmp_path)
    assert status == "failed"
    assert "sign of activations" in false_claims(run)[0]


def test_an_error_that_ignores_the_frequency_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(signs, "periodic_error", lambda frequency, scale: 0.2268)
    status, _ = status_of(biper.frequency_controls_the_error, tmp_path, draws=10_000)
    assert status == "failed"


def test_products_that_forget_the_zeros_fail(tmp_path, monkeypatch):
    def forgetful(a, b, how="auto"):
        return (torch.where(a >= 0, 1.0, -1.0) @ signs.unpack_signs(b, a.shape[1]).T).to(torch.int32)

    monkeypatch.setattr(signs, "sign_matmul", forgetful)
    monkeypatch.setattr(binary, "sign_matmul", forgetful)
    status, run = status_of(biper.counting_bits_is_exact, tmp_path)
    assert status == "failed"
    assert len(false_claims(run)) == 2


def test_weights_without_a_gradient_learn_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        binary.BiPerLinear,
        "effective_weight",
        property(lambda self: torch.sin(20 * self.weight.detach()) + 0 * self.weight),
    )
    status, run = status_of(biper.bits_alone_learn, tmp_path, steps=20)
    assert status == "failed"
    assert len(false_claims(run)) == 1


def test_networks_with_another_shortcut_fail(tmp_path, monkeypatch):
    real = binary_nets._Block.__init__

    def heavy(self, channels, outputs, stride, frequency):
        real(self, channels, outputs, stride, frequency)
        self.extra = torch.nn.Conv2d(channels, outputs, 1)

    monkeypatch.setattr(binary_nets._Block, "__init__", heavy)
    status, run = status_of(biper.sizes_of_the_paper, tmp_path)
    assert status == "failed"
    assert len(false_claims(run)) == 2


@pytest.mark.slow
def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(biper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
