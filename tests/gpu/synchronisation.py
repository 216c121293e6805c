"""Refuses calls that wait for a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def no_waits() -> Iterator[None]:
    """Inside, an operation that waits for the device raises an error."""
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        # torch warns once that this mode is a prototype; warnings are errors in tests.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
