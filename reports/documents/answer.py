"""The example of an answer in the README: a part of the closing table of the reference run."""

from __future__ import annotations

import io
from pathlib import Path

from bench.schema.entry_point import console
from reports.rows import read_runs
from reports.tables import summary_table

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "amd-epyc-2-threads"
WIDTH = 112
SEQ_LEN = 4096


def example() -> str:
    """The closing table of the causal cases of `SEQ_LEN` tokens in the reference run, as a block of
    text."""
    rows = read_runs([REFERENCE]).frame
    rows = rows[rows["causal"] & (rows["seq_len"] == SEQ_LEN)]
    screen = console(file=io.StringIO(), width=WIDTH, color_system=None, legacy_windows=False)
    with screen.capture() as captured:
        screen.print(summary_table(rows))
    lines = [line.rstrip() for line in captured.get().strip("\n").splitlines()]
    return "\n".join(["```text", *lines, "```"])
