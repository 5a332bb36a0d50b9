"""Forecasters trained by two processes: the steps of one process, and the same weights on both."""

import pytest

from processes import launch

WORKER = """
    import numpy
    from gramian.models.series.dlinear import DLinear
    from gramian.models.series.olinear import OLinear
    from gramian.models.series.training import forecast_errors, prepare, train_forecaster

    rng = numpy.random.default_rng(0)
    waves = numpy.sin(numpy.arange(90)[:, None] / numpy.array([3.0, 5.0])) + 0.1 * rng.normal(size=(90, 2))
    trial = prepare(waves, 12, 4)
    windows = {tuple(window.flatten().tolist()): i for i, window in enumerate(trial.train[0])}

    def flat(model):
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    def trained(model):
        seen, start, before = [], flat(model), forecast_errors(model, trial.test).mse

        def watch(module, args):
            if module.training:
                seen.append([windows[tuple(window.flatten().tolist())] for window in args[0]])

        hook = model.register_forward_pre_hook(watch)
        history = train_forecaster(
            model, trial.train, trial.validation, epochs=3, batch_size=8, lr=0.01, device="cpu",
            generator=torch.Generator().manual_seed(1),
        )
        hook.remove()
        return {"weights": flat(model).tolist(), "moved": float((flat(model) - start).abs().max()),
                "loss": history["loss"], "validation": history["validation_loss"], "seen": seen,
                "before": before, "after": forecast_errors(model, trial.test).mse}

    seeded = torch.Generator().manual_seed(0)
    models = {"dlinear": DLinear(12, 4, 5, generator=seeded),
              "olinear": OLinear(torch.eye(12), torch.eye(4), 2, 16, 4, dropout=0.0, generator=seeded)}
    report(count=len(windows), **{name: trained(model) for name, model in models.items()})
"""


@pytest.mark.slow
def test_two_processes_train_a_forecaster_as_one_does(tmp_path):
    (one,), (first, second) = (launch(WORKER, tmp_path / str(count), count) for count in (1, 2))
    assert (one["world"], one["backend"]) == (1, None)
    for rank, worker in enumerate((first, second)):
        assert (worker["world"], worker["backend"], worker["rank"]) == (2, "gloo", rank)
    for name in ("dlinear", "olinear"):
        alone, mine, other = one[name], first[name], second[name]
        assert mine["weights"] == other["weights"], name
        assert mine["weights"] == pytest.approx(alone["weights"], abs=1e-5), name
        for curve in ("loss", "validation"):
            assert mine[curve] == pytest.approx(alone[curve], rel=1e-4), (name, curve)
        # training did something, so that equal weights are not those of the start
        assert mine["moved"] > 1e-2, name
        assert mine["after"] < 0.9 * mine["before"], name
        steps = list(zip(mine["seen"], other["seen"], alone["seen"], strict=True))
        assert len(steps) == 3 * -(-one["count"] // 8), name
        for share, rest, whole in steps:
            assert abs(len(share) - len(rest)) <= 1, name
            assert not set(share) & set(rest), name
            assert sorted(share + rest) == sorted(whole), name
