"""The machines that measure the cases of a run, and environment.json, which describes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic

from bench.instruments import environment
from bench.loop import worker_start
from bench.loop.executor import WorkerCall, WorkerLost
from bench.loop.journal import Journal, Recorded
from bench.loop.result_files import write_json
from bench.loop.seat import Seat
from bench.loop.workload import CaseT, RowT, Steps, Workload
from bench.schema.environment_file import Duration
from bench.schema.machine_kind import kind
from bench.schema.validation import UserError
from bench.selfcheck import same_code

CHECK_SECONDS = 120.0  # for a short selfcheck, which takes some seconds
START, END = "start", "end"
SET_UP_SECONDS = 300.0  # for describing a machine and measuring its limits
Environment = dict[str, Any]


class RunError(UserError):
    """A run cannot start or continue. The message is one sentence; measured rows are kept."""


class Machines(Generic[CaseT, RowT]):
    """The environments of the machines of a run, by host.

    Args:
        workload: says which limits of a machine are measured.
        folder: folder of the run.
        journal: gets the description of each machine.
        recorded: the journal of a resumed run; it is empty for a new one.
        may_join: whether machines that are not in `recorded` may continue a run.
    """

    def __init__(
        self,
        workload: Workload[CaseT, RowT],
        folder: Path,
        journal: Journal,
        recorded: Recorded[RowT],
        *,
        may_join: bool,
    ) -> None:
        self._workload, self._folder, self._journal = workload, folder, journal
        self._found: dict[str, Environment] = dict(recorded.machines)
        self._checks = {host: dict(checks) for host, checks in recorded.selfchecks.items()}
        self._durations = list(recorded.durations)
        self._new = not recorded.header
        self._may_join = may_join or self._new
        if recorded.header:
            self._write()
        self.busy = False  # whether a machine is being described

    def set_up(self, seat: Seat[Any]) -> Steps[Environment]:
        """Describe the machine of a worker, and measure its limits if it is a new one.

        Raises:
            RunError: the machine or its installation cannot continue this run.
        """
        self.busy = True
        device = self._workload.device
        present = yield WorkerCall(worker_start.describe, (device,), SET_UP_SECONDS)
        known = self._recorded(present)
        found = yield from self._workload.set_up(known)
        if known is not None:
            present = known
        else:
            present = {**present, **found}
            self._add(present)
        if START not in self._checks.get(present.get("host", ""), {}):
            yield from self.check_noise(present, START)
        self._write()
        return present

    def check_noise(self, machine: Environment, when: str) -> Steps[Environment]:
        """Time the same code against itself on a machine, at the start or the end of the run."""
        if not (seconds := self._workload.check_seconds):
            return machine
        asked = (self._workload.device, seconds)
        try:
            found = yield WorkerCall(same_code.short, asked, CHECK_SECONDS)
        except WorkerLost:
            raise
        except Exception:
            return machine  # a machine on which this fails may still measure cases
        host = machine.get("host", "")
        self._journal.selfcheck(host, when, found)
        self._checks.setdefault(host, {})[when] = found
        self._write()
        return machine

    def took(self, duration: Duration) -> None:
        """Record how long the cases of this command took."""
        self._journal.duration(duration)
        self._durations.append(duration)
        self._write()

    def of_kind(self, machine: Environment, rows: Mapping[str, RowT]) -> Mapping[str, RowT]:
        """The rows that machines of the same kind have measured."""
        same = {host for host, other in self._found.items() if kind(other) == kind(machine)}
        if len(same) == len(self._found):
            return rows
        return {case_id: row for case_id, row in rows.items() if row.host in same}

    def _recorded(self, present: Environment) -> Environment | None:
        """The recorded environment of this machine, or None if the machine is new."""
        reasons: list[str] = []
        for known in self._found.values():
            if not (found := environment.differences(known, present)):
                if known.get("host", "") in ("", present["host"]) or not self._may_join:
                    return known
            else:
                reasons = reasons or found
        for known in self._found.values():
            if found := environment.differences(known, present, groups=("software",)):
                raise RunError(
                    f"{self._folder} was measured with other software: {'; '.join(found)}"
                )
        if not self._may_join:
            raise RunError(
                f"{self._folder} was measured on another machine or installation: "
                f"{'; '.join(reasons)}"
            )
        return None

    def _add(self, present: Environment) -> None:
        if self._new:
            self._new = False
            present |= self._workload.facts()
            header = self._workload.header()
            self._journal.header(command=self._workload.command, environment=present, **header)
        else:
            self._journal.machine(present["host"], present)
        self._found[present["host"]] = present

    @property
    def environment(self) -> Environment:
        """The content of environment.json: the first machine, and `machines` with the others by
        host."""
        first, *others = self._found.values()
        content = dict(first)
        if others:
            content["machines"] = {other["host"]: other for other in others}
        if self._checks:
            content["selfchecks"] = self._checks
        if self._durations:
            content["durations"] = self._durations
        return content

    def _write(self) -> None:
        write_json(self._folder / "environment.json", self.environment)
