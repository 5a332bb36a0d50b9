import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gramian import optim
from gramian.linalg.factor.window import WindowInverse
from gramian.optim.galore import GaLoreProjector, NaturalGaLore, galore_groups, natural_direction


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=15)
@given(rows=st.integers(2, 7), columns=st.integers(2, 7), seed=st.integers(0, 99))
def test_the_projection_is_the_best_of_its_rank(rows, columns, seed):
    gradient = normal(rows, columns, seed=seed)
    rank = min(rows, columns) // 2 + 1
    projector = GaLoreProjector(rank)
    assert projector.update(gradient) is None
    inside = projector.project(gradient)
    assert sorted(inside.shape) == sorted((rank, max(rows, columns)))
    missed = (gradient - projector.back(inside)).square().sum()
    torch.testing.assert_close(missed, torch.linalg.svdvals(gradient)[rank:].square().sum(), atol=1e-10, rtol=1e-8)
    (basis,) = projector.bases.values()
    torch.testing.assert_close(basis.mT @ basis, torch.eye(rank, dtype=torch.float64))


def test_tucker_projects_every_axis_and_is_exact_for_a_tensor_of_its_rank():
    factors = [normal(side, 2, seed=side) for side in (5, 4, 6)]
    gradient = torch.einsum("abc,ia,jb,kc->ijk", normal(2, 2, 2), *factors)
    projector = GaLoreProjector(2, mode="tucker")
    projector.update(gradient)
    assert projector.project(gradient).shape == (2, 2, 2)
    torch.testing.assert_close(projector.back(projector.project(gradient)), gradient)
    assert GaLoreProjector(3, mode="tucker").ranks((8, 2, 3)) == {0: 3, 1: 2, 2: 3}
    assert GaLoreProjector((4, 1, 3), mode="tucker").ranks((8, 2, 3)) == {0: 4, 1: 1, 2: 3}


def test_a_basis_is_kept_for_its_gap_and_the_turn_leads_from_old_to_new():
    projector = GaLoreProjector(2, gap=3)
    turns = [projector.update(normal(4, 6, seed=k)) for k in range(3)]
    old = projector.bases[0]
    assert turns == [None] * 3
    turn = projector.update(normal(4, 6, seed=3))
    torch.testing.assert_close(turn[0], projector.bases[0].mT @ old)
    assert not torch.allclose(projector.bases[0], old)


def test_online_steps_find_the_subspace_of_a_stream():
    """The stream's gradients share three left directions; the first of them, which sets the start, is noise alone."""
    true = torch.linalg.qr(normal(10, 3, seed=7)).Q
    projector = GaLoreProjector(3, gap=10, mode="online")
    projector.update(normal(10, 12, seed=50))
    start = torch.linalg.svdvals(true.mT @ projector.bases[0]).min()
    for k in range(150):
        projector.update(true @ normal(3, 12, seed=k) + 0.05 * normal(10, 12, seed=1000 + k))
    basis = projector.bases[0]
    assert start < 0.7
    assert torch.linalg.svdvals(true.mT @ basis).min() > 0.99
    torch.testing.assert_close(basis.mT @ basis, torch.eye(3, dtype=torch.float64))
    still = basis.clone()
    projector.update(torch.zeros(10, 12, dtype=torch.float64))
    torch.testing.assert_close(projector.bases[0], still)


def test_the_natural_direction_is_that_of_the_dense_inverse_in_float32():
    rows = normal(7, 50, dtype=torch.float32)
    window = WindowInverse(7, 50, 1e-3, average="sum")
    for row in rows:
        found = natural_direction(window, row.view(5, 10))
    dense = 1e-3 * torch.eye(50, dtype=torch.float64) + rows.double().T @ rows.double()
    exact = torch.linalg.solve(dense, rows[-1].double()).view(5, 10)
    assert (found - exact).norm() < 1e-6 * exact.norm()


def reference(start, gradients, *, rank, gap, history, damp, lr, scale, decay):
    """The same steps written out: dense inverses, one matrix whose rows are its shorter side."""
    theta, first, second, past, basis = start.clone(), 0, 0, [], None
    for k, gradient in enumerate(gradients, start=1):
        if (k - 1) % gap == 0:
            fresh = torch.linalg.svd(gradient, full_matrices=False).U[:, :rank]
            if basis is not None:
                past = [fresh.T @ basis @ r for r in past]
                first = fresh.T @ basis @ first
            basis = fresh
        inside = basis.T @ gradient
        if history:
            past = [*past, inside][-history:]
            columns = torch.stack([r.reshape(-1) for r in past], 1)
            dense = damp * torch.eye(len(columns), dtype=columns.dtype) + columns @ columns.T
            inside = torch.linalg.solve(dense, inside.reshape(-1)).view_as(inside)
        first, second = 0.9 * first + 0.1 * inside, 0.999 * second + 0.001 * inside**2
        u = first / (1 - 0.9**k) / ((second / (1 - 0.999**k)).sqrt() + 1e-8)
        theta = theta - lr * decay * theta - lr * scale * basis @ u
    return theta


@pytest.mark.parametrize("history", [0, 3])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_steps_are_those_written_out_with_dense_inverses(shape, history):
    parameter = nn.Parameter(normal(*shape, seed=5))
    start = parameter.detach().clone()
    gradients = [normal(*shape, seed=100 + k) for k in range(9)]
    options = {"rank": 2, "gap": 4, "history": history, "damp": 1e-2, "lr": 0.1, "scale": 0.5}
    tuner = NaturalGaLore([parameter], **options, weight_decay=0.1)
    for gradient in gradients:
        parameter.grad = gradient
        tuner.step()
    up = (lambda t: t) if shape[0] <= shape[1] else (lambda t: t.T)
    wanted = up(reference(up(start), [up(g) for g in gradients], **options, decay=0.1))
    torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-9, atol=1e-9)


