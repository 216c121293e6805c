"""Compares two revisions for the commands `compare` and `bisect`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
import torch

from bench.cli.gate_command import FINE, NOT_MEASURED, REGRESSION, NotMeasuredError
from bench.cli.gate_options import GateSettings
from bench.cli.options import chosen_device
from bench.instruments import environment
from bench.loop.result_files import partial_file, write_text
from bench.plan.sweep import Sweep, read
from bench.schema.case import Case
from bench.schema.case_names import count_of_cases
from bench.schema.validation import FileError, name_of, reason
from bench.time_gate import gate_cases, revisions
from bench.time_gate.changed_variants import changed_variants
from bench.time_gate.gate import CaseOutcome, GatePlan, is_unclear
from bench.time_gate.gate import compare as compare_sources
from bench.time_gate.gate_summary import GateSummary
from bench.time_gate.revisions import Revision
from bench.time_gate.side import Side, SideError
from bench.time_gate.unmeasured_cases import unmeasured_cases
from bench.time_gate.verdict import FALSE_ALARMS, LOOKS, TimeVerdict

IMPORT = 60.0  # seconds to parse the name of an attention, which may import a library


def run(
    base_name: str, head_name: str | None, settings: GateSettings, *, changed_only: bool
) -> GateSummary:
    """Compare two revisions. The summary has no outcomes if only changed variants are wanted, and
    no case is of such a variant.

    Raises:
        UserError: the revisions or cases do not exist.
        NotMeasuredError: a revision does not run here.
    """
    base, head = revisions.resolve(base_name), revisions.chosen_head(head_name)
    title = f"base {base.label}, head {head.label}"
    cases, files, timeout = chosen_cases(settings)
    with scratch_folder() as scratch:
        sources = {name: scratch / name for name in ("base", "head")}
        for name, revision in (("base", base), ("head", head)):
            build(revision, sources[name], cases if settings.cases else {})
        sweep, its_files = _sweep(settings)
        asked = gate_cases.listing(sweep, chosen_device(settings.device), its_files, settings.cases)
        alone, unknown = unmeasured_cases(sources, cases, asked)
        if changed_only:
            changed = changed_variants(sources["base"], sources["head"])
            cases = {name: case for name, case in cases.items() if case.variant in changed}
            alone = [one for one in alone if one.name.split()[0] in changed]
            if not (cases or alone):
                words = f"no variant of these cases differs between {base.label} and {head.label}"
                click.echo(words)
                return GateSummary(title, [], [f"N{words[1:]}."])
        plan = GatePlan(
            base=sources["base"],
            head=sources["head"],
            scratch=scratch,
            threads=settings.threads,
            rounds=settings.rounds,
            band=settings.band,
            timeout=timeout,
        )
        facts = [
            *unknown,
            *_dependencies(sources["base"], sources["head"]),
            *_facts(chosen_device(settings.device), settings, len(cases)),
        ]
        outcomes = [*measured(plan, cases, files), *alone]
    return GateSummary(title, outcomes, facts)


def status_of(found: GateSummary) -> int:
    """The exit status: a regression, also a call that fails on head only, counts more than a case
    that could not be measured."""
    if not found.outcomes:
        return FINE
    if found.counts.get(TimeVerdict.SLOWER) or found.failed_on_head:
        return REGRESSION
    return NOT_MEASURED if found.not_measured else FINE


def check_writable(file: Path) -> None:
    """Raise FileError if a file cannot be written; the file is not changed."""
    partial = partial_file(file)
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise FileError(f"cannot write {name_of(file)}: {reason(error)}") from None


def write_summary(file: Path, text: str) -> None:
    """Write the Markdown; FileError if the file cannot be written."""
    try:
        write_text(file, text)
    except OSError as error:
        raise FileError(f"cannot write {name_of(file)}: {reason(error)}") from None


def chosen_cases(settings: GateSettings) -> tuple[dict[str, Case], dict[str, Path], float]:
    """The cases by name, the paths of their captures, and the timeout of a case."""
    device = chosen_device(settings.device)
    sweep, files = _sweep(settings)
    cases = gate_cases.cases_of(sweep, device, files)
    if settings.cases:
        cases = gate_cases.selected(cases, settings.cases)
    if not cases:
        raise click.UsageError("no case of this sweep runs on this machine")
    return cases, files, settings.timeout or sweep.timeout


def _sweep(settings: GateSettings) -> tuple[Sweep, dict[str, Path]]:
    """The sweep, and the paths of its captures."""
    return read(settings.sweep or gate_cases.CASES).overridden(settings.axes).located()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for sources and tensors that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="time-gate-") as folder:
        yield Path(folder)


def build(revision: Revision, folder: Path, named: Mapping[str, Case] | None = None) -> None:
    """Check a revision out, and import it once, so that later imports find compiled files.

    Args:
        revision: to check out.
        folder: that is created.
        named: cases that the revision must have.

    Raises:
        NotMeasuredError: it cannot be imported in this environment.
        NoSuchCaseError: it has no such case.
    """
    revisions.check_out(revision, folder)
    try:
        with Side(folder, threads=1) as side:
            side.started()
            for name, case in (named or {}).items():
                attention = gate_cases.attention_of(case)
                if why := side.ask("missing", IMPORT, attention=attention)["why"]:
                    raise gate_cases.NoSuchCaseError(f"{revision.label} has no case {name}: {why}")
    except SideError as error:
        raise NotMeasuredError(
            f"{revision.label} does not run in this environment: {error}"
        ) from None


def measured(
    plan: GatePlan,
    cases: Mapping[str, Case],
    files: Mapping[str, Path],
    again: Callable[[CaseOutcome], bool] = is_unclear,
) -> list[CaseOutcome]:
    """The outcomes of all cases; shows the progress and the time that is left."""
    requests = gate_cases.requests(cases, files, plan.scratch)
    label = count_of_cases(len(requests))
    with click.progressbar(length=plan.rounds * len(requests), label=label, file=sys.stderr) as bar:

        def step(planned: int, done: int) -> None:
            bar.length = planned
            bar.update(done - bar.pos)

        return compare_sources(plan, requests, step, again)


def _dependencies(base: Path, head: Path) -> list[str]:
    """A note if the revisions require other packages: both run with those that are installed."""
    before, now = revisions.dependencies(base), revisions.dependencies(head)
    if before == now:
        return []
    changed = [f"without {', '.join(sorted(before - now))}"] if before - now else []
    changed += [f"with {', '.join(sorted(now - before))}"] if now - before else []
    return [
        f"Head requires other packages ({'; '.join(changed)}). Both revisions ran with the "
        "packages that are installed here."
    ]


def _facts(device: str, settings: GateSettings, cases: int) -> list[str]:
    described = environment.describe(torch.device(device))
    hardware = described["hardware"]
    clock = "CPU time" if device == "cpu" and settings.threads == 1 else "wall time"
    count = "1 thread" if settings.threads == 1 else f"{settings.threads} threads"
    return [
        f"{hardware['gpu'] or hardware['processor']}, {hardware['cores']} cores, torch "
        f"{described['software']['torch']}; {clock} of {count}, {settings.rounds} rounds or more.",
        "SLOWER and FASTER: the widened interval of the ratio lies outside of the band of "
        f"{settings.band:.0%} and of the noise floor, which is the difference of two processes of "
        f"base. The interval is widened for {count_of_cases(cases)} and {LOOKS} measurements of "
        f"each, so that at most {FALSE_ALARMS:.0%} of comparisons of equal code have any SLOWER or "
        "FASTER. SAME: the 95 % interval lies within the band. UNCLEAR: neither. docs/tracking.md "
        "has measured error rates.",
    ]
