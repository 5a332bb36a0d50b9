"""EVA: start LoRA at the directions that explain a task's activations, and share out ranks by it (2024)."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from gramian import models
from gramian.lab import Card, Run
from gramian.linalg.factor import streaming_svd
from gramian.surgery.adapters import apply, eva, peft_files, transfer
from gramian.surgery.adapters import sentence_task as task

CARD = Card(
    title="One Initialization to Rule them All: Fine-tuning via Explained Variance Adaptation",
    row=78,
    arxiv="2410.07170",
    year=2024,
    kind="method",
    idea="A streaming singular value decomposition of each layer's inputs on the new task gives the directions that "
    "carry the most variance. LoRA's A starts there, B at zero; and ranks go to the layers whose directions explain "
    "the most.",
    claim="Starting from the explained variance, and sharing out the ranks by it, converges faster than other starts "
    "of LoRA at the same number of parameters.",
    keywords=("LoRA", "initialization", "adaptive rank", "incremental SVD", "activations", "fine-tuning"),
    api=(
        "gramian.surgery.adapters.eva.explain_inputs",
        "gramian.surgery.adapters.eva.attach_eva",
        "gramian.linalg.factor.streaming_svd.StreamingSVD",
    ),
    use='explained = explain_inputs(model, ["*.query", "*.value"], batches, rank=8)\n'
    "attached = attach_eva(model, explained)",
    reach="models of 7B and more, VTAB and Meta-World are not run here; MiniLM and digits stand in",
    differs=(
        "A layer's decomposition starts from what is known already (subspace iteration), where peft's starts from "
        "random vectors at every batch: fewer passes over the batch for the same directions.",
        "Batches shorter than the number of directions are used, where peft passes over them.",
    ),
    needs=("language",),
    data=("all_minilm_l6_v2",),
)


def streams_agree_with_the_whole(run: Run) -> None:
    """The streaming decomposition finds what scikit-learn's PCA finds in all rows at once."""
    from sklearn.decomposition import PCA

    generator = run.generator()
    basis = torch.linalg.qr(torch.randn(96, 96, generator=generator, dtype=torch.float64)).Q
    scale = 0.85 ** torch.arange(96, dtype=torch.float64)
    rows = torch.randn(2000, 96, generator=generator, dtype=torch.float64) * scale @ basis.T
    rows = rows + torch.linspace(0, 1, 2000, dtype=torch.float64)[:, None]
    oracle = PCA(8).fit(rows.numpy())
    wanted = torch.from_numpy(oracle.components_)
    for rank, bound in ((96, 1e-6), (16, 1e-2)):
        stream, shards = streaming_svd.StreamingSVD(rank), [streaming_svd.StreamingSVD(rank) for _ in range(2)]
        for i, batch in enumerate(rows.split(100)):
            stream.update(batch)
            shards[i % 2].update(batch)
        shards[0].merge(shards[1])
        for what, found in (("20 batches", stream), ("two shards of 10, merged", shards[0])):
            name = f"{rank} of 96 directions kept, {what}"
            run.check(
                f"{name}: angle of the leading 8 to PCA of all rows", _angle(found.components[:8], wanted), below=bound
            )
            off = (found.explained_ratio[:8] / torch.from_numpy(oracle.explained_variance_ratio_) - 1).abs().max()
            run.check(f"{name}: explained variance, largest relative error", off, below=0.01)


def _angle(a: Tensor, b: Tensor) -> float:
    """The sine of the largest principal angle between two row spaces."""
    b = torch.linalg.qr(b.double().T).Q
    a = torch.linalg.qr(a.double().T).Q
    return float(torch.linalg.svdvals(a - b @ (b.T @ a))[0])


def ranks_follow_the_variance(run: Run) -> None:
    """Ranks add up to the budget and take the largest explained shares; the start is the base, bit for bit."""
    digits = transfer.load_digits()
    net = transfer.mlp(run.seed)
    with torch.no_grad():  # units of unequal strength: few directions explain what the last layer reads
        net[3].weight.mul_(0.5 ** torch.arange(128.0)[:, None])
        net[3].bias.zero_()
    batches = list(digits.turned().train.split(128))
    explained = eva.explain_inputs(net, "*", batches[:8], rank=4)
    names = list(explained.ranks)
    run.check("ranks given away", sum(explained.ranks.values()), equals=4 * len(names))
    pooled = sorted(((float(v), n) for n in names for v in explained.ratios[n]), reverse=True)[: 4 * len(names)]
    by_sort = {name: sum(n == name for _, n in pooled) for name in names}
    differ = sum(by_sort[name] != explained.ranks[name] for name in names)
    run.check("layers whose rank differs from a sort's of all shares", differ, equals=0)
    run.check("layers whose rank is not the mean", sum(r != 4 for r in explained.ranks.values()), above=2)
    rows = batches[0].flatten(1)
    for batch in batches[1 : explained.batches]:
        rows = torch.cat((rows, batch.flatten(1)))
    vh = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)[2]
    kept = explained.components[names[0]]
    gap = _angle(kept, vh[: len(kept)])
    run.check("angle of the first layer's start to the pictures' principal components", gap, below=0.1)
    before = net(digits.test)
    apart = eva.attach_eva(net, explained)
    run.check(
        "outputs at the start whose bits differ from the base's", int((net(digits.test) != before).sum()), equals=0
    )
    apart.undo()


