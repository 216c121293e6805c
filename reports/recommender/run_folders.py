"""Reads results folders as evidence, without the modules that draw figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.schema.journal_lines import command_of
from bench.schema.model_row import ModelRow
from bench.schema.validation import FileError, is_file
from reports.recommender.evidence import Evidence
from reports.rows import RESULTS, Runs, frame_of, read_runs, read_tables


def evidence_of(folders: Sequence[Path]) -> Evidence:
    """The evidence of folders with results.csv, and of those with model.csv (`bench model`)."""
    return Evidence(*rows_of(folders))


def rows_of(folders: Sequence[Path]) -> tuple[Runs, pd.DataFrame | None]:
    """The runs of the folders with results.csv, and the rows of those with model.csv, if any."""
    models = [folder for folder in folders if _holds_model(folder)]
    others = [folder for folder in folders if folder not in models]
    if not others:
        raise FileError(
            f"expected at least one results folder with {RESULTS}; got only runs of a model"
        )
    frames = [frame_of(read_tables(folder, ModelRow)) for folder in models]
    return read_runs(others), pd.concat(frames, ignore_index=True) if frames else None


def _holds_model(folder: Path) -> bool:
    if is_file(folder / ModelRow.file) or is_file(folder / RESULTS):
        return not is_file(folder / RESULTS)
    return command_of(folder) == "model"
