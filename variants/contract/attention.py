"""The interface of every variant: a frozen set of hyperparameters that can be called."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from variants.contract.added import ADDED, Added, added_names
from variants.contract.dense import compute_dtype
from variants.contract.registry import Info

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Parameters = dict[str, Tensor]


class UnsupportedError(ValueError):
    """A request that is well formed but that this variant, or this machine, cannot serve."""


def hyperparameter(
    default: Any,
    *,
    minimum: float | None = None,
    step: int = 1,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """A dataclass field with its valid values, which `Attention` checks when it is made: one of the
    choices, or a number of at least `minimum`; a whole one is a multiple of `step`."""
    known = {"minimum": minimum, "step": step, "choices": choices}
    return dataclasses.field(default=default, metadata=known)


@dataclass(frozen=True, kw_only=True)
class Attention(ABC):
    """Base of all variants. Fields are hyperparameters; no tensor and no state is kept.

    A variant writes `attend`, the kernel, and `dense_weights`, the same mathematics in the obvious
    quadratic way. Both get checked arguments, a number for `scale`, and zeros in the place of
    padded keys and values.

    Key j stands at position j, query i at position i + key_len - query_len.
    """

    info: ClassVar[Info]

    implementation: str = "auto"

    def __post_init__(self) -> None:
        name = self.info.name
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            minimum, choices = field.metadata.get("minimum"), field.metadata.get("choices")
            if field.name == "implementation":
                choices = ("auto", *self.info.implementations, *added_names(name))
            if choices is not None and value not in choices:
                valid = ", ".join(map(str, choices))
                raise ValueError(f"{name}: {field.name} must be one of {valid}; got {value!r}")
            wanted = type(field.default)
            if minimum is not None and not (type(value) is wanted and value >= minimum):
                kind = "an integer" if wanted is int else "a number with a decimal point"
                raise ValueError(
                    f"{name}: {field.name} must be {kind} of at least {minimum}; got {value!r}"
                )
            if type(value) is not wanted:
                raise ValueError(
                    f"{name}: {field.name} must be of type {wanted.__name__}; got {value!r}"
                )
            if wanted is int and value % (step := field.metadata.get("step", 1)):
                raise ValueError(
                    f"{name}: {field.name} must be a multiple of {step}; got {value!r}"
                )

    @property
    def hyperparameters(self) -> str:
        """All settings but the implementation, as sorted `name=value` text."""
        names = sorted(f.name for f in dataclasses.fields(self) if f.name != "implementation")
        return " ".join(f"{name}={getattr(self, name)}" for name in names)

    @property
    def supports(self) -> frozenset[str]:
        """Capabilities of the variant, as far as the implementation that is asked for has them."""
        return self._added.supports if self._added else self.info.supports

    @property
    def differs(self) -> str:
        """How the implementation that is asked for departs from `weights`; empty if it must not."""
        return self._added.differs if self._added else ""

    @property
    def target(self) -> str:
        """What this setting converges to; a word of `registry.TARGETS`."""
        return self.info.target

    @property
    def convex(self) -> bool:
        """Whether this setting's weights are not negative, and sum to 1 or, in a row that sees
        nothing, to 0: the output is then a mean of values."""
        return self.info.convex

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        causal: bool = False,
        key_padding_mask: Tensor | None = None,
        scale: float | None = None,
        parameters: Parameters | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: (batch, heads, query_len, head_dim).
            key, value: (batch, kv_heads, key_len, head_dim); query head h reads key/value head
                h // (heads // kv_heads).
            causal: hide keys at later positions; these must be finite all the same, as NaN times
                a weight of 0 is NaN.
            key_padding_mask: bool (batch, key_len), True = padding, as in
                torch.nn.MultiheadAttention.
            scale: factor on the query; None means `default_scale(head_dim)`.
            parameters: learned tensors as made by `init_parameters`; None means the seeded ones.

        Returns:
            (batch, heads, query_len, head_dim) in the dtype of the query. A row that sees no key
            is 0, with zero gradient.

        Raises:
            ValueError: shapes, dtypes or devices that do not fit together.
            UnsupportedError: a capability this variant does not declare, or a call that is not
                causal of one that is causal only.
        """
        self._check(query, key, value, causal, key_padding_mask)
        if key_padding_mask is not None:
            # Selected away rather than multiplied by zero: padding may hold NaN.
            padding = key_padding_mask[:, None, :, None]
            key, value = key.masked_fill(padding, 0), value.masked_fill(padding, 0)
        attend = partial(self._added.attend, self) if self._added else self.attend
        return attend(
            query,
            key,
            value,
            causal=causal,
            key_padding_mask=key_padding_mask,
            scale=self.default_scale(query.shape[-1]) if scale is None else float(scale),
            parameters=self._parameters(query, parameters),
        )

    def weights(
        self,
        query: Tensor,
        key: Tensor,
        *,
        causal: bool = False,
        key_padding_mask: Tensor | None = None,
        scale: float | None = None,
        parameters: Parameters | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """The coefficients of each value: `weights @ value` is the output of the call.

        Takes the arguments of the call; `rows` (int64 indices) asks for some query rows only.

        Returns:
            (batch, heads, len(rows) or query_len, key_len).
        """
        self._check(query, key, key, causal, key_padding_mask)
        if key_padding_mask is not None:
            key = key.masked_fill(key_padding_mask[:, None, :, None], 0)
        if rows is None:
            rows = torch.arange(query.shape[2], device=query.device)
        return self.dense_weights(
            query,
            key,
            rows,
            causal=causal,
            key_padding_mask=key_padding_mask,
            scale=self.default_scale(query.shape[-1]) if scale is None else float(scale),
            parameters=self._parameters(query, parameters),
        )

    @abstractmethod
    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        causal: bool,
        key_padding_mask: Tensor | None,
        scale: float,
        parameters: Parameters,
    ) -> Tensor:
        """The kernel; arguments as in the call, already checked."""

    @abstractmethod
    def dense_weights(
        self,
        query: Tensor,
        key: Tensor,
        rows: Tensor,
        *,
        causal: bool,
        key_padding_mask: Tensor | None,
        scale: float,
        parameters: Parameters,
    ) -> Tensor:
        """The oracle; arguments as in `weights`, already checked."""

    def default_scale(self, head_dim: int) -> float:
        """The scale used when the caller gives none."""
        return 1 / math.sqrt(head_dim)

    def init_parameters(self, heads: int, head_dim: int, seed: int = 0) -> Parameters:
        """Learned tensors of a fresh variant; empty where a method learns nothing."""
        return {}

    def prepare(
        self, query: Tensor, key: Tensor, *, causal: bool, key_padding_mask: Tensor | None = None
    ) -> None:
        """Build what later calls of this shape will re-use (drawn patterns, projections)."""

    def unavailable(self, implementation: str, device: torch.device) -> str | None:
        """Why an own implementation cannot run on this machine's device; None if it can."""
        return None

    def cannot_run(self, device: torch.device) -> str | None:
        """Why the implementation that is asked for cannot run on a device; None if it can."""
        if self._added:
            return self._added.unavailable(device) if self._added.unavailable else None
        return (
            None if self.implementation == "auto" else self.unavailable(self.implementation, device)
        )

    def choose_implementation(self, query: Tensor, key: Tensor) -> str:
        """The implementation a call with these tensors uses; never compiles anything."""
        return (
            self.info.implementations[0] if self.implementation == "auto" else self.implementation
        )

    def useful_pairs(self, query_len: int, key_len: int, *, causal: bool) -> float | None:
        """Query-key pairs one head must score, None for methods that score none."""
        return None

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float | None:
        """Multiplications and additions the forward pass cannot avoid; None if not stated, and
        rows then carry no rate."""
        pairs = self.useful_pairs(query_len, key_len, causal=causal)
        return None if pairs is None else 4.0 * batch * heads * head_dim * pairs

    @property
    def _added(self) -> Added | None:
        return ADDED.get((self.info.name, self.implementation))

    def _parameters(self, query: Tensor, parameters: Parameters | None) -> Parameters:
        if parameters is not None:
            seeded = _seeded(self, query.shape[1], query.shape[3])
            expected = {name: tuple(tensor.shape) for name, tensor in seeded.items()}
            if found := _unfit(parameters, expected, query.device):
                raise ValueError(
                    f"{self.info.name}: parameters must be {_spelled(expected)}, of floating point "
                    f"and on {query.device}; got {found}"
                )
            if torch.is_grad_enabled() and any(x.requires_grad for x in parameters.values()):
                self._require("backward")
            return parameters
        # Not rounded to a half type: a learned tensor is no input, and is computed with in float32.
        dtype = compute_dtype(query.dtype)
        seeded = _seeded(self, query.shape[1], query.shape[3])
        return {name: tensor.to(query.device, dtype) for name, tensor in seeded.items()}

    def _check(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        causal: bool,
        key_padding_mask: Tensor | None,
    ) -> None:
        name = self.info.name
        shapes = (
            f"got query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
        )
        if not query.ndim == key.ndim == value.ndim == 4:
            raise ValueError(
                f"{name}: query, key and value must be (batch, heads, seq_len, head_dim); {shapes}"
            )
        if key.shape != value.shape:
            raise ValueError(f"{name}: key and value must have the same shape; {shapes}")
        batch, heads, query_len, head_dim = query.shape
        key_batch, kv_heads, key_len, key_dim = key.shape
        if (batch, head_dim) != (key_batch, key_dim):
            raise ValueError(f"{name}: query and key must agree in batch and head_dim; {shapes}")
        if 0 in query.shape or 0 in key.shape:
            raise ValueError(f"{name}: every dimension must be at least 1; {shapes}")
        if heads % kv_heads:
            raise ValueError(
                f"{name}: the number of key/value heads must divide that of the query; "
                f"got heads={heads}, kv_heads={kv_heads}"
            )
        if not query.dtype == key.dtype == value.dtype or query.dtype not in DTYPES:
            raise ValueError(
                f"{name}: query, key and value must share one dtype of "
                f"{', '.join(str(d).removeprefix('torch.') for d in DTYPES)}; "
                f"got {query.dtype}, {key.dtype}, {value.dtype}"
            )
        if not query.device == key.device == value.device:
            raise ValueError(
                f"{name}: query, key and value must be on one device; "
                f"got {query.device}, {key.device}, {value.device}"
            )
        if causal:
            self._require("causal")
        elif self.info.causal_only:
            raise UnsupportedError(f"{name} is causal only: it needs causal=True; got causal=False")
        if query_len != key_len:
            self._require("cross_attention")
        if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
            self._require("backward")
        if key_padding_mask is not None:
            self._require("key_padding_mask")
            if key_padding_mask.dtype != torch.bool or key_padding_mask.shape != (batch, key_len):
                raise ValueError(
                    f"{name}: key_padding_mask must be bool of shape {(batch, key_len)}, "
                    f"True = padding; got {key_padding_mask.dtype} of shape "
                    f"{tuple(key_padding_mask.shape)}"
                )
            if key_padding_mask.device != query.device:
                raise ValueError(
                    f"{name}: key_padding_mask must be on {query.device}; "
                    f"got {key_padding_mask.device}"
                )
        if reason := self.cannot_run(query.device):
            raise UnsupportedError(
                f"{name}: implementation {self.implementation!r} cannot run here: {reason}"
            )

    def _require(self, capability: str) -> None:
        if capability not in self.supports:
            name = f"{self.info.name}/{self.implementation}" if self._added else self.info.name
            raise UnsupportedError(
                f"{name} does not support {capability!r}; it supports: "
                f"{', '.join(sorted(self.supports)) or 'none'}"
            )


@lru_cache(maxsize=16)
def _seeded(attention: Attention, heads: int, head_dim: int) -> Parameters:
    """Learned tensors of a fresh variant, drawn once for many calls; only to be read."""
    return attention.init_parameters(heads, head_dim)


def _spelled(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())) or "none"


def _unfit(
    parameters: Parameters, expected: dict[str, tuple[int, ...]], device: torch.device
) -> str:
    """What is wrong with learned tensors that were given, in words; empty if nothing is."""
    if not isinstance(parameters, dict):
        return type(parameters).__name__
    for name, tensor in parameters.items():
        if not isinstance(tensor, Tensor):
            return f"{name} of type {type(tensor).__name__}"
        if not tensor.is_floating_point():
            return f"{name} of {tensor.dtype}"
        if tensor.device != device:
            return f"{name} on {tensor.device}"
    found = {name: tuple(tensor.shape) for name, tensor in parameters.items()}
    return "" if found == expected else _spelled(found)
