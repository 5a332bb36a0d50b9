"""The fused selective scan against the step-by-step form."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.scan import selective_scan, selective_scan_reference, selective_scan_step

OPTIONAL = ("D", "z", "dt_bias", "state")


def problem(batch, channels, length, size, groups=None, dtype=torch.float64, optional=OPTIONAL, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    middle = () if groups is None else (groups,)
    extra = {"D": (channels,), "z": (batch, channels, length), "dt_bias": (channels,), "state": (batch, channels, size)}
    tensors = {
        "u": normal(batch, channels, length),
        "dt": normal(batch, channels, length) if "dt_bias" in optional else normal(batch, channels, length).abs(),
        "A": -2 * normal(channels, size).abs(),
        "B": normal(batch, *middle, size, length),
        "C": normal(batch, *middle, size, length),
        **{name: normal(*extra[name]) for name in optional},
    }
    return {name: t.requires_grad_() for name, t in tensors.items()}


def with_gradients(function, tensors, **settings):
    y, last = function(**tensors, **settings, return_state=True)
    g = torch.Generator().manual_seed(7)
    weights = [torch.randn(t.shape, generator=g, dtype=torch.float64) for t in (y, last)]
    total = (y * weights[0]).sum() + (last * weights[1]).sum()
    return [y, last, *torch.autograd.grad(total, list(tensors.values()))]


def worst(found, exact):
    return max(float(((f - e).norm() / e.norm().clamp_min(1e-300)).detach()) for f, e in zip(found, exact, strict=True))


SHAPES = [(2, 3, 5, 4, None), (1, 1, 1, 1, None), (2, 20, 64, 3, None), (1, 40, 131, 5, 2), (2, 150, 200, 2, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eig", ["exp", "signed"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("optional", [OPTIONAL, ()])
def test_equals_the_loop_with_all_gradients(shape, eig, reverse, optional):
    tensors = problem(*shape, optional=optional)
    how = {"softplus": bool(optional), "eig": eig, "reverse": reverse}
    exact = with_gradients(selective_scan_reference, tensors, **how)
    assert worst(with_gradients(selective_scan, tensors, **how), exact) < 1e-12


@pytest.mark.parametrize("eig", ["exp", "signed"])
def test_float32_gradients_equal_the_float64_oracle(eig):
    exact = problem(2, 48, 1024, 16)
    single = {name: t.detach().float().requires_grad_() for name, t in exact.items()}
    rounded = {name: t.detach().double().requires_grad_() for name, t in single.items()}
    oracle = with_gradients(selective_scan_reference, rounded, softplus=True, eig=eig)
    assert worst(with_gradients(selective_scan, single, softplus=True, eig=eig), oracle) < 1e-5


def test_gradcheck():
    tensors = problem(1, 3, 6, 2, groups=3)
    for eig in ("exp", "signed"):
        torch.autograd.gradcheck(
            lambda *t, eig=eig: selective_scan(*t[:8], softplus=True, eig=eig, state=t[8], return_state=True),
            tuple(tensors.values()),
        )


@given(cut=st.integers(1, 149), reverse=st.booleans())
@settings(max_examples=20, deadline=None)
def test_state_can_be_carried_over_any_cut(cut, reverse):
    tensors = {k: t.detach() for k, t in problem(1, 5, 150, 3).items()}
    how = {"softplus": True, "reverse": reverse, "return_state": True}
    whole, last = selective_scan(**tensors, **how)
    start = tensors.pop("state")
    left, right = (
        {k: t[..., part] if k in ("u", "dt", "B", "C", "z") else t for k, t in tensors.items()}
        for part in (slice(None, cut), slice(cut, None))
    )
    first, second = (right, left) if reverse else (left, right)
    y1, middle = selective_scan(**first, state=start, **how)
    y2, end = selective_scan(**second, state=middle, **how)
    pieces = torch.cat((y2, y1) if reverse else (y1, y2), -1)
    assert worst([pieces, end], [whole, last]) < 1e-12


def test_reverse_is_the_scan_of_the_mirrored_sequence():
    tensors = problem(2, 5, 70, 3)
    mirrored = {k: t.flip(-1) if k in ("u", "dt", "B", "C", "z") else t for k, t in tensors.items()}
    assert worst([selective_scan(**mirrored).flip(-1)], [selective_scan(**tensors, reverse=True)]) < 1e-14


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("eig", ["exp", "signed"])
def test_steps_are_the_scan(groups, eig):
    tensors = {k: t.detach() for k, t in problem(2, 6, 20, 3, groups=groups).items()}
    y, last = selective_scan(**tensors, softplus=True, eig=eig, return_state=True)
    h, outputs = tensors["state"], []
    for t in range(20):
        now = {k: v[..., t] if k in ("u", "dt", "B", "C", "z") else v for k, v in tensors.items() if k != "state"}
        out, h = selective_scan_step(h, **now, softplus=True, eig=eig)
        outputs.append(out)
    assert worst([torch.stack(outputs, -1), h], [y, last]) < 1e-12


def test_zero_step_leaves_the_state_alone():
    """What drops a token of a channel is dt = 0."""
    tensors = {k: t.detach() for k, t in problem(1, 2, 40, 3, optional=("state",)).items()}
    keep = torch.rand(40, generator=torch.Generator().manual_seed(1)) < 0.5
    dropped = selective_scan(**tensors | {"dt": tensors["dt"] * keep})[..., keep]
    short = {k: t[..., keep] if k in ("u", "dt", "B", "C") else t for k, t in tensors.items()}
    assert worst([dropped], [selective_scan(**short)]) < 1e-12


def test_gradients_do_not_depend_on_the_number_of_threads():
    tensors = problem(3, 200, 100, 4, dtype=torch.float32)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(with_gradients(selective_scan, tensors, softplus=True))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[2], strict=True))


def test_strided_inputs_and_empty_batch():
    tensors = {k: t.detach() for k, t in problem(2, 6, 20, 3).items()}
    strided = {k: t.mT.contiguous().mT if t.dim() > 2 else t for k, t in tensors.items()}
    assert torch.equal(selective_scan(**strided), selective_scan(**tensors))
    empty = {k: t[:0] if k not in ("A", "D", "dt_bias") else t for k, t in tensors.items()}
    assert selective_scan(**empty).shape == (0, 6, 20)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    halves = {k: t.detach().to(dtype).requires_grad_() for k, t in problem(2, 6, 100, 3, optional=()).items()}
    y = selective_scan(**halves)
    assert y.dtype == dtype
    grads = torch.autograd.grad(y.float().sum(), list(halves.values()))
    assert all(g.dtype == dtype for g in grads)
    exact = selective_scan_reference(**{k: t.detach().double() for k, t in halves.items()})
    assert worst([y.double()], [exact]) < torch.finfo(dtype).eps


def test_nan_stays_in_its_channel_and_survives():
    tensors = {k: t.detach() for k, t in problem(1, 20, 70, 2, optional=(), dtype=torch.float32).items()}
    tensors["u"][0, 4, 30] = float("nan")
    y = selective_scan(**tensors)
    assert y[0, 4, 30:].isnan().all()
    y[0, 4, 30:] = 0
    assert y.isfinite().all()


def test_extreme_rates():
    """Decays that underflow to 0 forget exactly; growth that overflows is inf, not nonsense."""
    ones = torch.ones(1, 1, 3)
    assert selective_scan(ones, ones, torch.full((1, 1), -1e6), ones, ones).tolist() == [[[1, 1, 1]]]
    assert selective_scan(ones, ones, torch.full((1, 1), -1e6), ones, ones, eig="signed").tolist() == [[[1, 0, 1]]]
    assert selective_scan(ones, ones, torch.full((1, 1), 60.0), ones, ones)[0, 0, 2] == float("inf")  # e^120


def test_second_derivative_is_refused_not_wrong():
    tensors = problem(1, 2, 5, 2, optional=())
    (gradient,) = torch.autograd.grad(selective_scan(**tensors).pow(2).sum(), tensors["u"], create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.pow(2).sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eig": "log"}, "eig='log'"),
        ({"dt": (2, 6, 19)}, "dt has shape"),
        ({"A": (5, 3)}, "A has shape"),
        ({"C": (2, 4, 20)}, "C has shape"),
        ({"B": (2, 4, 3, 20), "C": (2, 4, 3, 20)}, "groups must divide"),
        ({"D": (1,)}, "D has shape"),
        ({"state": (2, 6, 1)}, "state has shape"),
    ],
)
def test_bad_input_is_refused(change, message):
    tensors = {k: t.detach() for k, t in problem(2, 6, 20, 3).items()}
    for name, value in change.items():
        tensors[name] = value if isinstance(value, str) else torch.ones(value, dtype=torch.float64)
    # jaxtyping's hook, where it is on, refuses mismatching shapes before we do
    with pytest.raises(Exception, match=f"{message}|Type-check"):
        selective_scan(**tensors)
    with pytest.raises(Exception, match=f"{message}|Type-check"):
        selective_scan_reference(**tensors)


def test_empty_sequence_is_refused():
    tensors = {k: t.detach()[..., :0] if k in "u dt B C" else t for k, t in problem(2, 6, 20, 3, optional=()).items()}
    with pytest.raises(ValueError, match="length 0"):
        selective_scan(**tensors)


COMPILED = textwrap.dedent("""
    import torch
    from gramian.linalg.scan import selective_scan
    g = torch.Generator().manual_seed(0)
    u, dt, B = torch.randn(2, 4, 9, generator=g), torch.rand(2, 4, 9, generator=g), torch.randn(2, 3, 9, generator=g)
    A = -torch.rand(4, 3, generator=g)
    u.requires_grad_(); A.requires_grad_()
    def f(u, A):
        y, last = selective_scan(u * 2, dt, A, B, B, softplus=True, eig="signed", return_state=True)
        return y.sin().sum() + last.sum()
    expected = torch.autograd.grad(f(u, A), (u, A))
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(u, A), (u, A))
    assert all(torch.allclose(a, b) for a, b in zip(found, expected))
    class Layer(torch.nn.Module):
        def forward(self, u):
            return selective_scan(u, u.exp(), A.detach(), B, B)
    program = torch.export.export(Layer(), (u.detach(),))
    assert any("selective_scan" in str(n.target) for n in program.graph.nodes)
    assert torch.equal(program.module()(u.detach()), Layer()(u.detach()))
    print("compiled and exported")
""")


def test_compiles_into_one_graph_and_exports():
    env = os.environ | {"GRAMIAN_TESTS_UNHOOKED": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.strip() == "compiled and exported", done.stderr[-3000:]


def test_operators_are_registered_correctly():
    tensors = [t.detach() for t in problem(2, 20, 70, 3).values()]
    u, dt, A, B, C, D, z, bias, state = tensors
    B, C = B[:, None], C[:, None]
    leaves = [t.clone().requires_grad_() for t in (u, dt, A, B, C, D, z, bias, state)]
    torch.library.opcheck(torch.ops.gramian.selective_scan, (*leaves, True, True, True, True))
    kept = torch.ops.gramian.selective_scan(u, dt, A, B, C, D, z, bias, state, True, True, True, True)[2]
    torch.library.opcheck(
        torch.ops.gramian.selective_scan_backward, (u, dt, A, B, C, D, z, bias, kept, u, state, True, True, True)
    )
