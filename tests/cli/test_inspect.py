"""`gramian inspect` writes a report that can be read, and says what is wrong with what it is given."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gramian.atlas import inspect as inspecting
from gramian.atlas.errors import UserError

GRAMIAN = (sys.executable, "-c", "from gramian.cli import main; main()")


def weights(path):
    torch.manual_seed(0)
    layers = {f"layers.{i}.{kind}.weight": torch.randn(24, 32) / 5 for i in range(3) for kind in ("query", "value")}
    save_file({**layers, "head.weight": torch.randn(10, 32), "head.bias": torch.zeros(10)}, path)
    return str(path)


def test_a_file_of_weights_gets_a_report_with_pictures_and_a_table(tmp_path):
    done = subprocess.run(
        [*GRAMIAN, "inspect", weights(tmp_path / "w.safetensors"), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "layers.2.value.weight" in page
    record = json.loads((tmp_path / "out" / "inspect.json").read_text())
    assert len(record["matrices"]) == 7
    assert record["flows"] == []
    assert "effective rank" in done.stdout


def test_what_cannot_be_inspected_is_the_users_to_mend(tmp_path):
    cases = [
        ({"what": "nothing-here"}, "neither a bundled network"),
        ({"what": weights(tmp_path / "w.safetensors"), "data": "text.txt"}, "cannot be run on data"),
    ]
    save_file({"bias": torch.zeros(3)}, tmp_path / "bias.safetensors")
    cases.append(({"what": str(tmp_path / "bias.safetensors")}, "no weight matrix"))
    for arguments, message in cases:
        with pytest.raises(UserError, match=message):
            inspecting.inspect(folder=tmp_path / "out", **arguments)
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_network_with_a_factory_is_read_from_the_users_own_code(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(12, 20)\n")
    save_file(nn.Linear(12, 20).state_dict(), tmp_path / "n.safetensors")
    found, report = inspecting.inspect(
        str(tmp_path / "n.safetensors"), tmp_path / "out", factory=f"{tmp_path / 'net.py'}:make"
    )
    assert found.matrices[0].full_rank == 12
    assert report.exists()
