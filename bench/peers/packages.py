"""Checks whether a public package can be imported; helpers that the adapters share."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from variants import UnsupportedError

EXTRA = "pip install -e '.[peers]'"


def needs(module: str, install: str = EXTRA) -> Callable[[torch.device], str | None]:
    """The `unavailable` argument for an implementation that imports `module` when it is called."""

    def unavailable(device: torch.device) -> str | None:
        return missing(module, install)

    return unavailable


@cache
def missing(module: str, install: str) -> str | None:
    """Import a module. Returns the reason if that fails, else None."""
    package = module.partition(".")[0]
    if find_spec(package) is None:
        return f"{package} is not installed; {install}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated imports in code of other projects
            import_module(module)
    except Exception as error:  # an import of other projects' code may raise anything
        return f"{package} cannot be imported ({type(error).__name__}: {error}); {install}"
    return None


def rescaled(query: Tensor, scale: float) -> Tensor:
    """The query for code that always divides scores by sqrt(head_dim), rescaled to give `scale`."""
    factor = scale * math.sqrt(query.shape[-1])
    return query if math.isclose(factor, 1) else query * factor


def require_multiple(name: str, length: int, unit: int, least: int = 1) -> None:
    """UnsupportedError unless `length` is a multiple of `unit` and at least `least` * `unit`."""
    if length % unit or length < least * unit:
        at_least = f" and at least {least * unit}" if least > 1 else ""
        raise UnsupportedError(
            f"{name} needs a length that is a multiple of {unit}{at_least}; got {length}"
        )


@contextmanager
def drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global random state in the `with` block, and restore it afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