def test_without_a_rank_it_is_adamw():
    model, twin = nn.Linear(5, 3), nn.Linear(5, 3)
    twin.load_state_dict(model.state_dict())
    ours = NaturalGaLore(model.parameters(), lr=0.01, weight_decay=0.1)
    theirs = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.1)
    x = normal(20, 5, dtype=torch.float32)
    for _ in range(10):
        for net, tuner in ((model, ours), (twin, theirs)):
            tuner.zero_grad()
            net(x).square().mean().backward()
            tuner.step()
    torch.testing.assert_close(model.weight, twin.weight)


def test_tensors_of_more_axes_are_trained_by_tucker():
    kernel = nn.Parameter(normal(6, 4, 3, 3))
    factors = [normal(side, 2, seed=10 + k) for k, side in enumerate(kernel.shape)]
    way = torch.einsum("abcd,ia,jb,kc,ld->ijkl", normal(2, 2, 2, 2, seed=1), *factors)
    target = kernel.detach() + way / way.norm()
    tuner = NaturalGaLore([kernel], lr=0.02, rank=2, gap=50, mode="tucker", scale=1, history=0)
    start = float((kernel - target).square().sum().detach())
    for _ in range(150):
        tuner.zero_grad()
        (kernel - target).square().sum().backward()
        tuner.step()
    assert float((kernel - target).square().sum().detach()) < 0.02 * start
    assert tuner.state_elements()["moments"] == 2 * 2**4


@pytest.mark.parametrize("mode", ["svd", "online"])
def test_a_training_resumed_from_a_file_goes_on_bit_for_bit(tmp_path, mode):
    torch.manual_seed(1)
    x, y = torch.randn(48, 6), torch.randn(48, 4)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))

    def train(model, epochs, checkpoint):
        optim.fit(
            model, (x, y), lambda m, a, b: (m(a) - b).square().mean(), epochs=epochs, batch_size=16, lr=0.01,
            checkpoint=checkpoint, show_progress=False,
            optimizer=lambda g: NaturalGaLore(galore_groups(g, 2, gap=4, history=3, mode=mode)),
        )  # fmt: skip

    whole, parts = copy.deepcopy(net), copy.deepcopy(net)
    train(whole, 6, None)
    train(parts, 3, tmp_path / "state.safetensors")
    again = copy.deepcopy(net)
    train(again, 6, tmp_path / "state.safetensors")
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_half_precision_keeps_its_state_in_float32_also_after_loading():
    parameter = nn.Parameter(normal(4, 6).bfloat16())
    tuner = NaturalGaLore([parameter], rank=2, history=2)
    parameter.grad = normal(4, 6, seed=1).bfloat16()
    tuner.step()
    other = NaturalGaLore([parameter], rank=2, history=2)
    other.load_state_dict(tuner.state_dict())
    kept = other.state[parameter]
    assert {kept[n].dtype for n in ("first", "rows", "basis_0")} == {torch.float32}
    assert kept["gram"].dtype == torch.float64
    parameter.grad = normal(4, 6, seed=2).bfloat16()
    copy.deepcopy(other).step()
    other.step()
    assert torch.isfinite(parameter).all()


def test_the_state_holds_as_many_numbers_as_the_formula_says():
    parameter = nn.Parameter(normal(6, 9))
    tuner = NaturalGaLore([parameter], rank=2, history=5)
    parameter.grad = normal(6, 9, seed=1)
    tuner.step()
    assert tuner.state_elements() == {"moments": 2 * 2 * 9, "history": 5 * 2 * 9, "gram": 25, "bases": 6 * 2}


def test_groups_are_split_by_what_can_be_projected():
    model = nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    groups = galore_groups([{"params": list(model.parameters()), "lr": 0.1}], 3, history=4)
    assert [len(g["params"]) for g in groups] == [1, 5]
    assert groups[0]["rank"] == 3
    assert groups[0]["history"] == 4
    assert groups[1] == {"lr": 0.1, "params": groups[1]["params"]}


def test_bad_input_is_refused():
    matrix = nn.Parameter(torch.ones(3, 4))
    for wrong in ({"rank": 0}, {"rank": 4}, {"gap": 0}, {"mode": "pca"}, {"damp": 0.0}, {"history": -1},
                  {"lr": -1.0}, {"betas": (1.0, 0.9)}, {"eps": -1.0}, {"rank": (2, 2)},
                  {"rank": (2, 9), "mode": "tucker"}):  # fmt: skip
        with pytest.raises(ValueError):
            NaturalGaLore([matrix], **{"rank": 2, **wrong})
    with pytest.raises(ValueError, match="no matrix to project"):
        NaturalGaLore([nn.Parameter(torch.ones(3))], rank=1)
    with pytest.raises(ValueError, match="tucker"):
        NaturalGaLore([nn.Parameter(torch.ones(3, 3, 3))], rank=1)
    with pytest.raises(ValueError, match="update first"):
        GaLoreProjector(2).project(torch.ones(3, 4))
    with pytest.raises(ValueError, match="above 4"):
        GaLoreProjector(5, mode="tucker").ranks((4, 4))


def test_a_step_with_a_bad_gradient_changes_nothing():
    good, bad = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    tuner = NaturalGaLore([good, bad], rank=2)
    good.grad, bad.grad = torch.ones(3, 4), torch.full((3, 4), float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        tuner.step()
    assert torch.equal(good, torch.ones(3, 4))
    bad.grad = torch.ones(3, 4).to_sparse()
    with pytest.raises(TypeError, match="sparse"):
        tuner.step()
    assert torch.equal(good, torch.ones(3, 4))
