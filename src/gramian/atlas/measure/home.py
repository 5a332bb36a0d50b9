"""Where a user's evidence lives: one folder with the store and the runs' folders."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from gramian.atlas.errors import UserError


def default_home() -> Path:
    """``GRAMIAN_HOME``, or the platform's folder for user data."""
    import platformdirs

    return Path(os.environ.get("GRAMIAN_HOME") or platformdirs.user_data_dir("gramian"))


def open_home(path: Path | str | None = None) -> Path:
    """The home folder, made if need be; raises `UserError` when it cannot be written."""
    home = Path(path) if path else default_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe = home / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"the home folder {home} cannot be written ({error.strerror}); name another with --home DIR or GRAMIAN_HOME"
        ) from None
    return home


def new_run_folder(home: Path, slug: str) -> Path:
    """A fresh folder ``runs/<slug>/<time>``; two runs in the same instant get different ones."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    folder = home / "runs" / slug / stamp
    n = 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            n += 1
            folder = home / "runs" / slug / f"{stamp}-{n}"
