"""Random numbers that are drawn once and kept for later calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def lasting(seed: int) -> Iterator[torch.Generator]:
    """A context that gives a random generator. Tensors that are drawn in it depend only on `seed`.

    They are made on the CPU, whatever the default device is, so they are equal on all devices. They
    can be used in training even if the first call runs in inference mode.
    """
    with torch.inference_mode(False), torch.device("cpu"):
        yield torch.Generator().manual_seed(seed)
