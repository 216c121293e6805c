"""An answer as an object for JSON. docs/recommender.md lists its keys."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from reports.recommender.advice import Advice
from reports.recommender.candidate import Candidate
from reports.recommender.evidence import Evidence
from reports.recommender.evidence_rows import measured_rows
from reports.recommender.measuring import commands


def as_json(evidence: Evidence, advice: Advice) -> dict[str, Any]:
    """The answer; numbers that are not known are null."""
    question = advice.question
    shown = advice.chosen or advice.exact
    rows = measured_rows(evidence, shown) if shown else []
    found = {
        "scene": dataclasses.asdict(question.scene),
        "seq_len": question.seq_len,
        "layer": question.layer,
        "limits": dataclasses.asdict(question.limits),
        "status": advice.status,
        "chosen": _candidate(advice.chosen),
        "exact": _candidate(advice.exact),
        "tied": [one.name for one in advice.tied],
        "compared_at": advice.compared_at,
        "nearby": _candidate(advice.nearby),
        "chosen_nearby": _candidate(advice.chosen_nearby),
        "alternatives": [
            {"candidate": _candidate(other.candidate), "reasons": list(other.reasons)}
            for other in advice.alternatives
        ],
        "ladder": [
            {"max_error": rung.max_error, "candidate": _candidate(rung.candidate)}
            for rung in advice.ladder
        ],
        "evidence": [dataclasses.asdict(row) for row in rows],
        "caveats": list(advice.caveats),
        "commands": commands(evidence, advice),
    }
    return {name: _plain(value) for name, value in found.items()}


def _candidate(candidate: Candidate | None) -> dict[str, Any] | None:
    if candidate is None:
        return None
    return {
        "name": candidate.name,
        **dataclasses.asdict(candidate),
        "times_exact": candidate.times_exact,
    }


def _plain(value: Any) -> Any:
    """The value with null for NaN and infinity, and text for the keys of objects."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): _plain(own) for name, own in value.items()}
    return [_plain(own) for own in value] if isinstance(value, list | tuple) else value
