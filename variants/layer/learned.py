"""The learned tensors of an attention, as parameters of a module."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from variants.contract.definitions import compute_dtype


class LearnedTensors(nn.ParameterDict):
    """The learned tensors of an attention, by name. They stay in float32 if the module is moved to
    a half-precision dtype, because rounding would change some of them (in bfloat16, a span of 1001
    tokens would become a span of 1000 tokens)."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LearnedTensors:
        def wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            dtype = compute_dtype(moved.dtype)
            return moved if moved.dtype == dtype else tensor.to(moved.device, dtype)

        super()._apply(wide, recurse)
        return self
