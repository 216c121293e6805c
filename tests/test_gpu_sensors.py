"""Clock, power, throttling and energy of a GPU, with a simulated driver library and sensors."""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.instruments import energy, environment, gpu_sensors
from bench.instruments import more_columns as instruments
from bench.instruments.gpu_sensors import Nvml, SensorState, Watch, sensors_of
from bench.schema.outcome import Status
from bench.workloads.attention import measure_case
from tests.cases import case, fresh_worker, settings
from tests.fake_gpu import FakeGpu, on_fake_gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FAILED = 3  # NVML_ERROR_NOT_SUPPORTED


class Driver:
    """The functions of NVML that are used, for one GPU. A value of None is not supported."""

    def __init__(self, **changes: Any) -> None:
        values: dict[str, Any] = {
            "nvmlDeviceGetClockInfo": 1755,
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetPowerUsage": 123_000,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0,
            "nvmlDeviceGetTotalEnergyConsumption": 5_000_000_000_000,
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetMaxClockInfo": 1980,
        }
        self._values = values | changes
        self.instant: int | None = 345_000
        self.lacks: set[str] = set()
        self.uuid, self.bus, self.starts = b"GPU-1", b"00000000:1b:00.0", True

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in self.lacks:
            raise AttributeError(name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name not in self._values:
            raise AttributeError(name)

        def function(handle: ctypes.c_void_p, *arguments: Any) -> int:
            assert handle.value == 77
            if (value := self._values[name]) is None:
                return FAILED
            arguments[-1]._obj.value = value
            return 0

        return function

    def nvmlInit_v2(self) -> int:
        return 0 if self.starts else FAILED

    def _handle(self, known: bytes, asked: bytes, handle: Any) -> int:
        handle._obj.value = 77
        return 0 if asked == known else FAILED

    def nvmlDeviceGetHandleByUUID(self, asked: bytes, handle: Any) -> int:
        return self._handle(self.uuid, asked, handle)

    def nvmlDeviceGetHandleByPciBusId_v2(self, asked: bytes, handle: Any) -> int:
        return self._handle(self.bus, asked, handle)

    def nvmlSystemGetDriverVersion(self, text: Any, size: int) -> int:
        text.value = b"580.95"
        return 0

    def nvmlDeviceGetFieldValues(self, handle: Any, count: int, values: Any) -> int:
        assert (count, values._obj.field) == (1, gpu_sensors.POWER_INSTANT)
        if self.instant is None:
            values._obj.status = FAILED
        else:
            values._obj.value = self.instant
        return 0


def opened(driver: Driver, uuid: str = "GPU-1", bus: str = "00000000:1b:00.0") -> Nvml:
    found = Nvml.of(driver, uuid, bus)
    assert found is not None
    return found


class TestNvml:
    def test_values_have_the_units_of_their_names(self) -> None:
        sensors = opened(Driver())
        assert sensors.read() == SensorState(1755.0, 345.0, 61.0, ())
        assert sensors.energy_mj() == 5e12
        assert sensors.facts() == {
            "driver": "580.95",
            "highest_sm_clock_mhz": 1980.0,
            "power_limit_w": 700.0,
            "counts_energy": True,
        }

    def test_sensors_that_a_gpu_lacks_are_empty(self) -> None:
        driver = Driver(**dict.fromkeys(Driver()._values))
        driver.instant = None
        sensors = opened(driver)
        assert sensors.read() == SensorState()
        assert sensors.energy_mj() is None
        assert sensors.facts()["counts_energy"] is False

    def test_a_driver_without_the_functions_has_no_values(self) -> None:
        driver = Driver()
        driver._values.clear()
        driver.lacks = {"nvmlSystemGetDriverVersion", "nvmlDeviceGetFieldValues"}
        sensors = opened(driver)
        assert sensors.read() == SensorState()
        assert sensors.energy_mj() is None
        assert sensors.facts()["driver"] is None

    def test_older_gpus_have_the_usual_power(self) -> None:
        driver = Driver()
        driver.instant = None
        assert opened(driver).read().power_w == 123.0

    @pytest.mark.parametrize(
        ("bits", "names"),
        [
            (0x1 | 0x2 | 0x10 | 0x100, ()),  # idle, or clocks that a user set
            (0x4, ("power limit",)),
            (0x20 | 0x40, ("temperature, by the driver", "temperature, by the hardware")),
        ],
    )
    def test_only_some_reasons_for_a_lower_clock_are_throttling(
        self, bits: int, names: tuple[str, ...]
    ) -> None:
        driver = Driver(nvmlDeviceGetCurrentClocksThrottleReasons=bits)
        assert opened(driver).read().throttling == names

    def test_the_gpu_is_found_by_its_uuid_or_its_address(self) -> None:
        assert Nvml.of(Driver(), "MIG-5", "00000000:1b:00.0") is not None
        assert Nvml.of(Driver(), "", "00000000:1c:00.0") is None
        stopped = Driver()
        stopped.starts = False
        assert Nvml.of(stopped, "GPU-1", "") is None


@pytest.fixture
def no_cache() -> None:
    sensors_of.cache_clear()


@pytest.mark.usefixtures("no_cache")
class TestSensorsOf:
    def test_a_cpu_has_none(self) -> None:
        assert sensors_of(CPU) is None
        assert gpu_sensors.described(CPU) is None
        assert environment.describe(CPU)["gpu_sensors"] is None

    def test_without_the_library_there_are_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu_sensors, "LIBRARY", "libno-such-library.so.1")
        assert sensors_of(CUDA) is None

    def test_the_library_is_asked_for_the_device_of_torch(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = SimpleNamespace(uuid="2", pci_domain_id=0, pci_bus_id=0x1B, pci_device_id=0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: seen)
        monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
        described = gpu_sensors.described(CUDA)
        assert described is not None
        assert json.loads(json.dumps(described)) == described
        assert described["sm_clock_mhz"] == 1755.0
        assert described["throttling"] == []


class Board:
    """Sensors of a board with constant power, whose counter advances every tenth of a second."""

    def __init__(self, gpu: FakeGpu, watts: float = 500.0, shown: float | None = None) -> None:
        self._gpu, self._watts = gpu, watts
        self._shown = watts if shown is None else shown
        self.throttling: tuple[str, ...] = ()
        self.counts = True

    def read(self) -> SensorState:
        return SensorState(1700.0, self._shown, 60.0, self.throttling)

    def energy_mj(self) -> float | None:
        seconds = math.floor(self._gpu.host / 100) / 10
        return 7e6 + 1e3 * self._watts * seconds if self.counts else None

    def facts(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = on_fake_gpu(monkeypatch, FakeGpu())
    monkeypatch.setattr(energy, "perf_counter", lambda: gpu.host / 1e3)
    return gpu


class TestEnergy:
    @pytest.mark.parametrize("call_ms", [0.05, 3.0, 60.0])
    def test_energy_is_power_times_time(self, gpu: FakeGpu, call_ms: float) -> None:
        call = gpu.call(1, call_ms, 0.01)
        found = energy.per_call_mj(call, gpu, Board(gpu), call_ms, 2.0)
        assert found == pytest.approx(500 * call_ms, rel=0.05)

    def test_the_device_works_while_the_counter_is_read(self, gpu: FakeGpu) -> None:
        works: list[bool] = []

        class Slow(Board):
            """Reading takes some time of the host."""

            def energy_mj(self) -> float | None:
                works.append(gpu.free > gpu.host)
                gpu.host += 2.0
                return super().energy_mj()

        found = energy.per_call_mj(gpu.call(1, 3.0, 0.01), gpu, Slow(gpu), 3.0, 2.0)
        assert found == pytest.approx(500 * 3.0, rel=0.05)
        assert all(works[1:])

    def test_a_short_time_is_not_enough(self, gpu: FakeGpu) -> None:
        call = gpu.call(1, 3.0, 0.01)
        assert energy.per_call_mj(call, gpu, Board(gpu), 3.0, 0.4) is None
        before = gpu.host
        assert energy.per_call_mj(call, gpu, Board(gpu), 3.0, 0.0) is None
        assert gpu.host == before

    @pytest.mark.parametrize(("shown", "trusted"), [(550.0, True), (300.0, False), (900.0, False)])
    def test_a_counter_that_differs_from_the_power_is_not_trusted(
        self, gpu: FakeGpu, shown: float, trusted: bool
    ) -> None:
        call = gpu.call(1, 3.0, 0.01)
        found = energy.per_call_mj(call, gpu, Board(gpu, shown=shown), 3.0, 2.0)
        assert (found is not None) == trusted

    def test_without_a_counter_there_is_no_energy(self, gpu: FakeGpu) -> None:
        board = Board(gpu)
        board.counts = False
        call = gpu.call(1, 3.0, 0.01)
        assert energy.per_call_mj(call, gpu, board, 3.0, 2.0) is None
        assert energy.per_call_mj(call, gpu, None, 3.0, 2.0) is None


class TestWatch:
    def test_columns_are_medians_and_any_throttling(self) -> None:
        gpu = FakeGpu()
        board = Board(gpu)
        watch = Watch(board, lambda: gpu.host / 1e3)
        for throttling in ((), ("power limit",), ()):
            board.throttling = throttling
            watch()
            gpu.host += 30
        assert watch.columns == {"sm_clock_mhz": 1700.0, "power_w": 500.0, "throttled": True}

    def test_the_sensors_are_not_read_again_at_once(self) -> None:
        gpu = FakeGpu()
        board = Board(gpu)
        watch = Watch(board, lambda: gpu.host / 1e3)
        watch()
        board.throttling = ("power limit",)
        gpu.host += 5
        watch()
        assert watch.columns["throttled"] is False

    def test_without_sensors_the_columns_are_empty(self) -> None:
        watch = Watch(None)
        watch()
        assert watch.columns == {"sm_clock_mhz": None, "power_w": None, "throttled": None}


@pytest.mark.serial
def test_a_row_has_what_the_sensors_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(FakeGpu())
    monkeypatch.setattr(instruments, "sensors_of", lambda device: board)
    watched = instruments.watch(CPU)
    watched()
    monkeypatch.setattr(instruments, "watch", lambda device: watched)
    with fresh_worker():
        row = measure_case.measure(case(), settings())[0]
    assert row.status is Status.OK
    assert (row.sm_clock_mhz, row.power_w, row.throttled) == (1700.0, 500.0, False)
    assert row.energy_mj is None


@pytest.mark.gpu
def test_a_gpu_has_sensors() -> None:
    sensors = sensors_of(CUDA)
    assert sensors is not None
    now = sensors.read()
    assert 100 < (now.sm_clock_mhz or 0) < 5000
    assert 1 < (now.power_w or 0) < 3000


@pytest.mark.gpu
@pytest.mark.serial
def test_a_gpu_counts_the_energy_of_a_call() -> None:
    asked = case(device="cuda", dtype="bfloat16", variant="full", hyperparameters="", seq_len=4096)
    with fresh_worker():
        row = measure_case.measure(asked, settings(seconds=0.1, energy=2.0))[0]
    assert row.status is Status.OK, row.reason
    assert row.energy_mj is not None
    assert row.energy_mj > 0
