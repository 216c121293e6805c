"""`make track`: the content of stored runs, and the refusal to compare what cannot be compared."""

from __future__ import annotations

import copy
import getpass
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.stats import Stats
from pytest_benchmark.utils import get_machine_id

import variants
from bench.cli.gate_command import FINE, INVALID, NOT_MEASURED, REGRESSION
from bench.schema.case import Case
from bench.schema.machine_kind import differences, fingerprint
from bench.schema.measurement import Measurement
from bench.schema.tracking_file import read_tracking_file
from bench.schema.validation import FileError
from tests.tracking import stored_runs
from tests.tracking.planned import planned

ROOT = Path(__file__).parent.parent
ONE = "linear-forward-256"
FOLDER = get_machine_id()  # in which pytest-benchmark stores runs
# A plugin that measures no limits of the machine, which takes seconds.
FAST = """
from bench.instruments import roofline

limits = {"matmul_tflops": {"float32": 0.1, "bfloat16": 0.1}, "read_gb_per_s": 10.0}
roofline.measure = lambda *_: limits
"""
# A plugin that breaks two variants: one has a wrong output, and one ends the process.
FAULTS = """
import os, signal, variants

def replace(name, change):
    cls = variants.REGISTRY[name]
    attend = cls.attend
    cls.attend = lambda self, *given: change(attend(self, *given))

replace("lsh", lambda out: 1.0001 * out)
replace("performer", lambda out: os.kill(os.getpid(), signal.SIGTERM))
"""

# A plugin with a variant that supports only training.
UNSUPPORTED = """
import torch, variants

cls = variants.REGISTRY["linear"]
before = cls.attend

def attend(self, *given):
    if not torch.is_grad_enabled():
        raise variants.UnsupportedError("only training is supported")
    return before(self, *given)

cls.attend = attend
"""


