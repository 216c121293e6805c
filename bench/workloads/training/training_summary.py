"""The table and the sentences that `python -m bench train` prints at the end."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from bench.schema.outcome import Status
from bench.schema.training_row import TrainingRow


def table(trained: Iterable[TrainingRow]) -> Table:
    """A line for each training, sorted by task and variant; narrow enough for any terminal."""
    rows = sorted(
        (row.values for row in trained), key=lambda row: (row["task"], row["variant"], row["seed"])
    )
    chance = {row["task"]: f"{row['chance']:.0%}" for row in rows if row["status"] == Status.OK}
    shown = Table(caption="by chance: " + ", ".join(map(" ".join, chance.items())))
    for column in ("task", "variant", "learned"):
        shown.add_column(column, no_wrap=True)
    for column in ("accuracy", "loss", "steps", "time", "seed"):
        shown.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        cells = [row["status"], "", "", "", "", str(row["seed"])]
        if row["status"] == Status.OK:
            cells = [
                row["learned"],
                f"{row['accuracy']:.1%}",
                f"{row['loss_start']:.2f} → {row['loss_end']:.3f}",
                str(row["steps_taken"]),
                f"{row['seconds']:.0f} s",
                str(row["seed"]),
            ]
        shown.add_row(row["task"], row["variant"], *cells)
    return shown


def sentences(trained: Iterable[TrainingRow]) -> list[str]:
    """How many trainings learned their task, and a sentence for each that did not."""
    rows = [row.values for row in trained]
    learned = sum(row["learned"] == "yes" for row in rows)
    found = [f"{learned} of {len(rows)} trainings learned their task"]
    for row in rows:
        name = f"{row['variant']} {row['hyperparameters']}".strip()
        where = f"{name}, {row['task']}, seed {row['seed']}"
        if row["status"] != Status.OK:
            found.append(f"{row['status']}: {where}: {row['reason']}")
        elif row["learned"] != "yes":
            seen = f"accuracy {row['accuracy']:.1%}, by chance {row['chance']:.1%}"
            if row["learned"] == "in sight":
                seen += (
                    f"; {row['accuracy_in_sight']:.1%} of the {row['in_sight']:.1%} of answers "
                    "that its pattern can reach"
                )
            found.append(f"not learned: {where}: {seen}")
    return found
