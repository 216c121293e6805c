"""Measured memory against a tracker of its own, against the process, and after other calls."""

from __future__ import annotations

import ctypes
import gc
import mmap
import random
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import variants
from bench.instruments import c_memory, memory, process_memory
from bench.instruments.memory import peak, peak_bytes, saved_bytes
from variants.contract import tensor_cache

CPU = torch.device("cpu")
MB = 1 << 20
# Variants that call torch's fused attention, which has buffers that no tracker of tensors sees.
FUSED = ("block_top_k", "full", "linformer")
NUMBERS = 64  # bytes of numbers that operations allocate for themselves
on_glibc = pytest.mark.skipif(not c_memory.is_glibc(), reason="malloc is not that of glibc")


class StorageTracker(TorchDispatchMode):
    """Sums the storages that operations return, until Python frees them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.live: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if _is(x)}
        out = func(*args, **(kwargs or {}))
        for x in filter(_is, tree_leaves(out)):
            storage = x.untyped_storage()
            if storage.data_ptr() not in before and storage._cdata not in self.live:
                self.live[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata)
        self.peak = max(self.peak, self.now)
        return out

    def _free(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)


def _is(value: object) -> bool:
    return isinstance(value, Tensor)


def tokens(length: int = 300, *, grad: bool = False) -> list[Tensor]:
    drawn = torch.randn(3, 1, 2, length, 16, generator=torch.Generator().manual_seed(0))
    return [x.clone().requires_grad_(grad) for x in drawn]


def forward_of(name: str, *, grad: bool = False) -> Callable[[], Tensor]:
    attention = variants.create(name)
    inputs, causal = tokens(grad=grad), attention.info.causal_choices[-1]

    def forward() -> Tensor:
        with torch.set_grad_enabled(grad):
            return attention(*inputs, causal=causal)

    return forward


def backward_of(name: str) -> Callable[[], Tensor]:
    attention = variants.create(name)
    inputs, causal = tokens(grad=True), attention.info.causal_choices[-1]
    gradient = torch.ones_like(inputs[0])

    def forward_backward() -> Tensor:
        out = attention(*inputs, causal=causal)
        torch.autograd.grad(out, inputs, gradient, allow_unused=True)
        return out.detach()

    return forward_backward


@pytest.mark.parametrize("direction", [forward_of, backward_of])
@pytest.mark.parametrize("name", sorted(variants.REGISTRY))
def test_the_peak_is_that_of_an_independent_tracker(
    name: str, direction: Callable[[str], Callable[[], Tensor]]
) -> None:
    call = direction(name)
    call()
    gc.collect()
    with StorageTracker() as seen:
        call()
    inside = peak_bytes(call, CPU) - seen.peak
    if name in FUSED:
        assert 1000 < inside < 300_000
    else:
        assert 0 <= inside <= NUMBERS


def test_a_peak_is_independent_of_the_calls_before() -> None:
    names = ["block_summary", "full", "linear", "lsh", "performer", "sliding_window"]
    calls = {(name, made): made(name) for name in names for made in (forward_of, backward_of)}
    found: dict[Any, set[int]] = {key: set() for key in calls}
    for order in range(3):
        tensor_cache.clear()
        for key in random.Random(order).sample(list(calls), len(calls)):
            calls[key]()
            found[key].add(peak_bytes(calls[key], CPU))
    assert {key: sizes for key, sizes in found.items() if len(sizes) > 1} == {}


def test_collections_of_garbage_do_not_change_a_peak() -> None:
    def call() -> None:
        for _ in range(3):
            cycle: list[object] = [torch.empty(1000, dtype=torch.uint8)]
            cycle.append(cycle)
            gc.isenabled() and gc.collect()

    assert peak_bytes(call, CPU) == 3000
    assert gc.isenabled()


def test_saved_bytes_are_those_of_the_saved_tensors() -> None:
    x = torch.rand(1000, requires_grad=True)
    # exp saves its own output; the output of square lives, but saves nothing new.
    assert saved_bytes(lambda: x.exp().square(), CPU) == 4000
    # The output of exp is saved and is the output.
    assert saved_bytes(lambda: x.exp(), CPU) == 0
    # A part of a saved tensor is the output: the other part is saved beyond it.
    assert saved_bytes(lambda: x.exp()[:250], CPU) == 3000
    assert saved_bytes(lambda: x.neg(), CPU) == 0


def test_saved_bytes_include_tensors_that_functions_keep_as_attributes() -> None:
    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.kept = torch.empty(777, dtype=torch.uint8)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0]

    x = torch.rand(1000, requires_grad=True)
    assert saved_bytes(lambda: Keeps.apply(x), CPU) == 777  # type: ignore[no-untyped-call]


@on_glibc
@pytest.mark.parametrize("size", [8 * MB, 64 * MB])
def test_the_process_grows_by_what_torch_allocates(size: int) -> None:
    found = peak(lambda: torch.ones(size, dtype=torch.uint8), CPU)
    assert found.bytes == size
    assert found.process_bytes == pytest.approx(size, abs=process_memory.uncertainty())
    assert found.note == ""


@on_glibc
def test_free_places_of_the_heap_do_not_change_the_growth_of_the_process() -> None:
    c_memory.fix_thresholds()
    sizes = range(MB, 11 * MB, MB)
    # Free places of all sizes between blocks that stay.
    held = [block for size in sizes for block in (torch.ones(size // 4), torch.ones(MB // 4))]
    del held[::2]

    def call() -> None:
        for size in sizes:  # if freed blocks stayed, each block would go to the place of its size
            torch.ones(size // 4)

    found = peak(call, CPU)
    assert found.bytes == 10 * MB
    assert found.process_bytes == pytest.approx(10 * MB, abs=process_memory.uncertainty())
    assert len(held) == len(sizes)


def by_mmap() -> None:
    with mmap.mmap(-1, 64 * MB) as block:
        block.write(b"x" * (64 * MB))


def by_malloc() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    block = libc.malloc(64 * MB)
    ctypes.memset(block, 1, 64 * MB)
    libc.free(block)


@on_glibc
@pytest.mark.parametrize("allocate", [by_mmap, by_malloc])
def test_memory_that_torch_does_not_allocate_is_counted_and_said(
    allocate: Callable[[], None],
) -> None:
    found = peak(allocate, CPU)
    assert found.bytes == 0
    assert found.process_bytes is not None
    assert found.process_bytes >= 63 * MB
    assert "without torch" in found.note


@on_glibc
def test_memory_that_is_never_written_is_no_contradiction() -> None:
    found = peak(lambda: torch.empty(64 * MB, dtype=torch.uint8), CPU)
    assert found.bytes == 64 * MB
    assert found.process_bytes is not None
    assert found.process_bytes < MB
    assert "never written" in found.note


@on_glibc
def test_events_of_memory_that_the_process_never_held_are_a_contradiction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "_allocations", lambda call: ([(1, 1, 64 * MB)], None))
    assert "contradiction" in peak(lambda: torch.ones(1000), CPU).note


def test_a_mark_that_cannot_be_reset_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_memory, "_reset", lambda: None)
    found = peak(lambda: torch.ones(1000), CPU)
    assert (found.bytes, found.process_bytes) == (4000, None)
    assert "cannot be reset" in found.note


class FakeCuda:
    """A GPU with an allocator, a workspace that the first product allocates, and other users."""

    def __init__(self) -> None:
        self.live = self.most = self.workspace = self.segments = self.most_segments = 0
        self.others = 5 * MB

    def allocate(self, size: int) -> None:
        self.live += size
        self.segments = max(self.segments, -(-self.live // (2 * MB)) * 2 * MB)
        self.most = max(self.most, self.live)
        self.most_segments = max(self.most_segments, self.segments)

    def product(self, size: int) -> None:
        if not self.workspace:
            self.workspace = 32 * MB
            self.allocate(self.workspace)
        self.allocate(size)
        self.live -= size

    def clear_workspaces(self) -> None:
        self.live -= self.workspace
        self.workspace = 0

    def empty_cache(self) -> None:
        self.segments = -(-self.live // (2 * MB)) * 2 * MB

    def reset(self, device: object) -> None:
        self.most, self.most_segments = self.live, self.segments


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    gpu = FakeCuda()
    fake = SimpleNamespace(
        synchronize=lambda device: None,
        empty_cache=gpu.empty_cache,
        reset_peak_memory_stats=gpu.reset,
        memory_allocated=lambda device: gpu.live,
        memory_reserved=lambda device: gpu.segments,
        max_memory_reserved=lambda device: gpu.most_segments,
        mem_get_info=lambda device: (1000 * MB - gpu.segments - gpu.others, 1000 * MB),
        memory_stats=lambda device: {
            "requested_bytes.all.current": gpu.live,
            "requested_bytes.all.peak": gpu.most,
        },
    )
    monkeypatch.setattr(torch, "cuda", fake)
    name = "_cuda_clearCublasWorkspaces"
    monkeypatch.setattr(torch._C, name, gpu.clear_workspaces, raising=False)
    return gpu


CUDA = torch.device("cuda")


def test_the_workspace_of_a_product_counts_in_every_call_on_a_gpu(gpu: FakeCuda) -> None:
    gpu.allocate(7 * MB)  # inputs
    found = [peak(lambda: gpu.product(1000), CUDA) for _ in range(3)]
    assert [x.bytes for x in found] == [32 * MB + 1000] * 3
    assert {x.note for x in found} == {""}


def test_a_call_without_a_product_has_no_workspace_on_a_gpu(gpu: FakeCuda) -> None:
    gpu.product(5 * MB)

    def call() -> None:
        gpu.allocate(1000)
        gpu.live -= 1000

    assert peak(call, CUDA).bytes == 1000


def test_memory_of_a_gpu_outside_of_torch_is_said(gpu: FakeCuda) -> None:
    def call() -> None:
        gpu.product(1000)
        gpu.others += 100 * MB

    found = peak(call, CUDA)
    assert found.process_bytes == 134 * MB
    assert "outside torch's allocator" in found.note


def test_a_gpu_that_others_free_has_no_number_of_the_process(gpu: FakeCuda) -> None:
    def call() -> None:
        gpu.others -= 3 * MB

    assert peak(call, CUDA).process_bytes is None


def test_saved_bytes_of_a_gpu_leave_out_the_block_of_the_output(gpu: FakeCuda) -> None:
    def forward() -> Tensor:
        gpu.allocate(4096 + 1024)
        return torch.ones(250)  # 1000 bytes, a block of 1024

    assert saved_bytes(forward, CUDA) == 4096
