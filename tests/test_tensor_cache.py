"""Tensors that are cached between calls: only real ones, bounded, correct in threads and forks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import variants
from variants import Attention
from variants.contract import tensor_cache
from variants.contract.call import Keywords
from variants.contract.pattern import Pattern
from variants.contract.tensor_cache import cached

# Python warns of a fork in a process with threads; the fork is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
made: list[int] = []


@cached
def numbers(count: int, device: torch.device | None = None) -> Tensor:
    made.append(count)
    return torch.arange(count, device=device)


@cached
def pattern(length: int) -> Pattern:
    """An object that holds a tensor."""
    return Pattern(length, length, True, 1, random_blocks=torch.zeros(1, length, 1))


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    tensor_cache.clear()
    made.clear()
    yield
    tensor_cache.clear()


def test_a_value_is_computed_once_for_its_arguments() -> None:
    assert numbers(3) is numbers(3)
    assert numbers(4) is not numbers(3)
    assert made == [3, 4]


def test_tensors_inside_objects_are_counted() -> None:
    pattern(100)
    assert tensor_cache.held_bytes() == 400
    numbers(3)
    assert tensor_cache.held_bytes() == 424
    tensor_cache.clear()
    assert (tensor_cache.held_bytes(), tensor_cache.held_tensors()) == (0, [])


def test_the_least_recently_used_value_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_cache, "MOST_BYTES", 8 * 10)
    for count in (4, 5, 4, 6):
        numbers(count)
    assert tensor_cache.held_bytes() == 8 * 10
    numbers(4)
    assert made == [4, 5, 6]
    numbers(5)
    assert made == [4, 5, 6, 5]


def test_a_value_larger_than_the_bound_is_the_only_one_in_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tensor_cache, "MOST_BYTES", 8 * 10)
    numbers(4)
    assert numbers(1000) is numbers(1000)
    assert [len(x) for x in tensor_cache.held_tensors()] == [1000]


def test_the_number_of_values_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_cache, "MOST_VALUES", 3)
    for count in range(1, 10):
        numbers(count)
    assert [len(x) for x in tensor_cache.held_tensors()] == [7, 8, 9]


def test_a_value_that_was_modified_is_computed_again() -> None:
    numbers(3).add_(1)
    assert numbers(3).tolist() == [0, 1, 2]
    pattern(5).random_blocks.fill_(9)  # type: ignore[union-attr]
    assert pattern(5).random_blocks.sum() == 0  # type: ignore[union-attr]


def pretend() -> None:
    with FakeTensorMode():
        assert type(numbers(3)) is not Tensor


def trace() -> None:
    make_fx(lambda x: x + numbers(3))(torch.zeros(3))


def trace_pretended() -> None:
    make_fx(lambda x: x + numbers(3), tracing_mode="fake")(torch.zeros(3))


def functionalise() -> None:
    torch.func.functionalize(lambda x: x + numbers(3))(torch.zeros(3))


def transform() -> None:
    torch.func.grad(lambda x: (x * numbers(3)).sum())(torch.zeros(3))


def on_meta() -> None:
    assert numbers(3, torch.device("meta")).is_meta


def export() -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + numbers(3)

    torch.export.export(Module(), (torch.zeros(3),))


@pytest.mark.parametrize(
    "act", [pretend, trace, trace_pretended, functionalise, transform, on_meta, export]
)
def test_tracing_a_program_leaves_nothing_in_the_cache(act: Any) -> None:
    act()
    assert tensor_cache.held_tensors() == []
    kept = numbers(3)
    act()
    assert len(made) > 2, "an existing tensor became a constant of the program"
    assert tensor_cache.held_tensors() == [kept]
    assert type(numbers(3)) is Tensor


def test_values_made_in_inference_mode_can_be_used_in_training() -> None:
    with torch.inference_mode():
        found = numbers(3)
    assert not found.is_inference()


def test_threads_get_the_same_value() -> None:
    begin = threading.Barrier(8)
    found: list[Tensor] = []

    def ask() -> None:
        begin.wait()
        found.extend(numbers(count) for count in range(1, 50))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(x) for x in found}) == 49
    assert tensor_cache.held_bytes() == 8 * sum(range(1, 50))


def test_a_child_process_does_not_wait_for_a_lock_of_a_missing_thread() -> None:
    numbers(3)
    with tensor_cache._STORE.lock:  # as if another thread held the lock
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # _exit ends the child process
            os._exit(0 if numbers(3).tolist() == [0, 1, 2] else 1)
        _, status = os.waitpid(child, 0)
    assert status == 0


@pytest.mark.parametrize(
    "attention",
    [
        *(variants.create(name) for name in ("additive", "transformer_xl", "adaptive_span")),
        variants.create("chunked_state", rule="gated_delta"),
        variants.create("compressed", compression="convolution"),
    ],
    ids=str,
)
def test_learned_tensors_of_the_seed_are_moved_once(attention: Attention) -> None:
    """A call that copies them to a GPU waits for the copy. Another dtype stands for a device."""
    query = torch.zeros(1, 2, 8, 16, dtype=torch.float64)
    first, second = (attention.resolve(query, Keywords(causal=True)) for _ in range(2))
    assert first.parameters
    for name, tensor in first.parameters.items():
        assert tensor.dtype is torch.float64
        assert second.parameters[name] is tensor
