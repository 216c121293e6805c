"""Multi-head attention as a torch module, around any variant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from variants.contract.attention import Attention
from variants.contract.decoding import State
from variants.contract.definitions import compute_dtype
from variants.contract.parsing import as_attention
from variants.layer.encodings import position_for
from variants.layer.from_torch import check_module, weights_of
from variants.layer.layer_checks import (
    check_foreign,
    check_numbers,
    check_polarity,
    check_position,
    check_widths,
)
from variants.layer.learned import LearnedTensors
from variants.layer.padded import leading_padding, leading_padding_of
from variants.layer.position_encoding import Position


class MultiHeadAttention(nn.Module):
    """Query, key and value projections, heads, an attention variant and the output projection
    ("Attention Is All You Need", Vaswani et al. 2017, https://arxiv.org/abs/1706.03762). The layer
    has no residual and no norm: see `TransformerBlock`.

    Args:
        embed_dim: channels of the query and of the output; a multiple of num_heads.
        num_heads: heads of the query, of embed_dim // num_heads channels each.
        kv_heads: heads of key and value, a divisor of num_heads; query head h reads
            h // (num_heads // kv_heads). None means num_heads.
        attention: an `Attention`, or its text, such as "lsh num_hashes=4"; None means exact
            attention, `full`. `attention_parameters` holds its learned tensors.
        position: "sinusoidal", "rotary", "relative_bias", "alibi", or an instance from
            `variants.layer.encodings`; None means no position encoding.
        shared_qk: the key is the query, after its projection and position; for self-attention.
        bias: whether projections have a bias.
        key_dim, value_dim: channels of key and value; None means embed_dim.
        seed: seed of the attention's learned tensors. Projections are drawn from torch's global
            random state.
        device, dtype: as in torch.nn.Linear. The attention's learned tensors stay in float32 at
            least.

    Raises:
        ValueError: numbers that do not fit together, an unknown attention or position.
        UnsupportedError: a position that needs `distance_bias` with an attention without it.

    >>> layer = MultiHeadAttention(512, 8, attention="sliding_window", position="rotary")
    >>> layer(torch.randn(1, 1024, 512), causal=True).shape
    torch.Size([1, 1024, 512])
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kv_heads: int | None = None,
        *,
        attention: Attention | str | None = None,
        position: Position | str | None = None,
        shared_qk: bool = False,
        bias: bool = True,
        key_dim: int | None = None,
        value_dim: int | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.kv_heads = num_heads if kv_heads is None else kv_heads
        self.key_dim = embed_dim if key_dim is None else key_dim
        self.value_dim = embed_dim if value_dim is None else value_dim
        self.shared_qk, self.seed = shared_qk, seed
        self.attention = as_attention("full" if attention is None else attention)
        check_numbers(self)
        self.head_dim = embed_dim // num_heads
        kv_width = self.kv_heads * self.head_dim

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias=bias, device=device, dtype=dtype)

        self.query_projection = linear(embed_dim, embed_dim)
        self.key_projection = None if shared_qk else linear(self.key_dim, kv_width)
        self.value_projection = linear(self.value_dim, kv_width)
        self.output_projection = linear(embed_dim, embed_dim)
        weight = self.query_projection.weight
        learned = self.attention.init_parameters(num_heads, self.head_dim, seed)
        kept = compute_dtype(weight.dtype)
        self.attention_parameters = LearnedTensors(
            {name: nn.Parameter(x.to(weight.device, kept)) for name, x in learned.items()}
        )
        self.position = position_for(
            position,
            embed_dim=embed_dim,
            num_heads=num_heads,
            head_dim=self.head_dim,
            device=weight.device,
            dtype=weight.dtype,
        )
        check_position(self)
        self._draw_projections()

    @classmethod
    def from_torch(
        cls,
        module: nn.MultiheadAttention,
        attention: Attention | str | None = None,
        position: Position | str | None = None,
    ) -> MultiHeadAttention:
        """Make a layer with copies of the module's weights. Its output is the output of the module
        if `attention` is exact and `position` is None. Inputs are batch first, even if
        `module.batch_first` is False.

        Raises:
            ValueError: another kind of module; a module with add_bias_kv or add_zero_attn.
        """
        check_module(module)
        out = module.out_proj
        layer = cls(
            module.embed_dim,
            module.num_heads,
            attention=attention,
            position=position,
            bias=module.in_proj_bias is not None,
            key_dim=module.kdim,
            value_dim=module.vdim,
            device=out.weight.device,
            dtype=out.weight.dtype,
        )
        with torch.no_grad():
            for name, (weight, trained) in weights_of(module).items():
                layer.get_parameter(name).copy_(weight).requires_grad_(trained)
        return layer.train(module.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        causal: bool = False,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: (batch, query_len, embed_dim).
            key: (batch, key_len, key_dim); None means the query.
            value: (batch, key_len, value_dim); None means the key.
            causal: hide keys at later positions; key j has position j, query i has position
                i + key_len - query_len.
            key_padding_mask: bool (batch, key_len), True = padding, as in
                torch.nn.MultiheadAttention. Positions count from the first token of each sequence.
                The check for a mask of the other polarity waits for the GPU, if there is one;
                traced and compiled programs leave the check out.

        Returns:
            (batch, query_len, embed_dim).

        Raises:
            ValueError: shapes that do not fit, a mask that hides all of a sequence.
            UnsupportedError: an argument that the attention does not support.
        """
        if self.shared_qk and key is not None and key is not query:
            raise ValueError(
                "a layer with shared_qk=True uses its queries as keys: leave key out, or pass "
                "the query itself; got another tensor"
            )
        heads, call = self._prepared(query, key, value, key_padding_mask, causal=causal)
        return self._merged(self.attention(*heads, causal=causal, **call))

    def prefill(
        self, hidden: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return the causal output of the first tokens (batch, tokens, embed_dim), and the state
        after them. There is no gradient: call this method under torch.no_grad().

        Raises:
            ValueError, UnsupportedError: in the cases of `forward` and of `Attention.prefill`.
        """
        heads, call = self._prepared(hidden, None, None, key_padding_mask)
        out, state = self.attention.prefill(*heads, **call)
        return self._merged(out), state

    def step(
        self, state: State, hidden: Tensor, *, key_padding_mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return the output of the next token or tokens (batch, tokens, embed_dim), and the state
        after them. `key_padding_mask` covers only the new tokens, and may hide all of them.

        Raises:
            ValueError, UnsupportedError: in the cases of `forward` and of `Attention.step`.
        """
        if not isinstance(state, State):
            raise ValueError(
                f"step needs the state that prefill or step returned; got {type(state).__name__}"
            )
        heads, call = self._prepared(hidden, None, None, key_padding_mask, state)
        out, state = self.attention.step(state, *heads, **call)
        return self._merged(out), state

    def reset_parameters(self) -> None:
        """Draw all projections again, and initialise the learned tensors of the attention and of
        the position encoding again."""
        self._draw_projections()
        fresh = self.attention.init_parameters(self.num_heads, self.head_dim, self.seed)
        with torch.no_grad():
            for name, tensor in fresh.items():
                self.attention_parameters[name].copy_(tensor)
        self.position.reset_parameters()

    def extra_repr(self) -> str:
        shown = f"{self.embed_dim}, {self.num_heads}, kv_heads={self.kv_heads}"
        if (self.key_dim, self.value_dim) != (self.embed_dim, self.embed_dim):
            shown += f", key_dim={self.key_dim}, value_dim={self.value_dim}"
        return f"{shown}, shared_qk={self.shared_qk}, attention={self.attention!r}"

    def _prepared(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None,
        state: State | None = None,
        *,
        causal: bool = True,
    ) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any]]:
        """Return query, key and value split into heads, and the other arguments of the attention.
        The tokens of `state` come before the new tokens."""
        check_widths(self, query, key, value)
        key = query if key is None else key
        if state is None:
            check_polarity(key_padding_mask, key)
            check_foreign(self, query, key, key_padding_mask, causal=causal)
            start, leading = 0, leading_padding(key_padding_mask)
        else:  # the new tokens of a step may all be padding
            start = state.length
            leading = leading_padding_of(state, key_padding_mask, query.device)
        value = key if value is None else value
        query_len, key_len, place = query.shape[1], key.shape[1], self.position
        query_start = start + key_len - query_len

        begin, query_begin = (
            where if leading is None else where - leading for where in (start, query_start)
        )
        queries = place.added(query, query_begin)
        keys = queries if key is query else place.added(key, begin)
        values = keys if value is key else place.added(value, begin)
        query = place.turned(self._split(self.query_projection(queries)), query_begin)
        if self.key_projection is None:
            key = query
        else:
            key = place.turned(self._split(self.key_projection(keys)), begin)
        call = {
            "key_padding_mask": key_padding_mask,
            "distance_bias": place.distance_bias(
                query_len, start + key_len, compute_dtype(query.dtype), query.device
            ),
            "parameters": dict(self.attention_parameters.items()),
        }
        return (query, key, self._split(self.value_projection(values))), call

    def _split(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _merged(self, heads: Tensor) -> Tensor:
        merged: Tensor = self.output_projection(heads.transpose(1, 2).flatten(2))
        return merged

    def _draw_projections(self) -> None:
        for module in self.children():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
