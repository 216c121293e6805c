"""The schema of results.csv: `Case` has the settings of a row, `Measurement` adds the results.

Each row is one instance. Column names contain the units. `COLUMNS` is the header of results.csv.
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
LAUNCHES = ("eager", "graph")
DIFFERS = "computes something else: "  # prefix of the reason of a row with status ok


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
    """Sixteen hexadecimal digits: a hash of these values."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def column(
    description: str, default: Any = dataclasses.MISSING, *, came_later: bool = False
) -> Any:
    """A dataclass field with a description.

    `came_later` marks a column that older files do not have; its default is the value for them.
    """
    return field(default=default, metadata={"description": description, "came_later": came_later})


@dataclass(frozen=True, kw_only=True)
class AttentionColumns:
    """The columns that identify the attention of a row."""

    variant: str = column("name of the variant")
    implementation: str = column("requested implementation; `auto` lets the variant choose")
    hyperparameters: str = column("all hyperparameters as sorted name=value text")

    @property
    def attention(self) -> Attention:
        """The attention that the columns describe."""
        from variants import parse  # imports torch; not needed to read rows

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

    inputs: str = column("source of query, key and value: a synthetic family or a capture")
    layer: int | None = column("layer of the model, for captured inputs", None)
    device: str = column("cpu or cuda")
    dtype: str = column("float32, bfloat16, float16 or float64")
    batch: int = column("sequences in the batch")
    heads: int = column("query heads")
    kv_heads: int = column("key/value heads")
    seq_len: int = column("queries per sequence")
    key_len: int = column("keys per sequence")
    head_dim: int = column("channels per head")
    causal: bool = column("whether a query sees only keys up to its own position")
    direction: str = column(
        "forward; forward_backward: one forward and one backward pass; decode: one decoding step "
        "after a context of seq_len tokens"
    )
    seed: int = column("random seed of the inputs")
    projections: str = column(
        "none: the timed call is only the attention; separate or shared: it is a layer with "
        "projections on random hidden states, where query and key have separate projections or "
        "share one",
        "none",
        came_later=True,
    )
    launch: str = column(
        "eager: the host launches each kernel of the timed call; graph: the call was recorded once "
        "as a CUDA graph and is replayed, which needs one launch; peak_memory_bytes is that of the "
        "call without a graph",
        "eager",
        came_later=True,
    )

    @property
    def case_id(self) -> str:
        """Sixteen hexadecimal digits: a hash of the fields of `Case`.

        Fields that were added later enter the hash only if they differ from their defaults, so that
        old ids stay valid.
        """
        asked = {k: v for k, v in self._asked().items() if k not in LATER or v != LATER[k]}
        return identity(asked)

    @property
    def shape(self) -> tuple[Any, ...]:
        """The fields that baselines depend on: all except the variant and its settings."""
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
        graph = " in a graph" if self.launch == "graph" else ""
        return f"{name} {shape}{layer}{graph}"

    def _asked(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(Case)}


