"""Is this the subspace you are looking for? Patches that work through a dormant direction (Makelov et al., 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gramian import models
from gramian.analysis.intervention import illusion, last_token, patching
from gramian.data.synthetic.prompts import indirect_object
from gramian.lab import Card, Run
from gramian.linalg.manifold import orthogonal
from gramian.optim.fit import fit

CARD = Card(
    title="Is This the Subspace You Are Looking for? An Interpretability Illusion for Subspace Activation Patching",
    row=217,
    arxiv="2311.17030",
    year=2023,
    kind="method",
    idea="Patching a direction can change the output although no feature lives there: one part of the direction "
    "carries the feature and nobody reads it, the other part is read but never varies. Split the direction by the "
    "map that follows and patch the parts by themselves.",
    claim="Directions found by optimization often owe their effect to a part that the network does not read; without "
    "it the effect is gone.",
    keywords=(
        "activation patching",
        "causal intervention",
        "distributed alignment search",
        "interchange intervention",
        "dormant direction",
        "mechanistic interpretability",
    ),
    api=(
        "gramian.analysis.intervention.patching.patch_subspace",
        "gramian.analysis.intervention.patching.ablate",
        "gramian.analysis.intervention.illusion.das",
        "gramian.analysis.intervention.illusion.illusion_report",
        "gramian.analysis.intervention.illusion.split_direction",
    ),
    use='v = das(model, "1", base, source, loss, width=64)\n'
    'report = illusion_report(model, "1", v[:, 0], model[2].weight, base, source, outcome)\n'
    "report.illusory, report.effect, report.row_effect",
    reach="indirect object identification and factual recall in GPT-2; here planted directions, small trained "
    "networks, and indirect objects in SmolLM2",
    needs=("language",),
    differs=(
        "A direction counts as illusory if its patch goes over half of the way to the source and less than half of "
        "that is left without the part that nobody reads; the paper gives the shares and draws no line.",
        "That test needs a map downstream with more outputs than the direction decides: in the three-unit example the "
        "readable part is all that the output is made of, so it works by itself, and the split does not expose the "
        "deceiving direction. It takes the units one by one there.",
        "Found here: directions that a search finds in small trained networks are mostly readable, not illusory; the "
        "table shows them. In SmolLM2 a direction of a feed-forward layer moves the answer far more than that whole "
        "layer does, and loses about half of its effect without the part that nobody reads; the bounds were set after "
        "one look at other prompts. Behind the residual stream every direction is read, so none can be dormant.",
    ),
)


class Line(nn.Module):
    """x → h = x W_in → h W_out: the smallest network in which a patch can deceive."""

    def __init__(self, read: Tensor, write: Tensor) -> None:
        super().__init__()
        self.hidden = nn.Linear(*read.T.shape, bias=False, dtype=read.dtype)
        self.output = nn.Linear(*write.T.shape, bias=False, dtype=write.dtype)
        with torch.no_grad():
            self.hidden.weight.copy_(read)
            self.output.weight.copy_(write)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(x))


def three_units(run: Run) -> None:
    """One number in, three hidden units, the same number out: which patches work, and why."""
    model = Line(torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64),
                 torch.tensor([[0.0, 2.0, 1.0]], dtype=torch.float64))  # fmt: skip
    base, source = torch.randn(2, 50, 1, generator=run.generator(), dtype=torch.float64)
    unit = torch.eye(3, dtype=torch.float64)
    rows, gaps = [], {}
    for name, direction in (("e₁", unit[0]), ("e₂", unit[1]), ("e₃", unit[2]), ("(e₁ + e₂)/√2", unit[0] + unit[1])):
        direction = direction / direction.norm()
        out = patching.patch_subspace(model, "hidden", direction[:, None], base, source)
        gaps[name] = (float((out - source).abs().max()), float((out - base).abs().max()))
        report = illusion.illusion_report(
            model, "hidden", direction, model.output.weight, base, source, lambda y: y[:, 0]
        )  # fmt: skip
        rows.append({"direction": name, "effect": report.effect, "readable part alone": report.row_effect,
                     "unread share": report.null_share, "illusory": report.illusory})  # fmt: skip
    run.table(
        "three hidden units",
        rows,
        "x → (x, 0, x) → 2 h₂ + h₃; effect 1: the output becomes the source's. e₁ is unread, e₂ is always zero: "
        "their sum works like e₃. With one output the readable part always works, so it tells nothing here.",
    )
    deceived = max(gaps["(e₁ + e₂)/√2"][0], gaps["e₃"][0])
    run.check("patching e₃, or (e₁ + e₂)/√2: distance from the source's output", deceived, below=1e-6,
              paper="both give the source's output; only e₃ carries it")  # fmt: skip
    run.check("patching e₁ or e₂ alone: distance from the base's output", max(gaps["e₁"][1], gaps["e₂"][1]), below=1e-6)
    run.check("readable part of (e₁ + e₂)/√2 by itself: distance of its effect from 1",
              abs(float(rows[3]["readable part alone"]) - 1), below=1e-6)  # fmt: skip


def _mlp(seed: int, width: int, hidden: int, outputs: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def ranks_at_the_ends(run: Run) -> None:
    """All directions patch the whole activation, none patches nothing, a few against their definition."""
    model = _mlp(run.seed, 6, 20).double()
    generator = run.generator(1)
    base, source = torch.randn(2, 30, 6, generator=generator, dtype=torch.float64)
    rotation = orthogonal.haar(20, generator, dtype=torch.float64)
    with torch.no_grad():
        whole = patching.patch_subspace(model, "1", rotation, base, source)
        run.check("every direction patched: distance from the source's output", (whole - model(source)).abs().max(),
                  below=1e-10)  # fmt: skip
        none = patching.patch_subspace(model, "1", rotation[:, :0], base, source)
        run.check("no direction patched: distance from the base's output", (none - model(base)).abs().max(),
                  below=1e-12)  # fmt: skip
        some = rotation[:, :4]
        first, second = model[1](model[0](base)), model[1](model[0](source))
        direct = model[2](first + (second - first) @ some @ some.T)
        found = patching.patch_subspace(model, "1", some, base, source)
        run.check("four directions against the definition", (found - direct).abs().max(), below=1e-10)
        held = patching.ablate(model, "1", some, base, mean=first.mean(0))
        direct = model[2](first + (first.mean(0) - first) @ some @ some.T)
        run.check("four directions held at their mean, against the definition", (held - direct).abs().max(),
                  below=1e-10)  # fmt: skip


def _planted(seed: int, faithful: bool) -> tuple[Line, Tensor, Tensor, Tensor]:
    """A linear network, a direction of its hidden layer that works when patched, and pairs that differ in one feature.

    A faithful direction is that in which the feature is written. An illusory one is half unread, half dormant: the
    dormant half is amplified downstream, which no input shows, until the patch moves the outcome by just what the
    source does.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs, hidden, outputs = 4, 16, 6
    read, write = normal(hidden, inputs), normal(outputs, hidden)
    feature = torch.nn.functional.normalize(normal(inputs), dim=0)
    base = normal(40, inputs)
    source = base + normal(40, 1) * feature
    carried = torch.nn.functional.normalize(read @ feature, dim=0)
    if faithful:
        return Line(read, write), carried, base, source
    axes = torch.linalg.svd(write).Vh
    rows, kernel = axes[:outputs], axes[outputs:]
    # dormant and read: in the row space, orthogonal to everything that the inputs reach
    dormant = rows.T @ torch.linalg.svd(read.T @ rows.T).Vh[-1]
    unread = torch.nn.functional.normalize(kernel.T @ (kernel @ carried), dim=0)
    direction = (unread + dormant) / 2**0.5
    wanted = float(write[0] @ (read @ feature))
    given = 0.5 * float(write[0] @ dormant) * float(unread @ (read @ feature))
    write = write + (wanted / given - 1) * torch.outer(write @ dormant, dormant)
    return Line(read, write), direction, base, source


