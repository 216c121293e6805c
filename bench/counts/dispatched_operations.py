"""Records the operations that torch dispatches, and the bytes of the tensors that each makes."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Operation:
    """How often an operation was called, and the bytes of the tensors that it made."""

    calls: int
    bytes: int


class DispatchedOperations(TorchDispatchMode):
    """Records all operations but those that only make a view of a tensor.

    Attributes:
        at_peak: by operation, the bytes of its tensors that were live when the live bytes were at
            their peak. Tensors inside an operation are not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._live: dict[int, tuple[str, int]] = {}
        self._peak = 0
        self.at_peak: dict[str, int] = {}

    def found(self) -> dict[str, Operation]:
        """The operations by name, in the order of their names."""
        return {
            name: Operation(self._calls[name], self._bytes[name]) for name in sorted(self._calls)
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = {
            _storage(leaf): leaf.untyped_storage().nbytes()
            for leaf in tree_leaves(out)
            if isinstance(leaf, Tensor) and _storage(leaf) not in given
        }
        is_view = func.is_view or (not made and not func._schema.is_mutable)
        if not is_view:
            name = func._schema.name.removeprefix("aten::")
            self._calls[name] += 1
            self._bytes[name] += sum(made.values())
            self._follow(name, out, made)
        return out

    def _follow(self, name: str, out: Any, made: dict[int, int]) -> None:
        """Count the bytes of new tensors until their memory is freed."""
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and (address := _storage(leaf)) in made:
                if address not in self._live:
                    weakref.finalize(leaf.untyped_storage(), self._live.pop, address, None)
                self._live[address] = name, made[address]
        live = sum(size for _, size in self._live.values())
        if live > self._peak:
            self._peak = live
            owners: Counter[str] = Counter()
            for owner, size in self._live.values():
                owners[owner] += size
            self.at_peak = {owner: size for owner, size in sorted(owners.items()) if size}


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
