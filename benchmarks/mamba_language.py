"""Mamba and Mamba-2 language models against transformers with the same weights: training, reading, generating."""

import torch
import torch.nn.functional as F

from gramian.atlas.bench import Benchmark, Contender
from gramian.models.language import Mamba2LM, MambaLM

VOCABULARY = 256


def theirs(version, width, depth, state_size, head_size):
    """Transformers' model with random weights; no token ends a text."""
    import transformers

    torch.manual_seed(0)
    shared = {"vocab_size": VOCABULARY, "hidden_size": width, "num_hidden_layers": depth, "state_size": state_size}
    shared |= {"eos_token_id": None, "pad_token_id": 0}
    if version == 1:
        return transformers.MambaForCausalLM(transformers.MambaConfig(**shared))
    heads = 2 * width // head_size
    config = transformers.Mamba2Config(**shared, head_dim=head_size, num_heads=heads, n_groups=1, chunk_size=64)
    return transformers.Mamba2ForCausalLM(config)


def ours(version, *sizes):
    """The same model here."""
    return (MambaLM if version == 1 else Mamba2LM).from_huggingface(theirs(version, *sizes))


def contender(make):
    """`prepare` for a maker of models: trains (train=1), generates (new > 0), or reads."""

    def prepare(version, train, width, depth, state_size, head_size, batch, length, new):
        model = make(version, width, depth, state_size, head_size).train(bool(train))
        ids = torch.randint(1, VOCABULARY, (batch, length + train), generator=torch.Generator().manual_seed(1))

        def logits(ids):
            return model(ids) if make is ours else model(ids, use_cache=False).logits

        def step():
            model.zero_grad(set_to_none=True)
            loss = F.cross_entropy(logits(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            return {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters()}

        def read():
            with torch.no_grad():
                return logits(ids)

        def generate():
            if make is ours:
                return model.generate(ids, new)
            return model.generate(ids, max_new_tokens=new, do_sample=False, attention_mask=torch.ones_like(ids))

        return step if train else generate if new else read

    return prepare


def size(version, work, **changes):
    """The reach's sizes."""
    width, state_size = (384, 16) if version == 1 else (384, 64)
    found = {"version": version, "train": int(work == "train"), "width": width, "depth": 6, "state_size": state_size}
    found |= {"head_size": 64, "batch": 4, "length": 256 if version == 1 else 1024, "new": 0}
    if work == "generate":
        found |= {"batch": 1, "length": 1024, "new": 64}
    return found | changes


def accuracy():
    """Largest gap between logits and between gradients, and tokens that differ, on small models."""
    small, figures = {"width": 32, "depth": 2, "state_size": 8, "head_size": 16, "batch": 2, "length": 40}, {}
    for version, name in ((1, "Mamba"), (2, "Mamba-2")):
        found = {
            work: [contender(make)(**size(version, work, **small))() for make in (ours, theirs)]
            for work in ("train", "read", "generate")
        }
        figures[f"{name}: largest gap between logits"] = float((found["read"][0] - found["read"][1]).abs().max())
        a, b = found["train"]
        gap = max(float((a[name] - b[name]).abs().max()) for name in a)
        figures[f"{name}: largest gap between gradients"] = gap
        figures[f"{name}: generated tokens that differ"] = float((found["generate"][0] != found["generate"][1]).sum())
    return figures


BENCHMARK = Benchmark(
    title="Mamba (full, read, generate) and Mamba-2 (the others) of 6 layers, width 384, against transformers",
    contenders=(
        Contender("gramian", contender(ours)),
        Contender("transformers, one training step", contender(theirs), ("transformers",), rounds=1),
        Contender("transformers, forward alone", contender(theirs), ("transformers",), "read"),
        Contender("transformers, generation with its cache", contender(theirs), ("transformers",), "generate"),
        Contender("transformers' Mamba-2, one training step", contender(theirs), ("transformers",), "train 2"),
        Contender("transformers' Mamba-2, forward alone", contender(theirs), ("transformers",), "read 2"),
        Contender("transformers' Mamba-2, generation", contender(theirs), ("transformers",), "generate 2"),
    ),
    sizes={
        "full": size(1, "train"),
        "read": size(1, "read"),
        "generate": size(1, "generate"),
        "train 2": size(2, "train"),
        "read 2": size(2, "read"),
        "generate 2": size(2, "generate"),
        "tiny": size(1, "train", width=16, depth=1, state_size=4, head_size=8, batch=1, length=8),
    },
    rounds=3,
    accuracy=accuracy,
    notes=(
        "Mamba trains at length 256, since transformers' backward pass takes time quadratic in the length (54 s at "
        "256, 209 s at 512), and is timed once. Mamba-2: 12 heads of 64, state 64, length 1,024.",
    ),
)
