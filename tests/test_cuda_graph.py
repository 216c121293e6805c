"""Calls that are replayed from a CUDA graph: cases, rows, and calls that cannot be recorded."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import inputs
from bench.instruments import clock, cuda_graph, memory, roofline
from bench.instruments.clock import Samples
from bench.loop.run_loop import run
from bench.plan.sweep import parse
from bench.schema.case import Case
from bench.schema.measurement import Measurement, Raw
from bench.schema.outcome import Status
from bench.workloads.attention import measure_case
from bench.workloads.sweep_workload import SweepWorkload
from tests.cases import case, good, limits, settings
from tests.in_process import InProcess
from variants import UnsupportedError
from variants.contract import tensor_cache

pytestmark = [pytest.mark.serial, pytest.mark.usefixtures("fresh")]

CUDA = torch.device("cuda")


def measure(**changes: Any) -> tuple[Measurement, Raw]:
    return measure_case.measure(case(launch="graph", **changes), settings())


class Replays:
    """Stands for a recorded graph on a CPU: it counts replays, and each writes to one place."""

    def __init__(self) -> None:
        self.count = 0

    def recorded(self, call: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
        place = call().clone()

        def replay() -> Tensor:
            self.count += 1
            return place

        return replay


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> Replays:
    fake = Replays()
    monkeypatch.setattr(cuda_graph, "refuse", lambda case: None)
    monkeypatch.setattr(cuda_graph, "recorded", fake.recorded)
    return fake


@pytest.fixture(autouse=True)
def unspoiled() -> Iterator[None]:
    yield
    cuda_graph._failed = False


def test_a_sweep_has_the_axis_and_its_default_keeps_the_identity_of_cases() -> None:
    asked = {"seq_len": [16], "variant": ["linear feature_map=elu"]}
    (eager,) = parse("mine", asked).cases("cpu", {})
    both = parse("mine", asked | {"launch": ["eager", "graph"]}).cases("cpu", {})
    assert eager.launch == "eager"
    assert [one.launch for one in both] == ["eager", "graph"]
    assert both[0].case_id == eager.case_id != both[1].case_id
    assert both[0].shape != both[1].shape  # exact attention is replayed too


def test_a_cpu_has_no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "load", None)  # the case is refused before anything is computed
    row, raw = measure()
    assert row.status is Status.UNSUPPORTED
    assert row.reason == "launch=graph replays a CUDA graph and needs device=cuda; got device=cpu"
    assert not raw.spoiled
    measure_case.measure_exact(case(launch="graph"), settings())


@pytest.mark.parametrize("direction", ["forward", "forward_backward", "decode"])
def test_the_replay_is_timed_and_checked(
    direction: str, replays: Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[Callable[[], object]] = []

    def sample(call: Callable[[], object], *_: Any, warm: bool, **__: Any) -> Samples:
        assert not warm
        timed.append(call)
        return Samples([1.0, 1.0, 1.0], [1.0])

    monkeypatch.setattr(clock, "measure", sample)
    peaks: list[Callable[[], object]] = []
    peak = memory.peak_bytes
    monkeypatch.setattr(memory, "peak_bytes", lambda f, d: (peaks.append(f), peak(f, d))[1])
    row, _ = measure(direction=direction, causal=True)
    assert row.status is Status.OK, row.reason
    assert {call.__qualname__ for call in timed} == {"Replays.recorded.<locals>.replay"}
    assert replays.count > 0
    # The memory is that of the call: a replay allocates nothing.
    assert not set(map(id, peaks)) & set(map(id, timed))
    eager = measure_case.measure(case(direction=direction, causal=True), settings())[0]
    assert row.peak_memory_bytes == eager.peak_memory_bytes
    assert row.approx_error_rel_l2 == eager.approx_error_rel_l2


def test_a_wrong_replay_is_incorrect(replays: Replays, monkeypatch: pytest.MonkeyPatch) -> None:
    right = replays.recorded

    def wrong(call: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
        replay = right(call, device)
        return lambda: replay() * 1.01

    monkeypatch.setattr(cuda_graph, "recorded", wrong)
    assert measure()[0].status is Status.INCORRECT


def test_exact_attention_is_replayed_on_the_inputs_of_the_eager_case(
    replays: Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Case] = []
    load = inputs.load
    monkeypatch.setattr(
        inputs, "load", lambda asked, files: (loads.append(asked), load(asked, files))[1]
    )
    measure_case.measure(case(), settings())
    assert replays.count == 0
    row, _ = measure()
    assert row.exact_ms_median is not None
    assert len(loads) == 1


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The functions of torch.cuda that a recording uses, on a CPU. Counts recordings."""
    counts = {"recordings": 0}

    class Recording:
        def __init__(self, graph: object, stream: object) -> None:
            counts["recordings"] += 1

        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None:
            if error[0] is not None:
                raise RuntimeError("operation failed due to a previous error during capture")

    class Graph:
        def replay(self) -> None: ...

    mode = [0]
    monkeypatch.setattr(cuda_graph, "_side_stream", lambda device: nullcontext())
    cuda = {
        "synchronize": lambda device: None,
        "current_stream": lambda device: None,
        "CUDAGraph": Graph,
        "graph": Recording,
        "get_sync_debug_mode": lambda: mode[0],
        "set_sync_debug_mode": lambda wanted: mode.__setitem__(0, wanted),
    }
    for name, function in cuda.items():
        monkeypatch.setattr(torch.cuda, name, function)
    counts["mode"] = mode  # type: ignore[assignment]
    return counts


