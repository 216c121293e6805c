"""The cache of tensors that later calls use again: draws, projections, tables, lists of blocks.

Only real tensors are kept. While a program is traced, values are computed again and not kept.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import update_wrapper
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from variants.contract.modes import pretended, tracing

MOST_BYTES = 1 << 30  # limit of all values together; a single value may be larger
MOST_VALUES = 512

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")
Key = tuple[Any, ...]


class _Entry(NamedTuple):
    value: Any
    tensors: list[Tensor]
    versions: list[int]  # of the tensors; torch increases it when a tensor is written to
    nbytes: int

    @classmethod
    def of(cls, value: Any) -> _Entry:
        tensors = list(_tensors(value, set()))
        storages = [tensor.untyped_storage() for tensor in tensors]
        sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
        return cls(value, tensors, [x._version for x in tensors], sum(sizes.values()))

    def intact(self) -> bool:
        """Whether the tensors are unchanged."""
        return all(x._version == v for x, v in zip(self.tensors, self.versions, strict=True))


class _Store:
    """The kept values, in the order of their last use."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: OrderedDict[Key, _Entry] = OrderedDict()
        self.nbytes = 0

    def get(self, key: Key) -> _Entry | None:
        with self.lock:
            found = self.kept.get(key)
            if found is None:
                return None
            if not found.intact():
                self._drop(key)
                return None
            self.kept.move_to_end(key)
            return found

    def put(self, key: Key, new: _Entry) -> _Entry:
        """Keep a value and return it. If another thread has kept a value meanwhile, return that."""
        with self.lock:
            if key in self.kept:
                return self.kept[key]
            self.kept[key] = new
            self.nbytes += new.nbytes
            while len(self.kept) > 1 and (self.nbytes > MOST_BYTES or len(self.kept) > MOST_VALUES):
                self._drop(next(iter(self.kept)))
            return new

    def clear(self) -> None:
        with self.lock:
            self.kept.clear()
            self.nbytes = 0

    def _drop(self, key: Key) -> None:
        self.nbytes -= self.kept.pop(key).nbytes


_STORE = _Store()


def _unlock() -> None:
    """Replace the lock: the thread that holds it may not exist in a child process."""
    _STORE.lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock)


class cached(Generic[Arguments, Value]):
    """Keeps the return values of a function: tensors, or objects that contain tensors.

    The arguments must be hashable. They are the key, so the function must not depend on anything
    else. The value is made outside of inference mode, so it can be used in training. Callers must
    not write to it.
    """

    def __init__(self, function: Callable[Arguments, Value]) -> None:
        self.function = function
        update_wrapper(self, function)

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Value:
        if tracing():
            return self.function(*args, **kwargs)
        key = (self.function, args, tuple(sorted(kwargs.items())))
        kept = _STORE.get(key)
        if kept is None:
            with torch.inference_mode(False), torch.no_grad():
                value = self.function(*args, **kwargs)
            if any(pretended(tensor) for tensor in _tensors(value, set())):
                return value
            kept = _STORE.put(key, _Entry.of(value))
        result: Value = kept.value
        return result


def clear() -> None:
    """Drop all values."""
    _STORE.clear()


def held_bytes() -> int:
    """Bytes of the tensors that are kept now."""
    return _STORE.nbytes


def held_tensors() -> list[Tensor]:
    """The tensors that are kept now, including tensors in other objects."""
    with _STORE.lock:
        return [tensor for kept in _STORE.kept.values() for tensor in kept.tensors]


def _tensors(value: object, seen: set[int]) -> Iterator[Tensor]:
    """All tensors in a value: in containers, and in the attributes of objects of this package."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part, seen)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()), seen)
    elif type(value).__module__.startswith("variants.") and hasattr(value, "__dict__"):
        yield from _tensors(vars(value), seen)
