"""Measures cases of two revisions in rounds until each has a verdict."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bench.time_gate import alternation
from bench.time_gate.alternation import Sides
from bench.time_gate.side import Side, SideError
from bench.time_gate.verdict import LOOKS, Judgement, RoundRatios, TimeVerdict, judge

SIDES = ("base", "head", "base")  # the third process is the control


@dataclass(frozen=True)
class NoJudgement:
    """The reason why a case was not measured.

    Attributes:
        why: in words.
        side: the revision that failed or has no such case, `base` or `head`; empty if it is none.
    """

    why: str
    side: str = ""

    def __str__(self) -> str:
        return f"{self.side}: {self.why}" if self.side else self.why


@dataclass(frozen=True)
class CaseOutcome:
    """The result of a case: a judgement, or the reason why there is none.

    Attributes:
        name: of the case.
        judgement: None if the case could not be measured.
        missing: why a revision has no such case; None if both have it.
        failure: how a revision failed; None if none did.
        peak_bytes: peak of the bytes that a call allocates, of base and of head.
        output_change: relative L2 distance of the two outputs.
    """

    name: str
    judgement: Judgement | None = None
    missing: NoJudgement | None = None
    failure: NoJudgement | None = None
    peak_bytes: tuple[int, int] | None = None
    output_change: float | None = None


@dataclass(frozen=True)
class GatePlan:
    """How a comparison is measured.

    Attributes:
        base: folder with the sources of base.
        head: folder with the sources of head.
        scratch: folder for outputs.
        threads: of each worker. With one thread on a CPU, times are CPU times of the process.
        rounds: number of rounds of the first look; each further look has twice as many.
        band: relative difference that does not matter.
        timeout: seconds that a case may take to prepare, and a turn to be timed.
        family: number of cases among which false alarms are limited; None for all.
    """

    base: Path
    head: Path
    scratch: Path
    threads: int = 1
    rounds: int = 10
    band: float = 0.03
    timeout: float = 60.0
    family: int | None = None


@dataclass
class _Progress:
    """The state of one case between rounds."""

    request: dict[str, Any]
    outcome: CaseOutcome
    rounds: RoundRatios = field(default_factory=RoundRatios)
    calls: int = 0

    @property
    def measurable(self) -> bool:
        return not (self.outcome.missing or self.outcome.failure)


def is_unclear(outcome: CaseOutcome) -> bool:
    """Whether more rounds may change the verdict into one that is clear."""
    return outcome.judgement is not None and outcome.judgement.verdict == TimeVerdict.UNCLEAR


def compare(
    plan: GatePlan,
    requests: Mapping[str, dict[str, Any]],
    step: Callable[[int, int], None],
    again: Callable[[CaseOutcome], bool] = is_unclear,
) -> list[CaseOutcome]:
    """Measure all cases, and some of them again, at most twice.

    Args:
        plan: the revisions and settings.
        requests: by the name of the case, the case as `GateWorker.prepare` takes it.
        step: called after each case of a round, with the steps that are planned now and those that
            are done.
        again: whether a case that was measured needs more rounds.
    """
    cases = [_Progress(request, CaseOutcome(name)) for name, request in requests.items()]
    open_, done = cases, 0
    for look in range(LOOKS):
        rounds = plan.rounds * 2**look
        planned = done + rounds * len(open_)
        for number in range(rounds - plan.rounds, 2 * rounds - plan.rounds):
            for _ in _round(plan, [one for one in open_ if one.measurable], number):
                done += 1
                step(planned, done)
        for one in open_:
            if one.measurable:
                judged = judge(one.rounds, plan.band, plan.family or len(cases))
                one.outcome = replace(one.outcome, judgement=judged)
        open_ = [one for one in open_ if one.measurable and again(one.outcome)]
    return [one.outcome for one in cases]


def _round(plan: GatePlan, cases: Sequence[_Progress], number: int) -> Iterator[None]:
    """One round of all cases in three new processes. Yields after each case."""
    waiting = random.Random(number).sample(cases, len(cases))
    while waiting:
        with ExitStack() as stack:
            try:
                sides = _start(plan, stack)
            except SideError as error:
                one = waiting.pop()
                one.outcome = replace(one.outcome, failure=NoJudgement(f"new processes: {error}"))
                yield
                continue
            while waiting:
                one = waiting.pop()
                try:
                    _measure(plan, sides, one, number)
                except SideError as error:
                    failed = error
                    break  # new processes for the next cases: these may be in any state
                yield
            else:
                return
        one.outcome = replace(one.outcome, failure=_confirmed(plan, one.request, failed))
        yield


def _confirmed(plan: GatePlan, request: dict[str, Any], error: SideError) -> NoJudgement:
    """The failure of a revision. One of head is a regression, so head must fail again in a process
    alone, and base must not: else memory, or time of a busy machine, may be the reason."""
    if error.side != "head":
        return NoJudgement(str(error), error.side)
    if _fails_alone(plan, plan.head, request) and not _fails_alone(plan, plan.base, request):
        return NoJudgement(str(error), "head")
    return NoJudgement(f"head failed, and this is not confirmed: {error}")


def _fails_alone(plan: GatePlan, folder: Path, request: dict[str, Any]) -> bool:
    """Whether a call fails in a new process, while no other process of the gate runs."""
    try:
        with Side(folder, plan.threads) as side:
            side.started()
            side.ask("prepare", plan.timeout, case=request)
            side.ask("time", plan.timeout, calls=1)
            side.ask("facts", plan.timeout, file=str(plan.scratch / "alone.safetensors"))
    except SideError:
        return True
    return False


def _start(plan: GatePlan, stack: ExitStack) -> Sides:
    """Base, head and control; they start at the same time."""
    folders = {"base": plan.base, "head": plan.head}
    base, head, control = (
        stack.enter_context(Side(folders[name], plan.threads, name=name)) for name in SIDES
    )
    for side in (base, head, control):
        side.started()
    return base, head, control


def _measure(plan: GatePlan, sides: Sides, one: _Progress, number: int) -> None:
    """One round of a case. Raises SideError."""
    for name, side in zip(SIDES, sides, strict=True):
        answer = side.ask("prepare", plan.timeout, case=one.request)
        if "missing" in answer:
            one.outcome = replace(one.outcome, missing=NoJudgement(answer["missing"], name))
            return
    if not one.calls:
        one.outcome = _with_facts(plan, sides, one.outcome)
        one.calls = alternation.calls_of_a_turn(sides[0], plan.timeout)
    found = alternation.one_round(sides, one.calls, plan.timeout, first=number % 3)
    one.rounds = one.rounds.joined(found)


def _with_facts(plan: GatePlan, sides: Sides, outcome: CaseOutcome) -> CaseOutcome:
    """The outcome with the memory and the outputs of both revisions."""
    outputs, peaks = [], []
    for name, side in zip(SIDES[:2], sides[:2], strict=True):
        file = plan.scratch / f"{name}.safetensors"
        peaks.append(side.ask("facts", plan.timeout, file=str(file))["peak_bytes"])
        outputs.append(load_file(file)["output"].double())
    first, second = outputs
    change = None
    if first.shape == second.shape:
        change = float(torch.linalg.norm(second - first) / torch.linalg.norm(first))
    return replace(outcome, peak_bytes=(peaks[0], peaks[1]), output_change=change)
