"""The library that multiplies float32 matrices on a CPU, which is a setting of the process.

torch multiplies with MKL by default and with oneDNN where its float32 products may be rounded to
bfloat16. Several processors have no faster instructions for bfloat16 than for float32; oneDNN then
multiplies in float32 there, and can be twice as fast as MKL for small matrices. Other processors do
round. So the error is measured before this route is chosen.

Kernels never change the setting. A program chooses it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch

ROUTES = Literal["default", "fast"]
TOLERANCE = 2.0  # how many times the default route's error the fast one may have

_MKLDNN: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Float32Route:
    """The route of float32 products that a process uses, and the errors that decided it.

    An error is the relative L2 error of a float32 product against float64.
    """

    name: ROUTES
    default_error: float
    fast_error: float


def choose_float32_route(wanted: Literal["auto", "default"] = "auto") -> Float32Route:
    """Choose the route of float32 matrix products on a CPU, for the whole process.

    Call it once, before other threads compute. `import variants` changes nothing by itself, and no
    kernel of `variants` changes the setting. On a processor where the fast route is exact, most
    kernels take about 0.6 of their time on it.

    Args:
        wanted: "auto" takes the fast route if its measured error is at most twice that of torch's
            default; "default" takes torch's default.

    Returns:
        The route that is now in use, with the measured errors.

    The fast route is `torch.set_float32_matmul_precision("medium")`: every float32 matrix product
    of the process takes it, also those of other threads, of linear layers and of torch's
    `scaled_dot_product_attention`. Child processes that are forked have it; those that are spawned
    must choose again. torch has one setting for all devices, so float32 products on CUDA may then
    use TF32, with an error of about 1e-3. Products with few rows are slower on the fast route,
    because oneDNN copies the matrix and compiles a kernel for each shape: choose "default" to
    decode token by token.

    `choose_float32_route("default")` undoes it: the settings of float32 matrix products are those
    of a fresh process.

    Raises:
        ValueError: another value of `wanted`.
    """
    if wanted not in ("auto", "default"):
        raise ValueError(f"wanted must be 'auto' or 'default'; got {wanted!r}")
    default, fast = errors()
    name: ROUTES = "fast" if wanted == "auto" and fast <= TOLERANCE * default else "default"
    take(name)
    return Float32Route(name, default, fast)


def present() -> ROUTES:
    """The route that float32 products of this process take now."""
    return "fast" if _MKLDNN.fp32_precision == "bf16" else "default"


def take(name: ROUTES) -> None:
    """Take a route whatever its error is."""
    if name not in get_args(ROUTES):
        raise ValueError(f"name must be one of {', '.join(get_args(ROUTES))}; got {name!r}")
    torch.set_float32_matmul_precision("medium" if name == "fast" else "highest")
    if name == "default":
        # "highest" writes "ieee", which would hide a general setting that is made later.
        _MKLDNN.fp32_precision = "none"
        torch.backends.cuda.matmul.fp32_precision = "none"


@cache
def errors() -> tuple[float, float]:
    """Relative L2 error of a float32 product against float64, by the default and the fast route, at
    a depth of 256 as in products of tiles. The setting is as before afterwards."""
    before = _MKLDNN.fp32_precision
    if before == torch.backends.mkldnn.fp32_precision:
        before = "none"  # torch shows the general setting where this one is not set
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        generator = torch.Generator().manual_seed(0)
        left = torch.randn(4, 64, 256, generator=generator, dtype=torch.float32)
        right = torch.randn(4, 256, 64, generator=generator, dtype=torch.float32)
        exact = left.double() @ right.double()
        found = []
        try:
            for setting in ("ieee", "bf16"):
                _MKLDNN.fp32_precision = setting
                difference = torch.bmm(left, right).double() - exact
                found.append(float(difference.norm() / exact.norm()))
        finally:
            _MKLDNN.fp32_precision = before
    return found[0], found[1]
