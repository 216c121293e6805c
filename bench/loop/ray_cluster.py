"""The connection to a Ray cluster: its machines now, and what to do when its head is lost."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.loop.executor import ExecutorError, WorkerLost
from bench.loop.ray_actor import ActorProcess

__all__ = ["Cluster", "Machine", "Patience", "accepts", "one_line"]

INSTALL = "pip install '.[ray]'"
# Ray ends the process of the run itself when the head is away for this time, 60 s by default. It
# reads the variable when it is imported and when it connects.
AWAY = {"RAY_gcs_rpc_server_reconnect_timeout_s": "86400"}
PRIVATE = {"RAY_USAGE_STATS_ENABLED": "0"}
OWN = (None, "local")  # addresses for which Ray may start a cluster
HANGS = 30.0  # seconds after which the watching thread is taken to wait for ever


@dataclass(frozen=True)
class Patience:
    """Seconds to wait, by reason.

    Args:
        connect: for a first answer of the cluster.
        head: while the head gives no answer, before its workers are given up.
        machines: for a new head or for machines that join, before the run is given up.
    """

    connect: float = 90.0
    head: float = 15.0
    machines: float = 300.0


@dataclass(frozen=True)
class Machine:
    """A node of the cluster. `address` is the network address of its machine, which several nodes
    may share; `port` is that of the node's Ray process."""

    node: str
    address: str
    port: int
    resources: dict[str, float]