@dataclass(frozen=True, kw_only=True)
class Measurement(Case):
    """A case and its results. Numbers are None if `status` is not ok or they do not apply."""

    status: Status = column("how the case ended: " + ", ".join(Status))
    reason: str = column(
        "one sentence, if status is not ok or the implementation computes something else than its "
        "variant",
        "",
    )
    implementation_used: str = column("the implementation that ran", "")
    inputs_detail: str = column(
        "heads and tokens of the inputs, and whether heads were repeated", ""
    )

    time_ms_median: float | None = column(
        "median device time of a call, ms: CUDA events with a cold L2 cache; wall time on a CPU",
        None,
    )
    time_ms_q1: float | None = column("first quartile of the device time, ms", None)
    time_ms_q3: float | None = column("third quartile of the device time, ms", None)
    time_ms_min: float | None = column("minimum of the device time, ms", None)
    repeats: int | None = column("number of timed calls", None)
    wall_ms_median: float | None = column(
        "median wall time of a call, including synchronisation with the device, ms", None
    )
    launch_bound: bool | None = column(
        "on a GPU: whether wall_ms_median is more than 1.2 times time_ms_median, so that the host "
        "takes longer to launch the call than the device to run it; empty if host_in_time",
        None,
        came_later=True,
    )
    host_in_time: bool | None = column(
        "on a GPU: whether time_ms_median contains time of the host, because the host cannot run "
        "ahead of the device: the call waits for the device, or has more launches than the queue "
        "of the device holds (about a thousand)",
        None,
        came_later=True,
    )
    sm_clock_mhz: float | None = column(
        "on a GPU: median clock of its processors during the timed calls, MHz; empty without "
        "NVIDIA's driver library NVML",
        None,
        came_later=True,
    )
    power_w: float | None = column(
        "on a GPU: median power of the board during the timed calls, W", None, came_later=True
    )
    throttled: bool | None = column(
        "on a GPU: whether the driver lowered the clock during a timed call, because of the power "
        "limit or the temperature",
        None,
        came_later=True,
    )
    energy_mj: float | None = column(
        "on a GPU: energy of the board for one call, mJ, by the counter of the driver over calls "
        "that follow each other for the seconds of `energy` in the sweep; empty if the counter "
        "advances too rarely in this time, or differs from the power sensor by more than a fifth",
        None,
        came_later=True,
    )
    prepare_ms: float | None = column(
        "time to build the objects that later calls of this shape reuse (drawn patterns, "
        "projections), and for decode the context, ms",
        None,
    )
    exact_ms_median: float | None = column(
        "median time of the fastest exact implementation with at most twice the error of torch "
        "SDPA, on the same inputs in the same process, ms",
        None,
    )
    exact_implementation: str = column("the implementation of exact_ms_median", "")
    sdpa_ms_median: float | None = column(
        "median time of torch SDPA at torch's default settings on the same inputs, ms", None
    )
    sdpa_route_ms_median: float | None = column(
        "median time of torch SDPA on the route of float32 products that the run has chosen, ms; "
        "equal to sdpa_ms_median if the route makes no difference; empty on a GPU",
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
        "peak of the bytes that a call allocates, including its output but not its inputs", None
    )
    exact_peak_memory_bytes: int | None = column("peak_memory_bytes of exact_implementation", None)
    memory_vs_exact: float | None = column("peak_memory_bytes / exact_peak_memory_bytes", None)
    state_bytes: int | None = column(
        "for decode: bytes of the state between two steps, including space for later tokens",
        None,
        came_later=True,
    )

    target: str = column(
        "the operator that the method converges to as its settings grow; `other_kernel`: an "
        "operator other than softmax attention; its error measures how different the operator is, "
        "not its quality",
        "",
        came_later=True,
    )
    approx_error_rel_l2: float | None = column(
        "relative L2 error of the forward output against exact float64 softmax attention on the "
        "same inputs; an output of zeros has the error 1.0",
        None,
    )
    approx_error_low: float | None = column(
        "lower end of the 95 % interval of approx_error_rel_l2 over the choice of sampled rows; "
        "equal to the error if all rows were used. The sample, and so the interval, may miss an "
        "error in fewer than about one row in 40",
        None,
    )
    approx_error_high: float | None = column(
        "upper end of the 95 % interval of approx_error_rel_l2", None
    )
    approx_error_seed_std: float | None = column(
        "standard deviation of approx_error_rel_l2 over seeds of the method, on the same rows; "
        "empty if the method has no seed",
        None,
        came_later=True,
    )
    approx_error_seeds: int | None = column(
        "number of seeds of approx_error_seed_std", None, came_later=True
    )
    approx_error_median_row: float | None = column(
        "median over rows and heads of the relative error of an output row", None, came_later=True
    )
    approx_error_worst_row: float | None = column(
        "largest relative error of a sampled output row", None, came_later=True
    )
    approx_cosine: float | None = column(
        "mean cosine similarity between output rows and exact output rows", None
    )
    mass_recall: float | None = column(
        "mean exact attention mass on the keys that the method sees; only for methods that select "
        "keys",
        None,
    )
    top64_recall: float | None = column(
        "mean share of the 64 keys with the greatest exact weights that the method sees, or of all "
        "visible keys if there are fewer; only for methods that select keys",
        None,
        came_later=True,
    )
    total_variation: float | None = column(
        "mean over rows of half the sum of absolute differences between the method's weights and "
        "the exact weights; equal to 1 - mass_recall for a masked softmax",
        None,
        came_later=True,
    )
    target_error_rel_l2: float | None = column(
        "with a shared query and key: relative L2 error against exact softmax attention that also "
        "shares them: the error of the approximation without that of sharing",
        None,
        came_later=True,
    )
    substitution_error_rel_l2: float | None = column(
        "with a shared query and key: relative L2 error of exact softmax attention that shares "
        "them against exact attention that does not: the error of sharing",
        None,
        came_later=True,
    )
    grad_query_error_rel_l2: float | None = column(
        "for forward_backward: relative L2 error of the gradient of the query against that of "
        "exact float64 attention, for a loss with random weights on the sampled rows; empty if the "
        "exact gradient is zero up to rounding",
        None,
        came_later=True,
    )
    grad_key_error_rel_l2: float | None = column(
        "the same for the gradient of the key", None, came_later=True
    )
    grad_value_error_rel_l2: float | None = column(
        "the same for the gradient of the value", None, came_later=True
    )
    impl_error_rel_l2: float | None = column(
        "relative L2 error of the output against the dense definition of the variant: rounding "
        "errors only; empty if the implementation computes something else",
        None,
    )
    dtype_floor_rel_l2: float | None = column(
        "error of the dtype: relative L2 error of exact attention (torch SDPA) in this dtype on "
        "the same rows",
        None,
        came_later=True,
    )
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
    oracle_rows: int | None = column("query rows per head on which errors were measured", None)

    baseline_keys: float | None = column(
        "keys per query of the two baselines with the same budget: the number of keys that the "
        "method sees if it selects keys, else the number that exact attention reads with the "
        "method's useful_flops",
        None,
        came_later=True,
    )
    mean_value_error_rel_l2: float | None = column(
        "baseline: relative L2 error of the mean of all visible values", None, came_later=True
    )
    random_keys_error_rel_l2: float | None = column(
        "baseline: relative L2 error of softmax attention to baseline_keys random visible keys",
        None,
        came_later=True,
    )
    top_keys_error_rel_l2: float | None = column(
        "baseline: relative L2 error of softmax attention to the baseline_keys keys with the "
        "greatest exact weights",
        None,
        came_later=True,
    )

    effective_keys: float | None = column(
        "inputs: mean over rows and heads of exp(entropy) of the exact attention weights: the "
        "number of equal weights that have the same entropy",
        None,
        came_later=True,
    )
    sink_mass: float | None = column(
        "inputs: mean exact attention mass on the first key", None, came_later=True
    )
    near_mass: float | None = column(
        "inputs: mean exact attention mass on keys at a distance of at most 128",
        None,
        came_later=True,
    )
    top64_mass: float | None = column(
        "inputs: mean exact attention mass on the 64 keys with the greatest weights",
        None,
        came_later=True,
    )
    logit_spread: float | None = column(
        "inputs: mean over rows and heads of the standard deviation of a row's scaled scores over "
        "its visible keys",
        None,
        came_later=True,
    )

    useful_flops: float | None = column(
        "operations that the method cannot avoid; with a backward pass 3.5 times those of the "
        "forward pass, 3 times for kernels other than softmax and for projections",
        None,
    )
    tflops: float | None = column("useful_flops per second of time_ms_median, in 1e12", None)
    roofline_fraction: float | None = column(
        "tflops / this machine's measured matmul rate in the dtype; for decode: bytes of the state "
        "that hold tokens, per second of time_ms_median, / this machine's measured read bandwidth: "
        "above 1 if a step reads a part of its state only, or reads it from a cache",
        None,
    )

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
        """The settings of this row, without its results."""
        return Case(**self._asked())


@dataclass(frozen=True, kw_only=True)
class HeadRow:
    """A row of heads.csv: the error and the inputs of one head of a case with status ok.

    Columns have the same meaning as those of the same name in `Measurement`.
    """

    batch_index: int = column("index of the sequence in the batch")
    head: int = column("index of the query head")
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
    """Data of a case that the journal has in addition to its row."""

    samples_ms: Sequence[float] = ()
    heads: Sequence[HeadRow] = ()
    spoiled: bool = False  # the worker process must not measure other cases


def without_lengths(case: Case) -> Case:
    """The case with its lengths set to 0, to compare cases that differ only in length."""
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
