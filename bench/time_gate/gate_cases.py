"""The cases of the time gate, and their requests to the workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file

from bench import inputs
from bench.plan.every_implementation import every_implementation
from bench.plan.sweep import Sweep
from bench.schema.case import Case
from bench.schema.case_names import benchmark_name
from bench.schema.validation import UserError, shown

CASES = Path(__file__).with_name("gate_cases.toml")
Content = TypeVar("Content")


class NoSuchCaseError(UserError):
    """No case has the name that was given. The message is one sentence."""


def cases_of(sweep: Sweep, device: str, files: Mapping[str, Path]) -> dict[str, Case]:
    """The cases of a sweep by name, with each implementation that runs on this device."""
    planned = every_implementation(sweep.cases(device, files), torch.device(device))
    return {benchmark_name(case.values): case for case in planned}


def listing(
    sweep: Sweep, device: str, files: Mapping[str, Path], patterns: Sequence[str]
) -> dict[str, Any]:
    """The arguments of `names_of` as they go to another process."""
    return {
        "groups": [dict(group) for group in sweep.groups],
        "device": device,
        "files": {name: str(path.absolute()) for name, path in files.items()},
        "patterns": list(patterns),
    }


def names_of(
    groups: Sequence[Mapping[str, Sequence[Any]]],
    device: str,
    files: Mapping[str, str],
    patterns: Sequence[str],
) -> list[str]:
    """The names of the cases that the variants of this process have."""
    axes = tuple({axis: tuple(values) for axis, values in group.items()} for group in groups)
    paths = {name: Path(path) for name, path in files.items()}
    names = dict.fromkeys(cases_of(Sweep("cases", axes), device, paths))
    if not patterns:
        return list(names)
    return [name for pattern in patterns for name in _matches(names, pattern)]


def selected(cases: Mapping[str, Content], patterns: Sequence[str]) -> dict[str, Content]:
    """The cases that one of the patterns selects, in the order of the patterns.

    A pattern is a name, a pattern with *, or some words of a name, as in a table that leaves out
    the words of all cases: of the names with all these words, those with the fewest others.

    Args:
        cases: cases, or their results, by name.
        patterns: as in the option `--case`.

    Raises:
        NoSuchCaseError: a pattern matches no case.
    """
    found: dict[str, Content] = {}
    for pattern in patterns:
        own = {name: cases[name] for name in _matches(cases, pattern)}
        if not own:
            close = get_close_matches(pattern, cases, n=2, cutoff=0.4) or list(cases)[:2]
            raise NoSuchCaseError(
                f"no case is named {shown(pattern)}; names are such as {' | '.join(close)}"
            )
        found |= own
    return found


def _matches(names: Iterable[str], pattern: str) -> list[str]:
    if found := [name for name in names if name == pattern or fnmatchcase(name, pattern)]:
        return found
    words = set(pattern.split())
    counts = {name: len(name.split()) for name in names if words <= set(name.split())}
    return [name for name, count in counts.items() if count == min(counts.values())]


def requests(
    cases: Mapping[str, Case], files: Mapping[str, Path], scratch: Path
) -> dict[str, dict[str, Any]]:
    """The cases as `GateWorker.prepare` takes them. Their inputs are written into a folder."""
    written: dict[tuple[Any, ...], Path] = {}
    found = {}
    for name, case in cases.items():
        place = written.get(case.shape)
        if place is None:
            place = written[case.shape] = scratch / f"inputs_{len(written)}.safetensors"
            _write(place, inputs.load(case, files))
        found[name] = {
            "attention": attention_of(case),
            "causal": case.causal,
            "device": case.device,
            "direction": case.direction,
            "inputs": str(place),
        }
    return found


def attention_of(case: Case) -> str:
    """The attention of a case as `variants.parse` takes it."""
    chosen = case.attention.implementation
    parts = [case.variant, case.attention.hyperparameters]
    return " ".join(parts if chosen == "auto" else [*parts, f"implementation={chosen}"])


def _write(file: Path, given: inputs.Inputs) -> None:
    tensors = {"query": given.query, "key": given.key, "value": given.value}
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, file)
