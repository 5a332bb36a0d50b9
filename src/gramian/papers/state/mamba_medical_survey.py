"""Mamba architectures for medical image analysis: the survey's taxonomy, and the bridge S4 → S5 → S6 (2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from gramian.lab import Card, Run, taxonomy
from gramian.linalg.scan import lti, selective
from gramian.nn.state import mamba, s4d, s5
from gramian.papers.state import visual_mamba_survey

CARD = Card(
    title="A Comprehensive Survey of Mamba Architectures for Medical Image Analysis: Classification, Segmentation, "
    "Restoration and Beyond",
    row=136,
    arxiv="2410.02362",
    year=2024,
    kind="survey",
    idea="Cores S4, S5 and S6 (Mamba's), architectures from Mamba alone over U-shaped networks to hybrids, scan "
    "orders, techniques of training, data sets and tasks. Leaves open what runs here.",
    claim="The three cores are one family: S5 with one channel is S4's diagonal system, and Mamba's core with constant "
    "coefficients is it too.",
    keywords=("survey", "medical image analysis", "Mamba", "S4", "S5", "S6", "U-Net", "selective scan"),
    api=(
        "gramian.lab.taxonomy.open_leaf",
        "gramian.linalg.scan.selective.selective_scan",
        "gramian.linalg.scan.lti.lti_kernel_diagonal",
    ),
    use="from gramian.papers.state.mamba_medical_survey import TAXONOMY\n"
    'core = open_leaf(TAXONOMY, "cores", "S6")\ny, state = core(x)',
    reach="U-shaped networks and hybrids for segmentation, classification, restoration and registration of medical "
    "data",
    differs=(
        "Built in part: cores and scan orders run here; leaves that need visual or medical backbones say that they are "
        "not built yet.",
        "Lists below the paper's headings are partly from memory.",
    ),
)

TAXONOMY = {
    "cores": {
        "S4": "gramian.nn.state.s4.S4(8, 8)",
        "S5": "gramian.nn.state.s5.S5(8, 8)",
        "S6": "gramian.nn.state.mamba.Mamba(8, 8)",
    },
    "architectures": {
        "Mamba alone": {"Vim": None, "VM-UNet": None},
        "U-shaped": {"U-Mamba": None, "Mamba-UNet": None, "SegMamba": None},
        "hybrids": {"with convolution": None, "with attention": None, "with graphs": None, "with recurrence": None},
    },
    "scans": {
        "bidirectional": "gramian.linalg.signal.scan_orders.scan_order('bidirectional', 8, 8)",
        "cross": "gramian.linalg.signal.scan_orders.scan_order('cross', 8, 8)",
        "continuous": "gramian.linalg.signal.scan_orders.scan_order('continuous', 8, 8)",
        "local windows": "gramian.linalg.signal.scan_orders.scan_order('local', 8, 8)",
        "efficient: skipping cells": "gramian.linalg.signal.scan_orders.scan_order('atrous', 8, 8)",
        "zigzag": "gramian.linalg.signal.scan_orders.scan_order('zigzag', 8, 8)",
        "omnidirectional": "gramian.linalg.signal.scan_orders.scan_order('omnidirectional', 8, 8)",
        "three-dimensional": None,
        "hierarchical": None,
        "spatiotemporal": None,
    },
    "techniques": {
        "weakly supervised": None,
        "semi-supervised consistency": None,
        "contrastive": None,
        "knowledge transfer": None,
        "multi-scale": None,
        "guidance by edges": None,
    },
    "data": {"CT": None, "MRI": None, "ultrasound": None, "endoscopy": None, "dermoscopy": None, "microscopy": None},
    "tasks": {
        "classification": None,
        "segmentation": None,
        "restoration": None,
        "beyond": {"registration": None, "several modalities": None, "video": None},
    },
}


def cores_are_one_family(run: Run, length: int = 120, states: int = 8) -> None:
    """S6 with constant coefficients and S5 with one channel, each against the kernel of the diagonal system."""
    generator = run.generator()

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    # S6: Ā = exp(Δ A), B̄ = Δ B; the kernel is Σ_n C_n exp(l Δ A_n) Δ B_n
    u, A = normal(2, 3, length), -torch.rand(3, states, generator=generator, dtype=torch.float64) - 0.1
    B, C = normal(states), normal(states)
    step = torch.tensor([0.05, 0.1, 0.3], dtype=torch.float64)
    constant = [t[None, :, None].expand(2, -1, length) for t in (step, B, C)]
    scanned = selective.selective_scan(u, constant[0], A, constant[1], constant[2])
    times = torch.arange(length, dtype=torch.float64)
    kernel = torch.einsum("n,hnl->hl", C * B, torch.exp(step[:, None, None] * A[..., None] * times)) * step[:, None]
    gap = float((scanned - lti.fft_convolution(u, kernel)).abs().max())
    run.check("S6 with constant B, C and Δ − convolution with the diagonal kernel", gap, below=1e-5)
    # held over a step instead (zero-order hold), B̄ = B (exp(Δ A) − 1)/A: another system, which meets it as Δ → 0
    held = lti.lti_kernel_diagonal(A, B.expand(3, -1), C.expand(3, -1), step, length)
    apart = (held - kernel).norm(dim=1) / kernel.norm(dim=1)
    run.check("B̄ = Δ B against zero-order hold, relative: smallest step over largest", apart[0] / apart[2], below=0.5)
    # S5 with one channel: shared state, one input, one output
    layer = s5.S5(1, 2 * states, init="legs", mixing="none", generator=run.generator(1)).double()
    x = normal(2, length, 1)
    with torch.no_grad():
        rate = torch.exp(layer.log_dt)
        system = torch.complex(s5.negative(layer.A_real, layer.real_transform), layer.A_imag) * rate
        inputs, outputs = (torch.view_as_complex(t.contiguous()) for t in (layer.B, layer.C))
        kernel = lti.lti_kernel_diagonal(
            system[None], inputs.T * rate, outputs, torch.ones(1, dtype=torch.float64), length,
            multiplicity=layer.multiplicity,
        )  # fmt: skip
        wanted = lti.fft_convolution(x.mT, kernel).mT + layer.D * x
        gap = float((layer(x)[0] - wanted).abs().max())
    run.check("S5 of one channel − S4D's kernel with its A, B, C and Δ", gap, below=1e-5)


def answers_to_an_impulse(run: Run, length: int = 64) -> None:
    """What each core remembers of one impulse."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3), layout="constrained")
    x = torch.zeros(1, length, 1)
    x[0, 4] = 1
    y, rows = {}, []
    for name, layer in (("S4 (diagonal)", s4d.S4D(1, 16, mixing="none", generator=run.generator(2))),
                        ("S5", s5.S5(1, 16, init="legs", mixing="none", generator=run.generator(3)))):  # fmt: skip
        with torch.no_grad():
            y[name] = layer(x)[0][0, :, 0]
        axes.plot(y[name] / y[name].abs().max(), label=name)
        rows.append({"core": name, "answer at its largest": float(y[name].abs().max()),
                     "left after 50 elements": float(y[name][-10:].abs().max())})  # fmt: skip
    selective_core = mamba.Mamba(1, 16, generator=run.generator(4))
    with torch.no_grad():
        answer = (selective_core(x)[0] - selective_core(torch.zeros_like(x))[0])[0, :, 0]
    axes.plot(answer / answer.abs().max(), label="S6 (Mamba's block)")
    rows.append({"core": "S6 (Mamba's block)", "answer at its largest": float(answer.abs().max()),
                 "left after 50 elements": float(answer[-10:].abs().max())})  # fmt: skip
    axes.set(xlabel="element", ylabel="answer to an impulse at 4")
    axes.legend()
    run.plot("cores", figure, "An untrained core's answer to one impulse, over its largest value.")
    run.table("cores", rows, "One channel, random weights. A gated core answers zero with next to nothing, so S6 keeps "
              "little of a lone impulse.")  # fmt: skip