def starts_faster(run: Run, seeds: int) -> None:
    """On turned digits the first 50 steps cost less from EVA's start than from LoRA's."""
    digits = transfer.load_digits()
    turned, curves = digits.turned(), {"EVA": [], "Kaiming": [], "orthonormal": []}
    for seed in run.progress(range(run.seed, run.seed + seeds), "turned digits"):
        base = transfer.mlp(seed)
        transfer.train(base, digits.train, digits.train_labels, steps=120, lr=4e-3, seed=seed)
        for name, found in curves.items():

            def change(net: nn.Module, name: str = name, seed: int = seed) -> Any:
                if name == "EVA":
                    return eva.attach_eva(net, eva.explain_inputs(net, "*", turned.train.split(128), rank=4))
                generator = torch.Generator().manual_seed(seed)
                return apply.attach_lora(net, "*", rank=4, init=name.lower(), generator=generator)

            found.append(transfer.adapt(copy.deepcopy(base), digits, change, steps=50, lr=1e-2, seed=seed))
    early = {name: sum(o.early for o in found) / seeds for name, found in curves.items()}
    run.check(
        f"turned digits, rank 4: mean loss of the first 50 steps, EVA's over Kaiming's ({seeds} seeds)",
        early["EVA"] / early["Kaiming"],
        below=0.85,
        paper="converges faster than other starts, on language, vision and control",
    )
    run.table("digits", [
        {"start": n, "mean loss of 50 steps": early[n], "accuracy after them": sum(o.new for o in f) / seeds,
         "numbers trained": f[0].trained} for n, f in curves.items()
    ])  # fmt: skip
    _plot_curves(run, curves)
    run.text(
        "What it shows",
        f"With the directions of the new pictures to start from, the mean loss of the first 50 steps is "
        f"{early['EVA']:.2f}, against {early['Kaiming']:.2f} from LoRA's usual start and {early['orthonormal']:.2f} "
        "from random orthonormal rows, at about as many trained numbers.",
    )


def _plot_curves(run: Run, curves: dict[str, list[transfer.Outcome]]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    for i, (name, found) in enumerate(curves.items()):
        for outcome in found:
            axes.plot(outcome.losses, color=f"C{i}", lw=0.7, alpha=0.35)
        axes.plot(torch.tensor([o.losses for o in found]).mean(0), color=f"C{i}", lw=2, label=name)
    axes.set(xlabel="step", ylabel="loss", yscale="log", title="Digits turned by 90°, LoRA of rank 4")
    axes.legend()
    run.plot("starts", figure, "Loss of every step; thin lines are seeds, thick ones their means.")


def as_peft_on_minilm(run: Run, rank: int = 4) -> None:
    """The same batches through `peft`'s EVA: the same ranks and directions; and peft reads our folder."""
    import peft

    batches = _batches()
    model = models.pretrained("all-minilm-l6-v2")
    base = copy.deepcopy(model)
    started = time.perf_counter()
    explained = eva.explain_inputs(model, task.QUERIES_AND_VALUES, batches, rank=rank, max_passes=40)
    seconds = time.perf_counter() - started
    run.check("MiniLM, queries and values: seconds to all directions", seconds, below=60)
    config = peft.LoraConfig(
        r=rank, target_modules=["query", "value"], init_lora_weights="eva", eva_config=peft.EvaConfig(rho=2.0, tau=0.99)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(copy.deepcopy(base), config, low_cpu_mem_usage=True)
        peft.initialize_lora_eva_weights(theirs, batches, show_progress_bar=False)
    rows = []
    for name, ours in explained.components.items():
        layer = theirs.get_submodule(f"base_model.model.{name}")
        other = layer.lora_A["default"].weight.detach() if hasattr(layer, "lora_A") else ours[:0]
        shared = min(len(ours), len(other))
        rows.append({"layer": name.removeprefix("encoder.layer."), "rank": len(ours), "peft's rank": len(other),
                     "angle": _angle(ours[:shared], other[:shared]) if shared else 0.0})  # fmt: skip
    run.table("peft", rows, f"{explained.batches} batches: ranks, and angles between ours and peft's directions")
    run.check("layers whose rank differs from peft's", sum(r["rank"] != r["peft's rank"] for r in rows), equals=0)
    angles = [r["angle"] for r in rows]
    run.check("median angle to peft's directions", statistics.median(angles), below=1e-2)
    run.check("largest angle to peft's directions", max(angles), below=5e-2)
    attached = eva.attach_eva(model, explained, alpha=8)
    with torch.no_grad():
        for adapter in apply.adapters(model).values():
            adapter.B.copy_(torch.randn(adapter.B.shape, generator=run.generator(5)) / 20)
        ours = model(**batches[0]).last_hidden_state
        with tempfile.TemporaryDirectory() as folder:
            peft_files.save_peft(model, folder)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder)
        gap = (read(**batches[0]).last_hidden_state - ours).abs().max()
        moved = (ours - base(**batches[0]).last_hidden_state).abs().max()
    run.check("our folder in peft: largest difference of the states", gap, below=1e-5)
    run.check("which the adapters move by", moved, above=0.1)
    attached.undo()


def _batches() -> list[dict[str, Tensor]]:
    """The four texts in pieces of twelve words, 32 a batch, padded."""
    found, _ = task.pieces(12)
    tokenize = models.tokenizer("all-minilm-l6-v2")
    kept = []
    for start in range(0, len(found) - 31, 32):
        batch = tokenize(found[start : start + 32], padding=True, truncation=True, max_length=24, return_tensors="pt")
        kept.append({"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]})
    return kept


def experiment(run: Run, *, seeds: int = 4) -> None:
    """The streaming decomposition, the sharing of ranks, the faster start, and peft's own EVA.

    Args:
        seeds: networks for digits that are adapted in the full profile (two in the quick one).
    """
    streams_agree_with_the_whole(run)
    ranks_follow_the_variance(run)
    starts_faster(run, 2 if run.quick else seeds)
    if not run.quick:
        as_peft_on_minilm(run)
