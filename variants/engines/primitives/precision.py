"""Matrix products: in which dtype, and by which of the machine's routes.

A CPU multiplies float32 through one of two libraries, at torch's choice. The one it does not choose
by default can be twice as fast for the small products of a tile, with an error of the same size; on
other processors the same setting rounds its operands to bfloat16. So its error is measured, once a
process, and decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from variants.contract.definitions import compute_dtype
from variants.contract.modes import no_autocast, tracing
from variants.engines.primitives.process_setting import ProcessSetting

_SETTINGS: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
TOLERANCE = 2.0  # how many times the default route's error the fast one may have


class Precision(NamedTuple):
    """Dtypes of what is multiplied, and of the scores and sums that come out."""

    operands: torch.dtype
    scores: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor, *, coarse: bool = False) -> Precision:
        """float32 scores for half inputs: a CPU widens the operands, a GPU multiplies them as they
        are. `coarse` keeps operands and scores in bfloat16; float64 stays as it is."""
        wide = compute_dtype(tensor.dtype)
        if coarse and tensor.dtype is not torch.float64:
            return cls(torch.bfloat16, torch.bfloat16)
        return cls(wide if tensor.device.type == "cpu" else tensor.dtype, wide)


def product(left: Tensor, right: Tensor, precision: Precision, out: Tensor) -> Tensor:
    """Batched product into `out`; all (..., rows, columns) with the same leading dimensions."""
    left, right, target = left.flatten(0, -3), right.flatten(0, -3), out.flatten(0, -3)
    if len(left) == 1 and precision.operands is precision.scores:
        # A batch of one may have any stride along it, which makes a CPU copy the matrix first.
        torch.mm(left[0], right[0], out=target[0])
    elif precision.operands is precision.scores:
        torch.bmm(left, right, out=target)
    else:
        target.copy_(torch.bmm(left, right, precision.scores))
    return out


def _chosen() -> str:
    """The setting, "none" if it is but the general one."""
    setting: str = _SETTINGS.fp32_precision
    general: str = torch.backends.mkldnn.fp32_precision
    return "none" if setting == general else setting


def _choose(setting: str) -> None:
    _SETTINGS.fp32_precision = setting


_ROUTE = ProcessSetting(_chosen, _choose)


@contextmanager
def fast_float32(device: torch.device) -> Iterator[None]:
    """Take the fast route for float32 products on a CPU, if its error allows. Autocast, which a
    backward pass may be called under, is off meanwhile.

    The setting belongs to the process. Meanwhile other threads' products take that route too, and
    `torch.get_float32_matmul_precision()`, which cannot name it, raises. A GPU's settings are not
    touched.
    """
    with no_autocast(device):
        if device.type != "cpu" or tracing() or not fast_route_is_exact():
            yield
        else:
            with _ROUTE.held("bf16"):
                yield


@cache
def fast_route_is_exact() -> bool:
    """Whether the fast route of this machine is as accurate as the default one."""
    default, fast = route_errors()
    return fast <= TOLERANCE * default


@cache
def route_errors() -> tuple[float, float]:
    """Relative L2 error of a float32 product against float64, by the default and the fast route, at
    the depth of 256 that products of tiles have about."""
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        generator = torch.Generator().manual_seed(0)
        left = torch.randn(4, 64, 256, generator=generator, dtype=torch.float32)
        right = torch.randn(4, 256, 64, generator=generator, dtype=torch.float32)
        exact = left.double() @ right.double()
        errors = []
        for setting in ("ieee", "bf16"):
            with _ROUTE.held(setting):
                difference = torch.bmm(left, right).double() - exact
            errors.append(float(difference.norm() / exact.norm()))
    return errors[0], errors[1]
