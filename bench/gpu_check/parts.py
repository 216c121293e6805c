"""The parts of a check, each in a process of its own with a limit of time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

SHOWN = 60  # last lines of a part's output that are printed
GRACE = 15.0  # seconds from the interrupt of a part to its end


@dataclass(frozen=True)
class CheckPart:
    """A module of Python with its arguments. Its output is added to `name`.txt.

    While a part runs that is `alone`, this command runs nothing else.
    """

    name: str
    seconds: float
    arguments: tuple[str, ...]
    alone: bool = False

    @property
    def file(self) -> str:
        return f"{self.name}.txt"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGINT raise KeyboardInterrupt, so that outputs are kept and no process is
    left. Processes that a shell starts in the background ignore SIGINT, and their children too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def run(part: CheckPart, folder: Path, seconds: float, environment: Mapping[str, str]) -> str:
    """Run a part for at most `seconds`, and return how it ended in a few words.

    After that time it gets the signal of Ctrl-C, and is killed `GRACE` seconds later, with the
    processes that it started.
    """
    started = time.monotonic()
    with (folder / part.file).open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *part.arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        status = _wait(process, seconds)
    return f"{status} after {time.monotonic() - started:.0f} s"


def start(arguments: tuple[str, ...], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process whose output is not needed, beside the parts."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(environment),
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and the processes that it started."""
    _signal(process, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # a driver can hold it for longer
        process.wait(GRACE)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> str:
    try:
        code = process.wait(seconds)
        return "done" if code == 0 else f"exit {code}"
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        _signal(process, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        if isinstance(error, KeyboardInterrupt):
            raise
        return "stopped"
    finally:
        stop(process)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def show(part: CheckPart, folder: Path, say: Callable[[str], None]) -> None:
    """Print the end of a part's output."""
    text = (folder / part.file).read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines()[-SHOWN:]:
        say(line[:220])
