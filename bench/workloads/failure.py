"""The status and the reason of a case that raised an exception."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from bench.inputs import CaptureError, InputsError
from bench.schema.outcome import Status
from variants import UnsupportedError

# The folders of an absolute path, but not those of a URL.
FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/:'\"]+/)+")


def failure(error: BaseException, files: Mapping[str, Path]) -> tuple[Status, str]:
    """The status and the reason of a case that raised `error`.

    The reason contains the names of `files` instead of their paths.
    """
    text = _sentence(error, files)
    if isinstance(error, UnsupportedError | InputsError | CaptureError):
        return Status.UNSUPPORTED, text
    # If the CPU allocator fails, torch raises a plain RuntimeError.
    refused = isinstance(error, RuntimeError) and "can't allocate memory" in text
    if refused or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Status.OUT_OF_MEMORY, text
    return Status.ERROR, f"{type(error).__name__}: {text}"


def _sentence(error: BaseException, files: Mapping[str, Path]) -> str:
    """The message on one line, with at most 300 characters and without local folders."""
    text = " ".join(str(error).split()) or type(error).__name__
    for name, path in files.items():
        text = text.replace(str(path), f"file:{name}")
    text = FOLDERS.sub("", text)
    return text if len(text) <= 300 else text[:297] + "..."
