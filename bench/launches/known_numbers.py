"""The numbers of small `meta` tensors that do not depend on query, key and value.

A variant may read such numbers on the host: learned spans, counts of a static pattern. A count of
operations then gets the right numbers, and it still counts the wait.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

MOST = 4096  # elements of a tensor whose numbers are kept
NAME = "_known_numbers"


def of(tensor: Tensor) -> Tensor | None:
    """The numbers, on the CPU; None if they are not known."""
    found = getattr(tensor, NAME, None)
    # A tensor that an operation has reshaped in place has other numbers.
    return found if found is not None and found.shape == tensor.shape else None


def keep(tensor: Tensor, numbers: Tensor) -> None:
    """Remember the numbers of a `meta` tensor."""
    if tensor.numel() <= MOST:
        setattr(tensor, NAME, numbers)


def follow(operation: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Compute the numbers of the result of an operation, if those of its operands are known."""
    results = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
    operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    known = {id(x): of(x) if x.is_meta else x for x in operands}
    small = len(results) == 1 and isinstance(out, Tensor) and out.numel() <= MOST
    drawn = torch.Tag.nondeterministic_seeded in operation.tags or "empty" in str(operation)
    if not small or drawn or any(x is None for x in known.values()):
        for tensor in results:
            _forget(tensor)
        return
    on_cpu = {**kwargs, **({"device": "cpu"} if kwargs.get("device") is not None else {})}
    try:
        args, on_cpu = tree_map_only(Tensor, lambda x: known[id(x)], (args, on_cpu))
        keep(out, operation(*args, **on_cpu))
    except Exception:  # not every operation of a device exists on a CPU
        _forget(out)


def _forget(tensor: Tensor) -> None:
    if hasattr(tensor, NAME):
        delattr(tensor, NAME)
