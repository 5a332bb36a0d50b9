import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gramian.analysis.fisher.accumulator import FisherAccumulator
from gramian.surgery.merge import fisher, streams


def problem(count=3):
    g = torch.Generator().manual_seed(0)
    base = {"a.weight": torch.randn(4, 3, generator=g), "a.bias": torch.randn(4, generator=g)}
    states = [{n: t + 0.1 * torch.randn(t.shape, generator=g) for n, t in base.items()} for _ in range(count)]
    fishers = [{n: torch.rand(t.shape, generator=g) for n, t in base.items()} for _ in range(count)]
    return states, fishers


def test_the_merge_is_the_formula_and_does_not_mind_the_order(tmp_path):
    states, fishers = problem()
    weights = [0.2, 0.5, 1.0]
    merged = fisher.fisher_merge(states, fishers, weights, floor=0.1)
    again = fisher.fisher_merge(states[::-1], fishers[::-1], weights[::-1], floor=0.1)
    for name in states[0]:
        f = [w * d[name].clamp(min=0.1) for w, d in zip(weights, fishers)]
        want = sum(x * s[name] for x, s in zip(f, states)) / sum(f)
        torch.testing.assert_close(merged[name], want)
        torch.testing.assert_close(again[name], want)
    files = []
    for i, (s, d) in enumerate(zip(states, fishers)):
        save_file(s, tmp_path / f"m{i}.safetensors")
        save_file(d, tmp_path / f"f{i}.safetensors")
        files.append((tmp_path / f"m{i}.safetensors", tmp_path / f"f{i}.safetensors"))
    models, matrices = zip(*files)
    path = fisher.fisher_merge(models, matrices, weights, floor=0.1, out=tmp_path / "out.safetensors")
    assert all(t.equal(merged[n]) for n, t in load_file(path).items())
    assert len(list(tmp_path.iterdir())) == 7


def test_limits():
    states, fishers = problem(2)
    same = fisher.fisher_merge(states, [fishers[0], fishers[0]])
    plain = fisher.isotropic_merge(states)
    strong = fisher.fisher_merge(states, [{n: f * 1e12 + 1e10 for n, f in fishers[0].items()}, fishers[1]])
    for name in states[0]:
        torch.testing.assert_close(same[name], (states[0][name] + states[1][name]) / 2)
        torch.testing.assert_close(plain[name], same[name])
        torch.testing.assert_close(strong[name], states[0][name])
    large = {n: 7 * f for n, f in fishers[0].items()}
    a = fisher.fisher_merge(states, [large, fishers[1]], normalize=True, floor=0)
    b = fisher.fisher_merge(states, fishers, normalize=True, floor=0)
    torch.testing.assert_close(a["a.weight"], b["a.weight"])


def test_an_accumulators_file_is_read_as_means(tmp_path):
    models = [nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict({n: t * 1.1 for n, t in models[0].state_dict().items()})
    x = torch.randn(8, 3)
    found = [FisherAccumulator(m, source="true").update(x) for m in models]
    files = [f.save(tmp_path / f"{i}.safetensors") for i, f in enumerate(found)]
    merged = fisher.fisher_merge(models, files)
    want = fisher.fisher_merge(models, [f.value() for f in found])
    assert all(merged[n].equal(t) for n, t in want.items())
    window = FisherAccumulator(models[0], "window").update(x, torch.zeros(8, dtype=torch.long))
    with pytest.raises(ValueError, match="not a diagonal"):
        fisher.fisher_merge(models, [window.save(tmp_path / "w.safetensors"), files[1]])


def test_batch_norms_are_not_averaged_silently():
    models = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2)]
    models[1].load_state_dict({n: t * 1.01 if t.is_floating_point() else t for n, t in models[0].state_dict().items()})
    fishers = [{n: torch.ones_like(p) for n, p in m.named_parameters()} for m in models]
    for merge in (
        lambda **o: fisher.fisher_merge(models, fishers, **o),
        lambda **o: fisher.isotropic_merge(models, **o),
    ):
        with pytest.raises(ValueError, match="running statistics"):
            merge()
        assert merge(buffers="first")["1.running_var"].equal(torch.ones(4))
        torch.testing.assert_close(merge(buffers="mean")["1.running_var"], torch.full((4,), 1.005))


def test_heads_of_one_network_are_copied_when_asked():
    states, fishers = problem(2)
    states[0]["head"], fishers[0]["head"] = torch.ones(2), torch.ones(2)
    with pytest.raises(ValueError, match="partial=True"):
        fisher.fisher_merge(states, fishers)
    assert fisher.fisher_merge(states, fishers, partial=True)["head"].tolist() == [1, 1]


def test_the_search_finds_the_best_point_of_the_grid():
    best, value, tried = fisher.search_weights(lambda w: w, lambda w: -abs(w[0] - 0.3), 2, points=11)
    assert best == (0.3, 0.7)
    assert value == 0
    assert len(tried) == 11
    assert fisher.search_weights(lambda w: w, lambda w: 1.0, 2, points=5)[0] == (0.5, 0.5)
    assert len(fisher.search_weights(lambda w: w, lambda w: 1.0, 3, points=5)[2]) == 15
    with pytest.raises(ValueError, match="NaN"):
        fisher.search_weights(lambda w: w, lambda w: float("nan"), 2)
    with pytest.raises(ValueError, match="at least 2"):
        fisher.search_weights(lambda w: w, lambda w: 1.0, 1)


def test_bad_input_is_refused(tmp_path):
    states, fishers = problem(2)
    for weights in ([1.0], [-1.0, 1.0], [0.0, 0.0], [float("nan"), 1.0]):
        with pytest.raises(ValueError, match="weights="):
            fisher.fisher_merge(states, fishers, weights)
    zero = {n: torch.zeros_like(f) for n, f in fishers[0].items()}
    with pytest.raises(ValueError, match="zero everywhere"):
        fisher.fisher_merge(states, [zero, fishers[1]])
    with pytest.raises(ValueError, match="negative"):
        fisher.fisher_merge(states, [{n: -f for n, f in fishers[0].items()}, fishers[1]])
    with pytest.raises(ValueError, match="another architecture"):
        fisher.fisher_merge([states[0], states[1] | {"a.bias": torch.ones(3)}], fishers)
    with pytest.raises(ValueError, match="Fisher matrices"):
        fisher.fisher_merge(states, fishers[:1])
    with pytest.raises(ValueError, match="no Fisher matrix"):
        fisher.fisher_merge(states, [{"a.bias": fishers[0]["a.bias"]}, fishers[1]])
    with pytest.raises(ValueError, match="no tensor"):
        fisher.fisher_merge(states, [fishers[0] | {"b": torch.ones(1)}, fishers[1]])
    with pytest.raises(ValueError, match="nothing to merge"):
        streams.agree([])
    with pytest.warns(fisher.DifferentStart):
        fisher.isotropic_merge([states[0], {n: -t for n, t in states[0].items()}])
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged"):
        streams.FileState(bad)
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"old")
    with pytest.raises(ValueError, match="NaN"):
        fisher.isotropic_merge([states[0], {n: t * float("nan") for n, t in states[1].items()}], out=out)
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.safetensors", "out.safetensors"]
