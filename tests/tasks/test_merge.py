"""Merging: bundled and users' networks, figures that can fall, files that load again."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gramian import data
from gramian.atlas import apply
from gramian.lab import Run
from gramian.tasks import merge as task
from gramian.tasks.support import merge_inputs, model_change
from gramian.tasks.support.classifier import ChangedClassifier

MAKE = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))\n"
needs_minilm = pytest.mark.skipif(not data.is_here("all_minilm_l6_v2"), reason="gramian data fetch all_minilm_l6_v2")


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Two small classifiers trained from one start on two classes each, with their samples."""
    folder = tmp_path_factory.mktemp("mine")
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))
    save_file(start.state_dict(), folder / "base.safetensors")
    (folder / "net.py").write_text(MAKE)
    for name, low in (("a", 0), ("b", 2)):
        y = low + torch.arange(200) % 2
        x = 2 * torch.eye(4)[y] + 0.4 * torch.randn(200, 4)
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))
        model.load_state_dict(start.state_dict())
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        save_file(model.state_dict(), folder / f"{name}.safetensors")
        np.savez(folder / f"{name}.npz", x=x.numpy(), y=y.numpy())
    return folder


def options(folder, **more):
    return {
        "base": str(folder / "base.safetensors"), "factory": f"{folder / 'net.py'}:make",
        "samples": f"{folder / 'a.npz'},{folder / 'b.npz'}", "tries": 4,
    } | more  # fmt: skip


def both(folder):
    return f"{folder / 'a.safetensors'},{folder / 'b.safetensors'}"


def test_every_method_merges_a_users_classifiers_and_its_file_measures_the_same(mine, tmp_path):
    problem = task.load(both(mine), **options(mine))
    assert problem.facts["a on its own part"] > 0.9
    found = {}
    for name, method in {**task.METHODS, **task.BASELINES}.items():
        figures, model = task.evaluate(method, problem, Run(tmp_path, seed=0, show_progress=False))
        model.save(tmp_path / "model.safetensors")
        again = ChangedClassifier.load(tmp_path / "model.safetensors")
        assert problem.train.figures(again.model.state_dict()) == {
            k: figures[k] for k in ("mean", "worst", "a", "b")
        }, name
        assert figures["mean"] == pytest.approx((figures["a"] + figures["b"]) / 2)
        assert figures["worst"] == min(figures["a"], figures["b"])
        found[name] = figures
    assert found["fisher"]["worst"] > 0.6 > found["first"]["worst"]
    assert list(task.predict(again, problem)["part"]) == ["a", "b"]


def test_the_methods_choose_by_samples_that_they_are_not_measured_on(mine):
    parts = task.load(both(mine), **options(mine)).train
    for (known, _), (new, _) in zip(parts.known, parts.new):
        seen = {tuple(row) for row in known.tolist()}
        assert not any(tuple(row) in seen for row in new.tolist())


def test_fisher_merging_of_the_digits_is_above_the_plain_average(tmp_path):
    problem = task.load("digits", steps=200)
    fisher, average = (
        task.evaluate(m, problem, Run(tmp_path, seed=0))[0] for m in (task.METHODS["fisher"], task.BASELINES["average"])
    )
    assert fisher["mean"] > average["mean"] + 0.03


def test_apply_and_load_again(mine, tmp_path):
    settings = [f"{k}={v}" for k, v in options(mine).items()]
    made = apply.apply("merge", "ties", tmp_path / "out", data=both(mine), settings=settings)
    again = apply.reuse("merge", tmp_path / "out", data=both(mine), out=tmp_path / "again")
    assert again.read_text() == (tmp_path / "out" / "predictions.csv").read_text()
    assert 0 < made["mean"] <= 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"samples": "a.npz"}, "one for each network"),
        ({"base": ""}, "base=FILE"),
        ({"tries": 1}, "at least 2"),
        ({"steps": -1}, "not negative"),
        ({"base": "missing.safetensors"}, "no file"),
    ],
)
def test_bad_options(mine, more, message):
    with pytest.raises(ValueError, match=message):
        task.load(both(mine), **options(mine, **more))


def test_networks_that_do_not_fit(mine, tmp_path):
    with pytest.raises(ValueError, match="one for each network"):
        task.load(str(mine / "a.safetensors"), **options(mine))
    with pytest.raises(ValueError, match="no columns"):
        task.load("digits", "label")
    broken = tmp_path / "b.safetensors"
    state = load_file(mine / "b.safetensors")
    save_file(state | {"0.weight": torch.zeros(16, 5)}, broken)
    with pytest.raises(ValueError, match="do not fit"):
        task.load(f"{mine / 'a.safetensors'},{broken}", **options(mine))
    broken.write_bytes((mine / "b.safetensors").read_bytes()[:50])
    with pytest.raises(ValueError, match="not a whole safetensors"):
        task.load(f"{mine / 'a.safetensors'},{broken}", **options(mine))


@needs_minilm
def test_language_models_in_folders(tmp_path):
    transformers = pytest.importorskip("transformers")
    from gramian import models

    words = models.tokenizer("all-minilm-l6-v2")
    config = transformers.LlamaConfig(
        vocab_size=30522, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    for i, name in enumerate(("base", "one", "two")):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
        if i:
            torch.manual_seed(i)
            for p in model.parameters():
                p.data += 0.02 * torch.randn(p.shape)
        model.save_pretrained(tmp_path / name)
        words.save_pretrained(tmp_path / name)
        (tmp_path / f"{name}.txt").write_text(" ".join(f"{name} number {k} is {k * i}." for k in range(120)))
    given = {
        "base": str(tmp_path / "base"), "text": f"{tmp_path / 'one.txt'},{tmp_path / 'two.txt'}", "tries": 3,
    }  # fmt: skip
    problem = task.load(f"{tmp_path / 'one'},{tmp_path / 'two'}", **given)
    assert problem.metrics["mean"] == "lower"
    found = {}
    for name in ("fisher", "average", "task-arithmetic"):
        figures, model = task.evaluate({**task.METHODS, **task.BASELINES}[name], problem, Run(tmp_path, seed=0))
        model.save(tmp_path / name / "model.safetensors")
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert problem.train.figures(loaded.state_dict())["mean"] == pytest.approx(figures["mean"])
        assert figures["mean"] == pytest.approx((figures["one"] * figures["two"]) ** 0.5)
        found[name] = figures["mean"]
    assert found["fisher"] != found["average"]
    with pytest.raises(ValueError, match="not for language models"):
        task.evaluate(task.METHODS["concrete"], problem, Run(tmp_path, seed=0))
    vocabulary = words.get_vocab()
    assert model_change.ChangedModel.load(tmp_path / "fisher" / "model.safetensors").opened.reads == "text"
    other = transformers.AutoTokenizer.from_pretrained(tmp_path / "two")
    other.add_tokens(["brandnewtoken"])
    assert other.get_vocab() != vocabulary
    other.save_pretrained(tmp_path / "two")
    with pytest.raises(ValueError, match="another tokenizer"):
        merge_inputs.language_models(
            [str(tmp_path / "one"), str(tmp_path / "two")], given["base"], given["text"].split(","), 3
        )
