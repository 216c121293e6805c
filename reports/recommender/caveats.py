"""The limits of the evidence of an answer, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan

from reports.metrics import show_error
from reports.recommender.candidate import Candidate
from reports.recommender.curve_index import ALIGNED
from reports.recommender.evidence import Evidence
from reports.recommender.packaged_capture import packaged_capture
from reports.recommender.question import Question
from reports.recommender.scene import Scene

SMALL = 0.05  # relative difference of times that needs no caveat


def caveats(
    evidence: Evidence,
    question: Question,
    chosen: Candidate | None,
    candidates: Sequence[Candidate],
) -> list[str]:
    """The sentences on an answer; `candidates` are those at the length of the question."""
    return [
        *_length(evidence, question, candidates),
        *_heads(evidence, question.scene),
        *_layers(evidence, question, chosen),
        *_measures(evidence, question, chosen),
    ]


def _length(
    evidence: Evidence, question: Question, candidates: Sequence[Candidate]
) -> Iterator[str]:
    lengths, seq_len = evidence.lengths(question.scene), question.seq_len
    if not lengths:
        yield "these runs have no rows of this kind, so nothing is compared"
        return
    capture = packaged_capture(question.scene.inputs)
    if capture and seq_len > capture.tokens:
        yield (
            f"{capture.model} reads at most {capture.tokens} tokens; the command below measures "
            "synthetic inputs with the attention of one of its layers"
        )
    if seq_len > lengths[-1]:
        yield f"nothing was measured above {lengths[-1]} tokens, so no approximation is chosen"
    elif seq_len < lengths[0]:
        yield f"nothing was measured below {lengths[0]} tokens, so no approximation is chosen"
    elif seq_len not in lengths:
        measured = ", ".join(map(str, lengths))
        yield f"nothing was measured at {seq_len} tokens; measured lengths: {measured}"
    if seq_len % ALIGNED and not any(length % ALIGNED for length in lengths):
        yield (
            f"all measured lengths are multiples of {ALIGNED}, and {seq_len} tokens can take "
            "longer than stated"
        )
    if candidates and not any(one.is_exact for one in candidates):
        yield "exact attention was not measured in these conditions"


def _heads(evidence: Evidence, scene: Scene) -> Iterator[str]:
    heads = evidence.heads(scene)
    if not heads or scene.heads in heads:
        return
    measured = ", ".join(map(str, heads))
    yield f"nothing was measured with {scene.heads} heads; measured numbers of heads: {measured}"
    if not heads[0] < scene.heads < heads[-1]:
        yield "the number of heads is not between measured ones, so no approximation is chosen"


def _layers(evidence: Evidence, question: Question, chosen: Candidate | None) -> Iterator[str]:
    if chosen is None or not chosen.layer_errors:
        return
    shown, known = list(chosen.layer_errors), evidence.layers(question.scene)
    own = evidence.measured_layers(chosen.rows)
    estimated = [layer for layer in shown if layer not in own]
    if estimated and not chosen.is_exact:
        yield (
            f"this method was not measured in layer {_named(estimated)}; the numbers there are "
            f"estimated from layer {_named(own)}"
        )
    if isinstance(question.layer, int):
        return
    if missing := [layer for layer in known if layer not in shown]:
        yield (
            f"the error is that of layer {_named(shown)} only; other rows have the layers "
            f"{_named(missing)}"
        )
    elif len(shown) == 1:
        yield f"the error is that of layer {_named(shown)} only"
    else:
        yield f"the error is that of the layers {_named(shown)}; `--layer N` estimates another one"


def _named(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))


def _measures(evidence: Evidence, question: Question, chosen: Candidate | None) -> Iterator[str]:
    if chosen is None:
        return
    if not isnan(chosen.gradient_error):
        yield (
            "the error is that of the output; the largest error of a gradient is "
            f"{show_error(chosen.gradient_error)}"
        )
    elif question.scene.direction == "forward_backward":
        yield "the error is that of the output; errors of gradients were not measured"
    if isnan(chosen.memory_bytes) and question.limits.max_memory is not None:
        yield "memory was not measured"
    if not chosen.is_exact and chosen.perplexity_ratio is None:
        yield "no model run has this method, so the change of a model's perplexity is not known"
    resolution = evidence.resolution(question.scene.machine)
    if resolution is not None and resolution > SMALL:
        yield (
            f"two measurements of the same code differed by up to {resolution:.0%} in this run "
            "(selfcheck); the intervals of times are those within one measurement"
        )
    disturbed = evidence.disturbed(chosen.rows)
    if disturbed:
        yield f"{disturbed} of {len(chosen.rows)} rows were disturbed while they were measured"
