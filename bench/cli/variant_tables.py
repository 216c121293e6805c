"""The tables of `python -m bench list`: of all variants, or of one variant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

import variants
from variants import REGISTRY
from variants.contract.added import added_names
from variants.contract.info import Info


def of_all(boxed: bool) -> Iterator[Table | Text]:
    """A table of all variants, and a line for each reason why implementations cannot run here.

    Args:
        boxed: whether the table has lines around its cells, and a row for each variant; else it has
            a row for each implementation.
    """
    devices = _devices()
    words = "variant", "implementation", *(d.type for d in devices)
    if boxed:
        table = _table(boxed, *words, "settings, support", title="variants", show_lines=True)
    else:
        table = _table(boxed, *words, "settings", "support")
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, cls in sorted(REGISTRY.items()):
        found = _refusals(name, devices)
        for implementation, refusals in found.items():
            for device, reason in refusals.items():
                if reason:
                    reasons.setdefault((device, reason), []).append(f"{name}/{implementation}")
        marks = [
            ["no" if refusals[d.type] else "yes" for refusals in found.values()] for d in devices
        ]
        facts = variants.create(name).hyperparameters or "none", _supports(cls.info)
        if boxed:
            table.add_row(name, *map("\n".join, [list(found), *marks, facts]))
        else:
            for cells in zip(found, *marks, strict=True):
                table.add_row(name, *cells, *facts)
    yield table
    for (device, reason), refused in reasons.items():
        yield Text(f"not on {device}: {', '.join(refused)}: {reason}")


def of_one(name: str, boxed: bool) -> Iterator[Table | Text]:
    """The metadata of one variant, its hyperparameters, and the devices of its implementations.

    Args:
        name: of the variant.
        boxed: whether tables have lines around their cells.

    An unknown name raises a ValueError that lists the known names.
    """
    declared, info = variants.hyperparameters(name), REGISTRY[name].info
    yield Text(f"{name}: {info.summary}")
    facts = _table(boxed, "", "", show_header=False)
    for word, text in (
        ("paper", f"{info.title}, {info.year}, {info.url}"),
        ("time", info.time),
        ("memory", info.memory),
        ("target", info.target),
        ("supports", _supports(info)),
        ("exact when", _exact_when(info)),
    ):
        facts.add_row(word, Text(text))
    yield facts
    if declared:
        columns = "name", "type", "default", "valid values", "meaning"
        table = _table(boxed, *columns, title="hyperparameters")
        for known in declared:
            valid = known.valid or f"any {known.type.__name__}"
            words = known.name, known.type.__name__, str(known.default), valid, known.doc
            table.add_row(*map(Text, words))
        yield table
    else:
        yield Text("no hyperparameters")
    devices = _devices()
    table = _table(boxed, "name", *(d.type for d in devices), title="implementations")
    for implementation, refusals in _refusals(name, devices).items():
        marks = (f"no: {reason}" if reason else "yes" for reason in refusals.values())
        table.add_row(implementation, *map(Text, marks))
    yield table


def _table(boxed: bool, *columns: str, title: str | None = None, **options: Any) -> Table:
    """A table with these columns; without boxes, its title and its cells begin at the margin."""
    if not boxed:
        options |= {"box": None, "pad_edge": False, "title_justify": "left"}
    table = Table(title=title, **options)
    for column in columns:
        table.add_column(column)
    return table


def _devices() -> list[torch.device]:
    names = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [torch.device(name) for name in names]


def _refusals(name: str, devices: list[torch.device]) -> Mapping[str, Mapping[str, str | None]]:
    """For each implementation and device, the reason why it cannot run; None if it can."""
    found = {}
    for word in (*REGISTRY[name].info.implementations, *added_names(name)):
        chosen = variants.create(name, implementation=word)
        found[word] = {device.type: chosen.cannot_run(device) for device in devices}
    return found


def _supports(info: Info) -> str:
    """The capabilities of a variant, and whether it is causal only or never."""
    if "causal" not in info.supports:
        return ", ".join([*sorted(info.supports), "never causal"])
    causal = "causal only" if info.causal_only else "causal"
    return ", ".join(causal if word == "causal" else word for word in sorted(info.supports))


def _exact_when(info: Info) -> str:
    if info.exact_when is None:
        return "never"
    settings = (f"{key}={value}" for key, value in info.exact_when.items())
    return ", ".join(settings) or "always"
