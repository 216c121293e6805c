"""Interrupts that arrive while a pool changes its queue."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from bench.loop.interrupts import SIGNALS, delayed_interrupts


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """Both signals raise KeyboardInterrupt, as in `python -m bench run`."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_is_raised_after_the_block(number: int) -> None:
    steps: list[int] = []

    def work() -> None:
        with delayed_interrupts():
            os.kill(os.getpid(), number)
            for step in range(1000):  # a handler would run at one of these calls
                steps.append(step)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert len(steps) == 1000
    assert all(signal.getsignal(one) is signal.default_int_handler for one in SIGNALS)


def test_an_exception_of_the_block_is_not_replaced() -> None:
    with pytest.raises(ValueError, match="own"), delayed_interrupts():
        raise ValueError("own")
    assert all(signal.getsignal(one) is signal.default_int_handler for one in SIGNALS)


def test_other_threads_change_no_handler() -> None:
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            with delayed_interrupts():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert not errors
