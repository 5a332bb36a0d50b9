"""The tasks that change a model: fair splits, figures that can fall, files that load again."""

import pytest
import torch

from gramian import data
from gramian.atlas import apply, compare
from gramian.atlas.errors import UserError
from gramian.atlas.find.tasks import load_problem, option_lines
from gramian.lab import Run
from gramian.tasks import adapt, compress, prune, quantize
from gramian.tasks.support import model_change

transformers = pytest.importorskip("transformers")
needs_minilm = pytest.mark.skipif(not data.is_here("all_minilm_l6_v2"), reason="gramian data fetch all_minilm_l6_v2")
TASKS = {"compress": compress, "quantize": quantize, "prune": prune}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random language model with the tokenizer of MiniLM, as a user's own folder."""
    from gramian import models

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=30522, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    path = tmp_path_factory.mktemp("models") / "mine"
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    models.tokenizer("all-minilm-l6-v2").save_pretrained(path)
    return str(path)


@needs_minilm
@pytest.mark.parametrize("task", TASKS)
def test_every_method_runs_on_a_users_model_and_its_file_gives_the_same_figures(task, folder, tmp_path):
    module = TASKS[task]
    problem = module.load(folder)
    assert problem.headline == "perplexity"
    seen = {}
    for name, method in {**module.METHODS, **module.BASELINES}.items():
        figures, model = module.evaluate(method, problem, Run(tmp_path / name, seed=0))
        assert figures["perplexity"] > 1
        (tmp_path / name / "model").mkdir(parents=True)
        model.save(tmp_path / name / "model" / "model.safetensors")
        again = model_change.ChangedModel.load(tmp_path / name / "model" / "model.safetensors")
        assert model_change.quality(again.opened.model, problem.train) == pytest.approx(
            {k: figures[k] for k in ("perplexity", "agreement")}
        )
        seen[name] = figures["perplexity"]
    # a random model has no outlier features: the two int8 forms agree on it
    same = {"llm-int8"} & set(seen)
    values = [v for n, v in seen.items() if n not in same]
    assert len(set(values)) == len(values), "two methods gave one and the same model"


@needs_minilm
def test_compressed_models_are_as_small_as_was_asked(folder, tmp_path):
    problem = compress.load(folder, share=0.5)
    blocks = 2 * (4 * 64 * 64 + 3 * 64 * 128)
    for name, method in {**compress.METHODS, **compress.BASELINES}.items():
        _, model = compress.evaluate(method, problem, Run(tmp_path, seed=0))
        held = sum(p.numel() for n, p in model.opened.model.named_parameters() if "layers" in n and p.ndim == 2)
        assert 0.4 * blocks < held <= 0.5 * blocks, name


@needs_minilm
def test_pruned_models_skip_what_was_asked(folder, tmp_path):
    problem = prune.load(folder, share=0.4)
    assert problem.metrics["skipped"] == "higher"
    gates = 2 / 3 * (3 * 64 * 128) / (4 * 64 * 64 + 3 * 64 * 128)
    want = {"two-of-four": 0.5, "chess": 0.4 * gates, "cats": 0.4 * gates}
    kept = {}
    for name, method in {**prune.METHODS, **prune.BASELINES}.items():
        figures, model = prune.evaluate(method, problem, Run(tmp_path, seed=0))
        assert figures["skipped"] == pytest.approx(want.get(name, 0.4), abs=0.02), name
        kept[name] = dict(model.opened.model.named_parameters())["model.layers.0.self_attn.q_proj.weight"].detach()
    start = dict(problem.train.open().model.named_parameters())["model.layers.0.self_attn.q_proj.weight"].detach()
    assert not torch.equal(kept["obs"][kept["obs"] != 0], start[kept["obs"] != 0]), "the weights that stay are moved"
    for name in ("magnitude", "magnitude-global", "lamp", "fisher", "two-of-four"):
        stays = kept[name] != 0
        assert torch.equal(kept[name][stays], start[stays]), name
    assert torch.equal(kept["chess"], start), "gates are closed, not weights removed"


@needs_minilm
def test_an_encoder_has_no_gates_to_close(tmp_path):
    problem = prune.load("all-minilm-l6-v2", share=0.5)
    with pytest.raises(ValueError, match="no gated feed-forward"):
        prune.evaluate(prune.METHODS["chess"], problem, Run(tmp_path, seed=0))


