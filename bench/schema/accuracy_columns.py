"""The columns of errors against exact attention."""

from __future__ import annotations

from dataclasses import dataclass

from bench.schema.column_types import Amount, Cosine, Count, ErrorSize, Share
from bench.schema.columns import Record, column


@dataclass(frozen=True, kw_only=True)
class HeadErrors(Record):
    """The errors that a whole row has, and each of its heads."""

    approx_error_rel_l2: ErrorSize | None = column(
        "relative L2 error of the forward output against exact float64 softmax attention on the "
        "same inputs; an output of zeros has the error 1.0",
        None,
    )
    approx_error_low: ErrorSize | None = column(
        "lower end of the 95 % interval of approx_error_rel_l2 over the choice of sampled rows; "
        "equal to the error if all rows were used. The sample, and so the interval, may miss an "
        "error in fewer than about one row in 40",
        None,
    )
    approx_error_high: ErrorSize | None = column(
        "upper end of the 95 % interval of approx_error_rel_l2", None
    )
    mass_recall: Share | None = column(
        "mean exact attention mass on the keys that the method sees; only for methods that select "
        "keys",
        None,
    )


@dataclass(frozen=True, kw_only=True)
class Accuracy(HeadErrors):
    """The errors of a method."""

    approx_error_seed_std: ErrorSize | None = column(
        "standard deviation of approx_error_rel_l2 over seeds of the method, on the same rows; "
        "empty if the method has no seed",
        None,
        came_later=True,
    )
    approx_error_seeds: Count | None = column(
        "number of seeds of approx_error_seed_std", None, came_later=True
    )
    approx_error_median_row: ErrorSize | None = column(
        "median over rows and heads of the relative error of an output row", None, came_later=True
    )
    approx_error_worst_row: ErrorSize | None = column(
        "largest relative error of a sampled output row", None, came_later=True
    )
    approx_cosine: Cosine | None = column(
        "mean cosine similarity between output rows and exact output rows", None
    )
    top64_recall: Share | None = column(
        "mean share of the 64 keys with the greatest exact weights that the method sees, or of all "
        "visible keys if there are fewer; only for methods that select keys",
        None,
        came_later=True,
    )
    total_variation: Amount | None = column(
        "mean over rows of half the sum of absolute differences between the method's weights and "
        "the exact weights; equal to 1 - mass_recall for a masked softmax",
        None,
        came_later=True,
    )
    target_error_rel_l2: ErrorSize | None = column(
        "with a shared query and key: relative L2 error against exact softmax attention that also "
        "shares them: the error of the approximation without that of sharing",
        None,
        came_later=True,
    )
    substitution_error_rel_l2: ErrorSize | None = column(
        "with a shared query and key: relative L2 error of exact softmax attention that shares "
        "them against exact attention that does not: the error of sharing",
        None,
        came_later=True,
    )
    grad_query_error_rel_l2: ErrorSize | None = column(
        "for forward_backward: relative L2 error of the gradient of the query against that of "
        "exact float64 attention, for a loss with random weights on the sampled rows; empty if the "
        "exact gradient is zero up to rounding",
        None,
        came_later=True,
    )
    grad_key_error_rel_l2: ErrorSize | None = column(
        "the same for the gradient of the key", None, came_later=True
    )
    grad_value_error_rel_l2: ErrorSize | None = column(
        "the same for the gradient of the value", None, came_later=True
    )
    impl_error_rel_l2: ErrorSize | None = column(
        "relative L2 error of the output against the dense definition of the variant: rounding "
        "errors only; empty if the implementation computes something else",
        None,
    )
    oracle_rows: Count | None = column("query rows per head on which errors were measured", None)

    baseline_keys: Amount | None = column(
        "keys per query of the two baselines with the same budget: the number of keys that the "
        "method sees if it selects keys, else the number that exact attention reads with the "
        "method's useful_flops",
        None,
        came_later=True,
    )
    random_keys_error_rel_l2: ErrorSize | None = column(
        "baseline: relative L2 error of softmax attention to baseline_keys random visible keys",
        None,
        came_later=True,
    )
    top_keys_error_rel_l2: ErrorSize | None = column(
        "baseline: relative L2 error of softmax attention to the baseline_keys keys with the "
        "greatest exact weights",
        None,
        came_later=True,
    )


@dataclass(frozen=True, kw_only=True)
class Repeatability(Record):
    """Whether results are the same in every call."""

    deterministic: bool | None = column(
        "whether two forward calls on the same inputs give the same bits; empty for other "
        "directions, layers, and calls of more than 10 ms",
        None,
        came_later=True,
    )
    batch_invariant: bool | None = column(
        "whether the first sequence gives the same bits alone as in a batch (of two if the case "
        "has one); empty as `deterministic`, and if the first call took more than a second, as "
        "another batch may compile again",
        None,
        came_later=True,
    )
