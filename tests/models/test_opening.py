"""Models are opened by name, folder or file; what is not one is refused with the reason."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gramian.models.example_inputs import example_inputs
from gramian.models.opening import Opened, Weights, open_model


def make():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "reads"), [("EfficientNet-Lite0", "images"), ("all_minilm_l6_v2", "sentences"), ("smollm2-135m", "text")]
)
def test_bundled_networks_run_on_bundled_inputs(name, reads):
    opened = open_model(name)
    assert opened.reads == reads
    inputs = example_inputs(opened, tokens=64)
    with torch.no_grad():
        opened.model(**inputs.batches[0])


@pytest.mark.data
def test_a_folder_of_transformers_is_opened_as_what_it_is(tmp_path):
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "mine")
    opened = open_model(str(tmp_path / "mine"))
    assert (opened.name, opened.reads, opened.tokenizer) == ("mine", "text", None)
    with pytest.raises(ValueError, match="no tokenizer"):
        example_inputs(opened)


def test_a_file_of_weights_can_be_looked_at_and_with_its_factory_run(tmp_path):
    model = make()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.pt")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))\n"
    )
    for file in ("w.safetensors", "w.pt"):
        bare = open_model(str(tmp_path / file))
        assert isinstance(bare.model, Weights)
        assert not bare.runs
        assert {n for n, _ in bare.model.named_parameters()} == set(model.state_dict())
        whole = open_model(str(tmp_path / file), factory=f"{tmp_path / 'mine.py'}:make")
        x = torch.ones(1, 4)
        assert torch.equal(whole.model(x), model(x))
    with pytest.raises(ValueError, match="cannot run"):
        bare.model(torch.ones(1))
    with pytest.raises(ValueError, match="cannot run"):
        example_inputs(bare)


class Evil:
    def __reduce__(self):
        return (print, ("pickled code ran",))


def test_what_is_no_model_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    torch.save(Evil(), tmp_path / "evil.pt")
    save_file({"other": torch.ones(2)}, tmp_path / "other.safetensors")
    (tmp_path / "no.py").write_text("def make():\n    return 3\n")
    cases = [
        (("brick",), "neither a bundled network"),
        (("nothing-of-the-kind",), "neither a bundled network"),
        (("missing.safetensors",), "there is no file"),
        ((str(tmp_path / "empty"),), "config.json"),
        ((str(tmp_path / "broken.safetensors"),), "not a whole safetensors"),
        ((str(tmp_path / "evil.pt"),), "pickled objects are not loaded"),
        ((str(tmp_path / "other.safetensors"), "torch.nn:Identity"), "do not fit"),
        ((str(tmp_path / "other.safetensors"), f"{tmp_path / 'no.py'}:make"), "returned a int"),
        ((str(tmp_path / "other.safetensors"), "nowhere"), "package.module:function"),
        ((str(tmp_path / "other.safetensors"), "no.such.module:make"), "no.such"),
        (("efficientnet-lite0", "x:y"), "factory"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            open_model(*arguments)
    assert "pickled code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(("content", "message"), [(b"", "empty"), (b"\xff\xfe\x00bad", "not UTF-8"), (None, "no text")])
def test_texts_that_cannot_be_read_are_named(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        example_inputs(Opened("m", nn.Identity(), "text", tokenizer=object()), str(path))
