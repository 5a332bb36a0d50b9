import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gramian.surgery.merge import arithmetic


def states(seed=0, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"w": torch.randn(4, 5, generator=generator), "b": torch.randn(4, generator=generator), "n": torch.tensor(i)}
        for i in range(count + 1)
    ]


@settings(max_examples=10)
@given(st.integers(0, 99), st.floats(-1, 1))
def test_task_arithmetic_is_the_scaled_sum(seed, scale):
    base, *experts = states(seed)
    merged = arithmetic.task_arithmetic(base, experts, scale)
    for name in ("w", "b"):
        torch.testing.assert_close(merged[name], base[name] + scale * sum(e[name] - base[name] for e in experts))
    assert merged["n"] == base["n"]
    average = arithmetic.plain_average(experts)
    torch.testing.assert_close(average["w"], torch.stack([e["w"] for e in experts]).mean(0))
    torch.testing.assert_close(average["w"], arithmetic.task_arithmetic(base, experts, 1 / 3)["w"])


def brute_force_ties(base, experts, scale, density):
    flat = [(e - base).flatten().tolist() for e in experts]
    keep = max(1, int(density * len(flat[0])))
    kept = []
    for vector in flat:
        chosen = sorted(range(len(vector)), key=lambda i, v=vector: -abs(v[i]))[:keep]
        kept.append([v if i in chosen else 0.0 for i, v in enumerate(vector)])
    merged = []
    for column in zip(*kept, strict=True):
        positive = sum(column) > 0
        agreeing = [v for v in column if v != 0 and (v > 0) == positive]
        merged.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return base + scale * torch.tensor(merged).view_as(base)


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ties_is_what_brute_force_gives(density, seed):
    base, *experts = states(seed)
    merged = arithmetic.ties(base, experts, 0.7, density)
    for name in ("w", "b"):
        expected = brute_force_ties(base[name], [e[name] for e in experts], 0.7, density)
        torch.testing.assert_close(merged[name], expected, rtol=1e-6, atol=1e-6)


def test_ties_by_hand():
    base = {"w": torch.zeros(4)}
    experts = [{"w": torch.tensor([3.0, -1.0, 0.1, 2.0])}, {"w": torch.tensor([1.0, -3.0, 0.2, -4.0])}]
    # half is kept: [3, 0, 0, 2] and [0, -3, 0, -4]; the signs elected are + - 0 -
    assert arithmetic.ties(base, experts, 1, 0.5)["w"].tolist() == [3.0, -3.0, 0.0, -4.0]


def test_task_vectors_files_and_half_precision(tmp_path):
    base, *experts = states()
    vectors = arithmetic.task_vectors(base, experts)
    assert set(vectors[0]) == {"w", "b"}
    torch.testing.assert_close(vectors[1]["w"], experts[1]["w"] - base["w"])
    paths = []
    for i, state in enumerate((base, *experts)):
        paths.append(tmp_path / f"{i}.safetensors")
        save_file(state, paths[-1])
    written = arithmetic.task_arithmetic(paths[0], paths[1:], 0.4, out=tmp_path / "merged.safetensors")
    torch.testing.assert_close(load_file(written)["w"], arithmetic.task_arithmetic(base, experts, 0.4)["w"])
    half = [{k: v.bfloat16() if v.is_floating_point() else v for k, v in s.items()} for s in (base, *experts)]
    assert arithmetic.ties(half[0], half[1:])["w"].dtype == torch.bfloat16


def test_what_is_refused():
    base, *experts = states()
    with pytest.raises(ValueError, match="at least two"):
        arithmetic.task_arithmetic(base, experts[:1])
    with pytest.raises(ValueError, match="at least two"):
        arithmetic.plain_average(experts[:1])
    with pytest.raises(ValueError, match="only in network"):
        arithmetic.task_arithmetic(base, [experts[0], {"w": base["w"]}])
    with pytest.raises(ValueError, match="shapes"):
        arithmetic.ties(base, [experts[0], {**base, "w": torch.zeros(2, 2)}])
    for density in (0, 1.5):
        with pytest.raises(ValueError, match="density"):
            arithmetic.ties(base, experts, density=density)
    with pytest.raises(ValueError, match="scale"):
        arithmetic.task_arithmetic(base, experts, [0.1])
    with pytest.raises(ValueError, match="no expert"):
        arithmetic.task_vectors(base, [])
