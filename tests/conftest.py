"""Settings of the test run, and shared fixtures.

Warnings are errors only where the installed packages have the tested versions. A newer release of
any package may add a warning; that is not an error of this project.
"""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.versions import ROOT, differing, installed, tested
from variants.engines.gpu import launches
from variants.engines.primitives import float32_route

DIFFERING = differing(tested((ROOT / "constraints.txt").read_text()), installed())
SHOWN = 5


def pytest_configure(config: pytest.Config) -> None:
    if not DIFFERING:
        # A later line has precedence, so the exceptions of pyproject.toml must follow.
        for line in ["error", *config.getini("filterwarnings")]:
            config.addinivalue_line("filterwarnings", line)


def pytest_report_header() -> str:
    if not DIFFERING:
        return "versions: those of constraints.txt; warnings are errors"
    more = f" and {len(DIFFERING) - SHOWN} more" if len(DIFFERING) > SHOWN else ""
    return f"versions: {', '.join(DIFFERING[:SHOWN])}{more}; warnings are no errors"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of interpreted kernels without Triton's interpreter. Without a CUDA device,
    keep one item of each function that needs one. That item is skipped and reports how many items
    it replaces."""
    if not launches.interpreted():
        for item in items:
            if item.get_closest_marker("interpreted"):
                item.add_marker(pytest.mark.skip(reason="needs TRITON_INTERPRET=1"))
    if torch.cuda.is_available():
        return
    functions = {item: item.nodeid.partition("[")[0] for item in items}
    need = Counter(functions[item] for item in items if item.get_closest_marker("gpu"))
    left, seen = [], set()
    for item in items:
        function = functions[item]
        if item.get_closest_marker("gpu"):
            if function in seen:
                continue
            seen.add(function)
            reason = f"needs a CUDA device ({need[function]} items of this function)"
            item.add_marker(pytest.mark.skip(reason=reason))
        left.append(item)
    items[:] = left


MANY = 20  # modules
_exempt = [0]  # number of imported modules whose objects no collection looks at


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import only the files with serial tests if these are asked for, or only those with
    interpreted kernels: importing all files takes as long as many tests."""
    asked = config.option.markexpr
    if asked not in ("serial", "interpreted") or not collection_path.match("test_*.py"):
        return None
    return True if asked not in collection_path.read_text(encoding="utf-8") else None


def pytest_runtest_setup() -> None:
    """Exempt the collected tests and the imported modules from garbage collections. Measurements
    collect garbage several times, and each collection would look at all of these objects."""
    if len(sys.modules) > _exempt[0] + MANY:
        gc.collect()
        gc.freeze()
        _exempt[0] = len(sys.modules)


def pytest_sessionfinish() -> None:
    """Let the end of the process collect everything: triton reports what is left as leaks."""
    gc.unfreeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """End a worker whose CUDA context a test has broken: a new worker has the remaining tests."""
    if "PYTEST_XDIST_WORKER" in os.environ and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except Exception:
            os._exit(1)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Cases are measured in this process, with empty caches."""
    from tests.cases import fresh_worker

    with fresh_worker():
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """torch computes on one thread, here and in processes that a test starts: small tensors gain
    nothing from threads, and threads that wait for each other on a busy machine cost minutes."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("OMP_NUM_THREADS", "1")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(params=["default", "fast"])
def route(request: pytest.FixtureRequest) -> Iterator[float32_route.ROUTES]:
    """Run a test on each route of float32 products, independent of the choice of this machine."""
    float32_route.take(request.param)
    yield request.param
    float32_route.take("default")


@pytest.fixture
def fast_route() -> Iterator[None]:
    """Run a test in a process that has chosen the fast route of float32 products."""
    float32_route.take("fast")
    yield
    float32_route.take("default")