class Cluster:
    """A connection that is watched by a thread and made again when it is lost.

    Args:
        address: HOST:PORT of the head, `auto` for the cluster that this machine belongs to, `local`
            for a new cluster of this machine alone, or None for `auto` if there is such a cluster
            and `local` if there is none.
        patience: seconds to wait.

    Raises:
        ExecutorError: Ray is not installed, or there is no cluster.
    """

    def __init__(self, address: str | None, patience: Patience) -> None:
        try:
            with _variables(AWAY):
                import ray  # noqa: F401
        except ImportError as error:
            raise ExecutorError(f"the executor ray needs the package ray: {INSTALL}") from error
        self._address, self.patience = address, patience
        self._machines: tuple[Machine, ...] = ()
        self._gates: tuple[tuple[str, int], ...] = ()  # of the head, and of Ray on this machine
        self.actors: Any = None  # the class of Ray actors
        self._first: Exception | None = None
        self._given_up = ""
        self._asked = threading.Event()
        self._closing = threading.Event()
        self._calls = 0
        self._calls_changed = threading.Condition()
        self.connected = threading.Event()
        self.connection = 0  # number of connections that were made
        self._seen = time.monotonic()
        # Ray replaces the handler of SIGTERM if it connects in the main thread.
        self._watcher = threading.Thread(target=self._watch, name="ray cluster", daemon=True)
        self._watcher.start()
        limit = time.monotonic() + patience.connect
        while not self._asked.wait(0.1) and time.monotonic() < limit:
            pass
        if not self._asked.is_set():
            raise ExecutorError(f"no Ray cluster answered in {patience.connect:g} s at {self}")
        if self._first is not None:
            raise ExecutorError(
                f"no Ray cluster at {self}: {one_line(self._first)}"
            ) from self._first

    def __str__(self) -> str:
        return self._address or "this machine"

    def machines(self) -> tuple[Machine, ...]:
        """The machines of the cluster as last seen; none while there is no connection.

        Raises:
            ExecutorError: the connection is lost for good.
        """
        if self._given_up:
            raise ExecutorError(self._given_up)
        away = time.monotonic() - self._seen
        if away > self.patience.head + self.patience.machines + HANGS:
            raise ExecutorError(f"the head of the Ray cluster gave no answer for {away:.0f} s")
        return self._machines if self.connected.is_set() else ()

    def holds(self, machine: Machine) -> bool:
        """Whether the machine was in the cluster when it was last seen."""
        return any(machine.node == found.node for found in self._machines)

    def answers(self) -> bool:
        """Whether the head and Ray on this machine accept connections now."""
        return all(accepts(*gate) for gate in self._gates)

    @contextmanager
    def call(self, connection: int) -> Iterator[None]:
        """Ray is used in this block, by the connection of this number.

        The connection is not ended before the block ends; a block that waits must end when
        `connected` is no longer set.

        Raises:
            WorkerLost: this connection is lost.
        """
        with self._calls_changed:
            if not self.connected.is_set() or connection != self.connection:
                raise WorkerLost("the head of the Ray cluster cannot be reached")
            self._calls += 1
        try:
            yield
        finally:
            with self._calls_changed:
                self._calls -= 1
                self._calls_changed.notify_all()

    def close(self) -> None:
        """End the connection, and the cluster if it was started here."""
        self._closing.set()
        self._watcher.join(timeout=10.0)

    def _watch(self) -> None:
        try:
            self._connect()
        except Exception as error:
            self._first = error
            self._asked.set()
            return
        self._asked.set()
        while not self._closing.wait(1.0):
            if self.answers():
                self._look()
            elif time.monotonic() - self._seen > self.patience.head and not self._again():
                return
        self._disconnect()

    def _connect(self) -> None:
        import ray

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address and ":" in self._address:
            host, _, port = self._address.rpartition(":")
            if not port.isdigit() or not accepts(host, int(port)):
                raise ConnectionError("the address gives no answer")
        try:
            if self._address == "local":
                raise ConnectionError
            with _variables(AWAY):
                ray.init(self._address or "auto", **options)
        except ConnectionError:
            if self._address not in OWN:
                raise
            # Without AWAY: if the run is killed, processes of Ray would wait for their head.
            with _variables(PRIVATE):
                ray.init("local", include_dashboard=False, **options)
        context = ray.get_runtime_context()
        host, _, port = context.gcs_address.rpartition(":")
        self._gates = ((host, int(port)),)
        self._look()
        own = context.get_node_id()
        self._gates += tuple((m.address, m.port) for m in self._machines if m.node == own)
        self.actors = ray.remote(ActorProcess)  # Ray sends a class to the head once
        self.connection += 1
        self.connected.set()

    def _look(self) -> None:
        import ray

        found: list[dict[str, Any]] = ray.nodes()
        self._machines = tuple(
            Machine(
                node["NodeID"],
                node["NodeManagerAddress"],
                node["NodeManagerPort"],
                dict(node["Resources"]),
            )
            for node in found
            if node["Alive"]
        )
        self._seen = time.monotonic()

    def _again(self) -> bool:
        """End the connection and make a new one. Returns whether this succeeded."""
        limit = time.monotonic() + self.patience.machines
        if not self._disconnect():
            self._given_up = "the head of the Ray cluster is lost, and calls to it do not end"
            return False
        head = self._gates[0]
        why = "no answer"
        while time.monotonic() < limit and not self._closing.wait(1.0):
            if self._address not in OWN and not accepts(*head):
                continue
            try:
                self._connect()
                return True
            except Exception as error:
                why = one_line(error)
        self._given_up = (
            f"the head of the Ray cluster was lost, and no other one was found at {self} in "
            f"{self.patience.machines:g} s: {why}"
        )
        return False

    def _disconnect(self) -> bool:
        """End the connection when no call uses it any more. Returns whether this succeeded."""
        import ray

        with self._calls_changed:
            self.connected.clear()
            if not self._calls_changed.wait_for(lambda: self._calls == 0, timeout=10.0):
                return False
        self._machines = ()
        ray.shutdown()
        return True


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    kept = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def accepts(host: str, port: int, seconds: float = 3.0) -> bool:
    """Whether a process accepts connections at this address."""
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError:
        return False
    return True


def one_line(error: Exception) -> str:
    """The text of an exception on one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
