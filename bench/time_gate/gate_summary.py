"""The result of a comparison as a table for a terminal, and as Markdown for a pull request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.table import Table
from rich.text import Text

from bench.schema.case_names import count_of_cases
from bench.time_gate.gate import CaseOutcome, NoJudgement
from bench.time_gate.verdict import Judgement, TimeVerdict

ORDER = (TimeVerdict.SLOWER, TimeVerdict.FASTER, TimeVerdict.UNCLEAR, TimeVerdict.SAME)
FAILED, MISSING = "FAILED", "NOT IN BOTH"
COLUMNS = ("case", "verdict", "time, head / base", "95 % interval", "noise floor", "notes")
LARGE = 0.1  # a slowdown that must not stay UNCLEAR
CHANGED = 1e-5  # relative difference of outputs that is more than rounding in float32


@dataclass(frozen=True)
class GateSummary:
    """The outcomes of all cases.

    Attributes:
        title: the two revisions.
        outcomes: of all cases.
        facts: facts about the machine and the method, in words.
    """

    title: str
    outcomes: Sequence[CaseOutcome]
    facts: Sequence[str]

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of cases with each verdict."""
        return Counter(verdict_of(one) for one in self.outcomes)

    @property
    def headline(self) -> str:
        """The number of cases with each verdict in words: `1 SLOWER, 12 SAME`."""
        words = [*ORDER, FAILED, MISSING]
        found = [f"{self.counts[word]} {word}" for word in words if self.counts.get(word)]
        return ", ".join(found) or "no cases"

    @property
    def failed_on_head(self) -> int:
        """The number of cases that fail on head only, which is a regression."""
        return sum(_side(one.failure) == "head" for one in self.outcomes)

    @property
    def not_measured(self) -> list[str]:
        """The reasons why the comparison has no result as a whole, in words."""
        reasons = []
        if failed := self.counts.get(FAILED, 0) - self.failed_on_head:
            reasons.append(f"{count_of_cases(failed)} could not be measured")
        lacking = Counter(_side(one.missing) for one in self.outcomes if one.missing is not None)
        if lost := lacking["head"]:
            reasons.append(f"head lacks {count_of_cases(lost)} of base")
        if unknown := lacking[""]:
            reasons.append(
                f"the checkout that measures lacks {count_of_cases(unknown)} of both revisions"
            )
        judged = [one.judgement for one in self.outcomes if one.judgement is not None]
        unclear = [one for one in judged if one.verdict == TimeVerdict.UNCLEAR]
        if judged and 2 * len(unclear) >= len(judged):
            reasons.append(f"{len(unclear)} of {count_of_cases(len(judged))} are UNCLEAR")
        elif open_ := sum(one.high > 1 + LARGE for one in unclear):
            reasons.append(
                f"{count_of_cases(open_)} with UNCLEAR may be more than {LARGE:.0%} slower"
            )
        return reasons

    def _result(self) -> list[str]:
        """The failures and the reasons as sentences."""
        found = []
        if failed := self.failed_on_head:
            found.append(f"Regression: {count_of_cases(failed)} of head cannot be called.")
        if self.not_measured:
            found.append(f"The result is not complete: {'; '.join(self.not_measured)}.")
        if self.counts.get(TimeVerdict.UNCLEAR):
            found.append(
                "UNCLEAR is neither a regression nor a proof that there is none: measure the case "
                "again with --case NAME --rounds 30."
            )
        return found

    def table(self) -> Table:
        """A table for a terminal."""
        shown = Table(
            title=Text(f"{self.title}: {self.headline}"),
            caption=Text("\n".join([*self._result(), *self._shared_words(), *self.facts])),
            caption_justify="left",
        )
        for name in COLUMNS:
            shown.add_column(name, justify="left" if name in ("case", "notes") else "right")
        for one in self._sorted():
            shown.add_row(*map(Text, self._cells(one)))
        return shown

    def markdown(self) -> str:
        """Markdown for a pull request; cases that are SAME are folded."""
        changed = [one for one in self._sorted() if verdict_of(one) != TimeVerdict.SAME]
        same = [one for one in self._sorted() if verdict_of(one) == TimeVerdict.SAME]
        parts = [f"### Time gate: {self.headline}", self.title, *self._result()]
        if changed:
            parts.append(self._markdown_table(changed))
        if same:
            parts += [
                f"<details><summary>{len(same)} SAME</summary>",
                self._markdown_table(same),
                "</details>",
            ]
        return "\n\n".join([*parts, *self._shared_words(), *self.facts]) + "\n"

    def _sorted(self) -> list[CaseOutcome]:
        words = (FAILED, *ORDER, MISSING)
        return sorted(self.outcomes, key=lambda one: (words.index(verdict_of(one)), one.name))

    @cached_property
    def _shared(self) -> frozenset[str]:
        """The words that all names have; none if there is one case."""
        words = [set(one.name.split()) for one in self.outcomes]
        return frozenset(set.intersection(*words)) if len(words) > 1 else frozenset()

    def _shared_words(self) -> list[str]:
        if not self._shared:
            return []
        words = (word for word in self.outcomes[0].name.split() if word in self._shared)
        return [f"The names of all cases also have: {' '.join(words)}."]

    def _cells(self, outcome: CaseOutcome) -> tuple[str, ...]:
        name = " ".join(word for word in outcome.name.split() if word not in self._shared)
        numbers = ("", "", "") if outcome.judgement is None else _numbers(outcome.judgement)
        return name, verdict_of(outcome), *numbers, "; ".join(_notes(outcome))

    def _markdown_table(self, outcomes: Sequence[CaseOutcome]) -> str:
        rows: list[Sequence[str]] = [COLUMNS, ["---"] * len(COLUMNS)]
        rows += map(self._cells, outcomes)
        lines = (" | ".join(cell.replace("|", "/") for cell in row) for row in rows)
        return "\n".join(f"| {line} |" for line in lines)


def verdict_of(outcome: CaseOutcome) -> str:
    """The verdict on a case, or the word that stands for none."""
    if outcome.failure:
        return FAILED
    return MISSING if outcome.judgement is None else outcome.judgement.verdict


def _side(reason: NoJudgement | None) -> str | None:
    return None if reason is None else reason.side


def _numbers(judged: Judgement) -> tuple[str, str, str]:
    interval = f"{judged.low:.3f} to {judged.high:.3f}"
    return f"{judged.ratio:.3f}", interval, f"{judged.noise:.1%}"


def _notes(outcome: CaseOutcome) -> list[str]:
    notes = [str(reason) for reason in (outcome.failure, outcome.missing) if reason]
    judged = outcome.judgement
    if judged is not None and judged.verdict == TimeVerdict.UNCLEAR:
        low, high = judged.wide
        notes.append(f"widened interval {low:.3f} to {high:.3f} after {judged.rounds} rounds")
    if outcome.peak_bytes is not None and outcome.peak_bytes[0] != outcome.peak_bytes[1]:
        before, now = outcome.peak_bytes
        notes.append(f"peak bytes {before:,} before, {now:,} now ({now / before - 1:+.1%})")
    if outcome.output_change is None:
        if judged is not None:
            notes.append("the output has another shape")
    elif not outcome.output_change <= CHANGED:
        notes.append(f"the output differs by {outcome.output_change:.2g}")
    return notes
