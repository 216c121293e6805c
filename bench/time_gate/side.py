"""A worker process of one revision, seen from the gate."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.instruments.disturbance import cores_of_process
from bench.loop.frames import FrameBuffer, write_frame
from bench.loop.worker_settings import worker_settings
from bench.time_gate.revisions import ROOT

START = 120.0  # seconds until a worker has imported torch and the variants
PIECE = 1 << 16


class SideError(Exception):
    """A worker refused a request, did not answer in time, or ended.

    Attributes:
        side: the name of the worker.
    """

    def __init__(self, why: str, side: str = "") -> None:
        super().__init__(why)
        self.side = side


class Side:
    """A new process with the variants of a folder. It is closed at the end of `with`.

    Args:
        sources: folder that contains the package `variants` of a revision.
        threads: number of threads of torch.
        module: the program that answers requests.
        name: for errors.
    """

    def __init__(
        self,
        sources: Path,
        threads: int,
        module: str = "bench.time_gate.gate_worker",
        *,
        name: str = "",
    ) -> None:
        self._name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        read_requests, self._requests = os.pipe()
        self._answers, write_answers = os.pipe()
        theirs = (read_requests, write_answers)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *map(str, theirs), str(sources)],
                env=_environment(sources, threads),
                cwd=sources,
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
            )
        finally:
            for pipe in theirs:
                os.close(pipe)
        self._buffer = FrameBuffer()

    def started(self) -> None:
        """Wait until the process can take requests. Raises SideError if it cannot start."""
        self._answer(START)

    def ask(self, request: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        """The answer to a request of `GateWorker`.

        Raises:
            SideError: it failed, or took longer than `timeout` seconds.
        """
        try:
            return self._asked(request, timeout, **arguments)
        except SideError as error:
            raise SideError(str(error), self._name) from None

    def _asked(self, request: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        content = json.dumps({"do": request, **arguments}).encode()
        try:
            write_frame(self._requests, content)
        except OSError:
            raise self._ended() from None
        return self._answer(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._requests)
        os.close(self._answers)
        self._log.close()

    def _answer(self, timeout: float) -> dict[str, Any]:
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise SideError(f"no answer in {timeout:.0f} s")
            if not (piece := os.read(self._answers, PIECE)):
                raise self._ended()
            for frame in self._buffer.frames(piece):
                answer: dict[str, Any] = json.loads(frame)
                if "error" in answer:
                    raise SideError(answer["error"])
                return answer

    def _ended(self) -> SideError:
        """The end of the process in words, with the last line that it wrote."""
        status = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else ""
        return SideError(f"the process ended with status {status}{said}")


def _environment(sources: Path, threads: int) -> Mapping[str, str]:
    """The variables of a worker. Its threads are bound to the same cores on all sides, because the
    cores of a shared machine may differ in speed."""
    path = os.pathsep.join([str(sources), str(ROOT)])
    cores = " ".join(map(str, cores_of_process()[:threads]))
    bound = {} if "GOMP_CPU_AFFINITY" in os.environ else {"GOMP_CPU_AFFINITY": cores}
    return {
        **os.environ,
        **worker_settings(os.environ),
        **bound,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": path,
    }
