"""The command `python -m bench bisect`: finds the commit that made a case slower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import click

from bench.cli import revision_gate
from bench.cli.gate_command import GateCommand, NotMeasuredError
from bench.cli.gate_options import GateSettings, gate_options
from bench.schema.case import Case
from bench.schema.validation import UserError
from bench.time_gate import revisions
from bench.time_gate.bisection import BisectionStep, Nearer, first_slow, nearer
from bench.time_gate.gate import CaseOutcome, GatePlan, NoJudgement
from bench.time_gate.gate_cases import NoSuchCaseError
from bench.time_gate.revisions import Revision, RevisionError
from bench.time_gate.verdict import Judgement, TimeVerdict

MOST_NAMED = 5  # cases in a message


@click.command(cls=GateCommand)
@click.option("--good", required=True, metavar="REVISION", help="An ancestor that is faster.")
@click.option("--bad", required=True, metavar="REVISION", help="A revision that is slower.")
@gate_options
def bisect(good: str, bad: str, settings: GateSettings) -> None:
    """Find the first commit that made a case slower, between the commits --good and --bad.

    Each step measures one commit against the good one, with alternating calls as in `compare`.
    --case must name one case. Exit status 0: a commit was found.
    """
    first, last = _commit(good), _commit(bad)
    commits = revisions.commits_between(first, last)
    if not commits:
        raise RevisionError(f"no commit after {first.label} up to {last.label} changes a variant")
    name, case, files, timeout = _one_case(settings)
    with revision_gate.scratch_folder() as scratch:
        plan = GatePlan(
            base=scratch / first.commit,
            head=scratch / last.commit,
            scratch=scratch,
            threads=settings.threads,
            rounds=settings.rounds,
            band=settings.band,
            timeout=timeout,
        )
        _Bisection(plan, {name: case}, files).run(first, last, commits)


@dataclass(frozen=True)
class _Commit(Revision):
    """A revision that is a commit."""

    commit: str


@dataclass(frozen=True)
class _Bisection:
    """The search for one case, and its lines on standard output."""

    plan: GatePlan
    case: Mapping[str, Case]
    files: Mapping[str, Path]

    def run(self, good: _Commit, bad: _Commit, commits: list[str]) -> None:
        """Print the first slow commit. Raises NotMeasuredError if it was not found."""
        revision_gate.build(good, self.plan.base, self.case)
        revision_gate.build(bad, self.plan.head, self.case)
        click.echo(f"{next(iter(self.case))}: {_count(len(commits))} between good and bad")
        (ends,) = revision_gate.measured(self.plan, self.case, self.files)
        judged = _judged(ends)
        if judged.verdict != TimeVerdict.SLOWER:
            raise NotMeasuredError(
                f"bad {bad.label} is not slower than good {good.label}: {_words(judged)}"
            )
        click.echo(f"bad {bad.label} against good {good.label}: {_words(judged)}")
        left = first_slow(commits, lambda commit: self._against_good(commit, ends), ends, _show)
        if len(left) > 1:
            raise NotMeasuredError(
                f"the first slow commit is one of {len(left)}, and all except the last could not "
                f"be measured, or are not decided: {', '.join(commit[:10] for commit in left)}"
            )
        click.echo(f"first slow commit: {left[0]}\n{revisions.subject(left[0])}")
        confirmed, sentence = self._against_parent(left[0])
        click.echo(sentence)
        if not confirmed:
            raise NotMeasuredError(f"the commit {left[0][:10]} is not confirmed")

    def _against_good(self, commit: str, ends: CaseOutcome) -> CaseOutcome:
        """A commit against the good one, with more rounds while the decision is open."""
        try:
            head = self._built(commit)
        except UserError as error:
            return CaseOutcome(next(iter(self.case)), failure=NoJudgement(str(error)))

        def again(outcome: CaseOutcome) -> bool:
            return nearer(outcome, ends) == Nearer.NEITHER

        plan = replace(self.plan, head=head)
        return revision_gate.measured(plan, self.case, self.files, again)[0]

    def _against_parent(self, commit: str) -> tuple[bool, str]:
        """Whether a commit is slower than its first parent, and a sentence with the ratio."""
        try:
            parent = self._built(revisions.resolve(f"{commit}^").commit or "")
            plan = replace(self.plan, base=parent, head=self._built(commit))
            judged = _judged(revision_gate.measured(plan, self.case, self.files)[0])
        except UserError as error:
            return False, f"not compared with its parent: {error}"
        confirmed = judged.verdict == TimeVerdict.SLOWER
        return confirmed, (
            f"against its parent: {_words(judged)}; this "
            f"{'confirms' if confirmed else 'does not confirm'} the commit"
        )

    def _built(self, commit: str) -> Path:
        """The folder with the sources of a commit. Raises UserError if it does not run."""
        folder = self.plan.scratch / commit
        if not folder.exists():
            revision_gate.build(Revision(commit, commit), folder, self.case)
        return folder


def _commit(name: str) -> _Commit:
    found = revisions.resolve(name)
    if found.commit is None:
        raise RevisionError(f"bisect needs commits, got {name}: commit the files first")
    return _Commit(name, found.commit)


def _one_case(settings: GateSettings) -> tuple[str, Case, Mapping[str, Path], float]:
    """The case, its name, the paths of captures and the timeout."""
    if not settings.cases:
        raise click.UsageError("expected --case NAME with the case that became slower")
    cases, files, timeout = revision_gate.chosen_cases(settings)
    if len(cases) > 1:
        more = f" | and {len(cases) - MOST_NAMED} more" if len(cases) > MOST_NAMED else ""
        raise NoSuchCaseError(
            f"expected one case, got {len(cases)}: {' | '.join(list(cases)[:MOST_NAMED])}{more}"
        )
    ((name, case),) = cases.items()
    return name, case, files, timeout


def _judged(outcome: CaseOutcome) -> Judgement:
    """The judgement. Raises NotMeasuredError if there is none."""
    if outcome.judgement is None or outcome.failure:
        raise NotMeasuredError(f"{outcome.name}: {outcome.failure or outcome.missing}")
    return outcome.judgement


def _show(step: BisectionStep) -> None:
    """Print a step."""
    outcome = step.outcome
    why = outcome.failure or outcome.missing
    judged = outcome.judgement
    found = why if why or judged is None else _interval(judged)
    click.echo(
        f"{step.candidates} candidates: {step.commit[:10]} {revisions.subject(step.commit)}: "
        f"{found}, "
        f"{step.nearer}"
    )


def _words(judged: Judgement) -> str:
    return f"{_interval(judged)}, {judged.verdict}"


def _interval(judged: Judgement) -> str:
    return f"ratio {judged.ratio:.3f} ({judged.low:.3f} to {judged.high:.3f})"


def _count(commits: int) -> str:
    return (
        f"{commits} commit{'' if commits == 1 else 's'} that change{'s' * (commits == 1)} variants"
    )
