"""Stores runs by machine, and compares only runs of one machine.

Exit statuses are 0: fine; 1: a regression of time or accuracy; 2: a case could not be measured or,
with `--benchmark-compare-fail`, could not be compared; 3: bad input. For invalid options,
`python -m pytest tests/tracking` ends with 4, and `python -m tests.tracking` with 3.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.session import PerformanceRegression
from pytest_benchmark.utils import get_machine_id

from bench.cli.gate_command import INVALID
from bench.schema.validation import UserError
from tests.tracking import machine, stored_runs
from tests.tracking.outcomes import MOST_NAMED, OUTCOMES, Outcomes

DEFAULT_STORAGE = "file://./.benchmarks"


def _refuse(config: pytest.Config, reason: str) -> None:
    config.stash[OUTCOMES].refused = True
    pytest.exit(reason, returncode=INVALID)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    machine.prepare()
    option = config.option
    config.stash[OUTCOMES] = Outcomes()
    option.benchmark_save_data = True  # readers of stored runs need the time of each round
    if threading.current_thread() is threading.main_thread():
        # End as with Ctrl-C, so that the finished cases are stored.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if str(option.benchmark_storage) == DEFAULT_STORAGE:
        folder = Path("results/track") / machine.folder_name()
        option.benchmark_storage = f"file://{folder}"
    if option.benchmark_compare_fail and not option.benchmark_compare:
        _refuse(config, "--benchmark-compare-fail needs --benchmark-compare")
    if not option.benchmark_compare:
        return
    storage = str(option.benchmark_storage)
    if "://" in storage and not storage.startswith("file://"):
        _refuse(config, f"runs are compared only from a folder; got --benchmark-storage={storage}")
    folder = Path(storage.removeprefix("file://"))
    try:
        stored_runs.check(
            folder, option.benchmark_compare, machine.machine_info(), get_machine_id()
        )
    except UserError as error:
        _refuse(config, str(error))


def pytest_sessionstart(session: pytest.Session) -> None:
    # As an error, a warning of pytest-benchmark at the end would lose the finished cases.
    no_error = "default::pytest_benchmark.logger.PytestBenchmarkWarning"
    session.config.addinivalue_line("filterwarnings", no_error)


def pytest_benchmark_update_machine_info(machine_info: Any) -> None:
    machine_info.clear()
    machine_info.update(machine.machine_info())


def pytest_benchmark_update_commit_info(commit_info: Any) -> None:
    commit_info["project"] = "attention-benchmark"  # not the name of a folder or of a fork


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_compare_machine_info(machine_info: Any, compared_benchmark: Any) -> None:
    # The facts that times depend on are equal. pytest-benchmark would warn of all others.
    compared_benchmark["machine_info"] = machine_info


def pytest_collection_finish(session: pytest.Session) -> None:
    """Compare only with stored calls of the same case, and say how many of them there are."""
    from tests.tracking.test_tracking import PLANNED

    config = session.config
    if not config.option.benchmark_compare or not session.items:
        return
    names = {
        item.nodeid: item.callspec.params["name"]
        for item in session.items
        if isinstance(item, pytest.Function) and "benchmark" in item.fixturenames
    }
    outcomes = config.stash[OUTCOMES]
    outcomes.selected = names
    report = config.get_terminal_writer()
    for path, stored in config._benchmarksession.compared_mapping.items():
        changed = []
        for fullname in [name for name in stored if name in names]:
            now = PLANNED[names[fullname]].values
            before = stored[fullname]["extra_info"]["case"]
            if before != now:
                del stored[fullname]
                parts = [
                    f"{part} was {before.get(part)!r} and is {value!r}"
                    for part, value in now.items()
                    if before.get(part) != value
                ]
                changed.append(f"{names[fullname]}: {'; '.join(parts)}")
        same = sum(fullname in names for fullname in stored)
        report.line(f"{path} holds {same} of {len(names)} cases")
        for sentence in changed[:MOST_NAMED]:
            report.line(f"not compared: {sentence}")
        if len(changed) > MOST_NAMED:
            report.line(f"not compared: {len(changed) - MOST_NAMED} more cases")
        outcomes.comparable |= set(stored) & set(names)
    if not outcomes.comparable:
        _refuse(config, "the stored runs hold none of the selected cases")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.config.stash[OUTCOMES].add(report, call.excinfo)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(
    session: pytest.Session, exitstatus: int
) -> Generator[None, object, object]:
    config = session.config
    outcomes = config.stash[OUTCOMES]
    benchmarks = config._benchmarksession.benchmarks
    # A case that failed or was interrupted has no time.
    benchmarks[:] = [one for one in benchmarks if one.fullname in outcomes.passed]
    try:
        return (yield)
    except PerformanceRegression:  # its table and its message are printed
        outcomes.regressed = True
        return None
    finally:
        session.exitstatus = outcomes.status(config, int(session.exitstatus))
        for sentence in outcomes.uncompared(config):
            config.get_terminal_writer().line(sentence)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Times are measured with all threads, unlike in other tests."""
