"""Adapters in peft's format, in both directions."""

import json
import warnings

import pytest
import torch
from torch import nn

from gramian.surgery.adapters import peft_files
from gramian.surgery.adapters.apply import adapters, attach_lora
from gramian.surgery.adapters.peft_files import load_peft, save_peft


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.q = nn.Linear(width, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"q": nn.Linear(width, width), "v": nn.Linear(width, 4)}) for _ in range(2)
        )
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 3)

    def forward(self, x):
        x = self.q(x)
        for layer in self.layers:
            x = torch.tanh(layer["q"](x)) + layer["v"](x).repeat(1, x.shape[1] // 4)
        return x


X = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))


def adapted(init="kaiming", **settings):
    model = Net()
    settings = {"rank": 2, "alpha": 3, "init": init, **settings}
    attach_lora(model, ["q", "layers.*"], **settings)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for adapter in adapters(model).values():
            for p in adapter.trained().values():
                p.add_(torch.randn(p.shape, generator=generator))
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"init": "svd"},
        {"train": "B", "init": "orthonormal"},
        {"ranks": {"q": 3}},
        {"ranks": {"layers.0.q": 3, "layers.1.v": 0, "q": 1}, "alpha": None},
    ],
)
def test_both_directions(settings, tmp_path):
    peft = pytest.importorskip("peft")
    model = adapted(**settings)
    expected = model(X)
    save_peft(model, tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(Net(), tmp_path / "a")
    torch.testing.assert_close(theirs(X), expected, atol=1e-5, rtol=1e-5)
    theirs.save_pretrained(tmp_path / "b")
    again = Net()
    attached = load_peft(again, tmp_path / "b", trainable=True)
    torch.testing.assert_close(again(X), expected, atol=1e-5, rtol=1e-5)
    assert set(attached.names) == set(adapters(model))
    assert all(p.requires_grad for p in attached.parameters().values())
    attached.undo()
    assert torch.equal(again(X), Net()(X))


def test_scalings_that_peft_computes_otherwise(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q", "v"], use_rslora=True, rank_pattern={"0.q": 2}, alpha_pattern={"v": 5}
    )
    theirs = peft.get_peft_model(Net(), config)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "lora_" in name:
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
    theirs.save_pretrained(tmp_path)
    model = Net()
    attached = load_peft(model, tmp_path)
    torch.testing.assert_close(model(X), theirs(X), atol=1e-5, rtol=0)
    assert not any(p.requires_grad for p in attached.model.parameters())


def test_a_language_model_gives_the_same_logits(tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    base = transformers.LlamaForCausalLM(config).eval()
    state = {k: v.clone() for k, v in base.state_dict().items()}
    ids = torch.arange(20).view(2, 10)

    def fresh():
        model = transformers.LlamaForCausalLM(config).eval()
        model.load_state_dict(state)
        return model

    attach_lora(base, ["*.q_proj", "*.v_proj", "*.mlp.down_proj"], rank=2, ranks={"model.layers.1.self_attn.q_proj": 4})
    with torch.no_grad():
        for adapter in adapters(base).values():
            adapter.B.copy_(torch.randn(adapter.B.shape, generator=torch.Generator().manual_seed(0)) / 4)
    save_peft(base, tmp_path / "a", task="CAUSAL_LM")
    theirs = peft.PeftModel.from_pretrained(fresh(), tmp_path / "a")
    expected = base(ids).logits
    assert (expected - fresh()(ids).logits).abs().max() > 1e-2
    torch.testing.assert_close(theirs(ids).logits, expected, atol=1e-5, rtol=1e-5)
    theirs.save_pretrained(tmp_path / "b")
    again = fresh()
    load_peft(again, tmp_path / "b")
    torch.testing.assert_close(again(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_an_interruption_leaves_the_old_files(tmp_path, monkeypatch):
    model = adapted()
    (tmp_path / "README.md").write_text("mine")
    save_peft(model, tmp_path)
    old = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert set(old) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    with torch.no_grad():
        next(iter(adapters(model).values())).B.add_(1)

    def half(tensors, path, metadata=None):
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(peft_files, "save_file", half)
        with pytest.raises(KeyboardInterrupt):
            save_peft(model, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == old

    real = type(tmp_path).replace

    def no_config(self, target):
        if self.name.endswith("adapter_config.json"):
            raise OSError("no space")
        return real(self, target)

    for folder in (tmp_path, tmp_path / "new"):
        with monkeypatch.context() as patch:
            patch.setattr(type(tmp_path), "replace", no_config)
            with pytest.raises(OSError, match="no space"):
                save_peft(model, folder)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == old
    assert list((tmp_path / "new").iterdir()) == []
    save_peft(model, tmp_path)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() != old["adapter_model.safetensors"]


def test_files_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder that peft saved"):
        load_peft(Net(), tmp_path)
    save_peft(adapted(), tmp_path)
    config, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    good_config, good_weights = config.read_text(), weights.read_bytes()

    with pytest.raises(ValueError, match="made for another model"):
        load_peft(Net(width=12), tmp_path)
    with pytest.raises(ValueError, match=r"'layers.0.q', which this Sequential lacks \(it has 0"):
        load_peft(nn.Sequential(nn.Linear(8, 8)), tmp_path)

    weights.write_bytes(good_weights[:-20])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_peft(Net(), tmp_path)
    weights.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"is a pickle.*not read"):
        load_peft(Net(), tmp_path)
    (tmp_path / "adapter_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="adapter_model"):
        load_peft(Net(), tmp_path)
    weights.write_bytes(good_weights)

    for change, match in (
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "uses bias"),
        ({"peft_type": "IA3"}, "'IA3'; only LORA"),
        ({"r": 5}, "they do not belong together"),
        ({"r": None}, "no rank"),
    ):
        config.write_text(json.dumps(json.loads(good_config) | change))
        with pytest.raises(ValueError, match=match):
            load_peft(Net(), tmp_path)
    config.write_text(good_config[:30])
    with pytest.raises(ValueError, match="is damaged"):
        load_peft(Net(), tmp_path)
    config.write_text(good_config)

    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    name = next(iter(tensors))
    for changed, match in (
        ({k: v for k, v in tensors.items() if k != name}, "incomplete"),
        ({**tensors, name: tensors[name] * float("nan")}, "NaN"),
        ({"weight": torch.zeros(2)}, "not a factor"),
        ({}, "holds no adapter"),
    ):
        save_file(changed, weights)
        with pytest.raises(ValueError, match=match):
            load_peft(Net(), tmp_path)


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="holds no adapter"):
        save_peft(Net(), tmp_path)
    model = adapted()
    with torch.no_grad():
        model.q.B[0, 0] = float("inf")
    with pytest.raises(ValueError, match="nothing was written"):
        save_peft(model, tmp_path / "x")
    assert not (tmp_path / "x").exists()
