"""Full softmax attention: a query sees every key.

Differs from public code: with `is_causal=True` and fewer queries than keys, torch's
`scaled_dot_product_attention` gives the first query the position of the first key; here the last
query has the position of the last key. A query that sees no key gives 0 here; some releases of
torch gave NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from variants.contract.attention import Attention
from variants.contract.call import Call
from variants.contract.checks import UnsupportedError
from variants.contract.definitions import softmax_weights, visible_pairs
from variants.contract.device import on_gpu
from variants.contract.registry import register
from variants.contract.variant import Memory
from variants.engines.decode import decode_attend
from variants.engines.decode.kv_cache import Kept
from variants.engines.gpu.listed import whole_softmax
from variants.engines.libraries import cuda_sdpa, fused_sdpa, xformers
from variants.engines.tiled import tile_loop


@register(
    title="Attention Is All You Need",
    year=2017,
    url="https://arxiv.org/abs/1706.03762",
    time="n²·d",
    memory="n·d",
    target="softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward", "distance_bias", "step"},
    implementations=("onednn", "sdpa", "plain", "coarse", "triton", *cuda_sdpa.KERNELS, "xformers"),
    reduced_precision={"coarse"},
    libraries={"sdpa", *cuda_sdpa.KERNELS, "xformers"},
    reference="sdpa",
    exact_when={},
    grid={"implementation": ("auto", "sdpa", "plain", "xformers")},
    positions="none",
)
@dataclass(frozen=True)
class FullAttention(Attention):
    """Exact softmax attention.

        weights[i] = softmax over j of scale · query[i] · key[j],  with j <= i if causal

    Implementations: `sdpa` calls torch's fused kernel without changes. `onednn` calls the same
    kernel on a CPU with inputs converted to float32; it is fastest if float32 matrix products take
    the fast route (`variants.choose_float32_route`). `plain` computes a matrix product, a softmax
    and a second matrix product for one block of query rows after another; `coarse` does the same
    with scores in bfloat16. On CUDA, `flash`, `cudnn` and `efficient` select torch's kernels of
    these names, `triton` selects the kernel of this project, and `xformers` the kernel of xFormers.
    `auto` selects `onednn` on a CPU if there are enough keys, and the fastest of torch's kernels on
    CUDA.

    Costs: n tokens, d = head_dim.

    Decoding: the state holds the keys and values of all tokens.
    """

    @property
    def traceable(self) -> bool:
        return self.implementation == "sdpa"

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        implementation = self.choose_implementation(query, key)
        # With padding or a bias, `auto` does not use torch's CUDA kernels.
        own = call.key_padding_mask is not None or call.distance_bias is not None
        if implementation in cuda_sdpa.KERNELS and self.implementation == "auto" and own:
            implementation = "sdpa"
        if implementation in ("xformers", *cuda_sdpa.KERNELS):
            if call.distance_bias is not None:
                raise UnsupportedError(f"implementation {implementation!r} takes no distance_bias")
            if implementation == "xformers":
                return xformers.attend(query, key, value, call)
            return cuda_sdpa.attend(implementation, query, key, value, call)
        if implementation == "triton":
            return whole_softmax.attend(query, key, value, call)
        if implementation in ("plain", "coarse"):
            return tile_loop.full(query, key, value, call, coarse=implementation == "coarse")
        return fused_sdpa.attend(query, key, value, call, widen=implementation == "onednn")

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        return softmax_weights(query, key, rows, call)

    def remember(self, heads: int, key: Tensor, value: Tensor, call: Call) -> Memory:
        return Kept.of(key, value, call.key_padding_mask)

    def advance(
        self, memory: Memory, length: int, query: Tensor, key: Tensor, value: Tensor, call: Call
    ) -> tuple[Tensor, Memory]:
        assert isinstance(memory, Kept)
        kept = memory.and_then(key, value, call.key_padding_mask)
        rows, keys = query.shape[2], kept.keys.shape[2]
        if rows > decode_attend.FEW:
            out = fused_sdpa.attend(
                query,
                kept.keys,
                kept.values,
                call.masked(kept.hidden, call.distance_bias),
            )
            return out, kept
        hidden = decode_attend.later(rows, keys, kept.hidden, query.device)
        positions = torch.arange(keys, device=query.device)
        bias = decode_attend.bias_of(query, hidden, call.distance_bias, positions)
        tokens = kept.keys, kept.values
        fused = self.implementation == "sdpa"
        return decode_attend.attend(query, [tokens], bias, scale=call.scale, fused=fused), kept

    def useful_pairs(self, query_len: int, key_len: int, *, causal: bool) -> float:
        return visible_pairs(query_len, key_len, causal=causal)

    def choose_implementation(self, query: Tensor, key: Tensor) -> str:
        if self.implementation == "auto" and on_gpu(query.device):
            return cuda_sdpa.fastest(query, key) or "sdpa"
        if self.implementation == "auto" and not fused_sdpa.widening_pays(key):
            return "sdpa"
        return super().choose_implementation(query, key)

    def unavailable(self, implementation: str, device: torch.device) -> str | None:
        if implementation == "onednn" and device.type == "cuda":
            return "it computes in float32, and only on a CPU"
        if implementation == "xformers":
            return xformers.unavailable(device)
        if implementation in cuda_sdpa.KERNELS:
            return cuda_sdpa.unavailable(implementation, device)
        return super().unavailable(implementation, device)
