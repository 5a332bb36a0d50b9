"""Eigen-CAM of EfficientNet-Lite0, against pytorch-grad-cam's."""

import numpy as np
import torch

from gramian import data, models
from gramian.analysis.explain.cam import EigenCAM
from gramian.atlas.bench import Benchmark, Contender
from gramian.models.vision.efficientnet_lite import preprocess

LAYER = "_blocks.15"


def problem(pictures):
    names = ("chelsea", "coffee", "astronaut", "rocket")
    x = torch.stack([preprocess(np.asarray(data.load(names[k % 4]).pixels)) for k in range(pictures)])
    return models.pretrained("efficientnet-lite0").eval(), x


def ours(pictures):
    model, x = problem(pictures)
    explain = EigenCAM(model, LAYER, center=True)
    return lambda: explain(x).numpy()


def peer(pictures):
    from pytorch_grad_cam import EigenCAM as Theirs

    model, x = problem(pictures)
    explain = Theirs(model=model, target_layers=[model.get_submodule(LAYER)])
    return lambda: explain(input_tensor=x, targets=None)


def accuracy():
    try:
        exact = peer(2)()
    except ImportError:
        return {}
    found = ours(2)()
    # theirs stretches each map to [0, 1] after resizing, with either sign
    scaled = [(m - m.min()) / (m.max() - m.min()) for m in found]
    gaps = [min(np.abs(a - b).mean(), np.abs(1 - a - b).mean()) for a, b in zip(exact, scaled, strict=True)]
    return {"mean difference of the maps, either sign": float(max(gaps))}


BENCHMARK = Benchmark(
    title="Eigen-CAM of 4 pictures, EfficientNet-Lite0, forward pass included",
    contenders=(
        Contender("gramian", ours),
        Contender("pytorch-grad-cam", peer, needs=("pytorch_grad_cam", "torchvision")),
    ),
    sizes={"full": {"pictures": 4}, "tiny": {"pictures": 1}},
    rounds=9,
    accuracy=accuracy,
)
