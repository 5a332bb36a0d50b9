"""A changed model comes back from its folder as it was, here and, where its layers are plain, in transformers."""

import json

import pytest
import torch

from gramian import data
from gramian.linalg.factor.quant.normal_float import BlockFormat
from gramian.models.opening import Opened, open_model
from gramian.surgery.factorize import factorize
from gramian.surgery.quantize.int8 import to_int8
from gramian.surgery.quantize.lq_lora import to_lq
from gramian.surgery.saved import changed_layers, load_changed, save_changed

transformers = pytest.importorskip("transformers")
IDS = torch.arange(12)[None]


@pytest.fixture
def opened():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        tie_word_embeddings=True,
    )  # fmt: skip
    return Opened("small", transformers.LlamaForCausalLM(config).eval(), "text")


LAYERS = "model.layers.*_proj"
CHANGES = {
    "factors": lambda m: factorize(m, LAYERS, kept_ranks=0.5),
    "int8": lambda m: to_int8(m, LAYERS),
    "int8 without outliers": lambda m: to_int8(m, LAYERS, torch.inf),
    "codes and factors": lambda m: to_lq(m, BlockFormat(bits=4, block=32, scale_block=32), 4, LAYERS),
    "nothing": lambda m: None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_saved_is_loaded(change, opened, tmp_path):
    CHANGES[change](opened.model)
    with torch.no_grad():
        before = opened.model(IDS).logits
        size = save_changed(opened, tmp_path / "out")
        again = load_changed(tmp_path / "out")
        assert torch.equal(again.model(IDS).logits, before)
    assert {n: type(m) for n, m in changed_layers(again.model).items()} == {
        n: type(m) for n, m in changed_layers(opened.model).items()
    }
    assert (again.name, again.reads) == ("small", "text")
    assert again.model.lm_head.weight is again.model.model.embed_tokens.weight
    assert size == sum(f.stat().st_size for f in (tmp_path / "out").glob("*.safetensors"))


def test_a_plain_model_is_read_by_transformers(opened, tmp_path):
    report = factorize(opened.model, LAYERS, kept_ranks=0.5)
    report.handle.merge()
    save_changed(opened, tmp_path / "out")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    with torch.no_grad():
        assert torch.allclose(again(IDS).logits, opened.model(IDS).logits, atol=1e-5)


@pytest.mark.skipif(not data.is_here("efficientnet_lite0"), reason="gramian data fetch efficientnet_lite0")
def test_a_bundled_classifier_comes_back(tmp_path):
    opened = open_model("efficientnet-lite0")
    factorize(opened.model, "_fc", kept_ranks=0.3)
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    save_changed(opened, tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(load_changed(tmp_path / "out").model(x), opened.model(x))


def test_damaged_and_foreign_folders_are_refused(opened, tmp_path):
    factorize(opened.model, LAYERS, kept_ranks=0.5)
    folder = tmp_path / "out"
    save_changed(opened, folder)
    record = json.loads((folder / "change.json").read_text())
    weights = (folder / "model.safetensors").read_bytes()

    def refused(message):
        with pytest.raises(ValueError, match=message):
            load_changed(folder)

    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    refused("cannot be read")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "change.json").write_text(json.dumps({**record, "version": 99}))
    refused("newer")
    name = next(iter(record["layers"]))
    (folder / "change.json").write_text(
        json.dumps({**record, "layers": {name: {"kind": "x", "bias": False, "with": {}}}})
    )
    refused("kind 'x'")
    (folder / "change.json").write_text("{")
    refused("damaged")
    (folder / "change.json").unlink()
    refused("no changed model")
    with pytest.raises(ValueError, match="function of yours"):
        save_changed(Opened("mine", torch.nn.Linear(2, 2), "unknown"), tmp_path / "other")
