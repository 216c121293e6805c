"""Chooses the case that a free worker measures next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any, Generic

from bench.loop.workload import CaseT, Workload


class CaseQueue(Generic[CaseT]):
    """The cases that nobody measures yet, in planned order.

    With several workers, a case waits for running cases of its series, whose results may skip it.
    A worker gets cases of the group that it measured last, then groups that no other worker has:
    what a group shares is computed once if possible.
    """

    def __init__(self, workload: Workload[CaseT, Any], cases: Iterable[CaseT]) -> None:
        self._workload = workload
        self._waiting = list(cases)
        self._running: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, own: Hashable, others: Iterable[Hashable]) -> CaseT | None:
        """Remove the next case for a worker; None if all must wait.

        Args:
            own: the group of the last case of this worker.
            others: the groups of the last cases of other workers.
        """
        taken = set(others) - {own}
        free = (
            [case for case in self._waiting if not self._running[self._workload.series(case)]]
            if self._running
            else self._waiting
        )
        ranked = (
            (case for case in free if taken and self._workload.group(case) == own),
            (case for case in free if self._workload.group(case) not in taken),
            free,
        )
        for choice in ranked:
            for case in choice:
                self._waiting.remove(case)
                self._running[self._workload.series(case)] += 1
                return case
        return None

    def done(self, case: CaseT) -> None:
        """A taken case has a row."""
        series = self._workload.series(case)
        self._running[series] -= 1
        if not self._running[series]:
            del self._running[series]

    def put_back(self, case: CaseT, *, first: bool) -> None:
        """A taken case is to be measured later, before or after all others."""
        self.done(case)
        self._waiting.insert(0 if first else len(self._waiting), case)
