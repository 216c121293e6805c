"""Every Triton kernel that the variants start compiles for sm_90, within the limits of a GPU.

The interpreter accepts programs that the compiler refuses, and knows no registers.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import variants
from tests.gpu import compiled_kernels as compiled
from tests.gpu.compiled_kernels import CompiledKernel
from variants import Attention, UnsupportedError
from variants.engines.gpu import launches

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton"),
    pytest.mark.skipif(launches.interpreted(), reason="TRITON_INTERPRET=1 replaces the compiler"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning"),
]
# Triton finds the results of earlier runs by the text of a kernel, so a second run is fast.
KEPT = Path(tempfile.gettempdir()) / f"attention-benchmark-triton-{os.getuid()}"
# Bytes of a thread that are moved from registers to memory. A gradient of keys and values holds two
# sums of a block; thousands of bytes mean that tiles are too large for the dtype.
MOST_STACK = {64: 1024, 128: 2048}
# One program for each head inverts a matrix of 64 landmarks, whatever the length: it holds several
# matrices, and its time is small.
OF_ONE_PROGRAM = {"landmark_inverse_kernels.invert_gradient": 4096}
ATTENTIONS = compiled.attentions_by_kernels()
LENGTH = 1600  # longer than the blocks that a query chooses, and no multiple of a tile


def compile_call(
    attention: Attention,
    dtype: torch.dtype,
    head_dim: int,
    without: frozenset[str] = frozenset(),
) -> list[CompiledKernel]:
    with compiled.compiling(KEPT, lambda name, _: name in without) as found:
        compiled.call(attention, dtype, head_dim, LENGTH)
    return found


def assert_within_limits(kernels: list[CompiledKernel], head_dim: int) -> None:
    found = []
    for kernel in kernels:
        most = OF_ONE_PROGRAM.get(kernel.name, MOST_STACK[head_dim])
        found += compiled.problems(kernel, most)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("attention", ATTENTIONS, ids=str)
def test_every_kernel_compiles(attention: Attention) -> None:
    kernels = compile_call(attention, torch.bfloat16, 64)
    assert kernels, compiled.NO_KERNEL
    assert_within_limits(kernels, 64)


@cache
def started() -> dict[str, frozenset[str]]:
    """The kernels that each attention starts."""
    found = {}
    for attention in ATTENTIONS:
        names: set[str] = set()

        def note(name: str, constants: dict[str, Any], names: set[str] = names) -> bool:
            names.add(name)
            return True

        with compiled.compiling(KEPT, note):
            compiled.call(attention, torch.bfloat16, 64, LENGTH)
        found[attention.info.name] = frozenset(names)
    return found


@pytest.mark.wide_kernels
@pytest.mark.parametrize(
    ("dtype", "head_dim"), [(torch.bfloat16, 128), (torch.float32, 64)], ids=str
)
@pytest.mark.parametrize("attention", ATTENTIONS, ids=str)
def test_every_kernel_compiles_for_wide_heads_and_in_float32(
    attention: Attention, dtype: torch.dtype, head_dim: int
) -> None:
    """Once for each kernel, by the first attention that starts it."""
    name = attention.info.name
    names = [other.info.name for other in ATTENTIONS]
    earlier = frozenset().union(*(started()[other] for other in names[: names.index(name)]))
    try:
        kernels = compile_call(attention, dtype, head_dim, earlier)
    except UnsupportedError as error:
        pytest.skip(str(error))
    assert_within_limits(kernels, 128)


@pytest.mark.wide_kernels
@pytest.mark.parametrize(
    ("name", "dtype"), [("full", torch.float32), ("transformer_xl", torch.bfloat16)], ids=str
)
def test_the_largest_tiles_fit_shared_memory(name: str, dtype: torch.dtype) -> None:
    """Tiles of 128 rows, and heads that are twice as wide."""
    attention = variants.create(name, implementation="triton")
    kernels = compile_call(attention, dtype, 128)
    assert {"block_softmax_kernels.key_gradient"} <= {kernel.name for kernel in kernels}
    assert_within_limits(kernels, 128)


def test_all_warps_load_a_term_before_one_of_them_replaces_it() -> None:
    kernels = compile_call(
        variants.create("performer", implementation="triton"), torch.bfloat16, 64
    )
    scans = [kernel for kernel in kernels if kernel.name.endswith(".scan_states")]
    assert scans
    assert all("bar.sync" in kernel.ptx for kernel in scans)


def test_resources_beyond_the_limits_are_problems() -> None:
    kernel = CompiledKernel("k", (("WIDTH", "64"),), 240 << 10, 255, 4096, "")
    assert compiled.problems(kernel, 1024) == [
        "k(WIDTH=64): shared_bytes is 245760, more than 232448",
        "k(WIDTH=64): stack_bytes is 4096, more than 1024",
    ]


@pytest.mark.parametrize("width", [64, 256])
def test_the_numbers_are_those_of_the_compiler(width: int) -> None:
    """A product of a wide tile needs more shared memory; it keeps Triton's order of arguments."""
    from tests.gpu import example_kernel

    tensor = torch.zeros(width, width, dtype=torch.bfloat16)
    with compiled.compiling(KEPT) as found:
        launches.launch(example_kernel.square, (1,), tensor, tensor, width, WIDTH=width)
        launches.launch(example_kernel.square, (1,), tensor, tensor, width, WIDTH=width)
    assert [kernel.name for kernel in found] == ["example_kernel.square"]
    assert ("WIDTH", str(width)) in found[0].constants
    assert found[0].shared_bytes >= width * width * 2
    assert 16 < found[0].registers <= 255
    assert "wgmma" in found[0].ptx
    assert not tensor.any()


def test_an_error_of_the_compiler_is_raised() -> None:
    from tests.gpu import example_kernel

    tensor = torch.zeros(16)
    with (
        compiled.compiling(KEPT),
        pytest.raises(Exception, match="constexpr cannot be reassigned"),
    ):
        launches.launch(example_kernel.reassigned, (1,), tensor, LEVELS=2)
