"""The evaluation of the recommender on the reference run of the sweep `answers`, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reports.markdown_table import table
from reports.recommender.evaluation import Summary, evaluate
from reports.recommender.evaluation_tables import HEADINGS, SHOWN_COVERAGES, goals, risks, rows
from reports.recommender.run_folders import rows_of

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "amd-epyc-2-threads-answers"


def evaluation() -> str:
    """The tables and the goals of the reference run."""
    return markdown(evaluate(*rows_of([REFERENCE])))


def markdown(summaries: Sequence[Summary]) -> str:
    """Both tables and the goals."""
    shares = [f"{coverage:.0%}" for coverage in SHOWN_COVERAGES]
    parts = [
        table(HEADINGS, rows(summaries)),
        "Answers that exceed a limit by value, among the most confident share of all questions:",
        table(["left out", *shares], [[one.kind, *risks(one)] for one in summaries]),
        "\n".join(f"- {goal.text}: {goal.state}" for goal in goals(summaries)),
    ]
    return "\n\n".join(parts)
