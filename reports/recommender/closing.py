"""The answers that close a run: three error budgets at the longest length of real inputs."""

from __future__ import annotations

from reports.recommender.advice import advise
from reports.recommender.advice_words import one_line
from reports.recommender.choose import Bounds
from reports.recommender.evidence import Evidence
from reports.recommender.question import Question
from reports.recommender.scene import Scene

BUDGETS = (0.05, 0.2, 0.5)  # relative L2 errors


def closing_lines(evidence: Evidence) -> list[str]:
    """The scene and a line for each budget; empty without captured inputs.

    Of the scenes with the longest length, it is the one with most rows, forward before others.
    """
    found = longest(evidence)
    if found is None:
        return []
    scene, seq_len = found
    questions = [Question(scene, seq_len, "worst", Bounds(budget)) for budget in BUDGETS]
    return [f"{scene.words}:", *(one_line(advise(evidence, question)) for question in questions)]


def longest(evidence: Evidence) -> tuple[Scene, int] | None:
    """The scene of the closing lines, and its longest length at which a layer of a model was
    measured; None without captured inputs."""
    known = [
        (scene, max(lengths))
        for scene in evidence.scenes()
        if (lengths := [n for n in evidence.lengths(scene) if evidence.layers(scene, n)])
    ]
    return max(
        known,
        key=lambda one: (one[0].direction == "forward", one[1], evidence.rows(one[0])),
        default=None,
    )
