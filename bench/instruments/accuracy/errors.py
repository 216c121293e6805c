"""Computes the accuracy columns of a row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bench.instruments.accuracy import weights
from bench.instruments.accuracy.reference import Reference
from bench.instruments.accuracy.sampled_rows import Sample, mean, median, relative_error
from bench.instruments.accuracy.weights import SELECTING, Weighed
from bench.schema.accuracy_columns import Accuracy
from bench.schema.input_columns import InputFacts
from bench.schema.measurement import HeadRow
from variants import Attention

# Largest relative error of a kernel against its own dense definition that rounding can explain:
# four to ten times the errors of the registered variants on Gaussian and on captured inputs.
ROUNDING = {"float64": 1e-10, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
ROUNDED_SCORES = 5e-2  # the same for scores rounded to bfloat16
KEPT = 1 << 19  # largest output of a dense definition, in numbers, that is kept for other cases
SEEDS = 5  # draws of a random method, for the spread of its error
EXACTLY = 1e-9  # largest difference of one number computed in two ways in float64


def rounding(dtype: str, *, reduced_precision: bool = False) -> float:
    """Largest relative error that an implementation may have against its own dense definition.

    Args:
        dtype: dtype of the inputs.
        reduced_precision: whether the implementation rounds scores to bfloat16. No implementation
            does so for float64 inputs.
    """
    rounds_scores = reduced_precision and dtype != "float64"
    return ROUNDED_SCORES if rounds_scores else ROUNDING[dtype]


@dataclass(frozen=True, kw_only=True)
class MeasuredAccuracy(Accuracy):
    """The accuracy columns of a measurement; `heads` are the rows of heads.csv."""

    heads: tuple[HeadRow, ...] = field(default=(), repr=False)

    def over_seeds(self, others: Sequence[float]) -> MeasuredAccuracy:
        """A copy with the standard deviation over this error and `others`, if there are others."""
        if not others:
            return self
        assert self.approx_error_rel_l2 is not None
        spread = statistics.stdev([self.approx_error_rel_l2, *others])
        return replace(self, approx_error_seed_std=spread, approx_error_seeds=len(others) + 1)

    def with_gradients(
        self, query: float | None, key: float | None, value: float | None
    ) -> MeasuredAccuracy:
        """A copy with the errors of the gradients."""
        return replace(
            self,
            grad_query_error_rel_l2=query,
            grad_key_error_rel_l2=key,
            grad_value_error_rel_l2=value,
        )


def measure(
    attention: Attention,
    reference: Reference,
    out: Tensor,
    *,
    shared_qk: bool = False,
    affordable_keys: float | None = None,
) -> MeasuredAccuracy:
    """Compare an output with exact attention and with the attention's own dense definition.

    Args:
        attention: the attention that made `out`. If its implementation `differs` from the variant,
            the columns that need the variant's weights are empty.
        reference: exact attention on the same inputs.
        out: (batch, heads, rows, head_dim), the rows of the reference's sample.
        shared_qk: whether the variant was called with the query as its key.
        affordable_keys: keys per query that exact attention could read with the method's number of
            operations. None leaves out the baselines with the same budget.
    """
    out = out.detach().double()
    exact, sample = reference.exact.out, reference.sample
    error, low, high = reference.error(out)
    sees = reference.visible_keys > 0
    wrong = (out - exact).norm(dim=-1)
    relative = torch.where(wrong == 0, 0, wrong / exact.norm(dim=-1))  # both may be 0
    cosine = mean(torch.cosine_similarity(out, exact, dim=-1), sample, sees)
    seen: dict[str, Any] = {}
    weighed = None
    if not attention.differs:
        weighed = _weighed(attention, reference, shared_qk)
        seen = _weighed_columns(attention, reference, weighed, out)
        if affordable_keys is not None and not attention.info.is_exact:
            definition = _definition(attention)
            seen |= reference.once(
                ("baselines", definition, shared_qk, affordable_keys),
                lambda: _baseline_columns(reference, weighed, affordable_keys),
            )
    return MeasuredAccuracy(
        approx_error_rel_l2=error,
        approx_error_low=low,
        approx_error_high=high,
        approx_error_median_row=median(relative, sample),
        approx_error_worst_row=float(relative.max()),
        approx_cosine=float(cosine.mean()),
        oracle_rows=len(sample.rows),
        heads=tuple(head for head in _heads(attention, reference, weighed, out) if _known(head)),
        **seen,
    )


def seed_errors(
    attention: Attention, reference: Reference, *, shared_qk: bool = False
) -> list[float]:
    """Errors with other seeds of the method; an empty list if the method has no `seed`."""
    seed = vars(attention).get("seed")
    if seed is None:
        return []
    key = reference.query if shared_qk else reference.key
    found = []
    for other in range(seed + 1, seed + SEEDS):
        settings: dict[str, Any] = {"seed": other}
        drawn = replace(attention, **settings)
        out = drawn(reference.query, key, reference.value, causal=reference.causal)
        found.append(reference.error(out[:, :, reference.sample.rows])[0])
    return found


def input_facts(reference: Reference, detail: str) -> InputFacts:
    """The columns that depend only on the inputs, not on the method: means over all heads."""
    described = vars(reference.description)
    return InputFacts(
        # NaN if no query sees a key
        **{name: _finite(float(value.mean())) for name, value in described.items()},
        inputs_detail=detail,
        dtype_floor_rel_l2=reference.dtype_floor(),
        mean_value_error_rel_l2=reference.mean_value_error(),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def contradiction(attention: Attention, seen: Accuracy) -> str:
    """Why these numbers cannot be right; empty if they can.

    A number that is NaN or infinite is no error: the output is so, or the exact output is 0.
    A softmax over fewer keys scales the weights of these keys up by one factor. So its total
    variation distance from the exact softmax is the exact mass on the keys that it leaves out. This
    does not hold if a shared query and key changes the scores.
    """
    for name, value in seen.values.items():
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name} must be finite; got {value}"
    shared = seen.target_error_rel_l2 is not None
    if attention.target != "masked_softmax" or seen.mass_recall is None or shared:
        return ""
    variation, left_out = seen.total_variation, 1 - seen.mass_recall
    if variation is not None and abs(variation - left_out) <= EXACTLY:
        return ""
    return (
        f"a softmax over fewer keys must differ from the exact one by the mass it leaves out, "
        f"{left_out:.9g}; its total variation is {variation:.9g}"
    )


def _weighed_columns(
    attention: Attention, reference: Reference, weighed: Weighed, out: Tensor
) -> dict[str, Any]:
    sample, sees = reference.sample, reference.visible_keys > 0

    def total_mean(rows: Tensor) -> float:
        return float(mean(rows, sample, sees).mean())

    columns: dict[str, Any] = {
        "impl_error_rel_l2": _relative(out, weighed.out, sample),
        "total_variation": total_mean(weighed.total_variation),
    }
    if attention.target in SELECTING:
        columns["mass_recall"] = total_mean(weighed.kept_mass)
        columns["top64_recall"] = total_mean(weighed.top_recall)
    if weighed.target_out is not None:
        columns["target_error_rel_l2"] = _relative(out, weighed.target_out, sample)
        columns["substitution_error_rel_l2"] = reference.error(weighed.target_out)[0]
    return columns


def _known(head: HeadRow) -> bool:
    """Whether all numbers of a head are finite: not if its exact output is 0, or no query sees a
    key."""
    return all(math.isfinite(value) for value in head.values.values() if value is not None)


def _definition(attention: Attention) -> Attention:
    """The attention with implementation `auto`: all implementations share its dense definition."""
    return replace(attention, implementation="auto")


def _weighed(attention: Attention, reference: Reference, shared_qk: bool) -> Weighed:
    """The comparison of the attention's weights with exact ones on these inputs, computed once for
    all implementations and directions."""

    def weigh() -> Weighed:
        return weights.weigh(attention, reference, shared_qk=shared_qk)

    if reference.exact.out.numel() > KEPT:
        return weigh()
    return reference.once(("weighed", _definition(attention), shared_qk), weigh)


def _baseline_columns(
    reference: Reference, weighed: Weighed, affordable_keys: float
) -> dict[str, float]:
    keys = weights.budget(reference, weighed, affordable_keys)
    random, top = weights.baselines(reference, keys)
    return {
        "baseline_keys": float(mean(keys.double(), reference.sample).mean()),
        "random_keys_error_rel_l2": random,
        "top_keys_error_rel_l2": top,
    }


def _relative(out: Tensor, other: Tensor, sample: Sample) -> float:
    wrong, size = ((out - other).square(), other.square())
    return relative_error(wrong.sum((0, 1, 3)), size.sum((0, 1, 3)), sample)[0]


def _heads(
    attention: Attention, reference: Reference, weighed: Weighed | None, out: Tensor
) -> Iterator[HeadRow]:
    """The rows of heads.csv."""
    exact, sample = reference.exact.out, reference.sample
    wrong, size = (out - exact).square().sum(-1), exact.square().sum(-1)
    kept = None
    if weighed is not None and attention.target in SELECTING:
        kept = mean(weighed.kept_mass, sample, reference.visible_keys > 0)
    for batch in range(out.shape[0]):
        for head in range(out.shape[1]):
            at = batch, head
            error, low, high = relative_error(wrong[at], size[at], sample)
            yield HeadRow(
                batch_index=batch,
                head=head,
                approx_error_rel_l2=error,
                approx_error_low=low,
                approx_error_high=high,
                mass_recall=None if kept is None else float(kept[at]),
                **{name: float(value[at]) for name, value in vars(reference.description).items()},
            )
