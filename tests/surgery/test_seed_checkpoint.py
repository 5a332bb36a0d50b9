import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gramian.optim.subspace import KINDS, SubspaceParametrization
from gramian.surgery.seed_checkpoint import from_seed_checkpoint, to_seed_checkpoint


def build(seed, width=16):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2))


def trained(kind="fastfood"):
    inside = SubspaceParametrization(build(5), 12, kind, 7)
    with torch.no_grad():
        inside.coordinates.copy_(torch.randn(12, generator=torch.Generator().manual_seed(0)))
    return inside


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_comes_back_bit_for_bit(kind, tmp_path):
    inside = trained(kind)
    path = to_seed_checkpoint(inside, tmp_path / "deep" / "small.safetensors", start_seed=5)
    assert path.stat().st_size < 12 * 4 + 1024
    back = from_seed_checkpoint(path, build)
    assert torch.equal(back.parameters_now(), inside.parameters_now())
    x = torch.randn(3, 4)
    assert torch.equal(back.write()(x), inside.write()(x))


def test_another_start_another_network_and_another_file_are_refused(tmp_path):
    path = to_seed_checkpoint(trained(), tmp_path / "small.safetensors", start_seed=5)
    with pytest.raises(ValueError, match="another start"):
        from_seed_checkpoint(path, lambda seed: build(seed + 1))
    with pytest.raises(ValueError, match="parameters"):
        from_seed_checkpoint(path, lambda seed: build(seed, 8))
    save_file({"coordinates": torch.zeros(3)}, tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="not a seed checkpoint"):
        from_seed_checkpoint(tmp_path / "plain.safetensors", build)


def test_a_subspace_that_draws_differently_is_refused(tmp_path, monkeypatch):
    path = to_seed_checkpoint(trained(), tmp_path / "small.safetensors", start_seed=5)
    draw = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape, **more: draw(*shape, **more) + 1)
    with pytest.raises(ValueError, match="another subspace"):
        from_seed_checkpoint(path, build)
