"""Machines of a Ray cluster that are refused, and a head that is lost."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.loop.executor import ExecutorError, WorkerCall, WorkerDied, WorkerLost
from bench.loop.ray_actor import NodePlace, cores_of
from bench.loop.ray_executor import RayExecutor
from bench.loop.ray_worker import death

pytest.importorskip("ray", reason="needs the package ray")
from ray.cluster_utils import Cluster

from tests.ray_nodes import (
    QUICK,
    STORE,
    alive,
    begin,
    fail,
    free_port,
    kill_head,
    leave,
    processes,
    started,
    wait_for,
    where,
)
from tests.versions import ROOT

pytestmark = pytest.mark.serial


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node with one CPU."""
    one = started()
    yield one
    one.shutdown()


def test_two_workers_never_share_a_gpu(cluster: Cluster) -> None:
    """Ray believes the number of GPUs that it is told; two nodes here have the same ones."""
    options = {"num_cpus": 0, "object_store_memory": STORE}
    both = cluster.add_node(num_gpus=2, **options)
    many = RayExecutor(WorkerCall(begin), on_gpu=True, address=cluster.address, patience=QUICK)
    again = None
    try:
        first, second = many.workers()
        seen = [f.result(60) for f in [w.submit(WorkerCall(where)) for w in (first, second)]]
        assert sorted(place["devices"] for place in seen) == ["0", "1"]
        assert {first.device, second.device} == {"0", "1"}
        again = cluster.add_node(num_gpus=1, **options)
        wait_for(lambda: len(many.workers()) == 3, 30)
        third = many.workers()[2]
        with pytest.raises(WorkerLost, match=r"it was given the device of worker [12]"):
            third.submit(WorkerCall(where)).result(60)
        assert many.workers() == [first, second]
    finally:
        many.close()
        cluster.remove_node(both)
        if again is not None:
            cluster.remove_node(again)


def test_machines_that_cannot_start_a_worker_are_not_used(cluster: Cluster) -> None:
    start = WorkerCall(fail, (FileNotFoundError("no log"),))
    many = RayExecutor(start, on_gpu=False, address=cluster.address, patience=QUICK)
    try:
        with pytest.raises(WorkerLost, match="FileNotFoundError: no log"):
            many.workers()[0].submit(WorkerCall(where)).result(60)
        with pytest.raises(ExecutorError, match="FileNotFoundError: no log"):
            many.workers()
    finally:
        many.close()


def test_a_cluster_without_the_device(cluster: Cluster) -> None:
    many = RayExecutor(
        WorkerCall(begin), on_gpu=False, cpus_per_case=64, address=cluster.address, patience=QUICK
    )
    try:
        with pytest.raises(ExecutorError, match="has 64 CPUs"):
            many.workers()
    finally:
        many.close()


def test_there_is_no_cluster() -> None:
    with pytest.raises(ExecutorError, match=r"no Ray cluster at 127.0.0.1:.*no answer"):
        RayExecutor(WorkerCall(begin), on_gpu=False, address=f"127.0.0.1:{free_port()}")


def test_ray_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExecutorError, match=r"pip install '\.\[ray\]'"):
        RayExecutor(WorkerCall(begin), on_gpu=False)


def test_the_head_is_lost_and_comes_back(tmp_path: Path) -> None:
    port = free_port()
    head = started(gcs_server_port=port)
    patience = dataclasses.replace(QUICK, machines=40.0)
    many = RayExecutor(WorkerCall(begin), on_gpu=False, address=head.address, patience=patience)
    try:
        worker = many.workers()[0]
        lost = worker.submit(WorkerCall(leave, (str(tmp_path),)))
        begun = processes(tmp_path)
        kill_head(head)
        with pytest.raises(WorkerLost):
            lost.result(30)
        wait_for(lambda: many.workers() == [], 30)
        worker.replace()
        wait_for(lambda: not any(map(alive, begun)), 30)
        head = started(gcs_server_port=port)
        wait_for(lambda: bool(many.workers()), 60)
        assert many.workers()[0].submit(WorkerCall(where)).result(60)["begun"] == "begun"
        many.cluster.patience = dataclasses.replace(patience, machines=2.0)
        head.head_node.kill_gcs_server()  # and the node lives
        with pytest.raises(ExecutorError, match="no other one was found"):
            wait_for(lambda: many.workers() is None, 30)
    finally:
        many.close()
        head.shutdown()


DRIVER = """
import signal, sys, time
from concurrent.futures import wait
from bench.loop.executor import WorkerCall
from bench.loop.ray_executor import RayExecutor
from tests.ray_nodes import begin, leave

executor = RayExecutor(WorkerCall(begin), on_gpu=False, address="local")
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
try:
    future = executor.workers()[0].submit(WorkerCall(leave, (sys.argv[1],)))
    while not future.done():
        wait([future], timeout=0.1)
finally:
    executor.close()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_stays_when_the_run_ends(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as run:
        wait_for(lambda: (tmp_path / "processes").exists() or run.poll() is not None, 60)
        assert run.poll() is None, run.stderr
        # The agents of a node of Ray end when they have not found their head for a minute.
        inside = [
            child.pid
            for child in psutil.Process(run.pid).children(recursive=True)
            if not child.name().endswith("Agent")
        ]
        inside += processes(tmp_path)
        run.send_signal(number)
        wait_for(lambda: not any(map(alive, inside)), 20)
        assert run.wait(20) != 0


def test_two_places_never_share_a_core() -> None:
    cores = [0, 2, 4, 1, 3, 5]
    found = [cores_of(NodePlace(index, 2), cores) for index in range(4)]
    assert found == [[0, 2], [4, 1], [3, 5], ()]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("Worker exits with an exit code 4.", WorkerDied, "exit status 4"),
        ("exit code 1. The process receives a SIGTERM.", WorkerLost, "SIGTERM"),
        ("Task was killed due to the node running low on memory.", WorkerDied, "out of memory"),
        ("exits with a connection error code 2. End of file.", WorkerDied, "crashed or was killed"),
        ("something new", WorkerDied, "ended"),
    ],
)
def test_texts_of_ray(text: str, error: type[Exception], message: str) -> None:
    found = death(text)
    assert type(found) is error
    assert message in str(found)
