"""Reads clock, power, temperature, throttling and energy of a GPU from NVIDIA's driver.

The driver's library NVML is called directly, so no package is needed. Without the library, or for a
sensor that a GPU does not have, the value is None.
"""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any, Protocol

import torch

LIBRARY = "libnvidia-ml.so.1"
# Numbers of nvml.h.
SM_CLOCK, TEMPERATURE_OF_GPU, POWER_INSTANT = 1, 0, 186
THROTTLING = {
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x20: "temperature, by the driver",
    0x40: "temperature, by the hardware",
    0x80: "power brake",
}
MISSING = 13  # NVML_ERROR_FUNCTION_NOT_FOUND
PAUSE = 0.02  # seconds between two readings of a watch


@dataclass(frozen=True)
class SensorState:
    """The state of a GPU at one time. `throttling` has the reasons for a lower clock."""

    sm_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttling: tuple[str, ...] | None = None


class Sensors(Protocol):
    """The sensors of one GPU."""

    def read(self) -> SensorState: ...

    def energy_mj(self) -> float | None:
        """Energy of the whole board since the driver was loaded, in mJ."""

    def facts(self) -> dict[str, Any]:
        """The facts that do not change: driver, limits."""


class _FieldValue(ctypes.Structure):
    _fields_ = (
        ("field", ctypes.c_uint),
        ("scope", ctypes.c_uint),
        ("timestamp", ctypes.c_longlong),
        ("latency", ctypes.c_longlong),
        ("kind", ctypes.c_uint),
        ("status", ctypes.c_uint),
        ("value", ctypes.c_ulonglong),
    )


class Nvml:
    """The sensors of one GPU, by NVML."""

    def __init__(self, library: Any, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle

    @classmethod
    def of(cls, library: Any, uuid: str, bus: str) -> Nvml | None:
        """The GPU with this UUID or PCI address; None if the driver does not answer."""
        if library.nvmlInit_v2():
            return None
        handle = ctypes.c_void_p()
        for search, name in (
            (library.nvmlDeviceGetHandleByUUID, uuid),
            (library.nvmlDeviceGetHandleByPciBusId_v2, bus),
        ):
            if name and not search(name.encode(), ctypes.byref(handle)):
                return cls(library, handle)
        return None

    def read(self) -> SensorState:
        reasons = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", wide=True)
        found = (name for bit, name in THROTTLING.items() if int(reasons or 0) & bit)
        return SensorState(
            sm_clock_mhz=self._number("nvmlDeviceGetClockInfo", SM_CLOCK),
            power_w=self._power(),
            temperature_c=self._number("nvmlDeviceGetTemperature", TEMPERATURE_OF_GPU),
            throttling=None if reasons is None else tuple(found),
        )

    def energy_mj(self) -> float | None:
        return self._number("nvmlDeviceGetTotalEnergyConsumption", wide=True)

    def facts(self) -> dict[str, Any]:
        driver = ctypes.create_string_buffer(80)
        known = not self._call("nvmlSystemGetDriverVersion", driver, 80)
        limit = self._number("nvmlDeviceGetEnforcedPowerLimit")
        return {
            "driver": driver.value.decode() if known else None,
            "highest_sm_clock_mhz": self._number("nvmlDeviceGetMaxClockInfo", SM_CLOCK),
            "power_limit_w": None if limit is None else limit / 1e3,
            "counts_energy": self.energy_mj() is not None,
        }

    def _power(self) -> float | None:
        """The power now; the usual function gives the mean of the last second on newer GPUs."""
        value = _FieldValue(field=POWER_INSTANT)
        failed = self._call("nvmlDeviceGetFieldValues", self._handle, 1, ctypes.byref(value))
        if failed or value.status:
            usual = self._number("nvmlDeviceGetPowerUsage")
            return None if usual is None else usual / 1e3
        return (value.value & 0xFFFFFFFF) / 1e3

    def _number(self, function: str, *arguments: int, wide: bool = False) -> float | None:
        value = ctypes.c_ulonglong() if wide else ctypes.c_uint()
        failed = self._call(function, self._handle, *arguments, ctypes.byref(value))
        return None if failed else float(value.value)

    def _call(self, function: str, *arguments: Any) -> int:
        """The status of a call, 0 if it succeeded. Drivers lack functions of later ones, and may
        have removed others."""
        call = getattr(self._library, function, None)
        return MISSING if call is None else call(*arguments)


@cache
def sensors_of(device: torch.device) -> Sensors | None:
    """The sensors of a device; None on a CPU and without NVIDIA's driver library."""
    if device.type != "cuda":
        return None
    try:
        library = ctypes.CDLL(LIBRARY)
        seen = torch.cuda.get_device_properties(device)
        bus = [getattr(seen, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
        known = [number for number in bus if number is not None]
        address = "{:08x}:{:02x}:{:02x}.0".format(*known) if len(known) == 3 else ""
        uuid = getattr(seen, "uuid", "")
        return Nvml.of(library, f"GPU-{uuid}" if uuid else "", address)
    except (OSError, AttributeError):  # no library, or one without these functions
        return None


def described(device: torch.device) -> dict[str, Any] | None:
    """Facts and the present state of the sensors, for environment.json; None without sensors."""
    sensors = sensors_of(device)
    if sensors is None:
        return None
    now = sensors.read()
    return {
        **sensors.facts(),
        "sm_clock_mhz": now.sm_clock_mhz,
        "power_w": now.power_w,
        "temperature_c": now.temperature_c,
        "throttling": None if now.throttling is None else list(now.throttling),
    }


class Watch:
    """Reads the sensors from time to time during a measurement."""

    def __init__(
        self, sensors: Sensors | None, seconds: Callable[[], float] = perf_counter
    ) -> None:
        self._sensors, self._seconds = sensors, seconds
        self._next = float("-inf")
        self._readings: list[SensorState] = []

    def __call__(self) -> None:
        """Read the sensors, unless they were read a moment ago."""
        if self._sensors is not None and self._seconds() >= self._next:
            self._readings.append(self._sensors.read())
            self._next = self._seconds() + PAUSE

    @property
    def columns(self) -> dict[str, float | bool | None]:
        """The columns of a row: medians, and whether any reading was throttled."""
        seen = [reading.throttling for reading in self._readings if reading.throttling is not None]
        return {
            "sm_clock_mhz": _median([reading.sm_clock_mhz for reading in self._readings]),
            "power_w": _median([reading.power_w for reading in self._readings]),
            "throttled": any(seen) if seen else None,
        }


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
