"""The schema: `Case` is what was asked, `Measurement` adds what was seen. One row, one instance.

Units stand in the names. The header of every CSV is `COLUMNS`, and nothing else repeats it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from variants import Attention

DIRECTIONS = ("forward", "forward_backward", "decode")
PROJECTIONS = ("none", "separate", "shared")
DIFFERS = "computes something else: "  # begins the reason of a row that ended well all the same


class Status(StrEnum):
    """How a case ended."""

    OK = "ok"
    UNSUPPORTED = "unsupported"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    ERROR = "error"
    INCORRECT = "incorrect"
    SKIPPED = "skipped"


def identity(asked: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that stand for these values and nothing else."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def column(
    description: str, default: Any = dataclasses.MISSING, *, came_later: bool = False
) -> Any:
    """A field; one that came later has a default that stands for how it was before."""
    return field(default=default, metadata={"description": description, "came_later": came_later})


@dataclass(frozen=True, kw_only=True)
class AttentionColumns:
    """The columns that say which attention a row is about."""

    variant: str = column("registry name of the attention")
    implementation: str = column("implementation asked for; `auto` lets the variant choose")
    hyperparameters: str = column("all settings as sorted name=value text")

    @property
    def attention(self) -> Attention:
        """The attention that the columns name."""
        from variants import parse  # needs torch, and reports read rows without it

        return parse(f"{self.variant} {self.hyperparameters} implementation={self.implementation}")


def attention_columns(attention: Attention) -> dict[str, Any]:
    """The values of `AttentionColumns` for an attention."""
    return {
        "variant": attention.info.name,
        "implementation": attention.implementation,
        "hyperparameters": attention.hyperparameters,
    }


@dataclass(frozen=True, kw_only=True)
class Case(AttentionColumns):
    """One point of a sweep."""

    inputs: str = column("where query, key and value come from")
    layer: int | None = column("layer of the model a captured input comes from", None)
    device: str = column("cpu or cuda")
    dtype: str = column("float32, bfloat16, float16 or float64")
    batch: int = column("sequences in the batch")
    heads: int = column("query heads")
    kv_heads: int = column("key/value heads")
    seq_len: int = column("queries per sequence")
    key_len: int = column("keys per sequence")
    head_dim: int = column("channels of a head")
    causal: bool = column("whether later keys are hidden")
    direction: str = column(
        "forward; forward_backward: one forward and one backward pass; decode: one step of one "
        "token after a context of seq_len tokens"
    )
    seed: int = column("seed of the inputs")
    projections: str = column(
        "none: the call is the attention alone; separate or shared: it is a layer with projections "
        "on hidden states of noise, in which query and key have one each or one together",
        "none",
        came_later=True,
    )

    @property
    def case_id(self) -> str:
        """Sixteen hexadecimal digits that stand for these fields and nothing else; a field that
        came later tells by another value than its default alone."""
        asked = {k: v for k, v in self._asked().items() if k not in LATER or v != LATER[k]}
        return identity(asked)

    @property
    def shape(self) -> tuple[Any, ...]:
        """What a baseline depends on: every field but the variant and its settings."""
        own = {f.name for f in dataclasses.fields(AttentionColumns)}
        return tuple(v for k, v in self._asked().items() if k not in own)

    @property
    def label(self) -> str:
        """A short name for progress bars and messages."""
        name = (
            self.variant
            if self.implementation == "auto"
            else f"{self.variant}/{self.implementation}"
        )
        shape = f"n={self.seq_len} h={self.heads} {self.dtype} {self.direction}"
        layer = "" if self.projections == "none" else f" {self.projections} projections"
        return f"{name} {shape}{layer}"

    def _asked(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(Case)}


@dataclass(frozen=True, kw_only=True)
class Measurement(Case):
    """A case and its outcome: numbers only if `status` is ok, and None where inapplicable."""

    status: Status = column("how the case ended: " + ", ".join(Status))
    reason: str = column(
        "one sentence, if the case did not end well or computes something else than its variant", ""
    )
    implementation_used: str = column("the implementation that ran", "")
    inputs_detail: str = column("heads and tokens of the inputs, and how they were repeated", "")

    time_ms_median: float | None = column(
        "device time of a call, median, ms: CUDA events with a cold L2 cache; wall time on a CPU",
        None,
    )
    time_ms_q1: float | None = column("its first quartile, ms", None)
    time_ms_q3: float | None = column("its third quartile, ms", None)
    time_ms_min: float | None = column("its minimum, ms", None)
    repeats: int | None = column("timed calls", None)
    wall_ms_median: float | None = column(
        "wall time of a call that waits for the device, median, ms", None
    )
    prepare_ms: float | None = column(
        "once per shape: building what later calls re-use (drawn patterns, projections); for "
        "decode also the context, ms",
        None,
    )
    exact_ms_median: float | None = column(
        "the fastest exact implementation within 2 times SDPA's error, same shape and process, ms",
        None,
    )
    exact_implementation: str = column("which implementation that was", "")
    sdpa_ms_median: float | None = column("torch SDPA at default settings, likewise, ms", None)
    sdpa_route_ms_median: float | None = column(
        "torch SDPA on the route of float32 products that the run has chosen, likewise, ms; equal "
        "to sdpa_ms_median where the route makes no difference; empty on a GPU",
        None,
        came_later=True,
    )
    float32_route: str = column(
        "route of float32 products in the timed call on a CPU: default, or fast "
        "(variants.choose_float32_route); torch SDPA and decoding are timed at torch's defaults",
        "",
        came_later=True,
    )
    speedup_vs_exact: float | None = column("exact_ms_median / time_ms_median", None)

    peak_memory_bytes: int | None = column(
        "peak of allocated bytes beyond the inputs, output included", None
    )
    exact_peak_memory_bytes: int | None = column("the same of the exact implementation", None)
    memory_vs_exact: float | None = column("peak_memory_bytes / exact_peak_memory_bytes", None)
    state_bytes: int | None = column(
        "for decode: bytes held between two steps, room for later tokens included",
        None,
        came_later=True,
    )

    target: str = column(
        "what the method converges to as its settings grow; `other_kernel` is another operator "
        "than softmax attention, whose error says how different it is, not how good",
        "",
        came_later=True,
    )
    approx_error_rel_l2: float | None = column(
        "relative L2 error of the forward output against exact float64 softmax attention on the "
        "same inputs; returning zeros scores 1.0",
        None,
    )
    approx_error_low: float | None = column(
        "lower end of its 95 % interval, for which rows were taken; equal to it where all were. An "
        "error in fewer than about one row in 40 may be missed by the sample, and by the interval",
        None,
    )
    approx_error_high: float | None = column("upper end of that interval", None)
    approx_error_seed_std: float | None = column(
        "standard deviation of the error over draws of the method's own random numbers, on the "
        "same rows; empty where it draws none",
        None,
        came_later=True,
    )
    approx_error_seeds: int | None = column("how many draws that were", None, came_later=True)
    approx_error_median_row: float | None = column(
        "median over rows and heads of the relative error of one output row", None, came_later=True
    )
    approx_error_worst_row: float | None = column(
        "the largest relative error of one output row among those taken", None, came_later=True
    )
    approx_cosine: float | None = column(
        "mean cosine similarity of output rows to exact ones", None
    )
    mass_recall: float | None = column(
        "mean exact attention mass on the keys the method sees, where it selects keys", None
    )
    top64_recall: float | None = column(
        "mean share of the 64 keys of greatest exact weight that the method sees, of all visible "
        "ones where there are fewer; where it selects keys",
        None,
        came_later=True,
    )
    total_variation: float | None = column(
        "mean over rows of half the sum of absolute differences between the method's weights and "
        "the exact ones; of a masked softmax 1 - mass_recall",
        None,
        came_later=True,
    )
    target_error_rel_l2: float | None = column(
        "with a shared query and key: relative L2 error against exact softmax attention that "
        "shares them too; the approximation alone",
        None,
        came_later=True,
    )
    substitution_error_rel_l2: float | None = column(
        "with a shared query and key: relative L2 error of exact softmax attention that shares "
        "them against exact attention; what sharing costs by itself",
        None,
        came_later=True,
    )
    grad_query_error_rel_l2: float | None = column(
        "for forward_backward: relative L2 error of the query's gradient against that of exact "
        "float64 attention, of a loss with random weights on the rows taken; empty where that is "
        "zero but for rounding",
        None,
        came_later=True,
    )
    grad_key_error_rel_l2: float | None = column(
        "the same of the key's gradient", None, came_later=True
    )
    grad_value_error_rel_l2: float | None = column(
        "the same of the value's gradient", None, came_later=True
    )
    impl_error_rel_l2: float | None = column(
        "relative L2 error of the output against the variant's own dense definition: rounding "
        "only; empty where the implementation computes something else",
        None,
    )
    dtype_floor_rel_l2: float | None = column(
        "what the dtype alone costs: relative L2 error of exact attention (torch SDPA) in this "
        "dtype on the same rows",
        None,
        came_later=True,
    )
    oracle_rows: int | None = column("query rows per head on which errors were taken", None)

    baseline_keys: float | None = column(
        "keys per query that the baselines of the same budget have: those the method sees where it "
        "selects keys, else as many as exact attention reads with the method's useful_flops",
        None,
        came_later=True,
    )
    mean_value_error_rel_l2: float | None = column(
        "baseline: relative L2 error of the mean of all visible values", None, came_later=True
    )
    random_keys_error_rel_l2: float | None = column(
        "baseline: the same of softmax attention to baseline_keys random visible keys",
        None,
        came_later=True,
    )
    top_keys_error_rel_l2: float | None = column(
        "baseline: the same of softmax attention to the baseline_keys keys of greatest exact "
        "weight",
        None,
        came_later=True,
    )

    effective_keys: float | None = column(
        "of the inputs, mean over rows and heads: exp of the entropy of exact attention weights, "
        "the number of keys that as many equal weights would have",
        None,
        came_later=True,
    )
    sink_mass: float | None = column(
        "of the inputs: mean exact attention mass on the first key", None, came_later=True
    )
    near_mass: float | None = column(
        "of the inputs: mean exact attention mass on keys at a distance of at most 128",
        None,
        came_later=True,
    )
    top64_mass: float | None = column(
        "of the inputs: mean exact attention mass on the 64 keys of greatest weight",
        None,
        came_later=True,
    )
    logit_spread: float | None = column(
        "of the inputs: mean over rows and heads of the standard deviation of a row's scaled "
        "scores over its visible keys",
        None,
        came_later=True,
    )

    useful_flops: float | None = column(
        "operations the method cannot avoid; with a backward pass 3.5 times those of the forward "
        "pass, 3 times for kernels other than softmax and for projections",
        None,
    )
    tflops: float | None = column("useful_flops per second of time_ms_median, in 1e12", None)
    roofline_fraction: float | None = column("tflops / this machine's measured matmul rate", None)

    def __post_init__(self) -> None:
        numbers = [f.name for f in dataclasses.fields(self) if f.name in NUMBERS]
        if self.status is not Status.OK:
            if present := [name for name in numbers if getattr(self, name) is not None]:
                raise ValueError(f"a row with status {self.status} has no numbers; got {present}")
            if not self.reason:
                raise ValueError(f"a row with status {self.status} needs a reason")
        elif self.time_ms_median is None:
            raise ValueError("a row with status ok needs a time")

    @classmethod
    def of(cls, case: Case, status: Status, reason: str = "", **seen: Any) -> Measurement:
        """The row of `case`."""
        return cls(**dataclasses.asdict(case), status=status, reason=reason, **seen)

    @property
    def case(self) -> Case:
        """What was asked."""
        return Case(**self._asked())


@dataclass(frozen=True, kw_only=True)
class HeadRow:
    """One head of a row that ended well: how wrong it is, and what its inputs are like. Columns
    mean what those of the same name in a `Measurement` do."""

    batch_index: int = column("which sequence of the batch")
    head: int = column("which query head")
    approx_error_rel_l2: float
    approx_error_low: float
    approx_error_high: float
    mass_recall: float | None
    effective_keys: float
    sink_mass: float
    near_mass: float
    top64_mass: float
    logit_spread: float


@dataclass(frozen=True)
class Raw:
    """What the journal keeps of a case besides its row."""

    samples_ms: Sequence[float] = ()
    heads: Sequence[HeadRow] = ()


def without_lengths(case: Case) -> Case:
    """What a case has in common with the same one at other lengths."""
    return dataclasses.replace(case, seq_len=0, key_len=0)


CASE_COLUMNS = tuple(f.name for f in dataclasses.fields(Case))
COLUMNS = tuple(f.name for f in dataclasses.fields(Measurement))
_TEXTS = (
    "status",
    "reason",
    "implementation_used",
    "inputs_detail",
    "exact_implementation",
    "float32_route",
    "target",
)
HEAD_COLUMNS = (*CASE_COLUMNS, *(f.name for f in dataclasses.fields(HeadRow)))
NUMBERS = frozenset(COLUMNS) - frozenset(CASE_COLUMNS) - frozenset(_TEXTS)
LATER: dict[str, Any] = {
    f.name: f.default for f in dataclasses.fields(Measurement) if f.metadata["came_later"]
}
DESCRIPTIONS = {f.name: f.metadata["description"] for f in dataclasses.fields(Measurement)}
