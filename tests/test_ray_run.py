"""A sweep on two nodes of a Ray cluster, one of which is killed, against the same sweep here."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the package ray")

from tests.ray_nodes import STORE, started, wait_for
from tests.versions import ROOT

pytestmark = pytest.mark.serial

SWEEP = ["--set", "variant=full,linear", "--set", "seq_len=128,256", "--set", "heads=1"]
SWEEP += ["--set", "head_dim=16", "--device", "cpu", "--seconds", "0.5"]


def run(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench", "run", *SWEEP, "--out", str(folder), *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def running(folder: Path) -> int:
    """The number of cases that are being measured."""
    journal = folder / "journal.jsonl"
    if not journal.exists():
        return 0
    events = [line[:40] for line in journal.read_text().splitlines()]
    return sum(('"started"' in line) - ('"result"' in line) for line in events)


def statuses(folder: Path) -> list[tuple[str, ...]]:
    names = ("variant", "implementation", "hyperparameters", "seq_len", "status")
    return [tuple(row[name] for name in names) for row in rows(folder)]


def test_a_run_survives_the_loss_of_a_node(tmp_path: Path) -> None:
    here = run(tmp_path / "here")
    text, _ = here.communicate(timeout=200)
    assert here.returncode == 0, text
    cluster = started()
    try:
        other = cluster.add_node(num_cpus=1, object_store_memory=STORE)
        options = ["--executor", "ray", "--ray-address", cluster.address, "--cpus-per-case", "1"]
        there = run(tmp_path / "there", *options)
        wait_for(lambda: running(tmp_path / "there") == 2 or there.poll() is not None, 150)
        other.kill_raylet()
        text, _ = there.communicate(timeout=200)
        assert there.returncode == 0, text
        cluster.remove_node(other, allow_graceful=False)
    finally:
        cluster.shutdown()
    assert statuses(tmp_path / "there") == statuses(tmp_path / "here")
    lost = [r for r in rows(tmp_path / "there") if r["repeated_because"] == "its machine was lost"]
    assert len(lost) == 1
    assert int(lost[0]["attempts"]) >= 2  # more if other load disturbed an earlier attempt
