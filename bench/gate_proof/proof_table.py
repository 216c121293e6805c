"""The results of the injected changes as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from bench.gate_proof.changes import KERNELS, UNCHANGED
from bench.gate_proof.counted_changes import WORDS, is_accepted, named
from bench.gate_proof.exact_rates import rate
from bench.gate_proof.injected_changes import Proof
from bench.gate_proof.slowed_kernels import SIZES, Slowed
from bench.time_gate.gate import CaseOutcome
from bench.time_gate.gate_summary import verdict_of


def markdown(proof: Proof) -> str:
    """All tables and rates."""
    return "\n".join(_lines(proof)) + "\n"


def _lines(proof: Proof) -> Iterator[str]:
    yield "### Operations, tensors and errors: `python -m bench counts`"
    yield ""
    yield from _table(
        ("change", "case", "counts", "caught", "time gate"),
        [
            _row("none", "all", "no difference", is_accepted(proof.unchanged)),
            *(
                _row(
                    WORDS[one.change],
                    one.case,
                    "; ".join(named(one, proof.changed) or proof.changed.about(one.case)),
                    bool(named(one, proof.changed)),
                    _timed(proof.timed[one]),
                )
                for one in KERNELS
            ),
            _row(
                "none",
                UNCHANGED,
                "; ".join(proof.changed.about(UNCHANGED)) or "not named",
                not proof.changed.about(UNCHANGED),
            ),
        ],
    )
    yield ""
    yield "### Added work: `python -m bench compare`"
    yield ""
    yield from _table(
        ("size", "case", "true share", "verdicts", "time, head / base", "caught"),
        [
            _slowed_row([it for it in proof.slowed if (it.kernel, it.size) == (kernel, size)])
            for size in SIZES
            for kernel in KERNELS
        ],
    )
    yield ""
    yield from _table(
        ("size", "comparisons", "verdicts", "caught"),
        [
            (
                f"{size:.0%}",
                name,
                _verdicts(chosen),
                rate(sum(it.caught for it in chosen), len(chosen)),
            )
            for size in SIZES
            for name, chosen in _groups([it for it in proof.slowed if it.size == size])
            if chosen
        ],
    )
    yield ""
    seen = [work for one in KERNELS if (work := _work(proof, one.case))]
    yield (
        f"`bench counts` named the added work of {SIZES[0]:.0%} in {len(seen)} of "
        f"{len(KERNELS)} cases, for example: {seen[0] if seen else 'none'}"
    )
    yield ""
    yield "All were caught." if proof.complete else "NOT all were caught."


def _groups(found: Sequence[Slowed]) -> Iterator[tuple[str, list[Slowed]]]:
    yield "all", list(found)
    yield "slower head", [it for it in found if not it.backwards]
    yield "slower base", [it for it in found if it.backwards]
    yield "beside a busy process", [it for it in found if it.busy]


def _row(change: str, case: str, said: str, is_right: bool, timed: str = "") -> Sequence[str]:
    return change, case, said, "yes" if is_right else "NO", timed


def _timed(outcome: CaseOutcome) -> str:
    judged = outcome.judgement
    return verdict_of(outcome) + ("" if judged is None else f" ({judged.ratio:.3f})")


def _slowed_row(found: Sequence[Slowed]) -> Sequence[str]:
    one = found[0]
    ratios = ", ".join(
        f"{it.outcome.judgement.ratio:.3f}" if it.outcome.judgement else "none" for it in found
    )
    right = sum(it.caught for it in found)
    verdicts = ", ".join(it.verdict + (" (busy)" if it.busy else "") for it in found)
    share = f"{one.slowdown.share:.1%}"
    return f"{one.size:.0%}", one.kernel.case, share, verdicts, ratios, f"{right} of {len(found)}"


def _verdicts(found: Sequence[Slowed]) -> str:
    return ", ".join(f"{n} {name}" for name, n in Counter(it.verdict for it in found).items())


def _work(proof: Proof, case: str) -> str:
    return next((it for it in proof.counted_work.about(case) if "operation exp_: " in it), "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cells)} |"
