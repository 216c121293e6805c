"""An answer in words, for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import isnan

from rich.table import Table
from rich.text import Text

from bench.schema.validation import name_of
from reports.metrics import show_bytes, show_error, show_ms, show_ratio
from reports.recommender.advice import Advice
from reports.recommender.candidate import Bounded, Candidate
from reports.recommender.choose import Bounds, violations
from reports.recommender.evidence import Evidence
from reports.recommender.evidence_rows import MeasuredRow, measured_rows
from reports.recommender.measuring import commands

INDENT = 2
MOST_ROWS = 12  # evidence rows in the words; all of them are in the JSON
MOST_TIED = 3
Part = Text | Table


def words(evidence: Evidence, advice: Advice) -> Iterator[Part]:
    """The paragraphs and tables of an answer."""
    question, chosen = advice.question, advice.chosen
    asked = f"{question.seq_len} tokens, {limit_words(question.limits)}"
    yield Text(name_of(f"{question.scene.words}; {asked}"), "dim")
    yield Text(headline(advice), "bold")
    shown = chosen or advice.exact
    if shown:
        yield from _lines(_numbers(shown))
        yield from _lines(violations(shown, question.limits))
    if advice.nearby:
        yield Text(f"AT {advice.compared_at} TOKENS", "bold")
        yield from _lines(_numbers(advice.nearby))
        if (other := advice.chosen_nearby) and other is not advice.nearby:
            yield from _lines([f"the choice there: {_brief(other)}"])
    if advice.tied:
        names = "; ".join(one.name for one in advice.tied[:MOST_TIED])
        yield from _lines([f"as fast, up to noise: {names}"])
    elsewhere = advice.compared_at not in (None, question.seq_len)
    at = f" (at {advice.compared_at} tokens)" if elsewhere else ""
    if advice.alternatives:
        best = advice.chosen_nearby or chosen
        exact = best is None or best.is_exact
        yield Text(f"WHY {'no approximation' if exact else 'not others'}{at}", "bold")
        yield _table(
            [*_row(other.candidate), "; ".join(other.reasons)] for other in advice.alternatives
        )
    if advice.ladder:
        yield Text(f"IF YOU ALLOW MORE ERROR{at}", "bold")
        yield _table([f"≤ {rung.max_error:g}", *_row(rung.candidate)] for rung in advice.ladder)
    if shown and (rows := measured_rows(evidence, shown)):
        yield Text("EVIDENCE", "bold")
        yield _table([_measured(row) for row in rows[:MOST_ROWS]])
        if len(rows) > MOST_ROWS:
            yield from _lines([f"and {len(rows) - MOST_ROWS} more rows"])
    if advice.caveats:
        yield Text("CAVEATS", "bold")
        yield from _lines(advice.caveats)
    yield Text("MEASURE IT", "bold")
    yield from _lines(commands(evidence, advice))


def headline(advice: Advice) -> str:
    """The first line of an answer."""
    chosen, exact = advice.chosen, advice.exact
    shown = chosen or exact
    named = f": {name_of(shown.name)}" if shown else ""
    if advice.status == "none":
        return f"NO METHOD is within the limits; the nearest exact attention{named}"
    if advice.status == "unsure":
        outside = "" if chosen or exact is None else ", which is not within the limits"
        return f"UNSURE, the evidence is too thin: USE exact attention{outside}{named}"
    assert chosen is not None  # the status says so
    exactly = "exact attention: " if chosen.is_exact else ""
    return f"USE {exactly}{name_of(chosen.name)}"


def one_line(advice: Advice) -> str:
    """The answer in one line: the limits, the length, the method, its time and its error."""
    question, chosen = advice.question, advice.chosen
    start = f"{limit_words(question.limits)} at {question.seq_len} tokens:"
    if chosen is None:
        return f"{start} no method"
    unsure = " (not enough evidence)" if advice.status == "unsure" else ""
    return f"{start} {_brief(chosen, unsure)}"


def limit_words(limits: Bounds) -> str:
    """The limits in one line."""
    given = (
        ("error", limits.max_error, "{:g}".format),
        ("memory", limits.max_memory, show_bytes),
        ("time", limits.max_time, show_ms),
        ("perplexity", limits.max_perplexity_ratio, show_ratio),
    )
    return ", ".join(f"{name} ≤ {show(value)}" for name, value, show in given if value is not None)


def _brief(candidate: Candidate, remark: str = "") -> str:
    ratio = candidate.times_exact
    return ", ".join(
        [
            f"{name_of(candidate.name)}{remark}",
            show_ms(candidate.time_ms),
            *([] if isnan(ratio) else [f"{show_ratio(ratio)} exact"]),
            f"error up to {show_error(candidate.error_high)}",
        ]
    )


def _numbers(candidate: Candidate) -> Iterator[str]:
    """The numbers of a method, a line each."""
    time = (candidate.time_ms, candidate.time_low, candidate.time_high)
    ratios = [
        f"{show_ratio(ms / candidate.time_ms)} {name}"
        for name, ms in (
            ("the fastest exact implementation", candidate.exact_ms),
            ("torch SDPA", candidate.sdpa_ms),
        )
        if not isnan(ms)
    ]
    kind = "" if candidate.evidence == "measured" else f", {candidate.evidence.upper()}"
    yield "; ".join([f"time {_bounded(time, show_ms)}{kind}", *ratios])
    if not isnan(candidate.memory_bytes):
        yield f"memory {show_bytes(candidate.memory_bytes)}"
    yield f"error {_error(candidate)}"
    if candidate.perplexity_ratio:
        ratio = _bounded(candidate.perplexity_ratio, show_ratio)
        yield f"perplexity of the model {ratio} at {candidate.perplexity_seq_len} tokens"


def _error(candidate: Candidate) -> str:
    """The error of the policy's layer; with several layers, the worst and the median one."""
    own = _bounded((candidate.error, candidate.error_low, candidate.error_high))
    if candidate.layer is None:
        return own
    if len(candidate.layer_errors) == 1:
        return f"{own} in layer {candidate.layer}"
    worst, median = candidate.layer_of("worst"), candidate.layer_of("median")
    policy, other, layer = (
        ("worst", "median", median) if candidate.layer == worst else ("median", "worst", worst)
    )
    layers = ", ".join(map(str, candidate.layer_errors))
    return (
        f"{own} in layer {candidate.layer} ({policy} of layers {layers}); "
        f"{other} {_bounded(candidate.layer_errors[layer])} in layer {layer}"
    )


