"""The part of a variant that its file defines: hyperparameters, kernel, quadratic definition."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from variants.contract.added import ADDED, Added, added_names
from variants.contract.call import Call, Parameters
from variants.contract.device import on_gpu, triton_takes, triton_unavailable
from variants.contract.hyperparameter import declared_by
from variants.contract.info import Info
from variants.contract.suggestion import did_you_mean

Memory = tuple[object, ...]
"""The data of earlier tokens that a variant keeps for decoding: tensors, tuples of tensors, and
other values."""


@dataclass(frozen=True, kw_only=True)
class Variant(ABC):
    """The part of `Attention` that a variant overrides. Its fields are hyperparameters; an instance
    keeps no tensor and no state.

    A variant defines `attend`, the kernel, and `dense_weights`, the same mathematics in a simple
    quadratic form. Both get checked arguments, and zeros in place of padded keys and values. A
    variant that declares `step` also defines `remember` and `advance`.

    Key j has position j, and query i has position i + key_len - query_len. `Attention.__call__`
    describes the effect of padding.
    """

    info: ClassVar[Info]
    text: ClassVar[str]  # name and settings in one line, which `variants.parse` reads

    implementation: str = "auto"

    def __post_init__(self) -> None:
        name = self.info.name
        valid = ("auto", *self.info.implementations, *added_names(name))
        if self.implementation not in valid:
            raise ValueError(
                f"{name}: implementation must be one of {', '.join(valid)}; "
                f"got {self.implementation!r}{did_you_mean(self.implementation, valid)}"
            )
        for known in declared_by(type(self)):
            try:
                known.check(getattr(self, known.name))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        # Made here, because torch.compile can read this text in a traced call but not make it.
        object.__setattr__(self, "text", self._written())

    def __str__(self) -> str:
        return self.text

    @abstractmethod
    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        """The kernel.

        Args:
            query: (batch, heads, query_len, head_dim).
            key, value: (batch, kv_heads, key_len, head_dim), zero where a key is padding.
            call: the other arguments, checked.

        Returns:
            (batch, heads, query_len, head_dim) in the dtype of the query.
        """

    @abstractmethod
    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        """The definition: the coefficients (batch, heads, len(rows), key_len) of the values in the
        query rows `rows` (int64). Other arguments as in `attend`."""

    def remember(self, heads: int, key: Tensor, value: Tensor, call: Call) -> Memory:
        """The memory after the first tokens, which later queries of `heads` heads need."""
        raise NotImplementedError

    def advance(
        self, memory: Memory, length: int, query: Tensor, key: Tensor, value: Tensor, call: Call
    ) -> tuple[Tensor, Memory]:
        """The causal output of new tokens after `length` earlier tokens, and the memory after the
        new tokens. The given memory is not changed."""
        raise NotImplementedError

    def build(self, query: Tensor, key: Tensor, call: Call) -> None:
        """The part of `prepare` that a variant defines: it calls the `cached` functions."""

    @abstractmethod
    def run(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        """The output of a checked call; see `Attention.run`."""

    def init_parameters(self, heads: int, head_dim: int, seed: int = 0) -> Parameters:
        """New learned tensors, drawn with `seed`; empty if the method learns nothing."""
        return {}

    def default_scale(self, head_dim: int) -> float:
        """The factor on the query if the caller gives no `scale`."""
        return 1 / math.sqrt(head_dim)

    def unavailable(self, implementation: str, device: torch.device) -> str | None:
        """The reason why an implementation of this file cannot run on a device of this machine;
        None if it can."""
        return triton_unavailable(device) if implementation == "triton" else None

    def triton_takes(self, query: Tensor) -> bool:
        """Whether the Triton kernels of this variant take calls with such a query."""
        return triton_takes(query.shape[-1], query.dtype)

    def choose_implementation(self, query: Tensor, key: Tensor) -> str:
        """The implementation that a call with these tensors uses; never compiles on a CPU."""
        if self.implementation != "auto":
            return self.implementation
        fused = "triton" in self.info.implementations and self.triton_takes(query)
        if fused and on_gpu(query.device) and self.unavailable("triton", query.device) is None:
            return "triton"
        return self.info.implementations[0]

    def useful_pairs(self, query_len: int, key_len: int, *, causal: bool) -> float | None:
        """Query-key pairs that one head must score; None for methods that score no pairs."""
        return None

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float | None:
        """Multiplications and additions that the forward pass cannot avoid. None if the variant
        does not state them; its result rows then have no rate."""
        pairs = self.useful_pairs(query_len, key_len, causal=causal)
        return None if pairs is None else 4.0 * batch * heads * head_dim * pairs

    @property
    def hyperparameters(self) -> str:
        """All settings except the implementation, as sorted `name=value` text."""
        names = sorted(known.name for known in declared_by(type(self)))
        return " ".join(f"{name}={getattr(self, name)}" for name in names)

    @property
    def supports(self) -> frozenset[str]:
        """Capabilities of the variant with the chosen implementation."""
        return self._added.supports if self._added else self.info.supports

    @property
    def differs(self) -> str:
        """The difference of the chosen implementation from `weights`; empty if it must be equal."""
        return self._added.differs if self._added else ""

    @property
    def target(self) -> str:
        """The function that this setting converges to; one of `info.TARGETS`."""
        return self.info.target

    @property
    def convex(self) -> bool:
        """Whether the weights of this setting are never negative, and sum to 1, or to 0 in a row
        that sees no key: the output is then a mean of values."""
        return self.info.convex

    @property
    def prefix_stable(self) -> bool:
        """Whether causal rows of this setting do not change when tokens are added, for any number
        of queries at a time. If so, a model can continue from a cache of keys and values."""
        return True

    @property
    def uses_shared_qk(self) -> bool:
        """Whether this setting needs the query as its key."""
        return False

    @property
    def traceable(self) -> bool:
        """Whether torch.compile may trace a call. If not, the compiled program has a graph break at
        the call."""
        return False

    def cannot_run(self, device: torch.device) -> str | None:
        """The reason why the chosen implementation cannot run on a device; None if it can."""
        if self._added:
            return self._added.unavailable(device) if self._added.unavailable else None
        return (
            None if self.implementation == "auto" else self.unavailable(self.implementation, device)
        )

    def _written(self) -> str:
        """Name, settings sorted by name, and the implementation if one is chosen."""
        name = self.info.name
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and len(value.split()) != 1:
                raise ValueError(f"{name}: {field.name} must be one word; got {value!r}")
        chosen = self.implementation
        own = "" if chosen == "auto" else f"implementation={chosen}"
        return " ".join(filter(None, (name, self.hyperparameters, own)))

    @property
    def _added(self) -> Added | None:
        return ADDED.get((self.info.name, self.implementation))
