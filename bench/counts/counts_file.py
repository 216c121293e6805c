"""The file of counts: a TOML table for each case, whose lines a review can read."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.counts.call_counts import CallCounts
from bench.loop.result_files import write_text
from bench.schema.validation import FileError, convert, name_of, parse_toml

FORMAT = "attention-counts-4"
HEAD = """\
# Bytes, operations of torch and errors of calls on a CPU with one thread. `make counts` compares
# the code with this file, and `make update-baseline` writes it.
"""


@dataclass(frozen=True)
class End:
    """The last table of the file."""

    cases: int


@dataclass(frozen=True)
class CountsFile:
    """The counts of all cases by name, and the versions with which they were counted.

    Attributes:
        end: the number of cases, in the last line: a file that was cut has none.
    """

    format: str
    versions: dict[str, str]
    case: dict[str, CallCounts]
    end: End


class OtherVersionsError(FileError):
    """The file was counted with other versions, or on a CPU with other instructions."""


def versions() -> dict[str, str]:
    """The versions that decide which operations a call needs, and the instructions of the CPU."""
    return {
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__.partition("+")[0],
        "triton": _triton(),
    }


def _triton() -> str:
    """The version of Triton, which decides the kernels on a GPU; `none` without it."""
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "none"


def read(path: Path) -> CountsFile:
    """Read a file of counts.

    Raises:
        FileError: the file is missing, is no TOML, or has another content.
        OtherVersionsError: it has counts of other versions or another kind of CPU, which must not
            be compared.
    """
    if not path.exists():
        raise FileError(f"there is no file {name_of(path)}; `make update-baseline` writes it")
    file: CountsFile = convert(parse_toml(path), CountsFile, name_of(path))
    if file.format != FORMAT:
        raise FileError(
            f"{name_of(path)}: expected the format {FORMAT}, got {file.format}; "
            "`make update-baseline` writes it anew"
        )
    if file.end.cases != len(file.case):
        raise FileError(
            f"{name_of(path)}: its last line says {file.end.cases} cases, and it holds "
            f"{len(file.case)}"
        )
    if file.versions != (present := versions()):
        raise OtherVersionsError(
            f"{name_of(path)} was counted with {_named(file.versions)}, this is {_named(present)}; "
            "counts of other versions are not compared; `python -m bench counts --base REVISION` "
            "compares with a revision on this machine"
        )
    return file


def write(path: Path, cases: Mapping[str, CallCounts]) -> None:
    """Write a file of counts. An interrupt leaves the file that was there."""
    parts = [HEAD, f"format = {json.dumps(FORMAT)}\n", "[versions]"]
    parts += [f"{name} = {json.dumps(version)}" for name, version in versions().items()]
    for name, one in sorted(cases.items()):
        parts += ["", f"[case.{json.dumps(name)}]", *_lines(one)]
    parts += ["", "[end]", f"cases = {len(cases)}"]
    write_text(path, "\n".join(parts) + "\n")


def _lines(one: CallCounts) -> list[str]:
    numbers: dict[str, Any] = {
        "peak_bytes": one.peak_bytes,
        "saved_bytes": one.saved_bytes,
        "useful_flops": one.useful_flops,
        "error": f"{one.error:.6e}",
        "rounding_error": f"{one.rounding_error:.2e}",
        "gpu_bytes": one.gpu_bytes,
    }
    lines = [f"{name} = {number}" for name, number in numbers.items() if number is not None]
    lines += [f"gradient_errors.{name} = {size:.6e}" for name, size in one.gradient_errors.items()]
    for name, its in one.operations.items():
        lines.append(
            f"operations.{json.dumps(name)} = {{calls = {its.calls}, bytes = {its.bytes}}}"
        )
    lines += [f"at_peak.{json.dumps(name)} = {size}" for name, size in one.at_peak.items()]
    lines += [f"gpu_launches.{json.dumps(name)} = {n}" for name, n in one.gpu_launches.items()]
    return lines


def _named(found: Mapping[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in sorted(found.items()))
