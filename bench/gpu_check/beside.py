"""Processes that prepare beside the first parts of a check, and never beside measurements."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping, Sequence

from bench.gpu_check.parts import start, stop

SECONDS = 100.0  # after their start, the processes are stopped before a part that measures


class Beside:
    """A few processes that can be started once, waited for, and stopped."""

    def __init__(self, commands: Sequence[tuple[str, ...]], environment: Mapping[str, str]) -> None:
        """
        Args:
            commands: modules of Python with their arguments.
        """
        self._waiting, self._environment = list(commands), environment
        self._running: list[subprocess.Popen[bytes]] = []
        self._deadline = 0.0

    def start(self) -> None:
        """Start the processes, if they were not started yet."""
        if self._waiting:
            self._deadline = time.monotonic() + SECONDS
        while self._waiting:
            self._running.append(start(self._waiting.pop(0), self._environment))

    def wait(self) -> None:
        """Wait until the processes have ended, but not longer than their time; then stop them."""
        for process in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, self._deadline - time.monotonic()))
        self.stop()

    def stop(self) -> None:
        """End the processes, and start none later."""
        self._waiting.clear()
        while self._running:
            stop(self._running[-1])
            self._running.pop()
