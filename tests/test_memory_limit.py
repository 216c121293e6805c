"""The memory limit of a worker: real processes that want too much, and simulated control groups."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.loop import memory_limit

resource = pytest.importorskip("resource")
START = "from bench.loop import memory_limit; print(memory_limit.limit_memory(), flush=True)\n"
TOO_MUCH = {
    "torch": "import torch; torch.ones(1 << 44, dtype=torch.uint8)",
    "numpy": "import numpy; numpy.ones(1 << 44, dtype=numpy.uint8)",
    "mmap": "import mmap; mmap.mmap(-1, 1 << 44)",
    "malloc": "import ctypes; libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\n"
    "libc.malloc.argtypes = [ctypes.c_size_t]\n"
    "if not libc.malloc(1 << 44): raise MemoryError",
    "many": "kept = [bytearray(1 << 28) for _ in range(1 << 16)]",
}


def in_process(code: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a process, optionally under a soft limit of the address space."""

    def lower() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        preexec_fn=lower,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("library", TOO_MUCH)
def test_too_much_memory_is_an_error_in_seconds(library: str) -> None:
    small = "memory_limit.available_bytes = lambda: 2 << 30\n"
    code = START.replace("print", f"{small}print")
    started = time.monotonic()
    ended = in_process(f"{code}{TOO_MUCH[library]}")
    assert time.monotonic() - started < 60
    assert ended.stdout.startswith("address space ")
    assert ended.returncode == 1, "not ended by a signal"
    error = ended.stderr.splitlines()[-1]
    assert "emory" in error, error


def test_a_lower_limit_that_exists_is_not_raised() -> None:
    code = f"{START}import resource; print(resource.getrlimit(resource.RLIMIT_AS)[0])"
    ended = in_process(code, limit=3 << 30)
    assert ended.stdout.splitlines() == ["address space 3.2 GB, set before the start", str(3 << 30)]


def test_a_higher_limit_that_exists_is_lowered() -> None:
    code = f"{START}import resource; print(resource.getrlimit(resource.RLIMIT_AS)[1])"
    code = code.replace("print", "memory_limit.available_bytes = lambda: 1 << 30\nprint", 1)
    ended = in_process(code, limit=1 << 45)
    words, limit = ended.stdout.splitlines()
    assert "set before" not in words
    assert int(limit) < 2 << 30


def test_the_limit_under_which_torch_cannot_be_imported_is_named() -> None:
    ask = "from bench.loop import memory_limit; print(memory_limit.reason_of_failed_start())"
    ended = in_process(ask, limit=300 << 20)
    assert "address-space limit of 0.3 GB (ulimit -v 307200) is below" in ended.stdout
    assert in_process(ask, limit=1 << 42).stdout == "\n"
    assert in_process(ask).stdout == "\n"


def test_the_worker_is_the_first_that_the_system_ends() -> None:
    ended = in_process(f"{START}print(open('/proc/self/oom_score_adj').read())")
    assert ended.stdout.split()[-1] == "1000"


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A delegated control group that holds only this process."""
    own = tmp_path / "top" / "scope"
    own.mkdir(parents=True)
    files = {
        "cgroup.controllers": "cpu memory pids\n",
        "cgroup.subtree_control": "\n",
        "cgroup.procs": f"{os.getpid()}\n",
        "memory.max": "5000000000\n",
        "memory.current": "1500000000\n",
        "memory.stat": "anon 7\ninactive_file 500000000\n",
    }
    for name, content in files.items():
        (own / name).write_text(content)
    (own.parent / "memory.max").write_text("max\n")
    (own.parent / "memory.current").write_text("1\n")

    def own_groups(kind: str) -> list[Path]:
        return [own, own.parent] if kind == memory_limit.V2 else []

    monkeypatch.setattr(memory_limit, "_own_groups", own_groups)
    return own


def test_a_delegated_group_is_made_ready_for_workers(groups: Path) -> None:
    assert memory_limit.worker_groups() == str(groups)
    assert (groups / "cgroup.subtree_control").read_text() == "+memory"
    assert (groups / "loop" / "cgroup.procs").read_text() == str(os.getpid())


@pytest.mark.parametrize(
    ("file", "content"),
    [("cgroup.procs", f"1\n{os.getpid()}\n"), ("cgroup.controllers", "cpu pids\n")],
    ids=["others", "without memory"],
)
def test_a_group_of_others_or_without_memory_is_left_alone(
    groups: Path, file: str, content: str
) -> None:
    (groups / file).write_text(content)
    assert memory_limit.worker_groups() is None
    assert not (groups / "loop").exists()
    assert (groups / "cgroup.subtree_control").read_text() == "\n"


def test_a_worker_enters_a_group_of_its_own(groups: Path) -> None:
    words = memory_limit.limit_memory(str(groups))
    own = groups / f"worker-{os.getpid()}"
    limit = int((own / "memory.max").read_text())
    assert limit == int(0.9 * memory_limit.available_bytes())  # type: ignore[operator]
    assert words == f"cgroup {limit / 1e9:.1f} GB"
    assert (own / "memory.swap.max").read_text() == "0"
    assert (own / "cgroup.procs").read_text() == str(os.getpid())


@pytest.mark.parametrize(("kills", "ended"), [(0, False), (1, True)])
def test_the_end_of_a_worker_for_memory_is_known(groups: Path, kills: int, ended: bool) -> None:
    own = groups / "worker-77"
    own.mkdir()
    (own / "memory.events").write_text(f"low 0\nmax 9\noom 3\noom_kill {kills}\n")
    assert memory_limit.ended_for_memory(str(groups), 77) is ended
    assert memory_limit.ended_for_memory(str(groups), 78) is False


def test_a_group_with_less_memory_than_the_machine_bounds_the_available_bytes(groups: Path) -> None:
    assert memory_limit.available_bytes() == 5_000_000_000 - 1_500_000_000 + 500_000_000


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/a/b", "/", ["a/b", "a", "."]),
        ("/job/a", "/job", ["a", "."]),
        ("/", "/", ["."]),
        ("/elsewhere", "/", ["."]),
        ("/../other", "/", ["."]),
    ],
)
def test_the_folders_of_a_group(tmp_path: Path, path: str, root: str, expected: list[str]) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    found = list(memory_limit._upwards(tmp_path, path, root))
    assert found == [(tmp_path / x) for x in expected]
