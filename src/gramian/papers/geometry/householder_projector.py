"""Householder projector: orthogonal, low-rank modulation makes a generator's directions plain (Song et al., 2023)."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gramian.analysis import latent_directions
from gramian.lab import Card, Run
from gramian.linalg.manifold import orthogonal
from gramian.models.generative import latent_optimization, stylegan2
from gramian.optim import parametrize as parametrizations
from gramian.optim.fit import fit
from gramian.surgery import householder_projector, swap

CARD = Card(
    title="Householder Projector for Unsupervised Latent Semantics Discovery",
    row=12,
    year=2023,
    kind="method",
    arxiv="2307.08012",
    idea="The matrix by which a style-based generator reads its latent is replaced by a product of reflections with "
    "a few singular values 1 and the rest 0, started from the trained matrix and briefly fine-tuned: few "
    "directions, orthogonal, equal.",
    claim="Directions of the projected layers are orthogonal and few, directions left out do nothing, a short "
    "fine-tuning restores the images, and moving along a kept direction changes them more smoothly than along "
    "SeFa's.",
    keywords=("GAN", "StyleGAN", "disentanglement", "interpretable directions", "image editing", "SeFa", "low rank"),
    api=(
        "gramian.surgery.householder_projector.project",
        "gramian.optim.parametrize.HouseholderLowRank",
        "gramian.linalg.manifold.orthogonal.householder_product",
        "gramian.models.generative.stylegan2.StyleGAN2Generator",
        "gramian.analysis.latent_directions.semantic_directions",
        "gramian.analysis.latent_directions.path_length",
    ),
    use='handle = project(generator, "convs.*.conv.affine", rank=10)   # then fine-tune briefly\n'
    'directions = householder_projector.directions(handle.replacements["convs.0.conv.affine"])',
    reach="no weights of FFHQ generators are available; a small generator trained on digits stands in",
    differs=(
        "The released initialization takes geqrf's packed output for the reflectors, R's entries above the diagonal "
        "included, so it does not start from the trained weight; we take the unit lower part and restore the "
        "columns' signs.",
        "Only as many reflectors are kept as directions (rank), not one a dimension: the first columns of the "
        "product depend on no others.",
        "The digits' generator is trained by latent optimization, without an adversary, and distances are in pixels, "
        "not LPIPS.",
        "Besides the paper's singular value 1 there is scale=\"match\", which keeps the trained weight's size and so "
        "needs less fine-tuning.",
    ),
    data=("digits",),
)

LAYERS = "convs.*.conv.affine"


def experiment(run: Run, *, rank: int = 10) -> None:
    """Measure what the projector guarantees, and what it does to a generator of digits.

    Args:
        rank: directions kept a layer.
    """
    generator_has_the_published_size(run)
    products_agree(run)
    projection_starts_from_the_weight(run, rank=rank)
    projection_survives_training(run, rank=rank)
    left_out_directions_do_nothing(run, rank=rank)
    if not run.quick:
        digits_stay_and_move_smoothly(run, rank=rank)


def generator_has_the_published_size(run: Run) -> None:
    """The parameters of the 1024² FFHQ generator, counted on the meta device."""
    with torch.device("meta"):
        generator = stylegan2.StyleGAN2Generator()
    millions = sum(p.numel() for p in generator.parameters()) / 1e6
    run.check(
        "StyleGAN2 at 1024²: parameters, millions",
        millions,
        between=(29.7, 30.6),
        paper="about 30.0 million; no weights here",
    )


def products_agree(run: Run) -> None:
    """The blocked product against reflections one by one, and against LAPACK."""
    vectors = torch.randn(64, 40, generator=run.generator(), dtype=torch.float64)
    ours = orthogonal.householder_product(vectors)
    one_by_one = torch.eye(64, dtype=torch.float64)
    for v in vectors.unbind(-1):
        one_by_one = one_by_one - torch.outer(one_by_one @ v, v) * (2 / (v @ v))
    run.check("blocked product against reflections one by one", float((ours - one_by_one).abs().max()), below=1e-10)
    unit_lower = torch.tril(vectors, -1) + torch.eye(64, 40, dtype=torch.float64)
    lapack = torch.linalg.householder_product(unit_lower, 2 / unit_lower.square().sum(0))
    difference = orthogonal.householder_product(unit_lower, columns=40) - lapack
    run.check("blocked product against torch.linalg.householder_product", float(difference.abs().max()), below=1e-10)


def _projected(weight: Tensor, rank: int) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    parametrize.register_parametrization(layer, "weight", parametrizations.HouseholderLowRank(rank), unsafe=True)
    return layer


def projection_starts_from_the_weight(run: Run, *, rank: int = 10) -> None:
    """The initial factors against the SVD of the weight; and what skipping geqrf's packing does."""
    weight = torch.randn(48, 64, generator=run.generator(1), dtype=torch.float64)
    U, _, Vh = torch.linalg.svd(weight, full_matrices=False)
    target = U[:, :rank] @ Vh[:rank]
    error = float((_projected(weight, rank).weight.detach() - target).abs().max())
    run.check("start: largest error of U Vᵀ against the weight's leading singular vectors", error, below=1e-8)
    kept = householder_projector.directions(_projected(weight, rank)).detach()
    error = float((kept @ kept.mT - Vh[:rank].mT @ Vh[:rank]).abs().max())
    run.check("start: largest error of the space of directions", error, below=1e-8)
    packed, _ = torch.geqrf(Vh[:rank].mT.contiguous())
    wrong = orthogonal.householder_product(packed, columns=rank)
    error = float((wrong @ wrong.mT - Vh[:rank].mT @ Vh[:rank]).abs().max())
    run.check(
        "the same with geqrf's packed output taken for reflectors", error, above=0.05, paper="as the released code does"
    )


