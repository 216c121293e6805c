"""The accuracy columns of a row."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bench.accuracy import weights
from bench.accuracy.reference import Reference
from bench.accuracy.sampled_rows import Sample, mean, median, relative_error
from bench.accuracy.weights import SELECTING, Weighed
from bench.measurement import HeadRow
from variants import Attention

# Largest relative error of a kernel against its own dense definition that rounding explains: four
# to ten times what the registered variants show on Gaussian and on captured inputs.
ROUNDING = {"float64": 1e-10, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
ROUNDED_SCORES = 5e-2  # the same where scores are rounded to bfloat16
KEPT = 1 << 19  # numbers of a definition's output at most that are kept for other cases
SEEDS = 5  # draws of a random method whose errors are compared
EXACTLY = 1e-9  # by how much two ways to compute one number in float64 may differ


def rounding(dtype: str, *, reduced_precision: bool = False) -> float:
    """Largest relative error against its own definition that an implementation may have;
    `reduced_precision` if it rounds scores to bfloat16, which none does with float64 inputs."""
    rounds_scores = reduced_precision and dtype != "float64"
    return ROUNDED_SCORES if rounds_scores else ROUNDING[dtype]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracy columns of a measurement, by their names; `heads` are those of each head."""

    approx_error_rel_l2: float
    approx_error_low: float
    approx_error_high: float
    approx_error_seed_std: float | None = None
    approx_error_seeds: int | None = None
    approx_error_median_row: float
    approx_error_worst_row: float
    approx_cosine: float
    mass_recall: float | None = None
    top64_recall: float | None = None
    total_variation: float | None = None
    target_error_rel_l2: float | None = None
    substitution_error_rel_l2: float | None = None
    grad_query_error_rel_l2: float | None = None
    grad_key_error_rel_l2: float | None = None
    grad_value_error_rel_l2: float | None = None
    impl_error_rel_l2: float | None = None
    oracle_rows: int
    baseline_keys: float | None = None
    random_keys_error_rel_l2: float | None = None
    top_keys_error_rel_l2: float | None = None
    heads: tuple[HeadRow, ...] = field(default=(), repr=False)

    @property
    def columns(self) -> dict[str, Any]:
        """Names and values of all but `heads`."""
        return {name: value for name, value in vars(self).items() if name != "heads"}

    def over_seeds(self, others: Sequence[float]) -> Accuracy:
        """With the spread of this error and those of other draws, if there are any."""
        if not others:
            return self
        spread = statistics.stdev([self.approx_error_rel_l2, *others])
        return replace(self, approx_error_seed_std=spread, approx_error_seeds=len(others) + 1)

    def with_gradients(
        self, query: float | None, key: float | None, value: float | None
    ) -> Accuracy:
        """With the errors of gradients."""
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
) -> Accuracy:
    """Compare an output with exact attention and with the attention's own weights.

    Args:
        out: (batch, heads, rows, head_dim), the rows of the reference's sample.
        shared_qk: whether the variant was given the query as its key.
        affordable_keys: keys a query that exact attention reads with the method's operations; None
            leaves the baselines of the same budget out.

    Of an implementation that `differs` the attention's own weights say nothing.
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
    return Accuracy(
        approx_error_rel_l2=error,
        approx_error_low=low,
        approx_error_high=high,
        approx_error_median_row=median(relative, sample),
        approx_error_worst_row=float(relative.max()),
        approx_cosine=float(cosine.mean()),
        oracle_rows=len(sample.rows),
        heads=tuple(_heads(attention, reference, weighed, out)),
        **seen,
    )


def seed_errors(
    attention: Attention, reference: Reference, *, shared_qk: bool = False
) -> list[float]:
    """Errors with other draws of the method's random numbers; none if it has no `seed`."""
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


def input_columns(reference: Reference) -> dict[str, float | None]:
    """What is said of the inputs, whichever method reads them: means over all heads."""
    described = vars(reference.description)
    return {
        **{name: float(value.mean()) for name, value in described.items()},
        "dtype_floor_rel_l2": reference.dtype_floor(),
        "mean_value_error_rel_l2": reference.mean_value_error(),
    }


def contradiction(attention: Attention, seen: Accuracy) -> str:
    """Why these numbers cannot all be true; empty if they can.

    A softmax over fewer keys gives each of them more weight in proportion, so its total variation
    from the exact one is the mass it leaves out; unless a shared query and key changed the scores.
    """
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


def _definition(attention: Attention) -> Attention:
    """What implementations of one attention share: its dense definition."""
    return replace(attention, implementation="auto")


def _weighed(attention: Attention, reference: Reference, shared_qk: bool) -> Weighed:
    """The attention's own weights on these inputs, computed once for all implementations and
    directions."""

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
    """What is said of each head by itself."""
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