def _row(candidate: Candidate) -> list[str]:
    """The cells of a method in a table: name, error, times exact, and time."""
    ratio = candidate.times_exact
    kind = "" if candidate.evidence == "measured" else candidate.evidence
    return [
        name_of(candidate.name),
        _bounded((candidate.error, candidate.error_low, candidate.error_high)),
        "" if isnan(ratio) else f"{show_ratio(ratio)} exact",
        show_ms(candidate.time_ms),
        kind,
    ]


def _measured(row: MeasuredRow) -> list[str]:
    layer = "" if row.layer is None else f"layer {row.layer}"
    return [
        f"{row.seq_len} tokens",
        f"{row.heads} heads",
        layer,
        _bounded((row.time_ms, row.time_low, row.time_high), show_ms),
        f"error {_bounded((row.error, row.error_low, row.error_high))}",
    ]


def _bounded(value: Bounded, show: Callable[[float], str] = show_error) -> str:
    return f"{show(value[0])} [{show(value[1])}, {show(value[2])}]"


def _lines(lines: Iterable[str]) -> Iterator[Text]:
    for line in lines:
        yield Text(" " * INDENT + name_of(line))


def _table(rows: Iterable[Sequence[str]]) -> Table:
    found = [[name_of(cell) for cell in row] for row in rows]
    table = Table.grid(padding=(0, 2))
    for _ in range(1 + max(map(len, found))):
        table.add_column(overflow="fold")
    for row in found:
        table.add_row("", *map(Text, row))
    return table
