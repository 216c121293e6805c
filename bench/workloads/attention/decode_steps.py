"""Decoding token by token: the timed call of a case with direction `decode`, and checked rows."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.inputs import Inputs
from bench.instruments.torch_defaults import torch_defaults
from bench.schema.case import Case
from variants import Attention, UnsupportedError
from variants.contract.registry import reference_attention

CHECKED = 64  # largest number of tokens, at the end of the context, that are decoded and checked
ROUND = 32  # timed steps after which the context is reset to its length


def stepped_by() -> tuple[str, str]:
    """The implementations that decoding is measured with; all others have the step of `auto`."""
    return "auto", reference_attention().implementation


class Decoder:
    """A context of `seq_len` tokens. The last ones are decoded one by one in the constructor.

    A call is one step more, with the last token again.
    """

    def __init__(self, attention: Attention, given: Inputs, key: Tensor) -> None:
        self.attention = attention
        tokens = given.query, key, given.value
        length = key.shape[2]
        prefilled = max(1, length - CHECKED)
        outs = []
        with torch.no_grad():
            first, self.state = attention.prefill(*(x[:, :, :prefilled] for x in tokens))
            with torch_defaults():  # as for the timed steps
                for token in range(prefilled, length):
                    own = (x[:, :, token : token + 1] for x in tokens)
                    out, self.state = attention.step(self.state, *own)
                    outs.append(out)
        self.out = torch.cat(outs or [first], dim=2)
        self._last = [x[:, :, -1:] for x in tokens]
        self._now, self._steps = self.state, 0

    def __call__(self) -> Tensor:
        if self._steps % ROUND == 0:
            self._now = self.state
        self._steps += 1
        with torch.no_grad():
            out, self._now = self.attention.step(self._now, *self._last)
        return out


def checked_rows(length: int) -> Tensor:
    """The rows of the tokens that are decoded one by one: the only row if there is one token."""
    return torch.arange(min(max(1, length - CHECKED), length - 1), length)


def check(attention: Attention, case: Case) -> None:
    """UnsupportedError if the case cannot be decoded."""
    if not case.causal or case.seq_len != case.key_len:
        raise UnsupportedError("decode needs causal = true, and seq_len equal to key_len")
    if case.projections != "none":
        raise UnsupportedError("decode measures only the attention: projections must be none")
    if attention.implementation not in stepped_by():
        raise UnsupportedError(
            f"decode is measured with implementation {' or '.join(stepped_by())}; a step is the "
            f"same with {attention.implementation}"
        )