def planted_directions_are_told_apart(run: Run, seeds: int = 20) -> None:
    """Networks with a faithful direction and networks with an illusory one: both patch perfectly."""
    reports: dict[str, list[illusion.IllusionReport]] = {}
    for kind in ("faithful", "illusory"):
        reports[kind] = []
        for seed in range(seeds):
            model, direction, base, source = _planted(1000 * run.seed + seed, kind == "faithful")
            reports[kind].append(
                illusion.illusion_report(
                    model, "hidden", direction, model.output.weight, base, source, lambda y: y[:, 0]
                )
            )
    least = min(r.effect for kind in reports.values() for r in kind)
    run.check(f"effect of patching, least of {2 * seeds} planted directions", least, above=0.99)
    run.check("illusory directions that the report misses", sum(not r.illusory for r in reports["illusory"]), equals=0)
    run.check("faithful directions that it calls illusory", sum(r.illusory for r in reports["faithful"]), equals=0)
    dormant = max(r.row_difference for r in reports["illusory"])
    run.check("how much the readable part of illusory directions varies, over the direction", dormant, below=1e-6)
    run.table("planted directions", [
        {"direction": kind, "effect": _mean(rs, "effect"), "readable part alone": _mean(rs, "row_effect"),
         "unread part alone": _mean(rs, "null_effect"), "unread share": _mean(rs, "null_share"),
         "readable part varies": _mean(rs, "row_difference")} for kind, rs in reports.items()
    ], f"means over {seeds} networks each; both kinds do what the source does, only one holds the feature")  # fmt: skip
    _picture(run, reports)


