"""The diagonal empirical Fisher matrix of MiniLM's linear layers on 128 sequences, against peers and a loop."""

import torch
import torch.nn.functional as F
from torch import nn

from gramian import models
from gramian.analysis.fisher.accumulator import FisherAccumulator
from gramian.data import text

CLASSES = 8


class Classifier(nn.Module):
    """MiniLM with mean pooling and a linear head, as a function of token numbers alone."""

    def __init__(self):
        super().__init__()
        self.encoder = models.pretrained("all-minilm-l6-v2")
        self.head = nn.Linear(384, CLASSES)
        with torch.no_grad():
            self.head.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
            self.head.bias.zero_()
        linear = {p for m in self.modules() if type(m) is nn.Linear for p in m.parameters()}
        for p in self.parameters():
            p.requires_grad_(p in linear)

    def forward(self, ids):
        return self.head(self.encoder(ids).last_hidden_state.mean(1))


def problem(sequences, length):
    """The model in evaluation mode, sequences of real text cut to one length, and labels."""
    model = Classifier().eval()
    model.encoder.pooler.requires_grad_(False)  # computed, but not read
    read = models.tokenizer("all-minilm-l6-v2")
    ids = [i for passage in text.passages(40) for i in read(passage).input_ids]
    ids = torch.tensor((ids * (1 + sequences * length // len(ids)))[: sequences * length]).view(sequences, length)
    return model, ids, torch.arange(sequences) % CLASSES


def ours(**size):
    model, ids, labels = problem(**size)

    def run():
        fisher = FisherAccumulator(model)
        for part in range(0, len(ids), 32):
            fisher.update(ids[part : part + 32], labels[part : part + 32])
        return fisher.value()

    return run


def loop(**size):
    model, ids, labels = problem(**size)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def run():
        total = {n: torch.zeros_like(p) for n, p in parameters.items()}
        for i in range(len(ids)):
            loss = F.cross_entropy(model(ids[i : i + 1]), labels[i : i + 1])
            for t, g in zip(total.values(), torch.autograd.grad(loss, list(parameters.values())), strict=True):
                t += g**2
        return {n: t / len(ids) for n, t in total.items()}

    return run


def vmapped(**size):
    """torch.func in its plainest form, eight sequences at a time."""
    model, ids, labels = problem(**size)
    parameters = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}

    def loss(values, one, label):
        return F.cross_entropy(torch.func.functional_call(model, values, (one[None],)), label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

    def run():
        total = {n: torch.zeros_like(p) for n, p in parameters.items()}
        for part in range(0, len(ids), 8):
            found = each(parameters, ids[part : part + 8], labels[part : part + 8])
            for n, g in found.items():
                total[n] += g.square().sum(0)
        return {n: t / len(ids) for n, t in total.items()}

    return run


def backpack(**size):
    """Gradients of single samples, squared: SumGradSquared takes seconds a sequence that has positions."""
    import backpack as package
    from backpack.extensions import BatchGrad

    model, ids, labels = problem(**size)
    for m in model.modules():
        if type(m) is nn.Linear and m.weight.requires_grad:
            package.extend(m)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def run():
        total = {n: torch.zeros_like(p) for n, p in parameters.items()}
        for part in range(0, len(ids), 16):
            with package.backpack(BatchGrad()):
                F.cross_entropy(model(ids[part : part + 16]), labels[part : part + 16], reduction="sum").backward()
            for n, p in parameters.items():
                total[n] += p.grad_batch.square().sum(0)
                p.grad = None
                del p.grad_batch
        return {n: t / len(ids) for n, t in total.items()}

    return run


def curvlinops(matvecs=4, **size):
    """Hutchinson's estimate from four products with the matrix: it has no exact diagonal."""
    from curvlinops import EFLinearOperator, hutchinson_diag
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model, ids, labels = problem(**size)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    batches = [(ids[i : i + 32], labels[i : i + 32]) for i in range(0, len(ids), 32)]

    def run():
        operator = EFLinearOperator(
            model,
            nn.CrossEntropyLoss(),
            list(parameters.values()),
            batches,
            check_deterministic=False,
            progressbar=False,
        )
        torch.manual_seed(0)
        with sdpa_kernel(SDPBackend.MATH):  # its products differentiate forward, which fused attention cannot
            found = hutchinson_diag(operator, num_matvecs=matvecs)
        sizes = [p.numel() for p in parameters.values()]
        pieces = found.split(sizes)
        return {n: d.view_as(p) for (n, p), d in zip(parameters.items(), pieces, strict=True)}

    return run


def accuracy():
    """Relative error of the whole diagonal, against the loop over sequences."""
    size = {"sequences": 6, "length": 16}
    exact = loop(**size)()
    errors = {}
    for name, prepare in (("gramian", ours), ("backpack", backpack)):
        found = prepare(**size)()
        gap, size_of = (torch.cat([t.flatten() for t in ts]).norm() for ts in
                        ([found[n] - e for n, e in exact.items()], exact.values()))  # fmt: skip
        errors[f"{name}: relative error of the diagonal"] = float(gap / size_of)
    return errors


def benchmark():
    from gramian.atlas.bench import Benchmark, Contender

    return Benchmark(
        title="Diagonal empirical Fisher matrix of MiniLM's 36 linear layers, float32",
        contenders=(
            Contender("gramian", ours),
            Contender("loop over sequences", loop),
            Contender("torch.func: vmap(grad)", vmapped),
            Contender("backpack: BatchGrad", backpack, needs=("backpack",)),
            Contender(
                "curvlinops: Hutchinson, 4 products", curvlinops, needs=("curvlinops", "einconv", "linear_operator")
            ),
        ),
        sizes={"full": {"sequences": 128, "length": 32}, "tiny": {"sequences": 4, "length": 8}},
        rounds=3,
        accuracy=accuracy,
        notes=(
            "curvlinops has no exact diagonal: its estimate converges with the root of the number of products.",
            "A loop does the same multiplications as we do: what is saved are small matrix products, the weights' "
            "summed gradient and passes over memory.",
        ),
    )


BENCHMARK = benchmark()
