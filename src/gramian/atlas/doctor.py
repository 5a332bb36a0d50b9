"""Examine an installation: what is here, what is missing, and the one command that brings it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

from gramian.atlas.errors import UserError
from gramian.atlas.measure import machine
from gramian.atlas.measure.home import open_home
from gramian.atlas.measure.store import Store


@dataclass(frozen=True)
class Finding:
    """One line of the examination; mark is ✓, – (optional and absent) or ✗ (broken)."""

    mark: str
    what: str
    found: str
    mend: str = ""


def missing_by_extra() -> dict[str, list[str]]:
    """Each extra of the package with those of its requirements that are not installed."""
    found: dict[str, list[str]] = {}
    for requirement in metadata.requires("gramian") or []:
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if not extra or not name or name.group() == "gramian":
            continue
        missing = found.setdefault(extra.group(1), [])
        try:
            metadata.version(name.group())
        except metadata.PackageNotFoundError:
            missing.append(name.group())
    return found


def examine(home: str | None = None) -> list[Finding]:
    """Every finding: versions, processor, threads, devices, folders, extras, data, kernels."""
    processor = machine.processor()
    findings = [
        Finding("✓", "versions", ", ".join(f"{k} {v}" for k, v in machine.versions().items())),
        Finding("✓", "processor", f"{processor['name']}, {processor['cores']} cores ({processor['flags']})"),
    ]
    import torch

    devices = ["cpu"] + [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    findings.append(Finding("✓", "torch", f"{torch.get_num_threads()} threads; devices: {', '.join(devices)}"))
    try:
        folder = open_home(home)
        findings.append(Finding("✓", "home", f"{folder}, {len(Store(folder).latest())} rows measured"))
    except UserError as error:
        findings.append(Finding("✗", "home", str(error), "--home DIR"))
    for extra, missing in sorted(missing_by_extra().items()):
        if missing:
            findings.append(
                Finding("–", f"extra {extra}", f"missing: {', '.join(missing)}", f"pip install 'gramian[{extra}]'")
            )
        else:
            findings.append(Finding("✓", f"extra {extra}", "complete"))
    if metadata_version("torchvision"):
        findings.append(
            Finding("✗", "torchvision", "does not import beside this torch build", "pip uninstall torchvision")
        )
    return findings + _data()


def metadata_version(name: str) -> str | None:
    """The installed version of a package, if any."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _data() -> list[Finding]:
    from gramian import data

    absent = [name for name in data.names() if not data.is_here(name)]
    if not absent:
        return [Finding("✓", "data", "every set of the catalogue is here")]
    shown = ", ".join(absent[:6]) + (f" and {len(absent) - 6} more" if len(absent) > 6 else "")
    return [Finding("–", "data", f"not fetched: {shown}", "gramian data fetch --all")]
