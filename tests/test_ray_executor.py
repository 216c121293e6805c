"""Calls to workers of a Ray cluster of two nodes on this machine, of which processes are killed."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.loop.executor import CallTimeout, WorkerCall, WorkerDied, WorkerLost
from bench.loop.ray_executor import RayExecutor
from bench.loop.ray_worker import RayWorker
from bench.loop.serving import CallError

pytest.importorskip("ray", reason="needs the package ray")
from ray.cluster_utils import Cluster

from tests.ray_nodes import (
    QUICK,
    STORE,
    alive,
    begin,
    fail,
    leave,
    processes,
    started,
    wait_for,
    where,
)

pytestmark = pytest.mark.serial


class Unreadable(Exception):
    """Can be written by pickle, but not read."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def unreadable() -> None:
    raise Unreadable("one", "two")


def local_function() -> Callable[[], None]:
    return lambda: None


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with one CPU each."""
    two = started()
    two.add_node(num_cpus=1, object_store_memory=STORE)
    yield two
    two.shutdown()


@pytest.fixture(scope="module")
def executor(cluster: Cluster) -> Iterator[RayExecutor]:
    many = RayExecutor(
        WorkerCall(begin),
        on_gpu=False,
        address=cluster.address,
        variables={"ADDED": "1"},
        patience=QUICK,
    )
    yield many
    many.close()


@pytest.fixture
def worker(executor: RayExecutor) -> RayWorker:
    return executor.workers()[0]


def of_node(executor: RayExecutor, node: str) -> RayWorker:
    return next(worker for worker in executor.workers() if worker.machine.node == node)


def test_each_worker_has_its_own_process_and_cores(executor: RayExecutor) -> None:
    workers = executor.workers()
    assert [worker.name for worker in workers] == ["worker 1", "worker 2"]
    assert len({worker.machine.node for worker in workers}) == 2
    first, second = [f.result(60) for f in [w.submit(WorkerCall(where)) for w in workers]]
    assert first["process"] != second["process"]
    assert (first["threads"], first["openmp"], first["added"]) == (1, "1", "1")
    assert first["begun"] == second["begun"] == "begun"
    if len(os.sched_getaffinity(0)) > 1:
        assert len(first["cores"]) == len(second["cores"]) == 1
        assert first["cores"] != second["cores"]
    assert workers[0].submit(WorkerCall(where)).result(60)["process"] == first["process"]


@pytest.mark.parametrize("error", [ValueError("seven", 7), torch.OutOfMemoryError("full")])
def test_exceptions_of_the_function_arrive(worker: RayWorker, error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        worker.submit(WorkerCall(fail, (error,))).result(60)
    assert type(raised.value) is type(error)
    assert raised.value.args == error.args


@pytest.mark.parametrize("error", [SystemExit(4), KeyboardInterrupt(), TimeoutError()])
def test_exceptions_that_would_stop_the_run_are_errors_of_the_call(
    worker: RayWorker, error: BaseException
) -> None:
    process = worker.submit(WorkerCall(where)).result(60)["process"]
    with pytest.raises(CallError, match=type(error).__name__):
        worker.submit(WorkerCall(fail, (error,))).result(60)
    assert worker.submit(WorkerCall(where)).result(60)["process"] == process


def test_what_cannot_be_sent_is_an_error_with_a_text(worker: RayWorker) -> None:
    process = worker.submit(WorkerCall(where)).result(60)["process"]
    with pytest.raises(CallError, match="Unreadable: one and two"):
        worker.submit(WorkerCall(unreadable)).result(60)
    with pytest.raises((AttributeError, pickle.PicklingError, CallError)):
        worker.submit(WorkerCall(local_function)).result(60)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        worker.submit(WorkerCall(local_function())).result(60)
    assert worker.submit(WorkerCall(where)).result(60)["process"] == process


def test_a_call_that_takes_too_long_ends_with_its_processes(
    worker: RayWorker, tmp_path: Path
) -> None:
    worker.submit(WorkerCall(where)).result(60)
    with pytest.raises(CallTimeout):
        worker.submit(WorkerCall(leave, (str(tmp_path),), timeout=2.0)).result(60)
    started = processes(tmp_path)
    wait_for(lambda: not any(map(alive, started)), 10)
    worker.submit(WorkerCall(where)).result(60)


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        (os._exit, (3,), "crashed or was killed"),
        (os.abort, (), "crashed or was killed"),
        (signal.raise_signal, (signal.SIGKILL,), "crashed or was killed"),
    ],
)
def test_a_process_that_dies(
    worker: RayWorker, function: Callable[..., Any], arguments: tuple[Any, ...], text: str
) -> None:
    with pytest.raises(WorkerDied, match=text) as raised:
        worker.submit(WorkerCall(function, arguments)).result(60)
    assert socket.gethostname() not in str(raised.value)
    worker.submit(WorkerCall(where)).result(60)


def test_processes_of_a_killed_worker_end(worker: RayWorker, tmp_path: Path) -> None:
    future = worker.submit(WorkerCall(leave, (str(tmp_path),)))
    started = processes(tmp_path)
    os.kill(started[0], signal.SIGKILL)
    with pytest.raises(WorkerDied):
        future.result(60)
    wait_for(lambda: not any(map(alive, started)), 10)


def test_nodes_join_and_are_lost(cluster: Cluster, executor: RayExecutor, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    wait_for(lambda: len(executor.workers()) == 3, 30)
    joined, other = of_node(executor, node.node_id), executor.workers()[0]
    assert joined.name not in [w.name for w in executor.workers() if w is not joined]
    lost: Future[Any] = joined.submit(WorkerCall(leave, (str(tmp_path),)))
    stays = other.submit(WorkerCall(time.sleep, (4.0,)))
    started = processes(tmp_path)
    node.kill_raylet()
    with pytest.raises(WorkerLost, match=f"machine of {joined.name}"):
        lost.result(20)
    assert stays.result(30) is None
    wait_for(lambda: len(executor.workers()) == 2, 30)
    assert joined not in executor.workers()
    with pytest.raises(WorkerLost):
        joined.submit(WorkerCall(where)).result(30)
    wait_for(lambda: not any(map(alive, started)), 20)
    cluster.remove_node(node, allow_graceful=False)