@needs_minilm
def test_apply_writes_a_folder_that_measures_the_same(folder, tmp_path):
    made = apply.apply("compress", "svd", tmp_path / "out", data=folder, settings=["share=0.6"])
    first = (tmp_path / "out" / "predictions.csv").read_text()
    again = apply.reuse("compress", tmp_path / "out", data=folder, out=tmp_path / "again")
    assert again.read_text() == first
    assert made["perplexity"] > 1


@needs_minilm
def test_compare_sorts_by_what_the_model_reads(folder, tmp_path):
    lines, report = compare.compare(
        "quantize", tmp_path, data=folder, methods=["nf4", "nf3"], seeds=1, settings=["rank=4"]
    )
    assert [line.status for line in lines] == ["ok", "ok"]
    assert lines[0].mean("perplexity") <= lines[1].mean("perplexity")
    assert "MiB saved to disk" in report.read_text()
    assert "the model before" in report.read_text()


def test_the_fisher_of_an_encoder_is_that_of_telling_sentences_apart():
    embeddings = torch.eye(3, requires_grad=True)
    anchors = torch.eye(3)[None].expand(3, 3, 3)
    losses = model_change._match(embeddings, anchors)
    assert losses.shape == (3,)
    assert float(losses.detach().max()) < 1e-6
    wrong = model_change._match(torch.eye(3)[[1, 0, 2]], anchors)
    assert (wrong[:2] > 10).all()
    assert wrong[2] < 1e-6


def test_options_are_listed_and_checked(tmp_path):
    assert "share=0.8" in option_lines(compress)
    for settings, message in ((["share=2"], "between 0 and 1"), (["shore=1"], "share"), (["share"], "name=value")):
        with pytest.raises(UserError, match=message):
            load_problem(compress, "all-minilm-l6-v2", None, settings)
    (tmp_path / "empty.txt").write_text(" ")
    for what, message in ((str(tmp_path), "config.json"), ("brick", "neither a bundled")):
        with pytest.raises(UserError, match=message):
            load_problem(quantize, what, None)
    with pytest.raises(UserError, match="no columns"):
        load_problem(quantize, "all-minilm-l6-v2", "label")


@needs_minilm
def test_adapters_train_and_load_again(folder, tmp_path):
    problem = adapt.load(folder, steps=2, rank=2)
    trained = {}
    for name, method in {**adapt.METHODS, **adapt.BASELINES}.items():
        figures, model = adapt.evaluate(method, problem, Run(tmp_path / name, seed=0, show_progress=False))
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        model.save(tmp_path / name / "model.safetensors")
        again = adapt.AdaptedModel.load(tmp_path / name / "model.safetensors")
        now = model_change.quality_before(again.opened.model, problem.train)["perplexity"]
        assert now == pytest.approx(figures["perplexity"], rel=1e-4), name
        trained[name] = figures["trained"]
    assert trained["nothing"] == 0
    assert trained["lora"] == 4 * 2 * (64 + 64)
    assert trained["lora-frozen-a"] == 4 * 2 * 64
    assert trained["svfit"] == 4 * 64


@needs_minilm
def test_a_written_adapter_is_read_by_peft(folder, tmp_path):
    peft = pytest.importorskip("peft")
    problem = adapt.load(folder, steps=2, rank=2)
    _, model = adapt.evaluate(adapt.BASELINES["lora"], problem, Run(tmp_path, seed=0, show_progress=False))
    (tmp_path / "out").mkdir()
    model.save(tmp_path / "out" / "model.safetensors")
    base = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    other = peft.PeftModel.from_pretrained(base, tmp_path / "out").eval()
    ids = problem.train.evaluation[0]["input_ids"]
    with torch.no_grad():
        assert torch.allclose(other(ids).logits, model.opened.model(ids).logits, atol=1e-5)


@needs_minilm
@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 0}, "at least 1"), ({"rank": 0}, "at least 1"), ({"lr": -1.0}, "not negative")],
)
def test_options_out_of_range(options, message, folder):
    with pytest.raises(ValueError, match=message):
        adapt.load(folder, **options)


@needs_minilm
def test_only_language_models_are_adapted():
    with pytest.raises(ValueError, match="not a causal language model"):
        adapt.load("all-minilm-l6-v2")
