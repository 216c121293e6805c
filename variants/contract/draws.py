"""Random numbers that are drawn once and kept from call to call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def lasting(seed: int) -> Iterator[torch.Generator]:
    """Gives a generator; tensors made inside are the same wherever and whenever that happens.

    They are made on the CPU whatever the default device, so that all devices share them, and are
    fit for training even if the first call runs in inference mode.
    """
    with torch.inference_mode(False), torch.device("cpu"):
        yield torch.Generator().manual_seed(seed)