def leaves_open(run: Run) -> None:
    """Every leaf that is built runs: cores step by step, scan orders as those of the visual survey."""
    taxonomy.check_taxonomy(TAXONOMY)
    every = list(taxonomy.leaves(TAXONOMY))
    x = torch.randn(1, 64, 8, generator=run.generator(5))
    opened, gap = 0, 0.0
    for path, leaf in every:
        if leaf is None:
            continue
        found = taxonomy.open_leaf(TAXONOMY, *path)
        if path[0] == "cores":
            with torch.no_grad():
                y, _ = found(x)
                state, stepped = None, []
                for t in range(x.shape[1]):
                    out, state = found.step(x[:, t], state)
                    stepped.append(out)
            gap = max(gap, float((torch.stack(stepped, 1) - y).abs().max()))
            opened += 1
        else:
            known = [taxonomy.open_leaf(visual_mamba_survey.TAXONOMY, "scan orders", path[-1])]
            opened += int(torch.equal(found, known[0]))
    built = sum(leaf is not None for _, leaf in every)
    run.check("leaves that open and run, of those that are built", opened / built, equals=1.0)
    run.check("cores one element at a time − the whole sequence (largest gap)", gap, below=1e-4)
    refused = 0
    for path, message in (
        (("cores", "S7"), "S4, S5, S6"),
        (("tasks", "classification"), "no implementation"),
        (("cores",), "branch"),
    ):
        try:
            taxonomy.open_leaf(TAXONOMY, *path)
        except ValueError as error:
            refused += message in str(error)
    run.check("leaves that are not there, not built, or branches: refused with what there is", refused, equals=3)
    run.plot("taxonomy", taxonomy.draw_taxonomy(TAXONOMY), f"The survey's taxonomy: {built} of {len(every)} leaves "
             "(full dots) open something that runs here.")  # fmt: skip


def experiment(run: Run) -> None:
    """The bridge between the cores, and the taxonomy's leaves."""
    cores_are_one_family(run)
    answers_to_an_impulse(run)
    leaves_open(run)
    run.text(
        "what it shows",
        "S4's diagonal system, S5 and Mamba's core are one recurrence with more and less that may vary: freeze Mamba's "
        "coefficients, or give S5 one channel, and the convolution of S4D comes out. Networks for pictures and volumes "
        "stand on visual backbones that are not built yet; their leaves say so.",
    )
