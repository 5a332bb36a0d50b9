"""The set-up that kernels share."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from gramian.linalg import kernels
from gramian.linalg.scan import selective_ops  # noqa: F401  (registers its warm-up)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_tasks_run_once_each_on_several_threads(two_threads):
    done, names = [], set()
    meet = threading.Barrier(2, timeout=20)

    def kernel(task, offset):
        if task < 2:
            meet.wait()  # both threads are there, or this breaks
        names.add(threading.get_ident())
        done.append(task + offset)

    kernels.run_tasks(kernel, 20, 100)
    assert sorted(done) == list(range(100, 120))
    assert len(names) == 2


def test_a_failure_in_a_thread_is_raised(two_threads):
    def kernel(task):
        if task == 3:
            raise ZeroDivisionError("task 3")

    with pytest.raises(ZeroDivisionError, match="task 3"):
        kernels.run_tasks(kernel, 8)


def test_every_warmup_is_called():
    seconds = kernels.warm_all()
    assert set(seconds) == set(kernels.warmups())
    assert any("selective_ops" in name for name in seconds)


def in_process(code, **environment):
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    return done.stdout.strip()


PRINT = "import gramian.linalg.kernels as k; print(k.numba.config.CACHE_DIR)"


def test_cache_folder(tmp_path):
    given = str(tmp_path / "given")
    assert in_process(PRINT, NUMBA_CACHE_DIR=given) == given
    assert in_process(PRINT, XDG_CACHE_HOME=str(tmp_path)).startswith(str(tmp_path / "gramian" / "numba"))
    late = in_process("import numba; " + PRINT, XDG_CACHE_HOME=str(tmp_path))
    assert late.startswith(str(tmp_path / "gramian" / "numba"))


def test_unwritable_cache_folder_falls_back(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    folder = in_process(PRINT, XDG_CACHE_HOME=str(blocked))
    assert "gramian-numba-" in folder
    assert os.path.isdir(folder)
