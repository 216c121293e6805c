"""The predicted needs of a sweep, in a table and in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from rich.table import Table

from bench.loop.progress import in_words
from bench.plan.prediction import RANGES, Prediction
from bench.schema.case import Case
from bench.schema.environment_file import Duration
from bench.schema.measurement import Measurement

SOURCES = {
    "measured": "measured before",
    "scaled": "scaled from similar cases",
    "counted": "counted from operations",
}
NAMED = 3  # cases that a sentence names
SHOWN_REASONS = 5


def table(title: str, predictions: Sequence[Prediction], done: Collection[str] | None) -> Table:
    """The cases, their time and their memory for each variant; the time for each length.

    Args:
        title: of the table.
        predictions: those of all cases.
        done: ids of the cases that have a row already; None if there is no run yet.
    """
    counts = Counter((one.case.variant, one.case.seq_len) for one in predictions)
    lengths = sorted({length for _, length in counts})
    shown = Table(title=title)
    shown.add_column("variant")
    for name in [*(f"n={length}" for length in lengths), *(["done"] if done else [])]:
        shown.add_column(name, justify="right")
    for name in ("time", "memory"):
        shown.add_column(name, justify="right")
    for variant in sorted({variant for variant, _ in counts}):
        own = [one for one in predictions if one.case.variant == variant]
        left = [one for one in own if not done or one.case.case_id not in done]
        cells = [str(counts[variant, length]) for length in lengths]
        if done:
            cells.append(str(len(own) - len(left)))
        cells.append(in_words(sum(one.seconds for one in left)))
        shown.add_row(variant, *cells, gigabytes(max(one.needed_bytes for one in own)))
    if predictions:
        left = [one for one in predictions if not done or one.case.case_id not in done]
        of_lengths = [[one for one in left if one.case.seq_len == n] for n in lengths]
        cells = [in_words(sum(one.seconds for one in some)) for some in of_lengths]
        if done:
            cells.append("")
        largest = gigabytes(max(one.needed_bytes for one in predictions))
        shown.add_section()
        shown.add_row("time of all", *cells, in_words(sum(one.seconds for one in left)), largest)
    return shown


def sentence(predictions: Sequence[Prediction], other_seconds: float, memory: int | None) -> str:
    """Time and memory of cases that have no row yet.

    Args:
        predictions: those of these cases.
        other_seconds: the time of a run outside its cases.
        memory: bytes of memory that the machine has, if known.
    """
    if not predictions:
        return "all cases have rows; nothing is left to measure"
    sources = Counter(one.source for one in predictions)
    origin = ", ".join(f"{sources[name]} {text}" for name, text in SOURCES.items() if sources[name])
    least, most = (
        other_seconds + sum(RANGES[one.source][end] * one.seconds for one in predictions)
        for end in (0, 1)
    )
    largest = max(predictions, key=lambda one: one.needed_bytes)
    there = f" of {gigabytes(memory)}" if memory else ""
    size = f"{'at least ' if largest.least else ''}{gigabytes(largest.needed_bytes)}"
    parts = [
        f"{cases_in_words(predictions, other_seconds)} "
        f"({in_words(least)} to {in_words(most)}): {origin}",
        f"largest memory {size}{there} ({largest.case.label})",
    ]
    if beyond := too_large(predictions, memory):
        named = ", ".join(one.case.label for one in beyond[:NAMED])
        more = f", and {len(beyond) - NAMED} more" if len(beyond) > NAMED else ""
        cases = "1 case needs" if len(beyond) == 1 else f"{len(beyond)} cases need"
        parts.append(f"{cases} more memory than there is: {named}{more}")
    return "; ".join(parts)


def cases_in_words(predictions: Sequence[Prediction], other_seconds: float) -> str:
    """A text such as `572 cases, about 9 min`."""
    count = "1 case" if len(predictions) == 1 else f"{len(predictions)} cases"
    return f"{count}, about {in_words(seconds(predictions, other_seconds))}"


def axes(cases: Sequence[Case]) -> str:
    """The values of the axes that decide the meaning of a time or an error, in one line."""
    sources = (f"{c.inputs} layer {c.layer}" if c.layer is not None else c.inputs for c in cases)
    found = {
        "inputs": sources,
        "dtype": (c.dtype for c in cases),
        "direction": (c.direction for c in cases),
        "causal": ("yes" if c.causal else "no" for c in cases),
        "heads": (c.heads for c in cases),
        "head_dim": (c.head_dim for c in cases),
    }
    return "; ".join(
        f"{name} {', '.join(map(str, dict.fromkeys(values)))}" for name, values in found.items()
    )


def seconds(predictions: Sequence[Prediction], other_seconds: float) -> float:
    """The time of a run."""
    return other_seconds + sum(one.seconds for one in predictions)


def too_large(predictions: Sequence[Prediction], memory: int | None) -> list[Prediction]:
    """The cases that need more memory than there is, or did before."""
    limit = float("inf") if memory is None else memory
    return [one for one in predictions if one.failed or one.needed_bytes > limit]


def reasons(rows: Sequence[Measurement]) -> list[str]:
    """Why cases have no numbers: a line for each of the most frequent reasons, with its count."""
    counts = Counter(f"{row.status}: {row.reason}" for row in rows if row.reason)
    lines = [f"{count} {reason}" for reason, count in counts.most_common(SHOWN_REASONS)]
    if more := len(counts) - len(lines):
        others = "1 other reason" if more == 1 else f"{more} other reasons"
        lines.append(f"and {others}; the column `reason` of results.csv has all")
    return lines


def earlier(durations: Sequence[Duration]) -> str:
    """How good earlier predictions were; empty if there were none."""
    ratios = sorted(
        one["took_seconds"] / predicted
        for one in durations
        if (predicted := one.get("predicted_seconds"))
    )
    if not ratios:
        return ""
    runs = "1 earlier run" if len(ratios) == 1 else f"{len(ratios)} earlier runs"
    times = f"{ratios[0]:.2g}"
    if len(ratios) > 1:
        times += f" to {ratios[-1]:.2g}"
    return f"{runs} took {times} times the predicted time"


def gigabytes(size: int) -> str:
    """A size such as `12 MB` or `3.1 GB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.2g} MB"
