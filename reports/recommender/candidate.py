"""A method that could be chosen, with its numbers at one length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isnan
from typing import Literal

Kind = Literal["measured", "interpolated", "extrapolated"]
Bounded = tuple[float, float, float]  # a value, and the ends of its interval
NOT_MEASURED = "not measured"  # prefix of `excluded` if nothing was measured near enough


@dataclass(frozen=True)
class Candidate:
    """One method (a variant, its settings and the requested implementation) at one length.

    Times are in ms, `memory_bytes` in bytes. `noise_low` and `noise_high` are the ends of the
    time's interval without the uncertainty of an interpolation. In decoding, memory is the state
    and what a step allocates. A number that was not measured is NaN.

    `error`, `error_low` and `error_high` are those of the layer `layer`, which the layer policy
    selects; the time is the median over the layers. `layer_errors` has the error of each layer and
    its interval; it is empty for synthetic inputs. `gradient_error` is the largest error of a
    gradient. `perplexity_ratio` is that of a model with the method in all layers, which reads
    `perplexity_seq_len` tokens; it is None if no model run has it. `excluded` says why the method
    is never chosen, and is empty for others. `exact_ms` is the time of the fastest exact
    implementation on the same inputs in the same process, and `sdpa_ms` that of torch SDPA. `rows`
    are numbers of rows of the frame.
    """

    label: str
    variant: str
    hyperparameters: str
    implementation: str
    is_exact: bool
    evidence: Kind
    time_ms: float
    time_low: float
    time_high: float
    noise_low: float
    noise_high: float
    error: float
    error_low: float
    error_high: float
    layer: int | None
    layer_errors: Mapping[int, Bounded]
    memory_bytes: float
    perplexity_ratio: Bounded | None
    perplexity_seq_len: int | None
    excluded: str
    exact_ms: float
    sdpa_ms: float
    gradient_error: float
    rows: tuple[int, ...]

    @property
    def name(self) -> str:
        """The variant with all its settings, and its implementation if it is not `auto`."""
        asked = "" if self.implementation == "auto" else f"implementation={self.implementation}"
        return " ".join(filter(None, (self.variant, self.hyperparameters, asked)))

    @property
    def times_exact(self) -> float:
        """The time of the fastest exact implementation, divided by the time of this method."""
        return self.exact_ms / self.time_ms

    @property
    def lacks_evidence(self) -> bool:
        """Whether the method is excluded only because nothing was measured near enough."""
        return self.excluded.startswith(NOT_MEASURED)

    def layer_of(self, policy: Literal["worst", "median"]) -> int:
        """The layer that a policy selects of `layer_errors`, which must not be empty."""
        return selected({layer: high for layer, (_, _, high) in self.layer_errors.items()}, policy)


def selected(upper_ends: Mapping[int, float], policy: str) -> int:
    """The layer with the largest or the median upper end of the error.

    A missing number counts as infinite. Of an even number of layers, the median is the upper one of
    the middle two.
    """
    ordered = sorted(upper_ends, key=lambda layer: (_or_infinite(upper_ends[layer]), layer))
    return ordered[len(ordered) // 2 if policy == "median" else -1]


def _or_infinite(value: float) -> float:
    return inf if isnan(value) else value
