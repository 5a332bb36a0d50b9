"""The process of one row: `python -m gramian.atlas.measure.worker REQUEST`, started by `verify`.

A process of its own means that a row which crashes, hangs or eats the memory takes nothing else along.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however it went, and if it went before we looked."""
    parent = int(os.environ.get("GRAMIAN_PARENT", os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(request: dict) -> None:
    """Do what the request says: warm the kernels, measure a task's method, or run a row."""
    _end_with_parent()
    if request.get("warm"):
        from gramian.linalg.kernels import warm_all

        warm_all()
        return
    if "task" in request:
        from gramian.atlas.compare import evaluate_in_worker

        evaluate_in_worker(request)
        return
    import torch

    from gramian.atlas.find.cards import Shelf
    from gramian.atlas.measure.execute import run_paper
    from gramian.lab import Run

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    run = Run(
        request["folder"], seed=request["seed"], device=request["device"], quick=request["quick"], show_progress=False
    )
    run_paper(Shelf().paper(request["slug"]), run, request.get("settings"))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
