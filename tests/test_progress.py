"""The lines that a run prints while it measures."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from bench.loop import progress
from bench.loop.progress import Progress
from bench.schema.outcome import Status


@dataclass(frozen=True)
class NamedCase:
    label: str


def test_the_time_left_is_in_hours_and_minutes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setenv("COLUMNS", "200")
    first, second = NamedCase("the first"), NamedCase("the second")
    shown = Progress([(first, 1.0), (second, 257 / 30)])
    shown.begin(first)
    now += 30 * 60.0
    shown.advance(first, Status.OK)
    shown.begin(second)
    now += 60.0
    shown.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "0/2 elapsed 0 s: the first",
        "1/2 elapsed 30 min, left 4 h 17 min: the second",
        "1 of 2 cases in 31 min: 1 ok",
    ]
