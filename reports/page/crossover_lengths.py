"""The lengths from which a method is faster, or needs less memory, than exact attention.

Only measured lengths count. Between two lengths the answer is the interval, not a number in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isnan

from reports.metrics import show_count
from reports.recommender.candidate import Candidate

MEASURED = "measured"


@dataclass(frozen=True)
class Crossover:
    """A method, and the lengths at which it is faster and smaller than exact attention.

    `faster` and `smaller` have the measured lengths in rising order; `time` and `memory` say the
    same in words. A method is never chosen at a length at which it is not `useful`.
    """

    label: str
    variant: str
    faster: Mapping[int, bool]
    smaller: Mapping[int, bool]
    useful: Mapping[int, bool]

    @property
    def is_useless(self) -> bool:
        """Whether the method is never chosen at any of the lengths."""
        return not any(self.useful.values())

    @property
    def time(self) -> str:
        """The lengths at which the method is faster."""
        return words(self.faster)

    @property
    def memory(self) -> str:
        """The lengths at which the method is smaller."""
        return words(self.smaller)


def crossovers(lengths: Mapping[int, Sequence[Candidate]]) -> list[Crossover]:
    """The crossovers of each candidate of one scene; `lengths` has the candidates of each length.

    A method is faster at a length if its whole time interval is below that of the fastest exact
    method. Exact methods are not listed.
    """
    time: dict[str, dict[int, bool]] = {}
    memory: dict[str, dict[int, bool]] = {}
    variants: dict[str, str] = {}
    useful: dict[str, dict[int, bool]] = {}
    for seq_len in sorted(lengths):
        measured = [it for it in lengths[seq_len] if it.evidence == MEASURED]
        exact = [it for it in measured if it.is_exact and not it.excluded]
        if not exact:
            continue
        fastest = min(exact, key=lambda it: it.time_ms)
        sizes = [it.memory_bytes for it in exact if not isnan(it.memory_bytes)]
        for it in measured:
            if it.is_exact:
                continue
            variants[it.label] = it.variant
            useful.setdefault(it.label, {})[seq_len] = not it.excluded
            time.setdefault(it.label, {})[seq_len] = it.time_high < fastest.time_low
            if sizes and not isnan(it.memory_bytes):
                memory.setdefault(it.label, {})[seq_len] = it.memory_bytes < min(sizes)
    return [
        Crossover(
            label,
            variants[label],
            time[label],
            memory.get(label, {}),
            useful[label],
        )
        for label in sorted(time)
    ]


def words(better: Mapping[int, bool]) -> str:
    """The lengths at which `better` is true, in words; the lengths are in rising order."""
    lengths = list(better)
    if not lengths:
        return "not measured"
    changes = [(a, b) for a, b in pairwise(lengths) if better[a] != better[b]]
    first, last = show_count(lengths[0]), show_count(lengths[-1])
    if len(changes) > 1:
        wins = ", ".join(show_count(n) for n in lengths if better[n])
        return f"{len(changes)} crossings: at {wins}, not at the other {_others(better)}"
    if changes:
        ((a, b),) = changes
        limit = f"a length between {show_count(a)} and {show_count(b)}"
        return f"from {limit}" if better[b] else f"below {limit}"
    if better[lengths[0]]:
        return f"always, {first} to {last}" if len(lengths) > 1 else f"at {first}, the only length"
    return f"never up to {last}"


def _others(better: Mapping[int, bool]) -> str:
    others = [show_count(n) for n, wins in better.items() if not wins]
    return f"{len(others)} measured lengths" if len(others) > 1 else f"measured length, {others[0]}"
