"""Delays an interrupt while the main thread uses a process pool."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTICED = 0.1  # seconds after which a loop looks for a delayed interrupt


@contextmanager
def delayed_interrupts() -> Iterator[list[int]]:
    """Handle SIGINT and SIGTERM after the block instead of in the middle of it.

    KeyboardInterrupt inside a method of `queue.Queue` or `Future` can leave a lock held or a
    condition with a stale waiter. The threads of the pool then wait for ever, and so does a stop of
    the pool. Yields a list to which the numbers of the received signals are added; a block that
    waits must end when the list is not empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread handles signals
        return

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # A handler of None was not set by Python and could not be set again.
    handlers = {number: handler for number, handler in handlers.items() if handler is not None}
    for number in handlers:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in received:
            signal.raise_signal(late)
