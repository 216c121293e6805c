"""answers.csv: the choice for each scene, each measured length and a few error budgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from reports.page.answer_data import PageQuestion
from reports.page.downloads import without_formulas
from reports.recommender.candidate import Candidate
from reports.recommender.choose import Recommendation, choose

FILE = "answers.csv"
BUDGETS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)  # relative L2 errors
NONE = "none"  # instead of an empty text, which pandas reads as a missing value


def write_answers(asked: Sequence[PageQuestion], out: Path) -> Path:
    """Write answers.csv into a folder.

    Of several layers, the choice is for the worst one. Numbers of a choice are empty if no method
    is within the budget; no other column is ever empty. An apostrophe stands before a text that a
    spreadsheet takes for a formula.
    """
    path = out / FILE
    table = pd.DataFrame(list(_rows(asked)), columns=list(COLUMNS))
    without_formulas(table).to_csv(path, index=False)
    return path


def _rows(asked: Sequence[PageQuestion]) -> Iterator[dict[str, Any]]:
    seen = set()
    for question in asked:  # of several questions about one length, the worst layer is first
        key = (question.scene, question.seq_len)
        if key in seen:
            continue
        seen.add(key)
        case = {
            **asdict(question.scene),
            "seq_len": question.seq_len,
            "layers": NONE if question.policy is None else str(question.policy),
        }
        for budget in BUDGETS:
            found = choose(question.candidates, budget)
            yield {**case, "max_error": budget, **_choice(found)}


def _choice(found: Recommendation) -> dict[str, Any]:
    it: Candidate | None = found.chosen
    tied = [one.name for one in found.tied if one is not it]
    if it is None:
        return dict.fromkeys(TEXTS, NONE)
    return {
        "choice": it.name,
        "variant": it.variant,
        "hyperparameters": it.hyperparameters or NONE,
        "implementation": it.implementation,
        "evidence": it.evidence,
        "tied": "; ".join(tied) or NONE,
        "is_exact": it.is_exact,
        "time_ms": it.time_ms,
        "time_ms_low": it.time_low,
        "time_ms_high": it.time_high,
        "times_exact": it.times_exact,
        "memory_bytes": it.memory_bytes,
        "error": it.error,
        "error_low": it.error_low,
        "error_high": it.error_high,
    }


TEXTS = ("choice", "variant", "hyperparameters", "implementation", "evidence", "tied", "is_exact")
COLUMNS = {
    "machine": "the kind of machine, as in cases.csv",
    "inputs": "the inputs without their layer",
    "dtype": "as in results.csv",
    "direction": "as in results.csv",
    "causal": "as in results.csv",
    "heads": "query heads",
    "kv_heads": "key/value heads",
    "head_dim": "as in results.csv",
    "batch": "as in results.csv",
    "seq_len": "a measured length of these inputs",
    "layers": "`worst`: the error is that of the worst measured layer; the number of the only "
    "measured layer; `none` for synthetic inputs",
    "max_error": "the error budget; the upper end of the interval of the error is within it",
    "choice": "the method with its settings and its implementation, unless this is `auto`; `none` "
    "if no method is within the budget, and then all later columns are `none` or empty",
    "variant": "as in results.csv",
    "hyperparameters": "as in results.csv",
    "implementation": "the requested implementation",
    "is_exact": "whether the choice is exact attention",
    "evidence": "`measured`, or `interpolated` between measured lengths",
    "time_ms": "time of a call; in decoding, of a token",
    "time_ms_low": "lower end of its interval",
    "time_ms_high": "upper end of its interval",
    "times_exact": "time of the fastest exact implementation, divided by `time_ms`",
    "memory_bytes": "peak memory beyond the inputs; in decoding, with the state",
    "error": "relative L2 error of the output",
    "error_low": "lower end of its interval",
    "error_high": "upper end of its interval",
    "tied": "methods that are as fast up to the noise of the times, separated by `; `, or `none`",
}