def projection_survives_training(run: Run, *, rank: int = 10) -> None:
    """Two hundred steps of Adam towards an unreachable target."""
    from matplotlib import pyplot

    weight, target = (torch.randn(48, 64, generator=run.generator(2 + i), dtype=torch.float64) for i in range(2))
    layer = _projected(weight, rank)
    start = layer.weight.detach().clone()
    adam = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(200):
        loss = (layer.weight - target).square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        trained = layer.weight.clone()
        kept = householder_projector.directions(layer)
    values = torch.linalg.eigvalsh(trained.mT @ trained).flip(0)
    run.check(
        "after 200 steps: largest error of VᵀV = I", float((kept.mT @ kept - torch.eye(rank)).abs().max()), below=1e-10
    )
    run.check(
        "after 200 steps: largest error of the kept eigenvalues of WᵀW, all 1",
        float((values[:rank] - 1).abs().max()),
        below=1e-10,
    )
    run.check("after 200 steps: largest of the other eigenvalues", float(values[rank:].abs().max()), below=1e-10)
    run.check("the weight did move (Frobenius distance)", float((trained - start).norm()), above=1.0)
    figure, axis = pyplot.subplots()
    axis.plot(range(1, 49), torch.linalg.svdvals(weight), marker="o", markersize=4, label="trained weight")
    axis.plot(range(1, 49), torch.linalg.svdvals(trained), marker="s", markersize=4, label="projected, fine-tuned")
    axis.axvline(rank + 0.5, linestyle=":", color="C2")
    axis.set_xlabel("direction")
    axis.set_ylabel("singular value")
    axis.legend()
    run.plot(
        "singular values",
        figure,
        f"A projected weight has {rank} equal directions and no others, whatever the optimizer does.",
    )


def _tiny(run: Run, stream: int) -> stylegan2.StyleGAN2Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed * 1000 + stream)
        return stylegan2.StyleGAN2Generator(
            8, style_size=32, mapping_layers=2, channels={4: 32, 8: 32}, image_channels=1
        )


def left_out_directions_do_nothing(run: Run, *, rank: int = 10) -> None:
    """Moving one layer's style along a direction that its projected weight has not."""
    generator = _tiny(run, 3)
    householder_projector.project(generator, LAYERS, rank)
    w = generator.map(torch.randn(8, 32, generator=run.generator(4)))
    inert, moved = [], []
    with torch.no_grad():
        before = generator.synthesize(w)
        for layer in swap.find(generator, LAYERS).values():
            kept = householder_projector.directions(layer)
            beside = torch.linalg.qr(kept, mode="complete").Q[:, rank:]
            for direction, changes in ((beside[:, 0], inert), (kept[:, 0], moved)):
                # this layer alone reads the shifted style: the image layers beside it are not projected
                hook = layer.register_forward_pre_hook(lambda _, inputs, shift=direction: (inputs[0] + shift,))
                changes.append(float((generator.synthesize(w) - before).abs().max()))
                hook.remove()
    run.check(
        "largest change of a pixel along a direction left out",
        max(inert),
        below=1e-5,
        paper="meaningless variations are gone",
    )
    run.check("least change of an image along a direction kept", min(moved), above=1e-2)


