"""The compiled matrix states with one gate a head: shared queries and keys, memory orders, NaN, graphs, transforms."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from gramian.linalg.scan import matrix_state_scan, matrix_state_scan_reference, matrix_state_step
from gramian.linalg.scan.head_gate import head_gate_ops


def problem(batch=2, groups=1, heads=4, length=70, key_size=5, value_size=3, dtype=torch.float64, gated=True):
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    q, k = (normal(batch, groups, length, key_size) for _ in range(2))
    gates = -normal(batch, heads, length).abs() if gated else None
    return [q, k, normal(batch, heads, length, value_size), gates, normal(batch, heads, key_size, value_size)]


def gradients(function, tensors, **settings):
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in tensors]
    q, k, v, log_g, state = leaves
    y, last = function(q, k, v, log_g, state=state, return_state=True, **settings)
    total = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum() + last.pow(2).sum()
    return [y, last, *torch.autograd.grad(total, [t for t in leaves if t is not None])]


def worst(found, exact):
    return max(float(((f - e).norm() / e.norm().clamp_min(1e-300)).detach()) for f, e in zip(found, exact, strict=True))


@settings(max_examples=15, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 3]),
    shared=st.sampled_from([1, 2, 7]),
    length=st.integers(1, 150),
    key_size=st.integers(1, 20),
    value_size=st.integers(1, 34),
    chunk=st.sampled_from([4, 64, 128]),
    reverse=st.booleans(),
    gated=st.booleans(),
)
def test_values_and_gradients_are_those_of_the_loop(
    groups, shared, length, key_size, value_size, chunk, reverse, gated
):
    tensors = problem(2, groups, groups * shared, length, key_size, value_size, gated=gated)
    exact = gradients(matrix_state_scan_reference, tensors, reverse=reverse)
    assert worst(gradients(matrix_state_scan, tensors, chunk=chunk, reverse=reverse), exact) < 1e-11


def test_shared_queries_and_keys_are_repeated_ones():
    q, k, v, log_g, state = problem(groups=2, heads=6)
    repeated = [t.repeat_interleave(3, 1) for t in (q, k)]
    a = matrix_state_scan(q, k, v, log_g, state=state)
    b = matrix_state_scan(*repeated, v, log_g, state=state)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    fine = log_g[..., None].expand(*log_g.shape, 5)  # a gate for each coordinate goes another way
    torch.testing.assert_close(a, matrix_state_scan(q, k, v, fine, state=state), rtol=1e-12, atol=1e-12)
    one, _ = matrix_state_step(state, q[:, :, 0], k[:, :, 0], v[:, :, 0], log_g[:, :, 0])
    torch.testing.assert_close(a[:, :, 0], one, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="q has 4 heads and v has 6"):
        matrix_state_scan(q.repeat(1, 2, 1, 1), k.repeat(1, 2, 1, 1), v, log_g)


def test_tensors_may_lie_in_any_order_in_memory():
    tensors = problem()
    plain = gradients(matrix_state_scan, tensors)
    turned = [None if t is None else t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors[:4]]
    wide = torch.randn(2, 4, 140, 9, dtype=torch.float64)
    wide[:, :, ::2, ::3] = turned[2]
    turned[2] = wide[:, :, ::2, ::3]
    torch.testing.assert_close(matrix_state_scan(*turned, state=tensors[4]), plain[0], rtol=0, atol=0)


def test_a_nan_comes_out_where_it_must_and_nowhere_else():
    for which in (0, 1, 2):
        tensors = problem(batch=1, heads=2, length=100)
        tensors[which][0, 0, 37] = torch.nan
        y = matrix_state_scan(*tensors[:4], state=tensors[4]).isnan().any(-1)
        heads = y.shape[1] if which < 2 else 1  # a query and a key are of every head
        assert not y[:, heads:].any()
        assert not y[:, :, :37].any()
        touched = y[:, :heads, 37:]
        assert touched[..., 0].all()
        assert touched[..., 1:].all() if which else not touched[..., 1:].any()  # a query is read once


def test_graphs_see_one_call_with_known_shapes():
    tensors = problem(heads=2, length=9, dtype=torch.float32)
    for gates in (tensors[3], None):
        leaves = [None if t is None else t.requires_grad_() for t in (*tensors[:3], gates, tensors[4])]
        opcheck(head_gate_ops.scan_forward, (*leaves, 4, True))


COMPILED = textwrap.dedent("""
    import torch
    from gramian.nn.state.mamba2 import Mamba2
    layer = Mamba2(8, state_size=4, head_size=4, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(1))
    def loss(x):
        y, state = layer(x)
        return y.sin().sum() + state.memory.sum()
    leaves = [x.requires_grad_(), *layer.parameters()]
    expected = torch.autograd.grad(loss(x), leaves)
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(x), leaves)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(found, expected))
    program = torch.export.export(layer, (x.detach(),))
    targets = [str(n.target) for n in program.graph.nodes]
    assert any("head_gate_scan" in t for t in targets) and any("short_convolution" in t for t in targets)
    assert torch.equal(program.module()(x.detach())[0], layer(x.detach())[0])
    print("compiled and exported")
""")


def test_a_mamba2_layer_compiles_into_one_graph_and_exports():
    env = os.environ | {"GRAMIAN_TESTS_UNHOOKED": "1", "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", COMPILED], env=env, capture_output=True, text=True, check=False)
    assert "compiled and exported" in found.stdout, found.stderr[-3000:]


def test_second_derivatives_go_through_the_plain_form():
    leaves = [t.requires_grad_() for t in problem(1, 1, 2, 6, 2, 2)]
    leaves[3].data -= 0.1  # the check steps above 0 otherwise

    def scan(q, k, v, log_g, state):
        return matrix_state_scan(q, k, v, log_g, chunk=4, sub=2, state=state, return_state=True)

    torch.autograd.gradgradcheck(scan, leaves)


def test_transforms_of_functions_see_the_plain_form():
    q, k, v, log_g, _ = problem(batch=3, length=20)
    together = matrix_state_scan(q, k, v, log_g)
    tangent = torch.func.jvp(lambda v: matrix_state_scan(q, k, v, log_g), (v,), (v,))[1]
    torch.testing.assert_close(tangent, together, rtol=1e-10, atol=1e-10)  # linear in v
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(v, v)
        found = torch.autograd.forward_ad.unpack_dual(matrix_state_scan(q, k, dual, log_g)).tangent
    torch.testing.assert_close(found, together, rtol=1e-10, atol=1e-10)


def test_a_gradient_without_kept_states_is_an_error():
    q, k, v, log_g, state = problem()
    with pytest.raises(RuntimeError, match="kept no states"):
        head_gate_ops.scan_forward(q, k, v.requires_grad_(), log_g, state, 64, False)
