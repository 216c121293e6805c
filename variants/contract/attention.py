"""The interface of every variant: a frozen set of hyperparameters that can be called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.autograd import forward_ad

from variants.contract import decoding, padding, tensor_cache, torch_signature, traced
from variants.contract.call import Call, Keywords, Parameters
from variants.contract.checks import (
    UnsupportedError,
    check_call,
    check_parameters,
    check_triton,
    require_real,
)
from variants.contract.decoding import State
from variants.contract.definitions import compute_dtype, without_padding
from variants.contract.modes import as_autocast, no_autocast, pretended, tracing, untraced
from variants.contract.strides import readable
from variants.contract.variant import Variant


@dataclass(frozen=True, kw_only=True)
class Attention(Variant):
    """Base class of all variants. Its fields are hyperparameters; an instance is called with query,
    key and value. A subclass overrides the methods of `Variant`."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        causal: bool = False,
        key_padding_mask: Tensor | None = None,
        distance_bias: Tensor | None = None,
        scale: float | None = None,
        parameters: Parameters | None = None,
    ) -> Tensor:
        """Compute attention.

        Args:
            query: (batch, heads, query_len, head_dim).
            key, value: (batch, kv_heads, key_len, head_dim); query head h reads key/value head
                h // (heads // kv_heads).
            causal: hide keys at later positions. Hidden keys and values must still be finite,
                because a weight of 0 times NaN is NaN.
            key_padding_mask: bool (batch, key_len), True = padding, as in
                torch.nn.MultiheadAttention.
            distance_bias: (heads, query_len + key_len - 1), finite, added to the scaled scores.
                The score of query row i and key j gets entry j - i + query_len - 1. So the first
                entry is for the last query and the first key, and entry key_len - 1 is for
                distance 0.
            scale: factor on the query; None means `default_scale(head_dim)`.
            parameters: learned tensors, as `init_parameters` returns them; None means the tensors
                of `init_parameters` with seed 0.

        With `key_padding_mask`, a sequence extends from its first token to its last token. The
        output of a sequence equals the output of a call with this sequence, without the padding
        before and after it. If the call is causal, or has as many queries as keys, query i and key
        i + key_len - query_len belong to the same token, and rows of padding have no meaning.
        Otherwise the queries belong to another sequence, and the last query has the position of the
        last token.

        Returns:
            (batch, heads, query_len, head_dim) in the dtype of the query. Under autocast all inputs
            are cast to the dtype of autocast, as in torch's own attention. The row of a query that
            sees no key is 0, with zero gradient. torch.compile does not trace the kernel, unless
            `traceable` is True. An exported program contains the call as one operation.

        Raises:
            ValueError: shapes, dtypes or devices that do not match.
            UnsupportedError: a capability this variant does not declare; a call with causal=False
                of a variant that is causal only; a backward pass with create_graph=True.
        """
        compiles = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
        plain = key_padding_mask is None and distance_bias is None
        breaks = compiles and not (self.traceable and plain)
        attend = untraced(self._checked) if breaks else self._checked
        given = Keywords(causal, key_padding_mask, distance_bias, scale, parameters)
        return attend(query, key, value, given)

    def weights(
        self,
        query: Tensor,
        key: Tensor,
        *,
        causal: bool = False,
        key_padding_mask: Tensor | None = None,
        distance_bias: Tensor | None = None,
        scale: float | None = None,
        parameters: Parameters | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """The coefficients of the values: `weights @ value` is the output of the call.

        Takes the arguments of the call; `rows` (int64 indices) selects query rows. The weights can
        be differentiated more than once.

        Returns:
            (batch, heads, len(rows) or query_len, key_len).

        Raises:
            ValueError: as in the call.
            UnsupportedError: as in the call; also while a program is traced.
        """
        given = Keywords(causal, key_padding_mask, distance_bias, scale, parameters)
        return untraced(self._weights)(query, key, rows, given)

    def prefill(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        distance_bias: Tensor | None = None,
        scale: float | None = None,
        parameters: Parameters | None = None,
    ) -> tuple[Tensor, State]:
        """The causal output of the first tokens, and the state from which `step` continues.

        Takes the arguments of the call except `causal`, with as many queries as keys. The output
        has no gradient.

        Raises:
            ValueError: as in the call.
            UnsupportedError: as in the call; a variant without `step` in `supports`; an input that
                requires a gradient.
        """
        given = Keywords(True, key_padding_mask, distance_bias, scale, parameters)
        return untraced(self._prefill)(query, key, value, given)

    def step(
        self,
        state: State,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        key_padding_mask: Tensor | None = None,
        distance_bias: Tensor | None = None,
        scale: float | None = None,
        parameters: Parameters | None = None,
    ) -> tuple[Tensor, State]:
        """The output of one or more new tokens, and the state after them. The output equals the
        last rows of the causal call over all tokens so far.

        Takes the arguments of `prefill`, only for the new tokens; `scale` and `parameters` must be
        the same as in the prefill. `distance_bias` is (heads, new tokens + all tokens - 1).

        Raises:
            ValueError, UnsupportedError: as in `prefill`; a state of another attention or shape.
        """
        given = Keywords(True, key_padding_mask, distance_bias, scale, parameters)
        return untraced(self._step)(state, query, key, value, given)

    def scaled_dot_product_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Compute attention with the arguments of
        torch.nn.functional.scaled_dot_product_attention, which this method can replace. Arguments
        that the variant does not support raise an error.

        Args:
            query, key, value: as in the call.
            attn_mask: broadcasts to (batch, heads, query_len, key_len); bool with True = visible
                (in `key_padding_mask` of the call, True = hidden), or 0 and -inf, added to scores.
                The mask may hide padded keys, and it may be causal with the last query at the last
                key. Rows of padding differ from torch, which computes them.
            dropout_p: must be 0.0.
            is_causal: query i sees keys 0 to i, as in torch. With fewer queries than keys, `causal`
                of the call differs: it puts the last query at the last key.
            scale: as in the call.
            enable_gqa: whether key and value may have fewer heads than the query; their number of
                heads must divide the number of query heads.

        Raises:
            ValueError: as in the call; attn_mask together with is_causal; head counts that differ
                without enable_gqa.
            UnsupportedError: as in the call; dropout; another attn_mask; in a traced program, an
                attn_mask other than a bool mask of keys; is_causal with more queries than keys.
        """
        key, value, causal, padding = torch_signature.read_arguments(
            self, query, key, value, attn_mask, dropout_p, is_causal, enable_gqa
        )
        return self(query, key, value, causal=causal, key_padding_mask=padding, scale=scale)

    def prepare(
        self,
        query: Tensor,
        key: Tensor,
        *,
        causal: bool = False,
        key_padding_mask: Tensor | None = None,
    ) -> None:
        """Build the tensors and kernels that later calls of this shape use again (drawn patterns,
        projections, compiled code), and free the tensors that were kept for other shapes."""
        tensor_cache.clear()
        call = self.resolve(query, Keywords(causal, key_padding_mask))
        if key_padding_mask is None or not self._one_by_one(query, key, causal):
            self.build(query, key, call)
            return
        crosses = "cross_attention" in self.supports
        for own in padding.parts(key_padding_mask, query.shape[2], causal=causal, crosses=crosses):
            for part in own:
                if part.rows.start < part.rows.stop:
                    mask = key_padding_mask[part.sequences, part.keys] if part.holes else None
                    self.build(
                        query[part.sequences, :, part.rows],
                        key[part.sequences, :, part.keys],
                        call.masked(mask, None),
                    )

    def run(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        """The output of a checked call. The kernel runs even while torch traces a program.

        Raises:
            UnsupportedError: the chosen implementation cannot run on the device; forward-mode
                differentiation.
        """
        if reason := self.cannot_run(query.device):
            raise UnsupportedError(
                f"{self.info.name}: implementation {self.implementation!r} cannot run here: "
                f"{reason}"
            )
        if forward_ad._current_level >= 0 and any(
            forward_ad.unpack_dual(x).tangent is not None for x in (query, key, value)
        ):
            raise traced.no_forward_mode(self.info.name)
        query, key, value = readable(query), readable(key), readable(value)
        if call.key_padding_mask is None or not self._one_by_one(query, key, call.causal):
            out = self._attended(query, key, value, call)
        else:
            crosses = "cross_attention" in self.supports
            out = padding.attend(self._attended, query, key, value, call, crosses=crosses)
        made_by = getattr(out, "grad_fn", None)  # added kernels may return anything
        if made_by is not None and not self._is_native(query, key, call):
            made_by.register_prehook(partial(_only_once, self.info.name))
        return out

    def resolve(self, query: Tensor, given: Keywords) -> Call:
        """The arguments of a call, with defaults in place of None."""
        scale = given.scale
        return Call(
            causal=given.causal,
            key_padding_mask=given.key_padding_mask,
            distance_bias=given.distance_bias,
            scale=self.default_scale(query.shape[-1]) if scale is None else float(scale),
            parameters=self._parameters(query, given.parameters),
        )

    def _checked(self, query: Tensor, key: Tensor, value: Tensor, given: Keywords) -> Tensor:
        query, key, value = as_autocast(query, key, value)
        check_call(self, query, key, value, given)
        check_triton(self, query)
        if tracing() or any(pretended(x) for x in (query, key, value)):
            if not self._is_native(query, key, given):
                return traced.call(self.text, query, key, value, given)
            return self._attended(query, key, value, self.resolve(query, given))
        return self.run(query, key, value, self.resolve(query, given))

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        key, value = without_padding(call.key_padding_mask, key, value)
        attend: Callable[..., Tensor] = self.attend
        if self._added:
            attend = partial(self._added.run, self)
        with no_autocast(query.device):
            return attend(query, key, value, call)

    def _weights(self, query: Tensor, key: Tensor, rows: Tensor | None, given: Keywords) -> Tensor:
        query, key = as_autocast(query, key)
        check_call(self, query, key, key, given)
        require_real(self.info.name, "weights", query, key)
        call = self.resolve(query, given)

        def define(query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
            (key,) = without_padding(call.key_padding_mask, key)
            with no_autocast(query.device):
                return self.dense_weights(query, key, rows, call)

        if rows is None:
            rows = torch.arange(query.shape[2], device=query.device)
        if given.key_padding_mask is None or not self._one_by_one(query, key, given.causal):
            return define(query, key, rows, call)
        crosses = "cross_attention" in self.supports
        return padding.weights(define, query, key, rows, call, crosses=crosses)

    def _prefill(
        self, query: Tensor, key: Tensor, value: Tensor, given: Keywords
    ) -> tuple[Tensor, State]:
        query, key, value = as_autocast(query, key, value)
        decoding.check_tokens(self, query, key, value, given)
        check_call(self, query, key, value, given)
        require_real(self.info.name, "prefill", query)
        call = self.resolve(query, given)
        out = self.run(query, key, value, call)
        return out, decoding.first_state(self, query, key, value, call)

    def _step(
        self, state: State, query: Tensor, key: Tensor, value: Tensor, given: Keywords
    ) -> tuple[Tensor, State]:
        decoding.check_is_state(self, state)
        query, key, value = as_autocast(query, key, value)
        decoding.check_tokens(self, query, key, value, given)
        check_call(self, query, key, value, given._replace(distance_bias=None))
        decoding.check_state(self, state, query, key, given.distance_bias)
        require_real(self.info.name, "step", query, key, value)
        return decoding.step(self, state, query, key, value, self.resolve(query, given))

    def _is_native(self, query: Tensor, key: Tensor, call: Call | Keywords) -> bool:
        """Whether a call only runs torch's own attention, which torch can trace and
        differentiate."""
        plain = call.key_padding_mask is None and call.distance_bias is None
        unlike = call.causal and query.shape[2] != key.shape[2]
        return self.traceable and plain and not unlike

    def _one_by_one(self, query: Tensor, key: Tensor, causal: bool) -> bool:
        """Whether padded sequences are computed one by one. This is necessary if hiding the padded
        keys does not give the result of the sequence without padding."""
        unlike = not causal and query.shape[2] != key.shape[2]
        positions = self.info.positions
        return positions == "absolute" or (positions == "distance" and unlike)

    def _parameters(self, query: Tensor, parameters: Parameters | None) -> Parameters:
        seeded: Parameters = {}
        if type(self).init_parameters is not Variant.init_parameters:
            seeded = _seeded(self, query.shape[1], query.shape[3])
        if parameters is not None:
            check_parameters(self, parameters, seeded, query.device)
            return parameters
        if not seeded:
            return seeded
        # Learned tensors are not inputs: they stay in float32 if the query has a half type.
        placing = query.device, compute_dtype(query.dtype)
        return dict(_placed_seeded(self, query.shape[1], query.shape[3], *placing))


@tensor_cache.cached
def _seeded(attention: Attention, heads: int, head_dim: int) -> Parameters:
    """The learned tensors of seed 0, drawn once for many calls. Callers must not write to them."""
    return attention.init_parameters(heads, head_dim)


@tensor_cache.cached
def _placed_seeded(
    attention: Attention, heads: int, head_dim: int, device: torch.device, dtype: torch.dtype
) -> Parameters:
    """`_seeded` in another place, which no later call copies there again: a call would wait for the
    copy to a GPU."""
    drawn = _seeded(attention, heads, head_dim)
    return {name: tensor.to(device, dtype) for name, tensor in drawn.items()}


def _only_once(name: str, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """A hook that runs before a backward pass. It refuses a pass that torch will differentiate
    again, which the kernels do not support, and makes gradients `readable`."""
    if torch.is_grad_enabled():
        raise traced.no_second_derivative(name)
    if any(x is not None and traced.is_mapped(x) for x in grads):
        raise traced.no_vmap(name)
    return tuple(x if x is None or not any(x.stride()) else readable(x) for x in grads)