def digits_stay_and_move_smoothly(run: Run, *, rank: int = 10) -> None:
    """A small StyleGAN2 on digits: images and path lengths, projected against plain SeFa."""
    from matplotlib import pyplot
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images[:1000], dtype=torch.float32)[:, None] / 8 - 1
    batch = (torch.arange(len(images)), images)

    def tune(model: latent_optimization.LatentOptimization, epochs: int, rate: float) -> float:
        fit(model, batch, latent_optimization.reconstruction_loss, epochs=epochs, batch_size=100, lr=rate,
            schedule="cosine", generator=run.generator(7), show_progress=run.show_progress)  # fmt: skip
        with torch.no_grad():
            return float(latent_optimization.reconstruction_loss(model, *batch))

    plain = latent_optimization.LatentOptimization(_tiny(run, 5), len(images), 32, run.generator(6))
    errors = {"trained": tune(plain, 60, 1e-2)}
    longer, projected = copy.deepcopy(plain), copy.deepcopy(plain)
    householder_projector.project(projected.generator, LAYERS, rank)
    with torch.no_grad():
        errors["projected, not yet tuned"] = float(latent_optimization.reconstruction_loss(projected, *batch))
    errors["projected, tuned"] = tune(projected, 25, 5e-3)
    errors["trained, tuned as long, unprojected"] = tune(longer, 25, 5e-3)

    speeds, ppl, kept = {}, {}, {}
    models = {"trained": plain, "projected, tuned": projected, "trained, tuned as long, unprojected": longer}
    for name, model in models.items():
        layers = swap.find(model.generator, LAYERS).values()
        with torch.no_grad():
            w = model.generator.map(model.latents)[:300]
            if model is projected:
                kept[name] = [householder_projector.directions(layer) for layer in layers]
            else:
                kept[name] = [latent_directions.semantic_directions(layer.matrix, rank)[0] for layer in layers]
            random = nn.functional.normalize(torch.randn(32, 10, generator=run.generator(8)), dim=0)
        lengths = [float(latent_directions.path_length(model.generator.synthesize, w, d).mean()) for d in kept[name]]
        speeds[name] = float(np.mean(lengths))
        ppl[name] = float(latent_directions.path_length(model.generator.synthesize, w, random).mean())
    rows = [
        {
            "generator": name,
            "MSE": error,
            "path length, its directions": speeds.get(name),
            "path length, random directions": ppl.get(name),
        }
        for name, error in errors.items()
    ]
    run.table(
        "digits", rows, f"1000 digits, 8×8; {rank} of 32 directions a layer; path lengths are squared pixel speeds."
    )
    claim = "digits: MSE after projection and fine-tuning, relative to the trained generator"
    unseen = "image fidelity is kept; FFHQ's FID needs weights and data that are not here"
    run.check(claim, errors["projected, tuned"] / errors["trained"], below=1.05, paper=unseen)
    claim = "digits: path length along kept directions relative to SeFa's on the trained generator"
    run.check(claim, speeds["projected, tuned"] / speeds["trained"], below=1.0, paper="lower PPL and PIPL")
    claim = "digits: the same against SeFa on the generator tuned as long without the projector"
    run.check(claim, speeds["projected, tuned"] / speeds["trained, tuned as long, unprojected"], below=1.0)

    figure, axes = pyplot.subplots(4, 9, figsize=(6.4, 3.2))
    with torch.no_grad():
        w = projected.generator.map(projected.latents)[5:6]
        for row in range(4):
            direction = kept["projected, tuned"][0][:, row]
            steps = torch.linspace(-3, 3, 9)[:, None] * direction
            for axis, image in zip(axes[row], projected.generator.synthesize(w + steps)):
                axis.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
                axis.set_axis_off()
    run.plot("traversals", figure, "Each row moves one digit along one kept direction of the first layer.")