def test_a_call_that_waits_is_refused_before_it_is_recorded(no_cuda: dict[str, Any]) -> None:
    def call() -> Tensor:
        if no_cuda["mode"][0] == "error":
            raise RuntimeError("called a synchronizing CUDA operation\nmore")
        return torch.zeros(1)

    with pytest.raises(
        UnsupportedError,
        match=r"waits for the device cannot be recorded: called a synchronizing CUDA operation$",
    ):
        cuda_graph.recorded(call, CUDA)
    assert no_cuda["recordings"] == 0
    assert no_cuda["mode"] == [0]
    assert not cuda_graph.spoiled()


def test_another_error_of_a_call_is_not_a_wait(no_cuda: dict[str, Any]) -> None:
    def call() -> Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        cuda_graph.first_wait(call)
    assert no_cuda["mode"] == [0]


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (ValueError("no graph"), UnsupportedError, "recorded as a CUDA graph: no graph"),
        (torch.OutOfMemoryError("full"), torch.OutOfMemoryError, "full"),
    ],
)
def test_a_failed_recording_spoils_the_process(
    error: Exception, expected: type[Exception], message: str, no_cuda: dict[str, Any]
) -> None:
    def call() -> Tensor:
        if no_cuda["recordings"]:
            raise error
        return torch.zeros(1)

    with pytest.raises(expected, match=message):
        cuda_graph.recorded(call, CUDA)
    assert cuda_graph.spoiled()


def test_kept_tensors_are_made_before_the_recording(no_cuda: dict[str, Any]) -> None:
    recordings: list[int] = []

    def call() -> Tensor:
        recordings.append(no_cuda["recordings"])
        return torch.zeros(1)

    replay = cuda_graph.recorded(call, CUDA)
    assert recordings == [0] * (cuda_graph.WARM_UP_CALLS + 1) + [1]
    assert replay() is replay()


def test_a_replay_holds_the_tensors_that_were_kept(no_cuda: dict[str, Any]) -> None:
    @tensor_cache.cached
    def table(length: int) -> Tensor:
        return torch.arange(length)

    replay = cuda_graph.recorded(lambda: table(7) * 2, CUDA)
    place = weakref.ref(table(7))
    tensor_cache.clear()
    assert place() is not None
    del replay
    assert place() is None


def test_the_stream_is_left_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[tuple[object, object]] = []

    class Stream:
        def wait_stream(self, other: object) -> None:
            waits.append((self, other))

    outer, own = Stream(), Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: outer)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: own)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    with pytest.raises(LookupError), cuda_graph._side_stream(CUDA):
        raise LookupError
    assert waits == [(own, outer), (outer, own)]


def test_no_baseline_is_measured_after_a_failed_recording(
    replays: Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def failing(call: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
        tried.append(1)
        cuda_graph._failed = True
        raise UnsupportedError("cannot be recorded")

    monkeypatch.setattr(cuda_graph, "recorded", failing)
    measure_case.measure_exact(case(launch="graph"), settings())
    assert len(tried) == 1


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_spoiled_process_is_replaced(
    spoiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(asked: Case, *_: Any) -> tuple[Measurement, Raw]:
        return good(asked), Raw([1.0], spoiled=spoiled)

    monkeypatch.setattr(measure_case, "measure", refused)
    monkeypatch.setattr(measure_case, "measure_exact", lambda *_: None)
    monkeypatch.setattr(roofline, "measure_device", limits)
    sweep = parse("mine", {"seq_len": [16, 32], "variant": ["linear feature_map=elu"]})
    worker = InProcess()
    run(SweepWorkload(sweep, "cpu", {}, 0.1, 60.0), tmp_path / "run", worker)
    assert worker.replaced == (2 if spoiled else 0)


@pytest.mark.gpu
@pytest.mark.parametrize("direction", ["forward", "forward_backward", "decode"])
def test_a_gpu_replays_every_direction(direction: str) -> None:
    asked = case(
        device="cuda", dtype="bfloat16", launch="graph", direction=direction, causal=True, heads=4
    )
    row, raw = measure_case.measure(asked, settings(seconds=0.05))
    assert row.status is Status.OK, row.reason
    assert row.exact_ms_median is not None
    assert not raw.spoiled
    eager = measure_case.measure(replace(asked, launch="eager"), settings(seconds=0.05))[0]
    assert (row.wall_ms_median or 1.0) < (eager.wall_ms_median or 0.0)


@pytest.mark.gpu
def test_a_gpu_refuses_a_call_that_waits_and_goes_on() -> None:
    x = torch.ones(8, device="cuda")
    with pytest.raises(UnsupportedError, match="waits for the device"):
        cuda_graph.recorded(lambda: x * float(x.sum()), CUDA)
    replay = cuda_graph.recorded(lambda: x * 2, CUDA)
    x.fill_(3.0)
    assert replay().tolist() == [6.0] * 8
    assert not cuda_graph.spoiled()
