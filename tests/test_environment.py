"""The description of a machine: recorded facts, excluded facts, and the comparison of two
machines."""

from __future__ import annotations

import copy
import getpass
import json
import os
import platform
import re
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from bench.instruments import environment
from tests.cases import texts

CPU = torch.device("cpu")


def test_no_host_name_user_name_or_path_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    real = {platform.node(), getpass.getuser(), Path.home().name}
    for name in ("USER", "LOGNAME", "HOSTNAME", "HOME"):
        monkeypatch.setenv(name, "/home/somebody-here")
    for name in ("OMP_TOOL_LIBRARIES", "TORCH_HOME", "CUDA_HOME", "PYTORCH_KERNEL_CACHE_PATH"):
        monkeypatch.setenv(name, f"{os.sep}home{os.sep}somebody-here{os.sep}x")
    monkeypatch.setattr(platform, "node", lambda: "somewhere-here")
    monkeypatch.setattr(socket, "gethostname", lambda: "somewhere-here")
    found = list(texts(environment.describe(CPU)))
    assert len(found) > 20
    for text in found:
        assert os.sep not in text
        assert "somebody-here" not in text
        assert "somewhere-here" not in text
        assert not [name for name in real if name and re.search(rf"\b{re.escape(name)}\b", text)]


def test_the_description_survives_json() -> None:
    described = environment.describe(CPU)
    assert json.loads(json.dumps(described)) == described


def test_software_and_hardware_are_those_of_this_process() -> None:
    described = environment.describe(CPU)
    assert described["software"]["torch"] == torch.__version__
    assert described["software"]["python"] == platform.python_version()
    assert described["hardware"]["threads"] == torch.get_num_threads()
    assert described["hardware"]["cores"] == len(os.sched_getaffinity(0))
    assert described["hardware"]["processor"]
    assert described["hardware"]["gpu"] is None


def test_only_settings_that_change_speed_are_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    monkeypatch.setenv("API_TOKEN", "secret")
    monkeypatch.setenv("OMPI_HOST", "somewhere")
    recorded = environment.describe(CPU)["settings"]
    assert recorded["OMP_NUM_THREADS"] == "2"
    assert recorded["ATEN_CPU_CAPABILITY"] == "avx2"
    assert "API_TOKEN" not in recorded
    assert "OMPI_HOST" not in recorded


def test_a_machine_has_no_difference_to_itself() -> None:
    described = environment.describe(CPU)
    assert environment.differences(described, environment.describe(CPU)) == []


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("hardware", "processor", "Another CPU"),
        ("hardware", "cores", 1000),
        ("hardware", "threads", 1000),
        ("hardware", "gpu", "Another GPU"),
        ("software", "torch", "1.0"),
        ("software", "python", "2.7"),
    ],
)
def test_a_change_that_makes_rows_incomparable_is_a_difference(
    group: str, name: str, value: object
) -> None:
    present = environment.describe(CPU)
    recorded = copy.deepcopy(present)
    recorded[group][name] = value
    assert environment.differences(recorded, present) == [
        f"{name} was {value!r} and is {present[group][name]!r}"
    ]


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("hardware", "system", "Linux 2.6"),
        ("hardware", "memory_bytes", 5),
        ("software", "commit", "0" * 40),
        ("software", "pandas", "0.1"),
        ("settings", "OMP_X", "1"),
    ],
)
def test_a_change_that_keeps_rows_comparable_is_no_difference(
    group: str, name: str, value: object
) -> None:
    present = environment.describe(CPU)
    recorded = copy.deepcopy(present)
    recorded[group][name] = value
    assert environment.differences(recorded, present) == []


def test_settings_of_the_process_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "100")
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    process = environment.describe(CPU)["process"]
    assert process["threads"] == torch.get_num_threads()
    assert process["affinity"] == sorted(os.sched_getaffinity(0))
    assert process["openmp"]["GOMP_SPINCOUNT"] == "100"
    assert process["allocator"] == {"library": "libc", "MALLOC_MMAP_MAX_": "0"}


def test_another_allocator_is_recorded_without_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = "7f00-7f01 r-xp 0 00:00 1 /home/somebody/lib/libjemalloc.so.2\n"
    read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, **n: maps if path.name == "maps" else read(path, **n)
    )
    assert environment.describe(CPU)["process"]["allocator"]["library"] == "jemalloc"


@pytest.mark.parametrize("name", ["openmp", "allocator"])
def test_other_settings_of_the_process_make_rows_incomparable(name: str) -> None:
    present = environment.describe(CPU)
    recorded = copy.deepcopy(present)
    recorded["process"][name] = {"X": "1"}
    assert environment.differences(recorded, present) == [
        f"{name} was {{'X': '1'}} and is {present['process'][name]!r}"
    ]


def test_rows_are_comparable_if_only_the_cores_are_others_or_were_not_recorded() -> None:
    present = environment.describe(CPU)
    recorded = copy.deepcopy(present)
    recorded["process"]["affinity"] = [7, 8]
    assert environment.differences(recorded, present) == []
    del recorded["process"]
    assert environment.differences(recorded, present) == []


def test_a_part_that_was_not_recorded_is_a_difference() -> None:
    present = environment.describe(CPU)
    recorded = copy.deepcopy(present)
    del recorded["software"]["torch"]
    assert environment.differences(recorded, present) == [
        f"torch was None and is {torch.__version__!r}"
    ]


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs /proc/meminfo")
def test_memory_is_counted_in_bytes() -> None:
    total = environment.memory_bytes("MemTotal")
    assert total == pytest.approx(
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01
    )
    available = environment.memory_bytes("MemAvailable")
    assert total is not None
    assert available is not None
    assert 0 < available < total
    assert environment.memory_bytes("NoSuchEntry") is None


def test_memory_is_unknown_where_the_system_does_not_report_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = Path.read_text

    def without_proc(path: Path, *more: str, **named: str) -> str:
        if path.parts[1:2] == ("proc",):
            raise FileNotFoundError
        return read(path, *more, **named)

    monkeypatch.setattr(Path, "read_text", without_proc)
    assert environment.memory_bytes("MemTotal") is None
    hardware = environment.describe(CPU)["hardware"]
    assert hardware["memory_bytes"] is None
    assert hardware["processor"]


class TestCommit:
    @pytest.fixture
    def checkout(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
        return tmp_path

    def git(self, folder: Path, *words: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "core.hooksPath="]
        command = ["git", "-C", str(folder), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def test_the_commit_has_a_plus_sign_if_files_differ_from_it(self, checkout: Path) -> None:
        self.git(checkout, "init", "-q")
        (checkout / "file").write_text("1")
        self.git(checkout, "add", "file")
        self.git(checkout, "commit", "-q", "-m", "one")
        commit = self.git(checkout, "rev-parse", "HEAD")
        assert environment._commit() == commit
        (checkout / "file").write_text("2")
        assert environment._commit() == commit + "+"

    def test_the_commit_is_unknown_outside_a_repository(
        self, checkout: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(checkout.parent))
        assert environment._commit() is None

    def test_the_commit_is_unknown_without_git(
        self, checkout: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(checkout))
        assert environment._commit() is None
