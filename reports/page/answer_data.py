"""The candidates of every question that the page can ask, as tables.

A question is a scene, a measured length and a policy for layers. The page chooses among the
candidates of a question by the rule of the recommender.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from reports.page.crossover_lengths import crossovers
from reports.page.packing import Table
from reports.recommender.candidate import Candidate
from reports.recommender.closing import longest
from reports.recommender.evidence import Evidence
from reports.recommender.layer_policy import Policy
from reports.recommender.scene import Scene

WORST: Policy = "worst"
MEDIAN: Policy = "median"


@dataclass(frozen=True)
class PageQuestion:
    """A question with its candidates; `policy` is empty for inputs without layers.

    `is_closing` marks the question that the lines at the end of a run answer.
    """

    scene: Scene
    seq_len: int
    policy: Policy | None
    candidates: Sequence[Candidate]
    is_closing: bool = False


def questions(evidence: Evidence) -> list[PageQuestion]:
    """The questions of all scenes at their measured lengths that have a candidate.

    With several layers, the policies are the worst layer, the median of layers, and each layer.
    """
    found = []
    closing = longest(evidence)
    for scene in evidence.scenes():
        for seq_len in evidence.lengths(scene):
            worst = evidence.candidates(scene, seq_len, WORST)
            if not worst:
                continue
            layers = evidence.layers(scene, seq_len)
            first = (layers[0] if layers else None) if len(layers) < 2 else WORST
            is_closing = (scene, seq_len) == closing
            found.append(PageQuestion(scene, seq_len, first, worst, is_closing))
            if first != WORST:
                continue
            for policy in (MEDIAN, *layers):
                candidates = evidence.candidates(scene, seq_len, policy)
                found.append(PageQuestion(scene, seq_len, policy, candidates))
    return found


def default_question(asked: Sequence[PageQuestion]) -> int:
    """The number of the question that the page shows first; -1 if there is none.

    The question of the lines that close a run comes first, if it is asked. Without it, captured
    inputs come before synthetic ones, then forward, then causal, then lengths with many candidates,
    then the longest length.
    """
    if not asked:
        return -1
    most = max(len(question.candidates) for question in asked)

    def rank(number: int) -> tuple[Any, ...]:
        question = asked[number]
        scene = question.scene
        return (
            question.is_closing,
            question.policy is not None,
            scene.direction == "forward",
            scene.causal,
            2 * len(question.candidates) >= most,
            question.seq_len,
            len(question.candidates),
            question.policy == WORST,
        )

    return max(range(len(asked)), key=rank)


def answer_tables(asked: Sequence[PageQuestion]) -> dict[str, Table]:
    """The tables `scenes`, `questions`, `entries`, `points`, `evidence` and `crossovers`.

    `questions` has the range of its entries; an entry has the error of a policy and the number of
    its point; a point has what does not depend on the policy, and the range of its rows in
    `evidence`.
    """
    scenes = list(dict.fromkeys(question.scene for question in asked))
    number_of = {scene: number for number, scene in enumerate(scenes)}
    points: dict[tuple[Any, ...], int] = {}
    kept: list[Candidate] = []
    rows: list[dict[str, Any]] = []
    entries: list[tuple[int, float, float, float, str]] = []
    for question in asked:
        first = len(entries)
        for it in question.candidates:
            key = (number_of[question.scene], question.seq_len, *_alike(it))
            if (point := points.setdefault(key, len(kept))) == len(kept):
                kept.append(it)
            entries.append((point, it.error, it.error_low, it.error_high, it.excluded))
        rows.append(
            {
                "scene": number_of[question.scene],
                "length": question.seq_len,
                "policy": "" if question.policy is None else str(question.policy),
                "first": first,
                "count": len(question.candidates),
            }
        )
    numbers, error, low, high, excluded = _columns(entries, 5)
    return {
        "scenes": {
            field.name: [_text(getattr(scene, field.name)) for scene in scenes]
            for field in fields(Scene)
        },
        "questions": {name: [row[name] for row in rows] for name in QUESTION},
        "entries": {
            "point": np.array(numbers, dtype=np.int64),
            "error": _numbers(error),
            "error_low": _numbers(low),
            "error_high": _numbers(high),
            "excluded": [str(reason) for reason in excluded],
        },
        **_point_tables(kept),
        "crossovers": _crossover_table(asked, number_of),
    }


QUESTION = ("scene", "length", "policy", "first", "count")


def _point_tables(kept: Sequence[Candidate]) -> dict[str, Table]:
    perplexities = [it.perplexity_ratio or (None, None, None) for it in kept]
    counts = [len(it.rows) for it in kept]
    return {
        "points": {
            **{name: [str(getattr(it, name)) for it in kept] for name in WORDS},
            "is_exact": np.array([it.is_exact for it in kept], dtype=bool),
            **{
                name: _numbers([getattr(it, name) for it in kept])
                for name in (
                    "time_ms",
                    "time_low",
                    "time_high",
                    "noise_low",
                    "noise_high",
                    "exact_ms",
                )
            },
            "memory_bytes": _numbers([it.memory_bytes for it in kept], np.float64),
            "perplexity": _numbers([it[0] for it in perplexities]),
            "perplexity_low": _numbers([it[1] for it in perplexities]),
            "perplexity_high": _numbers([it[2] for it in perplexities]),
            "perplexity_length": _numbers([it.perplexity_seq_len for it in kept]),
            "first": np.cumsum([0, *counts[:-1]]) if kept else np.zeros(0, dtype=np.int64),
            "count": np.array(counts, dtype=np.int64),
        },
        "evidence": {"row": np.array([row for it in kept for row in it.rows], dtype=np.int64)},
    }


WORDS = ("label", "variant", "hyperparameters", "implementation", "evidence")


def _alike(it: Candidate) -> tuple[Any, ...]:
    """The parts of a candidate that do not depend on the policy, as a key."""
    return (
        *(getattr(it, name) for name in WORDS),
        it.time_ms,
        it.time_low,
        it.time_high,
        it.noise_low,
        it.noise_high,
        it.exact_ms,
        it.memory_bytes,
    )


def _crossover_table(asked: Sequence[PageQuestion], number_of: Mapping[Scene, int]) -> Table:
    lengths: dict[Scene, dict[int, Sequence[Candidate]]] = {}
    for question in asked:
        lengths.setdefault(question.scene, {}).setdefault(question.seq_len, question.candidates)
    found = [(number_of[scene], it) for scene, by in lengths.items() for it in crossovers(by)]
    return {
        "scene": np.array([scene for scene, _ in found], dtype=np.int64),
        "label": [it.label for _, it in found],
        "variant": [it.variant for _, it in found],
        "time": [it.time for _, it in found],
        "memory": [it.memory for _, it in found],
        "is_useless": np.array([it.is_useless for _, it in found], dtype=bool),
    }


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _numbers(values: Sequence[Any], kind: Any = np.float32) -> Any:
    return np.array([np.nan if value is None else value for value in values], dtype=kind)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value)
