import json
import os

import pytest
import torch
from torch import nn

from gramian.science.model_zoo import (
    LOAD,
    SEED,
    TEMPERATURE,
    Thresholds,
    ZooReader,
    classify_phase,
    grid,
    make_zoo,
    write_model,
)


def build(config):
    torch.manual_seed(config[SEED])
    return nn.Linear(3, config[LOAD])


def train(config):
    model = build(config)
    rows = [{"train_loss": 1.0 / (1 + epoch), "test_acc": 0.1 * epoch} for epoch in range(3)]
    return rows, {0: build({**config, SEED: 99}), 2: model}


def test_what_is_written_is_read_again(tmp_path):
    zoo = make_zoo(tmp_path / "zoo", grid((2, 4), (8,), (0, 1)), train)
    assert len(zoo) == 4
    again = ZooReader(tmp_path / "zoo")
    for model in again.models.values():
        rows, kept = train(model.config)
        assert model.rows == rows
        assert model.epochs == [0, 2]
        for epoch, network in kept.items():
            state = model.state(epoch)
            assert state.keys() == network.state_dict().keys()
            assert all(torch.equal(state[k], v) for k, v in network.state_dict().items())
        assert torch.equal(model.load(build).weight, kept[2].weight)
    assert {f.suffix for f in (tmp_path / "zoo").rglob("*") if f.is_file()} == {".json", ".safetensors"}


def test_models_that_are_there_are_not_trained_again(tmp_path):
    calls = []

    def counted(config):
        calls.append(config[SEED])
        if config[SEED] == 1:
            raise KeyboardInterrupt
        return train(config)

    with pytest.raises(KeyboardInterrupt):
        make_zoo(tmp_path, grid((2,), (8,), (0, 1)), counted)
    assert len(ZooReader(tmp_path)) == 1
    assert not [f for f in tmp_path.iterdir() if "part" in f.name]
    assert len(make_zoo(tmp_path, grid((2,), (8,), (0, 1)), train)) == 2
    assert calls == [0, 1]


def test_tables_and_cells(tmp_path):
    zoo = make_zoo(tmp_path, grid((2, 4), (8, 16), (0, 1)), train)
    frame = zoo.table(("train_loss",))
    assert list(frame.columns) == [LOAD, TEMPERATURE, SEED, "train_loss"]
    assert frame["train_loss"].tolist() == pytest.approx([1 / 3] * 8)
    assert zoo.table(epoch=0)["train_loss"].tolist() == [1.0] * 8
    cells = zoo.cells()
    assert list(cells) == [(2, 8), (2, 16), (4, 8), (4, 16)]
    assert [m.config[SEED] for m in cells[2, 8]] == [0, 1]
    with pytest.raises(ValueError, match=r"unknown metrics sharpness; at epoch -1 the zoo has test_acc, train_loss"):
        zoo.table(("sharpness",))
    with pytest.raises(ValueError, match="no setting depth"):
        zoo.cells(("depth",))


def test_metrics_are_added_to_an_epoch(tmp_path):
    model = next(iter(make_zoo(tmp_path, grid((2,), (8,), (0,)), train).models.values()))
    model.annotate(2, {"similarity": 0.5})
    assert model.rows[2]["similarity"] == 0.5
    assert "similarity" not in model.rows[1]
    with pytest.raises(ValueError, match="finite"):
        model.annotate(2, {"similarity": float("nan")})
    with pytest.raises(ValueError, match="not of 3"):
        model.annotate(3, {"similarity": 0.5})
    assert model.rows[2]["similarity"] == 0.5


def test_a_folder_of_the_published_kind_is_read(tmp_path):
    """Torch files, the prefix of data-parallel training, settings repeated in the rows, a file the tuner left."""
    folder = tmp_path / "NN_tune_trainable_0"
    (folder / "checkpoint_000001").mkdir(parents=True)
    (folder / "events.out").write_text("x")
    (folder / "params.json").write_text(json.dumps({LOAD: 4, TEMPERATURE: 8, SEED: 0}))
    row = {"train_loss": 0.5, "config": {LOAD: 4}}
    (folder / "result.json").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    network = nn.Linear(3, 4)
    state = {f"module.{k}": v for k, v in network.state_dict().items()}
    torch.save(state, folder / "checkpoint_000001" / "checkpoints")
    zoo = ZooReader(tmp_path)
    (model,) = zoo.models.values()
    assert torch.equal(model.load(build, 1).weight, network.weight)
    assert zoo.table().columns.tolist() == [LOAD, TEMPERATURE, SEED, "train_loss"]


class Bad:
    def __reduce__(self):
        return (os.system, ("true",))


def test_code_in_a_checkpoint_is_not_run_and_damage_is_said(tmp_path):
    zoo = make_zoo(tmp_path, grid((2,), (8,), (0,)), train)
    (model,) = zoo.models.values()
    inner = model.folder / "checkpoint_000002"
    whole = (inner / "checkpoints.safetensors").read_bytes()
    (inner / "checkpoints.safetensors").write_bytes(whole[:20])
    with pytest.raises(ValueError, match="cannot be read"):
        model.state()
    (inner / "checkpoints.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        model.state()
    torch.save({"weight": Bad()}, inner / "checkpoints")
    with pytest.raises(ValueError, match="more than tensors"):
        model.state()
    with pytest.raises(ValueError, match="not of 1"):
        model.state(1)
    (model.folder / "params.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        ZooReader(tmp_path)


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no model"):
        ZooReader(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="each model needs its own"):
        make_zoo(tmp_path, [{SEED: 0}, {SEED: 0}], train)
    with pytest.raises(ValueError, match="finite"):
        write_model(tmp_path / "m", {}, [{"train_loss": float("inf")}], {})
    assert not (tmp_path / "m").exists()
    with pytest.raises(ValueError, match="epochs 0 to 0"):
        write_model(tmp_path / "m", {}, [{"train_loss": 1.0}], {1: nn.Linear(1, 1)})
    write_model(tmp_path / "m", {}, [{"train_loss": 1.0}], {})
    with pytest.raises(ValueError, match="already"):
        write_model(tmp_path / "m", {}, [{"train_loss": 1.0}], {})


@pytest.mark.parametrize(
    ("loss", "connectivity", "similarity", "phase"),
    [(1.0, -0.2, 0.5, "I"), (1.0, 0.2, 0.5, "II"), (0.05, -0.2, 0.9, "III"), (0.05, 0.0, 0.5, "IV-A"),
     (0.05, -0.01, 0.9, "IV-B"), (0.1, -0.02, 0.8, "IV-B")],
)  # fmt: skip
def test_phases_of_a_made_table(loss, connectivity, similarity, phase):
    metrics = {"train_loss": loss, "connectivity": connectivity, "similarity": similarity}
    assert classify_phase(metrics, Thresholds(0.1, 0.02, 0.8)) == phase


def test_a_phase_needs_its_metrics():
    with pytest.raises(ValueError, match="similarity"):
        classify_phase({"train_loss": 1.0, "connectivity": 0.0}, Thresholds(0.1, 0.02, 0.8))
