"""The cases that are not measured because a revision lacks them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bench.time_gate.gate import CaseOutcome, NoJudgement
from bench.time_gate.side import Side, SideError

TIMEOUT = 120.0  # seconds to list the cases of a revision


def unmeasured_cases(
    sources: Mapping[str, Path], measured: Collection[str], listing: Mapping[str, Any]
) -> tuple[list[CaseOutcome], list[str]]:
    """The cases of either revision that are not measured.

    The cases that are measured are those of the variants of this checkout. A revision may have
    others: head may lack an implementation, or have another name for a hyperparameter.

    Args:
        sources: the folders of `base` and `head`.
        measured: names of the cases that are measured.
        listing: as of `gate_cases.listing`.

    Returns:
        The outcomes, and a note for each revision whose cases cannot be listed.
    """
    names, notes = {}, []
    for side, folder in sources.items():
        try:
            with Side(folder, threads=1) as process:
                process.started()
                names[side] = process.ask("names", TIMEOUT, **listing)["names"]
        except SideError as error:
            notes.append(f"The cases of {side} cannot be listed, so some may be missing: {error}.")
    if notes:
        return [], notes
    found = dict.fromkeys([*names["base"], *names["head"]])
    return [
        CaseOutcome(name, missing=_reason(name, names)) for name in found if name not in measured
    ], []


def _reason(name: str, names: Mapping[str, Collection[str]]) -> NoJudgement:
    """The reason why a case is not measured."""
    for side in ("head", "base"):
        if name not in names[side]:
            return NoJudgement("there is no such case", side)
    return NoJudgement("the checkout that measures has no such case")