def track(
    *options: str | Path, cwd: Path = ROOT, plugins: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m tests.tracking` with few rounds, and with the plugins of a folder."""
    command = [sys.executable, "-m", "tests.tracking", "-p", "no:cacheprovider", "-q"]
    command += ["--benchmark-max-time=0.01", *map(str, options)]
    # pytest-benchmark measures nothing in a worker of xdist.
    own = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    for plugin in plugins.glob("*.py") if plugins else ():
        command += ["-p", plugin.stem]
    own["PYTHONPATH"] = os.pathsep.join(map(str, filter(None, [ROOT, plugins])))
    return subprocess.run(command, cwd=cwd, env=own, capture_output=True, text=True)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a stored run of three calls."""
    folder = tmp_path_factory.mktemp("track")
    selected = "linear-forward-256 or linear-forward_backward-256 or linear-decode-256"
    done = track("-k", selected, f"--benchmark-storage={folder}", "--benchmark-save=one")
    assert done.returncode == FINE, done.stdout + done.stderr
    (path,) = folder.rglob("*_one.json")
    return path


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "tracking_fast.py").write_text(FAST)
    return folder


@pytest.fixture
def run(stored: Path) -> dict[str, Any]:
    """The content of the stored run, which a test may change."""
    return json.loads(stored.read_text())


def write(run: dict[str, Any], folder: Path) -> Path:
    """Store a run in a folder as pytest-benchmark does; its fingerprint is that of its facts."""
    run["machine_info"]["fingerprint"] = fingerprint(run["machine_info"])
    path = folder / FOLDER / "0001_run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run))
    return path


def of_other_threads(run: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(run)
    changed["machine_info"]["hardware"]["threads"] = 99
    return changed


def difference(run: dict[str, Any]) -> str:
    return f"threads was 99 and is {run['machine_info']['hardware']['threads']}"


def test_a_stored_run_has_the_documented_numbers_by_the_names_of_the_columns(
    run: dict[str, Any],
) -> None:
    machine = run["machine_info"]
    assert machine["schema"] == "attention-tracking-1"
    assert machine["fingerprint"] == fingerprint(machine)
    found = {one["name"]: one for one in run["benchmarks"]}
    ends = {"forward": "forward", "backward": "forward_backward", "decode": "decode"}
    for direction in ends.values():
        one = found[f"test_time_of_a_call[linear-{direction}-256]"]
        assert one["fullname"] == f"tests/tracking/test_tracking.py::{one['name']}"
        assert one["group"] == f"{direction} n=256"
        assert len(one["stats"]["data"]) == one["stats"]["rounds"] >= 5
        info = one["extra_info"]
        assert info.pop("implementation_used") == ("step" if direction == "decode" else "chunks")
        case = info.pop("case")
        assert list(case) == list(Case.columns())
        assert (case["variant"], case["direction"], case["seq_len"]) == ("linear", direction, 256)
        assert set(info) <= set(Measurement.columns())
        own = {"forward": {"useful_flops"}, "decode": set()}
        own["forward_backward"] = {"useful_flops", "saved_for_backward_bytes"}
        assert set(info) - {"roofline_fraction"} == own[direction] | {
            "peak_memory_bytes",
            "approx_error_rel_l2",
            "impl_error_rel_l2",
            "exact_ms_median",
            "speedup_vs_exact",
        }
        assert 0 < info.get("roofline_fraction", 0.5) < 1.05
        median = 1e3 * one["stats"]["median"]
        assert info["speedup_vs_exact"] == pytest.approx(info["exact_ms_median"] / median)
        assert 0.1 < info["approx_error_rel_l2"] < 10
        assert info["impl_error_rel_l2"] < 1e-5
    forward = found["test_time_of_a_call[linear-forward-256]"]["extra_info"]
    # Output, and the features of query and key, each 1 × 2 × 256 × 64 of float32.
    assert forward["peak_memory_bytes"] >= 3 * 2 * 256 * 64 * 4


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("hardware", {"threads": 1}),
        ("software", {"torch": "1.0"}),
        ("settings", {"MALLOC_TOP_PAD_": "1"}),
        ("settings", {"KMP_BLOCKTIME": "0"}),
        ("process", {"allocator": {"library": "jemalloc"}}),
        ("software", {"pandas": "1.0"}),
        ("hardware", {"system": "Linux 1"}),
    ],
)
def test_machines_differ_in_words_if_their_fingerprints_do(
    part: str, changed: dict[str, Any]
) -> None:
    before = {
        "hardware": {"processor": "Some CPU", "cores": 4, "threads": 4, "system": "Linux 2"},
        "software": {"python": "3.11.7", "torch": "2.13.0", "pandas": "2.0"},
        "settings": {"OMP_NUM_THREADS": "4"},
        "process": {"allocator": {"library": "libc"}},
    }
    after = {**before, part: {**before[part], **changed}}
    matters = not set(changed) & {"pandas", "system"}
    assert (fingerprint(before) != fingerprint(after)) == matters
    assert len(differences(before, after)) == matters


def test_the_machine_is_described_without_its_name(stored: Path, run: dict[str, Any]) -> None:
    assert run["machine_info"]["hardware"]["processor"]
    assert run["machine_info"]["hardware"]["threads"] >= 1
    text = stored.read_text()
    for name in (platform.node(), str(ROOT), str(Path.home())):
        assert name not in text
    assert f'"{getpass.getuser()}"' not in text


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_variant_and_implementation_has_a_name_at_three_lengths(device: str) -> None:
    cases = planned(device)
    assert {"linear-forward", "linear/chunks-forward", "linear-feature_map:relu-decode"} <= {
        name.rpartition("-")[0] for name in cases
    }
    for variant, cls in variants.REGISTRY.items():
        for implementation in ("auto", *cls.info.implementations):
            lengths = {
                case.seq_len
                for case in cases.values()
                if (case.variant, case.attention.implementation) == (variant, implementation)
                and case.direction == "forward"
            }
            assert len(lengths) == 3 or (device, len(lengths)) == ("cuda", 2), variant


def test_times_of_another_machine_are_refused_and_the_difference_is_named(
    run: dict[str, Any], tmp_path: Path
) -> None:
    path = write(of_other_threads(run), tmp_path)
    content = path.read_bytes()
    done = track("-k", ONE, f"--benchmark-compare={path}", f"--benchmark-storage={tmp_path}/new")
    assert done.returncode == INVALID
    assert str(path) in done.stderr
    assert difference(run) in done.stderr
    assert path.read_bytes() == content
    with pytest.raises(stored_runs.RefusedError, match=difference(run)):
        stored_runs.check(tmp_path, True, run["machine_info"], FOLDER)
    with pytest.raises(stored_runs.RefusedError, match=difference(run)):
        stored_runs.check(tmp_path, "0001", run["machine_info"], FOLDER)


def test_a_missing_run_names_the_other_machines(run: dict[str, Any], tmp_path: Path) -> None:
    write(of_other_threads(run), tmp_path / "other")
    with pytest.raises(stored_runs.RefusedError, match=r"holds no stored run to compare") as raised:
        stored_runs.check(tmp_path / "this", True, run["machine_info"], FOLDER)
    assert f"{tmp_path / 'other'}: {difference(run)}" in str(raised.value)
    path = write(run, tmp_path / "this")
    stored_runs.check(path.parents[1], True, run["machine_info"], FOLDER)
    with pytest.raises(stored_runs.RefusedError, match="no stored run 0007 to compare"):
        stored_runs.check(path.parents[1], "0007", run["machine_info"], FOLDER)


def test_a_comparison_without_stored_runs_prints_the_next_step(tmp_path: Path) -> None:
    done = track("-k", ONE, "--benchmark-compare", cwd=tmp_path)
    assert done.returncode == INVALID
    assert "holds no stored run to compare with; `make track` stores one" in done.stderr


def _without_median(run: dict[str, Any]) -> None:
    del run["benchmarks"][0]["stats"]["median"]


def _other_schema(run: dict[str, Any]) -> None:
    run["machine_info"]["schema"] = "attention-tracking-0"


def _other_fact(run: dict[str, Any]) -> None:
    run["machine_info"]["software"]["torch"] = "1.0.0"


def _no_number(run: dict[str, Any]) -> None:
    run["benchmarks"][0]["stats"]["max"] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_median, "expected the name median"),
        (_other_schema, "expected the schema attention-tracking-1"),
        (_other_fact, "was changed after it was stored"),
        (_no_number, "max"),
        (lambda run: run["benchmarks"].clear(), "benchmarks"),
        (lambda run: run.clear(), "expected the schema"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused(
    run: dict[str, Any], tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    change(run)
    path = tmp_path / "0001_run.json"
    path.write_text(json.dumps(run))
    with pytest.raises(FileError, match=message) as raised:
        read_tracking_file(path)
    assert str(path) in str(raised.value)


def test_a_truncated_last_run_is_refused_and_stays_as_it_is(
    stored: Path, run: dict[str, Any], tmp_path: Path
) -> None:
    whole = write(run, tmp_path)
    broken = whole.with_name("0002_run.json")
    broken.write_text(stored.read_text()[:5000])
    storage = (f"--benchmark-storage={tmp_path}", "--benchmark-autosave")
    done = track("-k", ONE, "--benchmark-compare", *storage)
    assert done.returncode == INVALID
    assert f"{broken} is not a JSON file" in done.stderr
    assert broken.read_text() == stored.read_text()[:5000]
    assert sorted(whole.parent.iterdir()) == [whole, broken]


def test_a_regression_ends_with_1_and_names_the_call(
    run: dict[str, Any], tmp_path: Path, plugins: Path
) -> None:
    for one in run["benchmarks"]:
        times = Stats()
        for time in one["stats"]["data"]:
            times.update((0.01 if "decode" in one["name"] else 100) * time)
        one["stats"] |= {**times.as_dict(), "data": times.data}
    path = write(run, tmp_path)
    compare = (f"--benchmark-compare={path}", "--benchmark-compare-fail=median:50%")
    both = track("-k", "linear-forward-256 or linear-decode-256", *compare, plugins=plugins)
    assert both.returncode == REGRESSION, both.stdout + both.stderr
    assert "holds 2 of 2 cases" in both.stdout
    regressed = [line for line in both.stderr.splitlines() if "Field 'median' has failed" in line]
    assert ["linear-decode-256" in line for line in regressed] == [True]
    assert "Traceback" not in both.stdout + both.stderr
    faster = track("-k", ONE, *compare, plugins=plugins)
    assert faster.returncode == FINE, faster.stdout + faster.stderr


def test_a_limit_is_judged_only_if_all_cases_can_be_compared(
    run: dict[str, Any], tmp_path: Path, plugins: Path
) -> None:
    (plugins / "tracking_unsupported.py").write_text(UNSUPPORTED)
    path = write(run, tmp_path)
    selected = ("-k", "linear-forward-256 or linear-forward_backward-256 or lsh-forward-256")
    limit = (f"--benchmark-compare={path}", "--benchmark-compare-fail=median:100000%")
    done = track(*selected, *limit, plugins=plugins)
    assert done.returncode == NOT_MEASURED, done.stdout + done.stderr
    assert "not compared: 1 case without a stored time: lsh-forward-256\n" in done.stdout
    assert (
        "not compared: 1 case with a stored time, not measured now: linear-forward-256 "
        "(only training is supported)\n"
    ) in done.stdout, done.stdout


def test_a_call_with_other_settings_is_not_compared(run: dict[str, Any], tmp_path: Path) -> None:
    run["benchmarks"][0]["extra_info"]["case"]["heads"] = 64
    path = write(run, tmp_path)
    name = run["benchmarks"][0]["param"]
    done = track("-k", name, f"--benchmark-compare={path}")
    assert done.returncode == INVALID
    assert f"not compared: {name}: heads was 64 and is 2" in done.stdout
    assert "the stored runs hold none of the selected cases" in done.stdout


def test_finished_calls_are_stored_when_one_fails_and_another_ends_the_run(
    tmp_path: Path, plugins: Path
) -> None:
    (plugins / "tracking_faults.py").write_text(FAULTS)
    names = (ONE, "lsh-forward-256", "performer-forward-256")
    storage = (f"--benchmark-storage={tmp_path}", "--benchmark-autosave")
    done = track("-k", " or ".join(names), *storage, plugins=plugins)
    assert done.returncode == REGRESSION, done.stdout + done.stderr
    assert "the output differs from the dense definition of lsh by 0.0001" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    (path,) = tmp_path.glob("*/0001_*.json")
    stored = read_tracking_file(path).benchmarks
    assert [one.name for one in stored] == [f"test_time_of_a_call[{ONE}]"]
    alone = track("-k", "performer-forward-256", *storage, plugins=plugins)
    assert alone.returncode == NOT_MEASURED
    assert list(path.parent.glob("*.json")) == [path]


def test_input_that_selects_nothing_ends_with_3() -> None:
    assert track("-k", "nothing_has_this_name").returncode == INVALID
    assert track("--benchmark-compare-fail=median:1.5%").returncode == INVALID
