"""EVA's start of LoRA on MiniLM: the directions of every adapted layer's inputs, ours and peft's."""

import copy
import warnings

from gramian import models
from gramian.atlas.bench import Benchmark, Contender
from gramian.surgery.adapters import eva
from gramian.surgery.adapters import sentence_task as task


def batches(words, batch):
    """Pieces of four texts, padded."""
    found, _ = task.pieces(words)
    tokenize = models.tokenizer("all-minilm-l6-v2")
    kept = []
    for start in range(0, len(found) - batch + 1, batch):
        piece = tokenize(found[start : start + batch], padding=True, return_tensors="pt")
        kept.append({name: piece[name] for name in ("input_ids", "attention_mask")})
    return kept


def ours(rank, words, batch):
    model, data = models.pretrained("all-minilm-l6-v2"), batches(words, batch)
    return lambda: eva.explain_inputs(model, task.QUERIES_AND_VALUES, data, rank=rank, max_passes=100)


def peft_eva(rank, words, batch):
    import peft

    base, data = models.pretrained("all-minilm-l6-v2"), batches(words, batch)
    config = peft.LoraConfig(
        r=rank, target_modules=["query", "value"], init_lora_weights="eva", eva_config=peft.EvaConfig(rho=2.0, tau=0.99)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(copy.deepcopy(base), config, low_cpu_mem_usage=True)

    def run():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return peft.get_eva_state_dict(adapted, data, show_progress_bar=False)

    return run


def accuracy():
    """Whether both give the layers the same ranks and directions."""
    size = {"rank": 4, "words": 12, "batch": 32}
    found, theirs = ours(**size)(), peft_eva(**size)()
    differ, smallest = 0, 1.0
    for name, rows in theirs.items():
        own = found.components[name.removeprefix("base_model.model.")]
        shared = min(len(own), len(rows))
        differ += len(own) != len(rows)
        smallest = min([smallest, *(own[:shared] * rows[:shared]).sum(1).abs().tolist()])
    return {
        "layers of 12 whose rank differs from peft's": float(differ),
        "smallest cosine to peft's directions": smallest,
    }


BENCHMARK = Benchmark(
    title="EVA on MiniLM's queries and values, rank 8, until all directions stand still",
    contenders=(
        Contender("gramian", ours),
        Contender("peft", peft_eva, needs=("peft",)),
    ),
    sizes={
        "full": {"rank": 8, "words": 24, "batch": 16},
        "tiny": {"rank": 2, "words": 8, "batch": 32},
    },
    rounds=5,
    accuracy=accuracy,
    notes=("The model's own forward passes are part of the time; both read the same batches equally often.",),
)
