"""The library that multiplies float32 matrices on a CPU, which is a setting of the process.

By default torch multiplies with MKL. If the program allows torch to round float32 products to
bfloat16 (precision "medium"), torch multiplies with oneDNN. On processors without bfloat16
instructions that are faster than float32, oneDNN multiplies in float32 and can be twice as fast as
MKL for small matrices. On other processors oneDNN does round. So the error is measured before this
route is chosen.

Kernels never change the setting. A program chooses it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch

ROUTES = Literal["default", "fast"]
TOLERANCE = 2.0  # limit of the error of the fast route, as a multiple of the default route's error

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

    Call this function once, before other threads compute. `import variants` does not change the
    setting, and no kernel of `variants` does. On a processor where the fast route does not round,
    most kernels take about 0.6 of their time on the default route.

    Args:
        wanted: "auto" takes the fast route if its measured error is at most twice the error of
            torch's default, and otherwise changes nothing; "default" takes torch's default.

    Returns:
        The route that is now in use, with the measured errors.

    The fast route is `torch.set_float32_matmul_precision("medium")`. Every float32 matrix product
    of the process takes this route, also in other threads, in linear layers and in torch's
    `scaled_dot_product_attention`. Forked child processes have the same route; spawned child
    processes must choose again. torch has one setting for all devices, so float32 products on CUDA
    may then use TF32, with an error of about 1e-3. Products with few rows are slower on the fast
    route, because oneDNN copies the matrix and compiles a kernel for each shape: choose "default"
    to decode token by token.

    `choose_float32_route("default")` restores the settings of float32 matrix products of a new
    process.

    Raises:
        ValueError: another value of `wanted`.
    """
    if wanted not in ("auto", "default"):
        raise ValueError(f"wanted must be 'auto' or 'default'; got {wanted!r}")
    default, fast = errors()
    name: ROUTES = "fast" if wanted == "auto" and fast <= TOLERANCE * default else "default"
    if name == "fast" or wanted == "default":
        take(name)
    return Float32Route(present(), default, fast)


def present() -> ROUTES:
    """The route of float32 products in this process now."""
    return "fast" if _MKLDNN.fp32_precision == "bf16" else "default"


def take(name: ROUTES) -> None:
    """Take a route without regard to its error."""
    if name not in get_args(ROUTES):
        raise ValueError(f"name must be one of {', '.join(get_args(ROUTES))}; got {name!r}")
    torch.set_float32_matmul_precision("medium" if name == "fast" else "highest")
    if name == "default":
        # "highest" writes "ieee", which would override a general setting that is made later.
        _MKLDNN.fp32_precision = "none"
        torch.backends.cuda.matmul.fp32_precision = "none"


@cache
def errors() -> tuple[float, float]:
    """Relative L2 error of a float32 product against float64, on the default and the fast route.
    The sums have 256 terms, as in products of tiles. The setting is restored afterwards."""
    before = _MKLDNN.fp32_precision
    if before == torch.backends.mkldnn.fp32_precision:
        before = "none"  # if this setting is not set, torch returns the general setting
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
