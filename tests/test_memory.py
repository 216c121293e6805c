"""Peak memory in exact bytes: of calls with a known peak, and of hand-made events."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.instruments.memory import peak_bytes, peak_of

CPU = torch.device("cpu")


def block(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


def three_then_another(another: int) -> Callable[[], object]:
    """Allocate 1001, 2002 and 3003 bytes, free the second, and allocate another."""

    def call() -> object:
        first, second, third = block(1001), block(2002), block(3003)
        del second
        return first, third, block(another)

    return call


@pytest.mark.parametrize(
    ("another", "peak"),
    [
        (1, 1001 + 2002 + 3003),
        (2002, 1001 + 2002 + 3003),
        (2003, 1001 + 2003 + 3003),
        (70_000, 1001 + 70_000 + 3003),
    ],
)
def test_the_peak_of_known_allocations_is_exact(another: int, peak: int) -> None:
    assert peak_bytes(three_then_another(another), CPU) == peak


def test_the_peak_is_not_the_memory_at_the_end() -> None:
    def call() -> Tensor:
        block(50_000)
        return block(10)

    assert peak_bytes(call, CPU) == 50_000


def test_the_peak_is_not_the_sum_of_all_allocations() -> None:
    def call() -> None:
        for _ in range(10):
            block(4096)

    assert peak_bytes(call, CPU) == 4096


@pytest.mark.parametrize(
    ("operation", "peak"),
    [
        (lambda x: torch.softmax(x, -1), 4 * 64 * 32),
        (lambda x: x @ x.T, 4 * 64 * 64),
        (lambda x: x.neg().neg(), 2 * 4 * 64 * 32),
        (lambda x: torch.softmax(x @ x.T, -1) @ x, 2 * 4 * 64 * 64),
        (lambda x: x.double(), 8 * 64 * 32),
        (lambda x: x.view(32, 64).T[::2], 0),
        (lambda x: x.neg_(), 0),
    ],
)
def test_the_peak_of_an_operation_is_its_output_and_temporary_tensors(
    operation: Callable[[Tensor], Tensor], peak: int
) -> None:
    x = torch.rand(64, 32)
    operation(x)
    assert peak_bytes(lambda: operation(x), CPU) == peak


def test_the_peak_is_repeatable() -> None:
    x = torch.rand(1, 2, 100, 16)

    def call() -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    call()
    assert len({peak_bytes(call, CPU) for _ in range(5)}) == 1


def test_inputs_of_any_size_do_not_count() -> None:
    x = torch.rand(1 << 20)
    assert peak_bytes(lambda: x[:10].neg(), CPU) == 40


def test_freeing_earlier_memory_does_not_count() -> None:
    held = [block(1 << 20)]

    def call() -> Tensor:
        held.clear()
        return block(4000)

    assert peak_bytes(call, CPU) == 4000


def test_the_peak_is_independent_of_an_earlier_larger_call() -> None:
    assert peak_bytes(lambda: block(1 << 20), CPU) == 1 << 20
    assert peak_bytes(lambda: block(100), CPU) == 100


def test_a_backward_pass_counts_saved_and_new_tensors() -> None:
    x = torch.rand(1000, requires_grad=True)

    def call() -> Tensor:
        # exp saves its output and square its input: two live tensors, then the gradients.
        return torch.autograd.grad(x.exp().square().sum(), x)[0]

    forward = peak_bytes(lambda: x.exp().square().sum(), CPU)
    assert forward == 4000 + 4000 + 4
    assert peak_bytes(call, CPU) >= forward + 4000


@pytest.mark.parametrize(
    ("events", "peak"),
    [
        ([], 0),
        # Events are in the order of their time.
        ([(3, 2, 5), (2, 1, -10), (1, 1, 10)], 10),
        ([(2, 2, 5), (3, 1, -10), (1, 1, 10)], 15),
        # A pointer that is allocated again after a free is a new block.
        ([(1, 7, 100), (2, 7, -100), (3, 7, 60), (4, 8, 30)], 100),
        ([(1, 7, 100), (2, 7, -100), (3, 7, 60), (4, 8, 50)], 110),
        # Without a recorded free it is one block: the profiler did not see the free.
        ([(1, 7, 100), (2, 7, 100), (3, 7, 100)], 100),
        ([(1, 7, 100), (2, 7, 40), (3, 8, 30)], 100),
        ([(1, 7, 100), (2, 7, 40), (3, 7, -40), (4, 8, 90)], 100),
        # torch reports size 0 for blocks with an allocation that it did not see.
        ([(1, 7, 100), (2, 7, 0), (3, 8, 70)], 100),
        # A free of an unknown block does not count.
        ([(1, 9, -1000), (2, 7, 100), (3, 9, -1000), (4, 8, 50)], 150),
    ],
)
def test_the_peak_is_computed_from_events(events: list[tuple[int, int, int]], peak: int) -> None:
    assert peak_of(events) == peak


def test_a_measurement_does_not_import_the_compiler_of_torch() -> None:
    """The import takes seconds, in each worker process."""
    code = (
        "import sys, torch; from bench.instruments.memory import peak_bytes; "
        "size = peak_bytes(lambda: torch.empty(9, dtype=torch.uint8), torch.device('cpu')); "
        "print(size, 'torch._inductor' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["9", "False"]
