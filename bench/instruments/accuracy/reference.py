"""The reference for outputs on given inputs: exact attention, and errors without any method."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.instruments.accuracy import oracle
from bench.instruments.accuracy.description import Description, describe
from bench.instruments.accuracy.oracle import Exact
from bench.instruments.accuracy.sampled_rows import Sample, relative_error
from bench.instruments.torch_defaults import torch_defaults
from variants.contract.definitions import query_positions

Found = TypeVar("Found")
LEAST_ROWS = 4  # smallest number of rows for which SDPA uses the same kernel as for many


@dataclass(frozen=True)
class Reference:
    """Inputs, the sampled query rows, and exact attention of these rows in float64."""

    query: Tensor  # (batch, heads, query_len, head_dim), any dtype
    key: Tensor  # (batch, kv_heads, key_len, head_dim)
    value: Tensor
    causal: bool
    sample: Sample
    exact: Exact
    description: Description
    _kept: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls, query: Tensor, key: Tensor, value: Tensor, sample: Sample, *, causal: bool
    ) -> Reference:
        """Compute exact attention of the sampled rows: O(rows·n·d) time, O(rows·block) memory."""
        query, key, value = (x.detach() for x in (query, key, value))
        sample = sample.to(query.device)
        exact = oracle.exact(query, key, value, sample.rows, causal=causal)
        description = describe(
            query,
            key,
            sample.rows,
            sample.weights,
            causal=causal,
            log_total=exact.log_total,
        )
        return cls(query, key, value, causal, sample, exact, description)

    def once(self, name: Hashable, compute: Callable[[], Found]) -> Found:
        """The result of `compute`, which is called only once for each `name`: cases with the same
        inputs share it."""
        if name not in self._kept:
            self._kept[name] = compute()
        found: Found = self._kept[name]
        return found

    @property
    def visible_keys(self) -> Tensor:
        """The number of visible keys of each row, int64 (rows,)."""
        key_len = self.key.shape[2]
        if not self.causal:
            return torch.full_like(self.sample.rows, key_len)
        return (self._positions(self.sample.rows) + 1).clamp(min=0)

    def error(self, out: Tensor) -> tuple[float, float, float]:
        """Relative L2 error of an output (batch, heads, rows, head_dim), and its 95 % interval.

        The squared errors of all heads of a row are summed, as they belong to one token.
        """
        wrong = (out.double() - self.exact.out).square().sum((0, 1, 3))
        return relative_error(wrong, self.exact.out.square().sum((0, 1, 3)), self.sample)

    def dtype_floor(self) -> float | None:
        """Error of exact attention in the dtype of the inputs, by torch SDPA at torch's defaults;
        None if torch SDPA has no kernel for the inputs.

        Several rows are computed in one call, which gives the same numbers as a call for all rows.
        The kernel for a single row sums a million values with a thousand times the error.
        """
        outs = []
        try:
            for rows in self.sample.rows.split(max(LEAST_ROWS, oracle.PAIRS // self.key.shape[2])):
                some = rows.repeat(-(-LEAST_ROWS // len(rows)))
                seen = self._positions(some)[:, None] >= torch.arange(
                    self.key.shape[2], device=rows.device
                )
                with torch_defaults():
                    out = scaled_dot_product_attention(
                        self.query[:, :, some],
                        self.key,
                        self.value,
                        attn_mask=seen if self.causal else None,
                        enable_gqa=self.key.shape[1] < self.query.shape[1],
                    )
                outs.append(out[:, :, : len(rows)])
        except RuntimeError as error:
            if "not implemented" not in str(error):
                raise
            return None
        out = torch.cat(outs, dim=2)
        return self.error(torch.where((self.visible_keys > 0)[:, None], out, 0))[0]

    def mean_value_error(self) -> float:
        """Error of the mean of all visible values, which is exact attention with all scores 0."""
        query, key, value = self.query, self.key, self.value
        means = oracle.exact(query, key, value, self.sample.rows, causal=self.causal, scale=0.0)
        return self.error(means.out)[0]

    def _positions(self, rows: Tensor) -> Tensor:
        return query_positions(rows, self.query.shape[2], self.key.shape[2])
