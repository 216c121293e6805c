"""The section about runs of `python -m bench model`: variants in a pretrained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.schema.journal_lines import command_of
from bench.schema.model_row import ModelCase, ModelRow
from bench.schema.validation import is_file
from reports import measured_by
from reports.build import figures_folder
from reports.curves import with_curves
from reports.declared import exact_variant, reference_implementation
from reports.figures.perplexity import CHANGE, READING, draw_model, of_models
from reports.figures.plain_text import save
from reports.figures.style import styles
from reports.html import ModelGroup, ModelSection, facts
from reports.machine_columns import environments, with_hardware
from reports.metrics import show_error, show_ms, show_percent, show_ratio
from reports.names import labels, marked, other_operators
from reports.rows import (
    OK,
    RESULTS,
    Runs,
    default_knobs,
    finished,
    frame_of,
    read_environment,
    read_tables,
)
from reports.tables import status_counts

BETWEEN = ("perplexity_ratio_low", "perplexity_ratio_high")


def holds_model(folder: Path) -> bool:
    """Whether `python -m bench model` wrote a results folder, or began it and was killed."""
    if is_file(folder / ModelRow.file) or is_file(folder / RESULTS):
        return not is_file(folder / RESULTS)
    return command_of(folder) == "model"


def model_section(runs: Runs, out: Path, *, is_alone: bool = False) -> ModelSection:
    """Draw the figures of runs of models into `out`, and collect the section of the page."""
    folder = figures_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    looks = styles(runs.frame)
    groups = []
    for number, (fixed, rows) in enumerate(of_models(runs.frame), start=1):
        path = None
        if figure := draw_model(rows, looks):
            path = folder / f"model-{number}.png"
            save(figure, path)
        groups.append(ModelGroup(fixed, path, [_cells(row) for _, row in _ordered(rows)]))
    return ModelSection(
        groups,
        status_counts(runs.frame[~runs.frame["is_reference"]]),
        READING,
        {machine: list(facts(seen)) for machine, seen in runs.environments.items()},
        measured_by.of_machines(runs),
        is_alone,
    )


def read_models(folders: Sequence[Path]) -> Runs:
    """The rows of runs; only the last row of a case that was measured twice on one machine.

    Added are the columns `machine` and `label`, the columns of `CHANGE`, and rows for exact
    attention by torch SDPA (`is_reference`) if there are none.
    """
    read = [
        (frame_of(read_tables(folder, ModelRow)), read_environment(folder)) for folder in folders
    ]
    runs = []
    for frame, seen in with_hardware(read):
        known = default_knobs(frame, seen)
        runs.append((frame.assign(machine=frame["hardware"], default_knob=known), seen))
    rows = pd.concat([frame for frame, _ in runs], ignore_index=True)
    rows = rows.drop_duplicates([*ModelCase.columns(), "machine"], keep="last", ignore_index=True)
    rows = pd.concat(
        [rows.assign(is_reference=False), _references(rows).assign(is_reference=True)],
        ignore_index=True,
    )
    change = {
        name: rows[column] - 1
        for name, column in zip(
            (CHANGE.column, CHANGE.low, CHANGE.high), ("perplexity_ratio", *BETWEEN), strict=True
        )
        if name
    }
    others = other_operators(rows)
    rows = rows.assign(
        label=marked(labels(rows), others),
        other_operator=others,
        **change,
    )
    return Runs(with_curves(rows), environments(runs), pd.DataFrame())


def _references(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of exact attention, made from the reference numbers of other rows, if it has no rows."""
    same = [name for name in ModelCase.columns() if name not in ("variant", "implementation")]
    same = [*(name for name in same if name != "hyperparameters"), "machine"]
    exact, reference = exact_variant(), reference_implementation()
    own = rows[(rows["variant"] == exact) & (rows["implementation"] == reference)]
    made = finished(rows).groupby(same, as_index=False)[list(ModelRow.numbers())].median()
    made = made.assign(
        default_knob="",
        target="softmax",
        variant=exact,
        implementation=reference,
        implementation_used=reference,
        hyperparameters="",
        status=OK,
        reason="",
        perplexity=made["exact_perplexity"],
        time_per_token_ms=made["exact_time_per_token_ms"],
        attention_per_token_ms=made["exact_attention_per_token_ms"],
        **dict.fromkeys(("perplexity_ratio", *BETWEEN), 1.0),
        next_token_agreement=1.0,
        speedup_vs_exact=1.0,
    )
    return made[~made.set_index(same).index.isin(own.set_index(same).index)]


def _ordered(rows: pd.DataFrame) -> list[tuple[object, pd.Series]]:
    return list(rows.sort_values(["seq_len", "layers", "perplexity_ratio", "label"]).iterrows())


def _cells(row: pd.Series) -> list[str]:
    """The cells of a row, in the order of the headings in model.html."""
    first = [row["label"], str(row["seq_len"]), row["layers"]]
    if row["status"] != OK:
        return [*first, f"{row['status'].replace('_', ' ')}: {row['reason']}"]
    return [
        *first,
        show_error(row["perplexity"]),
        show_ratio(row["perplexity_ratio"]),
        " to ".join(show_ratio(row[name]) for name in BETWEEN),
        show_percent(row["next_token_agreement"]),
        show_ms(row["time_per_token_ms"]),
        show_ms(row["attention_per_token_ms"]),
        show_ratio(row["speedup_vs_exact"]),
        row["implementation_used"],
    ]
