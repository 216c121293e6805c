"""What an attention learns, as a part of a module."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from variants.contract.definitions import compute_dtype


class LearnedTensors(nn.ParameterDict):
    """Learned tensors of an attention, by its names. Rounded to a half type some would be others (a
    span of 1000 tokens and one of 1003 are the same there), so that a module that is moved to one
    keeps these in float32."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LearnedTensors:
        def wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            dtype = compute_dtype(moved.dtype)
            return moved if moved.dtype == dtype else tensor.to(moved.device, dtype)

        super()._apply(wide, recurse)
        return self
