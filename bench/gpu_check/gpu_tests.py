"""The tests of a check: those with the marker `gpu`, the most valuable files first."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
WORKERS = 6
# Files whose name has one of these words, in this order; then the others; what compiles is last.
FIRST = (
    "test_on_a_device", "test_cuda_graph", "test_device_sampler", "test_gpu_sensors",
    "test_launches", "test_accuracy_devices", "test_rounding", "test_decoding",
    "test_cuda_implementations",
)  # fmt: skip
LAST = ("test_flex",)
NAMES_A_GPU = ("mark.gpu", "CUDA,")  # words of files with tests for a GPU


def files() -> list[str]:
    """The files that have tests for a GPU."""
    found = [
        file
        for file in (ROOT / "tests").rglob("test_*.py")
        if any(word in file.read_text(encoding="utf-8") for word in NAMES_A_GPU)
    ]
    return [str(file.relative_to(ROOT)) for file in sorted(found, key=_order)]


def _order(file: Path) -> tuple[int, str]:
    if file.stem in FIRST:
        return FIRST.index(file.stem), ""
    return len(FIRST) + (file.stem in LAST), str(file)


def arguments(device: str, *, serial: bool) -> tuple[str, ...]:
    """The command of the tests that measure or limit time (`serial`), or of the others. On a CPU
    the tests of a few files are collected and skipped."""
    chosen = files() if device == "cuda" else files()[:3]
    beside = not serial and device == "cuda" and importlib.util.find_spec("xdist") is not None
    # Small steps keep the order of the files.
    workers = ("-n", str(WORKERS), "--maxschedchunk", "2") if beside else ()
    shown = ("-q", "-rfE", "--tb=short", "-W", "default", "--maxfail=200")
    only = ("-m", "gpu and serial" if serial else "gpu and not serial")
    more = ("-p", "no:cacheprovider", "--continue-on-collection-errors")
    return ("pytest", *workers, *shown, *only, *more, *chosen)
