"""Run a script in one process, or in several that torchrun joins."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

HEAD = """
    import json, os, sys
    import torch

    RANK = int(os.environ.get("RANK", 0))

    def report(**figures):
        parallel = torch.distributed.is_initialized()
        figures["world"] = torch.distributed.get_world_size() if parallel else 1
        figures["backend"] = torch.distributed.get_backend() if parallel else None
        figures["rank"] = torch.distributed.get_rank() if parallel else 0
        with open(f"{sys.argv[1]}/rank{RANK}.json", "w") as file:
            json.dump(figures, file)
        if parallel:
            torch.distributed.destroy_process_group()
"""


def launch(worker: str, folder: Path, count: int) -> list[dict[str, Any]]:
    """What `count` processes report; `worker` is a script that ends with ``report(name=…)``.

    Each report holds besides the size, the backend and the rank that torch.distributed knows in that process.
    """
    folder.mkdir()
    script = folder / "worker.py"
    script.write_text(textwrap.dedent(HEAD) + textwrap.dedent(worker))
    command = [sys.executable]
    if count > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    done = subprocess.run([*command, str(script), str(folder)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(count)]
