"""Delays an interrupt while a process pool changes its queue."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def delayed_interrupts() -> Iterator[None]:
    """Handle SIGINT and SIGTERM after the block instead of in the middle of it.

    KeyboardInterrupt in `queue.Queue.put` can leave a condition with a stale waiter. The next item
    then wakes no thread, and a pool that waits for its threads never stops.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # A handler of None was not set by Python and could not be set again.
    handlers = {number: handler for number, handler in handlers.items() if handler is not None}
    for number in handlers:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in received:
            signal.raise_signal(late)
