"""A setting of the process that a kernel has to change while it runs, put back whatever happens."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar
from weakref import WeakSet

Value = TypeVar("Value")


class ProcessSetting(Generic[Value]):
    """Threads that want the same value share it, others wait for them; the last one to leave puts
    back what the first one found. What somebody else sets meanwhile stays.

    A child process that is forked meanwhile begins with what the first one found.
    """

    def __init__(self, read: Callable[[], Value], write: Callable[[Value], None]) -> None:
        self._read, self._write = read, write
        self._changed = threading.Condition()
        self._inside: dict[int, int] = {}  # how often each thread has entered
        self._before: Value | None = None
        self._value: Value | None = None
        _ALL.add(self)

    @contextmanager
    def held(self, value: Value) -> Iterator[None]:
        """Set the value as long as the context lasts."""
        thread = threading.get_ident()
        if thread in self._inside and self._value != value:
            raise RuntimeError(f"a setting cannot be {value} and {self._value} at a time")
        try:
            self._enter(thread, value)
            yield
        finally:
            self._leave(thread)

    def _enter(self, thread: int, value: Value) -> None:
        with self._changed:
            while self._inside and self._value != value:
                self._changed.wait()
            first = not self._inside
            if first:
                self._before = self._read()
            self._value = value
            self._inside[thread] = self._inside.get(thread, 0) + 1
            if first:
                self._write(value)

    def _leave(self, thread: int) -> None:
        with self._changed:
            if thread not in self._inside:
                return  # it was stopped while it entered
            self._inside[thread] -= 1
            if not self._inside[thread]:
                del self._inside[thread]
            if not self._inside:
                self._put_back()

    def _put_back(self) -> None:
        if self._before is not None and self._read() == self._value:
            self._write(self._before)
        self._before = self._value = None
        self._changed.notify_all()

    def _forked(self) -> None:
        """In a child process, which has but the thread that forked."""
        self._changed = threading.Condition()
        thread = threading.get_ident()
        others = self._inside.keys() - {thread}
        for other in others:
            del self._inside[other]
        if others and not self._inside:
            with self._changed:
                self._put_back()


_ALL: WeakSet[ProcessSetting[Any]] = WeakSet()


def _all_forked() -> None:
    for setting in list(_ALL):
        setting._forked()


os.register_at_fork(after_in_child=_all_forked)
