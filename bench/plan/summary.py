"""The predicted needs of a sweep, in a table and in sentences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from rich.table import Table

from bench.loop.progress import in_words
from bench.plan.prediction import RANGES, Prediction
from bench.schema.case import Case
from bench.schema.case_names import count_of_cases
from bench.schema.environment_file import Duration
from bench.schema.measurement import Measurement

SOURCES = {
    "measured": "measured before",
    "scaled": "scaled from similar cases",
    "counted": "counted from operations",
}
NAMED = 3  # cases that a sentence names
SHOWN_REASONS = 5


def tables(title: str, predictions: Sequence[Prediction], done: Collection[str]) -> list[Table]:
    """The cases, their time and their memory for each variant, and for each length.

    No table has a column for each length, because it would be wider than a terminal.

    Args:
        title: of the first table.
        predictions: those of all cases.
        done: ids of the cases that have a row already.
    """
    variants: dict[str, list[Prediction]] = defaultdict(list)
    lengths: dict[str, list[Prediction]] = defaultdict(list)
    for one in sorted(predictions, key=lambda one: (one.case.variant, one.case.seq_len)):
        variants[one.case.variant].append(one)
    for one in sorted(predictions, key=lambda one: one.case.seq_len):
        lengths[str(one.case.seq_len)].append(one)
    first = Table(title=title)
    first.add_column("variant")
    first.add_column("lengths", justify="right")
    _fill(first, variants, done, lambda own: _span([one.case.seq_len for one in own]))
    second = Table()
    second.add_column("length", justify="right")
    second.add_column("variants", justify="right")
    _fill(second, lengths, done, lambda own: str(len({one.case.variant for one in own})))
    return [first, second]


def _fill(
    shown: Table,
    groups: Mapping[str, Sequence[Prediction]],
    done: Collection[str],
    content: Callable[[Sequence[Prediction]], str],
) -> None:
    """Add a row for each group and one for all, with the counts, the times and the memory."""
    for name in ("cases", *(["done"] if done else []), "time", "memory"):
        shown.add_column(name, justify="right")
    every = [one for own in groups.values() for one in own]
    for name, own in [*groups.items(), *([("all", every)] if every else [])]:
        left = [one for one in own if one.case.case_id not in done]
        if own is every:
            shown.add_section()
        shown.add_row(
            name,
            content(own),
            str(len(own)),
            *([str(len(own) - len(left))] if done else []),
            in_words(sum(one.seconds for one in left)),
            gigabytes(max(one.needed_bytes for one in own)),
        )


def _span(lengths: Iterable[int]) -> str:
    """A text such as `256 to 4096 (5)`."""
    known = sorted(set(lengths))
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]} ({len(known)})"


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
    count = count_of_cases(len(predictions))
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
