"""Devices by name, checked at the front door."""

from __future__ import annotations

from gramian.atlas.errors import UserError


def check_device(name: str) -> None:
    """Raise `UserError` unless torch can put a tensor on the device."""
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        have = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        have += ["mps"] if torch.backends.mps.is_available() else []
        first = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here ({first}); this machine has {', '.join(have)}") from None
