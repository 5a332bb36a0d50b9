"""Quamba: int8 Mambas."""

import copy

import pytest
import torch

from gramian.models.language.mamba2_lm import Mamba2LM
from gramian.models.language.mamba_lm import MambaLM
from gramian.nn.quantized.mamba import QuantMamba
from gramian.nn.quantized.static import StaticLinear
from gramian.nn.state.mamba import Mamba
from gramian.surgery.quantize import rotation
from gramian.surgery.quantize.quamba import quantize_mamba, stored_bytes


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _model(channels=24, **settings):
    return MambaLM(50, channels, 2, state_size=4, generator=_seeded(), **settings).eval()


def _ids(*shape):
    return torch.randint(50, shape, generator=_seeded(1))


def test_the_model_is_left_as_found_and_the_copy_is_close():
    model = _model()
    before = copy.deepcopy(model.state_dict())
    small = quantize_mamba(model, _ids(4, 30))
    after = model.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert model.tied
    ids = _ids(2, 20)
    with torch.no_grad():
        wanted = model(ids)
        gap = float((small(ids) - wanted).abs().max())
    assert 0 < gap < 0.1 * float(wanted.abs().max())
    assert sum(isinstance(m, StaticLinear) for m in small.modules()) == 8
    assert stored_bytes(small.backbone.layers) < 0.75 * stored_bytes(model.backbone.layers)


@pytest.mark.parametrize("model_class", [MambaLM, Mamba2LM])
def test_turning_keeps_the_logits(model_class):
    settings = {} if model_class is MambaLM else {"head_size": 12}
    model = model_class(50, 24, 2, state_size=4, generator=_seeded(), bias=True, **settings).eval()
    with torch.no_grad():
        for block in model.backbone.layers:
            block.norm.weight.uniform_(0.5, 2, generator=_seeded(3))
        turned = copy.deepcopy(model)
        with pytest.raises(ValueError, match="fold_norms first"):
            rotation.rotate_stream(turned)
        rotation.fold_norms(turned)
        torch.testing.assert_close(turned(_ids(2, 9)), model(_ids(2, 9)), atol=1e-5, rtol=1e-5)
        rotation.rotate_stream(turned)
        torch.testing.assert_close(turned(_ids(2, 9)), model(_ids(2, 9)), atol=1e-5, rtol=1e-5)


def test_a_block_without_a_projection_in_is_refused():
    model = _model()
    model.backbone.layers[0].mixer = torch.nn.Identity()
    with pytest.raises(TypeError, match="no in_proj"):
        rotation.fold_norms(model)


def test_pieces_steps_and_the_whole_agree():
    small = quantize_mamba(_model(bias=True), _ids(4, 30)).double()
    ids = _ids(2, 12)
    whole, last = small.read(ids)
    _, states = small.read(ids[:, :5])
    assert states[0].inputs.dtype == torch.int8
    pieces, states = small.read(ids[:, 5:], states)
    torch.testing.assert_close(pieces, whole[:, 5:])
    torch.testing.assert_close(states[1].scan, last[1].scan)
    states = small.initial_states(2)
    for i in range(12):
        logits, states = small.step(ids[:, i], states)
        torch.testing.assert_close(logits, whole[:, i])
    assert small.generate(ids, 3).shape == (2, 15)


def test_the_percentile_sets_only_the_scan_inputs_scale():
    ids = _ids(4, 30)
    cut, plain = (quantize_mamba(_model(), ids, p).backbone.layers[0].mixer.points for p in (0.9, None))
    assert float(cut["u"].scale) < 0.9 * float(plain["u"].scale)
    for name in ("input", "x", "z"):
        assert torch.equal(cut[name].scale, plain[name].scale)


def test_uncalibrated_layers_are_refused():
    layer = Mamba(8, generator=_seeded())
    with pytest.raises(ValueError, match="no scale"):
        QuantMamba(layer)(torch.zeros(1, 3, 8))
    with pytest.raises(ValueError, match=r"input: no activations"):
        QuantMamba.prepare(layer).freeze()
    with pytest.raises(ValueError, match="no calibration text"):
        quantize_mamba(_model(), _ids(0, 30))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="percentile="):
        quantize_mamba(_model(), _ids(1, 5), percentile=0.5)
    with pytest.raises(ValueError, match="hadamard=False does without"):
        quantize_mamba(_model(14), _ids(1, 5))
    with pytest.raises(TypeError, match="MambaLM"):
        quantize_mamba(Mamba2LM(50, 16, 1, head_size=8), _ids(1, 5))


def test_a_width_without_a_hadamard_matrix_goes_unturned():
    small = quantize_mamba(_model(14), _ids(2, 20), hadamard=False)
    assert bool(torch.isfinite(small(_ids(1, 9))).all())


def test_nan_in_a_weight_is_refused():
    model = _model()
    with torch.no_grad():
        model.backbone.layers[1].mixer.x_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        quantize_mamba(model, _ids(1, 5))
