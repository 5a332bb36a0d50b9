import pytest
import torch

from gramian.linalg.factor.window import WindowInverse


def dense(rows, damp, average):
    s = 1 / len(rows) if average == "mean" else 1.0
    return torch.linalg.inv(damp * torch.eye(rows.shape[1], dtype=rows.dtype) + s * rows.T @ rows)


@pytest.mark.parametrize("average", ["mean", "sum"])
@pytest.mark.parametrize("pushes", [1, 5, 12, 31])
def test_products_diagonal_and_elements_are_those_of_the_dense_inverse(average, pushes):
    g = torch.Generator().manual_seed(pushes)
    rows = torch.randn(pushes, 40, generator=g, dtype=torch.float64)
    window = WindowInverse(12, 40, 1e-2, average=average, dtype=torch.float64)
    for row in rows:
        window.push(row)
    exact = dense(rows[-12:], 1e-2, average)
    x = torch.randn(40, generator=g, dtype=torch.float64)
    torch.testing.assert_close(window.solve(x), exact @ x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(window.solve_newest(), exact @ rows[-1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(window.diag(), exact.diagonal(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(window.element(3, 3), exact[3, 3], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(window.element(-1, 0), exact[-1, 0], rtol=1e-9, atol=1e-9)
    v = window.whitened()
    torch.testing.assert_close((torch.eye(40) - v.T @ v) / 1e-2, exact, rtol=1e-9, atol=1e-9)
    same = WindowInverse.of(rows[-12:].contiguous(), 1e-2, average=average)
    torch.testing.assert_close(same.solve(x), window.solve(x), rtol=1e-9, atol=1e-9)


def test_the_newest_keeps_accuracy_in_float32_under_small_damping():
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 50, generator=g)
    window = WindowInverse(7, 50, 1e-6, average="sum")
    for row in rows:
        window.push(row)
    exact = dense(rows.double(), 1e-6, "sum") @ rows[-1].double()
    exact = rows.double().T @ torch.linalg.inv(1e-6 * torch.eye(7) + rows.double() @ rows.double().T)[:, -1]
    assert (window.solve_newest() - exact).norm() <= 1e-5 * exact.norm()


def test_an_empty_window_only_damps():
    window = WindowInverse(3, 4, 0.5)
    assert window.solve(torch.ones(4)).tolist() == [2.0] * 4
    assert window.diag().tolist() == [2.0] * 4
    assert (window.element(1, 1), window.element(0, 1)) == (2.0, 0.0)
    with pytest.raises(ValueError, match="empty"):
        window.solve_newest()


def test_bad_input_is_refused():
    for wrong in ({"damp": 0.0}, {"damp": -1.0}, {"damp": float("nan")}, {"window": 0}, {"size": 0}):
        with pytest.raises(ValueError):
            WindowInverse(**{"window": 2, "size": 3, "damp": 1.0} | wrong)
    window = WindowInverse(2, 3, 1.0).push(torch.ones(3))
    before = window.rows.clone()
    for wrong in (torch.ones(4), torch.tensor([1.0, float("nan"), 0.0])):
        with pytest.raises(ValueError):
            window.push(wrong)
    with pytest.raises(ValueError, match="shape"):
        window.solve(torch.ones(2))
    with pytest.raises(IndexError):
        window.element(3, 0)
    with pytest.raises(ValueError, match="NaN"):
        WindowInverse.of(torch.full((2, 2), float("nan")), 1.0)
    assert window.rows.equal(before)