def _mean(reports: list[illusion.IllusionReport], name: str) -> float:
    return sum(float(getattr(r, name)) for r in reports) / len(reports)


def _picture(run: Run, reports: dict[str, list[illusion.IllusionReport]]) -> None:
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
    for (kind, rs), marker in zip(reports.items(), ("o", "s"), strict=True):
        left.plot([r.effect for r in rs], [r.row_effect for r in rs], marker, label=kind, alpha=0.7)
        right.plot([r.null_share for r in rs], [r.row_difference for r in rs], marker, label=kind, alpha=0.7)
    left.set(xlabel="effect of patching the direction", ylabel="effect of its readable part", xlim=(0, 1.2),
             ylim=(-0.2, 1.2), title="the patch alone does not tell")  # fmt: skip
    right.set(xlabel="unread share of the direction", ylabel="readable part varies", title="its parts do")
    left.legend(loc="center left")
    run.plot("planted directions", figure, "Planted directions: all patches work, but illusory ones through a part "
             "that is read and never varies.")  # fmt: skip
    run.text(
        "What it shows",
        "Every planted direction makes the output the source's when it is patched. Splitting it by the map that "
        "follows tells the two kinds apart without error: an illusory direction does nothing once its unread part is "
        "taken off, and what is left of it does not vary with the input at all.",
    )


def _target(x: Tensor) -> Tensor:
    return torch.stack((x[:, 0] + x[:, 1] * x[:, 2], x[:, 3].abs(), torch.relu(x[:, 4] - x[:, 0])), 1)


def a_search_finds_directions(run: Run, hiddens: tuple[int, ...] = (12,), steps: int = 150) -> None:
    """Distributed alignment search in trained networks: its direction moves an output to the source's."""
    rows: list[dict[str, Any]] = []
    for hidden in run.progress(hiddens, "searching for directions"):
        generator = run.generator(10 + hidden)
        x = torch.randn(2000, 6, generator=generator)
        model = _mlp(run.seed, 6, hidden)
        fit(model, (x, _target(x)), lambda m, a, b: nn.functional.mse_loss(m(a), b), steps=300, batch_size=256,
            lr=1e-2, generator=generator, show_progress=False)  # fmt: skip
        base, source, new_base, new_source = torch.randn(4, 400, 6, generator=generator)
        with torch.no_grad():
            wanted = model(source)[:, 0]
        found = illusion.das(
            model, "1", base, source, lambda y, w=wanted: (y[:, 0] - w).square().mean(),
            width=hidden, steps=steps, generator=generator,
        )  # fmt: skip
        reader = model[2].weight.detach()
        random = torch.nn.functional.normalize(torch.randn(hidden, 1, generator=generator), dim=0)
        reports = [
            illusion.illusion_report(model, "1", v[:, 0], reader, new_base, new_source, lambda y: y[:, 0])
            for v in (found, random)
        ]
        rows.append({"hidden units": hidden, "effect": reports[0].effect, "readable part alone": reports[0].row_effect,
                     "unread share": reports[0].null_share, "random direction": reports[1].effect,
                     "illusory": reports[0].illusory})  # fmt: skip
    run.table("directions found by search", rows, "one direction, searched on 400 pairs, measured on 400 others")
    run.check("effect of the direction found, least over networks", min(r["effect"] for r in rows), above=0.9)
    run.check("effect of a random direction, most", max(r["random direction"] for r in rows), below=0.6)


