"""One token after another: what a case with `direction` decode calls, and which rows it checks."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.inputs import Inputs
from bench.measurement import Case
from bench.torch_defaults import torch_defaults
from variants import Attention, UnsupportedError
from variants.contract.registry import reference_attention

CHECKED = 64  # most tokens at the end of the context that come one by one, and are checked
ROUND = 32  # timed steps after which a context has its length again


def stepped_by() -> tuple[str, str]:
    """The implementations that decoding is measured with; a step is the same with any other."""
    return "auto", reference_attention().implementation


class Decoder:
    """A context of `seq_len` tokens, the last ones of which came one by one. A call is one step,
    with the last token once more."""

    def __init__(self, attention: Attention, given: Inputs, key: Tensor) -> None:
        self.attention = attention
        tokens = given.query, key, given.value
        length = key.shape[2]
        prefilled = max(1, length - CHECKED)
        outs = []
        with torch.no_grad():
            first, self.state = attention.prefill(*(x[:, :, :prefilled] for x in tokens))
            with torch_defaults():  # as the timed steps
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
    """Tokens of a context that come one by one; of a context of one token, this one."""
    return torch.arange(min(max(1, length - CHECKED), length - 1), length)


def check(attention: Attention, case: Case) -> None:
    """UnsupportedError for a case that cannot be decoded."""
    if not case.causal or case.seq_len != case.key_len:
        raise UnsupportedError("decode needs causal = true, and a query for each key")
    if case.projections != "none":
        raise UnsupportedError("decode measures the attention alone: projections must be none")
    if attention.implementation not in stepped_by():
        raise UnsupportedError(
            f"decode is measured with implementation {' or '.join(stepped_by())}; a step is the "
            f"same with {attention.implementation}"
        )
