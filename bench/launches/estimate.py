"""The constants of the estimates, and the time that they give."""

from __future__ import annotations

import torch

# An H100 (SXM), and torch called from Python. Rates that good kernels reach, below the data sheet.
LAUNCH_SECONDS = 6e-6  # host time of one operation of torch
BYTES_PER_SECOND = 2.6e12
FLOPS_PER_SECOND = {
    torch.bfloat16: 430e12,
    torch.float16: 430e12,
    torch.float32: 45e12,  # without TF32
    torch.float64: 45e12,
}


def device_seconds(moved_bytes: float, flops: float, dtype: torch.dtype | None) -> float:
    """Time of one operation on the device: that of its memory traffic or of its products."""
    rate = FLOPS_PER_SECOND.get(dtype or torch.float32, FLOPS_PER_SECOND[torch.float32])
    return max(moved_bytes / BYTES_PER_SECOND, flops / rate)


def host_seconds(launches: int) -> float:
    """Time that the host needs to start the kernels."""
    return launches * LAUNCH_SECONDS