def a_language_model(run: Run, layers: tuple[int, ...] = (18, 22), pairs: int = 32, steps: int = 40) -> None:
    """Which of two names SmolLM2 says next: a direction of a feed-forward layer, that whole layer, the residual."""
    tokenizer, model = models.tokenizer("smollm2-135m"), models.pretrained("smollm2-135m").eval()
    prompts = indirect_object.indirect_object_prompts(tokenizer, 2 * pairs, run.generator(20))
    net = last_token.LastToken(model, torch.cat((prompts.base, prompts.source)))
    train, test = torch.arange(2 * pairs).split(pairs)

    def leaning(rows: Tensor) -> illusion.Loss:
        """Logit of the first name minus that of the second, for each pair."""
        names = prompts.first[rows], prompts.second[rows]
        return lambda logits: logits.gather(1, names[0][:, None])[:, 0] - logits.gather(1, names[1][:, None])[:, 0]

    with torch.no_grad():
        before, after = (leaning(test)(net(rows)) for rows in (test, test + 2 * pairs))
    right = float(((before > 0) & (after < 0)).double().mean())
    run.check("pairs in which SmolLM2 names the right one both times", right, above=0.9)
    rows: list[dict[str, Any]] = []
    places = [(k, "feed-forward") for k in layers] + [(layers[-1], "residual stream")]
    for layer, kind in run.progress(places, "searching in SmolLM2"):
        block = model.get_submodule(f"model.layers.{layer}")
        if kind == "feed-forward":
            name, side, reader = f"model.model.layers.{layer}.mlp.down_proj", "in", block.mlp.down_proj.weight
        else:
            name, side, reader = f"model.model.layers.{layer}", "out", _reading(model, layer + 1)
        width = reader.shape[1]
        found = illusion.das(net, name, train, train + 2 * pairs, lambda y: leaning(train)(y).mean(), width=width,
                             steps=steps, side=side, generator=run.generator(30 + layer))  # fmt: skip
        report = illusion.illusion_report(
            net, name, found[:, 0], reader, test, test + 2 * pairs, leaning(test), side=side
        )
        with torch.no_grad():
            out = patching.patch_subspace(net, name, torch.eye(width), test, test + 2 * pairs, side=side)
        whole = float((leaning(test)(out) - before).mean() / (after - before).mean())
        rows.append({"patched": f"{kind} of layer {layer}", "whole activation": whole, "one direction": report.effect,
                     "readable part alone": report.row_effect, "unread share": report.null_share,
                     "lost without the unread part": 1 - report.row_effect / report.effect})  # fmt: skip
    run.table(
        "SmolLM2: who is given the drink",
        rows,
        f"share of the way from one name to the other, on {pairs} pairs that the search did not see, last token; "
        "1: the other name. A direction that does more than all directions together works through a dormant part.",
    )
    fed = rows[: len(layers)]
    excess = min(r["one direction"] - r["whole activation"] for r in fed)
    run.check("feed-forward layers: effect of one direction over that of the whole activation", excess, above=0.1,
              paper="an MLP direction that patches although the MLP carries nothing")  # fmt: skip
    lost = min(r["lost without the unread part"] for r in fed)
    run.check("feed-forward layers: share of that lost without the unread part", lost, above=0.25)


def _reading(model: nn.Module, layer: int) -> Tensor:
    """The maps through which a layer's attention reads the residual stream, one above the other."""
    attention = model.get_submodule(f"model.layers.{layer}.self_attn")
    return torch.cat([attention.get_submodule(f"{k}_proj").weight for k in "qkv"]).detach()


def experiment(run: Run, *, seeds: int = 20) -> None:
    """The smallest deceiving network, patching against its definition, planted directions, searches, SmolLM2.

    Args:
        seeds: planted directions of each kind.
    """
    three_units(run)
    ranks_at_the_ends(run)
    planted_directions_are_told_apart(run, seeds)
    if run.quick:
        a_search_finds_directions(run)
        return
    a_search_finds_directions(run, (6, 12, 24, 48), 300)
    a_language_model(run)
