"""Signals that stop a run: delayed while the main thread starts a worker, waits for it or ends it,
ignored while files are written at the end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOTICED = 0.1  # seconds after which a loop looks for a delayed interrupt


class Stopped(KeyboardInterrupt):
    """A signal stops the run."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.exit_status = 128 + number


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise `Stopped` in the block for SIGINT, SIGTERM and SIGHUP."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled(stop):
        yield


@contextmanager
def ignored_interrupts() -> Iterator[None]:
    """Ignore signals that stop a run: the block ends the run already."""
    with _handled(signal.SIG_IGN):
        yield


@contextmanager
def delayed_interrupts() -> Iterator[list[int]]:
    """Handle signals that stop a run after the block instead of in the middle of it.

    KeyboardInterrupt inside a method of `Future` or `Thread` can leave a lock held. The thread that
    waits for the answer of a worker then never ends, nor does the end of this worker. Yields a list
    to which the numbers of the received signals are added; a block that waits must end when the
    list is not empty.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)

    try:
        with _handled(receive):
            yield received
    finally:
        for late in received:
            signal.raise_signal(late)


@contextmanager
def _handled(handler: object) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # A handler of None was not set by Python and could not be set again. A signal that is ignored,
    # as SIGHUP under nohup, stays so.
    changed = {
        number: own for number, own in before.items() if own is not None and own != signal.SIG_IGN
    }
    for number in changed:
        signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, own in changed.items():
            signal.signal(number, own)
