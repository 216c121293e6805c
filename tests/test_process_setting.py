"""Settings of the process are as before, whatever ends or meets a kernel."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import variants
from variants.engines.primitives import precision
from variants.engines.primitives.process_setting import ProcessSetting

# Python warns of what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
CPU = torch.device("cpu")


class Switch:
    """A setting of its own."""

    def __init__(self) -> None:
        self.value = "usual"
        self.setting = ProcessSetting(lambda: self.value, self.set)

    def set(self, value: str) -> None:
        self.value = value


@pytest.fixture
def switch() -> Switch:
    return Switch()


def in_thread(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def in_child(check: Callable[[], bool]) -> bool:
    """Whether a check holds in a forked process."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # which ends it
        good = False
        try:
            good = check()
        finally:
            os._exit(0 if good else 1)
    return os.waitpid(child, 0)[1] == 0


@pytest.fixture
def other_thread_inside(switch: Switch) -> Iterator[threading.Event]:
    """Another thread holds the setting until the event."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with switch.setting.held("changed"):
            entered.set()
            leave.wait(60)

    thread = in_thread(hold)
    assert entered.wait(60)
    yield leave
    leave.set()
    thread.join()


def test_it_is_put_back(switch: Switch) -> None:
    with switch.setting.held("changed"):
        assert switch.value == "changed"
        with switch.setting.held("changed"):
            pass
        assert switch.value == "changed"
    assert switch.value == "usual"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_it_is_put_back_after_an_exception(switch: Switch, error: type[BaseException]) -> None:
    with pytest.raises(error), switch.setting.held("changed"):
        raise error
    assert switch.value == "usual"


def test_the_last_thread_puts_it_back(switch: Switch, other_thread_inside: threading.Event) -> None:
    with switch.setting.held("changed"):
        pass
    assert switch.value == "changed"


def test_another_value_waits(switch: Switch, other_thread_inside: threading.Event) -> None:
    seen: list[str] = []

    def hold() -> None:
        with switch.setting.held("other"):
            seen.append(switch.value)

    thread = in_thread(hold)
    thread.join(0.05)
    assert seen == []
    other_thread_inside.set()
    thread.join()
    assert (seen, switch.value) == (["other"], "usual")


def test_two_values_in_one_thread_are_an_error(switch: Switch) -> None:
    with switch.setting.held("changed"):
        with (
            pytest.raises(RuntimeError, match="cannot be other and changed"),
            switch.setting.held("other"),
        ):
            pass
        assert switch.value == "changed"
    assert switch.value == "usual"


def test_what_somebody_sets_meanwhile_stays(switch: Switch) -> None:
    with switch.setting.held("changed"):
        switch.value = "wanted"
    assert switch.value == "wanted"


def test_a_fork_while_another_thread_is_inside(
    switch: Switch, other_thread_inside: threading.Event
) -> None:
    def check() -> bool:
        usual = switch.value == "usual"
        with switch.setting.held("other"):
            usual = usual and switch.value == "other"
        return usual and switch.value == "usual"

    assert in_child(check)
    assert switch.value == "changed"


def test_a_fork_of_the_thread_that_is_inside(switch: Switch) -> None:
    with switch.setting.held("changed"):
        assert in_child(lambda: switch.value == "changed")
    assert switch.value == "usual"


needs_route = pytest.mark.skipif(
    not precision.fast_route_is_exact(), reason="this processor's other route is not exact"
)


@needs_route
def test_a_fork_while_another_thread_attends() -> None:
    """`torch.get_float32_matmul_precision` raises where the route is not as it was."""
    attention = variants.create("full", implementation="onednn")
    inside, leave = threading.Event(), threading.Event()

    def attend() -> None:
        with precision.fast_float32(CPU):
            inside.set()
            leave.wait(60)

    thread = in_thread(attend)
    assert inside.wait(60)
    before = torch.backends.mkldnn.fp32_precision

    def check() -> bool:
        torch.set_num_threads(1)
        tensors = torch.randn(3, 1, 1, 4, 8)
        attention(*tensors)
        torch.get_float32_matmul_precision()
        return precision._chosen() == before

    try:
        assert in_child(check)
    finally:
        leave.set()
        thread.join()
    torch.get_float32_matmul_precision()


@needs_route
@pytest.mark.parametrize("name", ["full", "linear", "sliding_window", "lsh"])
def test_an_exception_in_a_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a user who interrupts it."""
    real = torch.bmm
    before = precision._chosen()

    def interrupted(*arguments: Tensor, **options: Tensor) -> Tensor:
        signal.raise_signal(signal.SIGINT)
        return real(*arguments, **options)

    monkeypatch.setattr(torch, "bmm", interrupted)
    monkeypatch.setattr(torch, "mm", interrupted)
    attention = variants.create(name, **({"implementation": "plain"} if name == "full" else {}))
    tensors = torch.randn(3, 1, 2, 600, 16)
    with pytest.raises(KeyboardInterrupt):
        attention(*tensors)
    assert precision._chosen() == before
    torch.get_float32_matmul_precision()


@needs_route
def test_a_route_that_another_thread_sets_meanwhile_stays() -> None:
    before = precision._chosen()
    try:
        with precision.fast_float32(CPU):
            torch.backends.mkldnn.matmul.fp32_precision = "ieee"  # type: ignore[attr-defined]
        assert precision._chosen() == "ieee"
    finally:
        precision._choose(before)
