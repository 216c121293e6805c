"""Names of a machine and of its GPU that do not reveal them: published files have no host name."""

from __future__ import annotations

import platform
import uuid
from contextlib import suppress
from pathlib import Path

import torch

from bench.schema.machine_kind import digest

MACHINE_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")
RANDOM = 1 << 40  # this bit of a hardware address tells that Python has drawn it at random


def host() -> str:
    """A name of this machine: the same in every process, and different on other machines."""
    parts = [platform.machine()]
    for file in MACHINE_IDS:
        with suppress(OSError):
            parts.append(Path(file).read_text().strip())
            break
    address = uuid.getnode()
    parts.append(platform.node() if address & RANDOM else f"{address:x}")
    return f"host-{digest(' '.join(parts))}"


def gpu(device: torch.device) -> str | None:
    """A name of a GPU, from its UUID; None on a CPU, or if the driver tells no UUID."""
    if device.type != "cuda":
        return None
    identity = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return f"gpu-{digest(str(identity))}" if identity else None
