"""The work of a call on a GPU, counted without one: the counts, and the budgets of all variants."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import variants
from bench.launches import budget, operations, profiled
from bench.launches.simulation import FORWARD, FORWARD_BACKWARD, CallWork, Shape, simulate
from tests.contract.own_value import OwnValue, describe
from variants import Attention
from variants.contract.call import Call
from variants.contract.tensor_cache import cached
from variants.engines.gpu import launches

DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"
SMALL = Shape(seq_len=256, heads=2, head_dim=16, causal=False)


def listed() -> dict[str, dict[str, float]]:
    """The table of `docs/performance.md`: the variants that are over budget, with the budgets, and
    the largest ratio of `bytes` (0 for other budgets)."""
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text.partition("## Launches, waits and bytes on a GPU")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([a-z0-9., ]+) \| (.+) \|$", table, re.MULTILINE)
    assert all(reason.strip() for _, _, reason in rows)
    found = {}
    for name, budgets, _ in rows:
        words = (budget.partition(" ") for budget in budgets.split(", "))
        found[name] = {word: float(number or 0) for word, _, number in words}
    return found


@pytest.mark.parametrize("name", sorted(variants.REGISTRY))
def test_a_variant_is_over_budget_only_where_the_document_says_so(name: str) -> None:
    found = budget.over_budget(variants.create(name))
    told = "\n".join(f"{budget}: {call}" for budget, call in sorted(found.items()))
    ratio = found.get("bytes", "0").split()[0]
    words = [f"bytes {ratio}" if budget == "bytes" else budget for budget in sorted(found)]
    line = f"| `{name}` | {', '.join(words)} | reason |" if found else "no line"
    known = listed().get(name, {})
    message = f"docs/performance.md must have for {name}: {line}. Measured now:\n{told}"
    assert set(found) == set(known), message
    assert float(ratio) == pytest.approx(known.get("bytes", 0), rel=0.1), message


def test_the_document_lists_registered_variants_only() -> None:
    assert set(listed()) <= set(variants.REGISTRY)


# --- The counts.


@dataclass(frozen=True)
class Custom(OwnValue):
    """Runs a function that the test sets."""

    info = describe("custom_for_launches", "n·d", {"backward", "causal"})

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        return _kernel[0](query, key, value)


Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
_kernel: list[Kernel] = []


def work_of(kernel: Kernel, direction: str = FORWARD, **asked: Any) -> CallWork:
    """The work of a kernel on small inputs."""
    _kernel[:] = [kernel]
    return simulate(Custom(), SMALL, direction, **asked)


def test_views_are_free_and_each_operation_counts_its_operands_once() -> None:
    work = work_of(lambda q, k, v: (q.transpose(1, 2).transpose(1, 2)[:, :] + k).view(v.shape) * 2)
    one = 2 * 256 * 16 * 2
    assert (work.launches, work.moved_bytes) == (2, 5 * one)
    assert work.least_bytes == 4 * one
    assert work.peak_bytes == 2 * one
    assert not work.cut
    assert not work.waits
    assert not work.mixed


def test_only_the_rows_that_are_read_or_written_count() -> None:
    rows = torch.zeros(3, dtype=torch.int64, device="meta")

    def moved(kernel: Kernel) -> float:
        return work_of(kernel).moved_bytes

    row = 2 * 16 * 2 * 3  # three rows of two heads
    assert moved(lambda q, k, v: v[:, :, :3].clone()) == 2 * row
    assert moved(lambda q, k, v: v.index_select(2, rows)) == 2 * row + 24
    assert moved(lambda q, k, v: v.index_copy_(2, rows, q[:, :, :3])) == 2 * row + 24


def test_the_backward_pass_is_counted_by_autograd() -> None:
    forward, both = (work_of(lambda q, k, v: (q * k).relu() + v, d) for d in DIRECTIONS)
    assert forward.launches == 3
    # threshold_backward, and a product for each of query and key
    assert both.launches == 3 + 3
    assert both.least_bytes == 2 * forward.least_bytes


DIRECTIONS = FORWARD, FORWARD_BACKWARD


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        (lambda q, k, v: v * q.sum().item(), "reading a number"),
        (lambda q, k, v: v if bool((q > 0).any()) else k, "reading a number"),
        (lambda q, k, v: v * int(q.argmax()), "reading a number"),
        (lambda q, k, v: v * len(q[0, 0, 0].tolist()), "copy to the host"),
        (lambda q, k, v: v * q.float().cpu().mean(), "copy to the host"),
        (lambda q, k, v: v + (q > 0).nonzero().sum(), "positions of true elements"),
        (lambda q, k, v: v + q[q > 0].sum(), "positions of true elements"),
        (lambda q, k, v: v.index_put((q > 0,), q.new_zeros(())), "positions of true elements"),
        (lambda q, k, v: v + torch.bincount(q.flatten().long()).sum(), "bincount"),
        (
            lambda q, k, v: v + torch.repeat_interleave(q[0, 0, 0].long()).sum(),
            "repeat_interleave without output_size",
        ),
        (lambda q, k, v: v + torch.tensor([2.0], device=q.device), "copy to the device"),
        (lambda q, k, v: v + q.new_tensor([2.0]), "copy to the device"),
        (lambda q, k, v: v + torch.ones(16).to(q.device), "copy to the device"),
        (lambda q, k, v: v[..., torch.arange(16)], "copy of an index to the device"),
        (lambda q, k, v: v + q.float().unique().sum(), "unique"),
    ],
)
def test_each_wait_is_counted_once_with_its_place(kernel: Kernel, kind: str) -> None:
    work = work_of(kernel)
    ((where, count),) = work.waits.items()
    assert count == 1
    assert where.startswith(f"{kind} in ")
    assert where.endswith(".py:" + where.rpartition(":")[2])
    assert "waits" in budget.exceeded(work, FORWARD)


def test_numbers_that_do_not_depend_on_the_inputs_are_known() -> None:
    seen = []

    def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        learned = torch.tensor([3.0, 5.0]).to(query.device)
        seen.extend(learned.clamp(max=4).add_(1).tolist())
        seen.append(int(torch.arange(7, device=query.device).sum()))
        seen.append(int((query > 0).sum()))
        return value

    work = work_of(kernel)
    assert seen == [4.0, 5.0, 21, 1]
    assert work.waits.total() == 4


def test_tensors_on_two_devices_are_named() -> None:
    work = work_of(lambda q, k, v: v + torch.ones(16) + torch.ones(()))
    ((where, count),) = work.mixed.items()
    assert (count, where.split()[0]) == (1, "add")
    assert "devices" in budget.exceeded(work, FORWARD)


def test_kept_tensors_are_made_once_and_not_counted() -> None:
    @cached
    def table(length: int, device: torch.device) -> Tensor:
        return torch.arange(length, device=device) + 1.0

    calls = []

    def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        kept = table(16, query.device)
        calls.append(kept is table(16, query.device))
        return value + kept.to(value.dtype)

    work = work_of(kernel)
    assert calls == [True]
    assert (work.launches, work.kept_bytes) == (2, 16 * 4)
    assert work.peak_bytes == 2 * 256 * 16 * 2 + 16 * 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_torch_attention_is_one_kernel(dtype: str) -> None:
    shape = Shape(seq_len=4096, dtype=dtype)
    _kernel[:] = [lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True)]
    work = simulate(Custom(), shape, FORWARD)
    assert work.launches == 1
    assert work.flops == 4 * 16 * 64 * 4096**2 / 2
    assert simulate(Custom(), shape, FORWARD_BACKWARD).flops == work.flops * 3.5


def test_an_operation_of_this_project_is_one_kernel() -> None:
    @launches.operation("double_for_test(Tensor x, Tensor(a!) out) -> ()", lambda x, out: None)
    def double(x: Tensor, out: Tensor) -> None:
        raise AssertionError("a simulation starts no kernel")

    def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(value)
        double(value, out)
        return out

    work = work_of(kernel)
    assert (work.launches, work.moved_bytes) == (1, 2 * 2 * 256 * 16 * 2)


def test_a_count_ends_at_its_limit() -> None:
    def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        for _ in range(50):
            value = value + 1
        return value

    work = work_of(kernel, most_launches=20)
    assert work.cut
    assert work.launches == 20
    assert work_of(kernel, most_launches=50).launches == 50


def test_growth_with_the_length_is_over_budget() -> None:
    def rows_one_by_one(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return torch.cat([x * 2 for x in value.split(64, 2)], 2)

    def of(seq_len: int, kernel: Kernel) -> CallWork:
        _kernel[:] = [kernel]
        return simulate(Custom(), Shape(seq_len=seq_len), FORWARD)

    assert budget.grown(of(256, rows_one_by_one), of(512, rows_one_by_one)) == {"growth"}
    quadratic = lambda q, k, v: (q @ k.mT) @ v  # noqa: E731
    assert budget.grown(of(256, quadratic), of(1024, quadratic)) == {"memory"}
    assert budget.exceeded(of(16384, quadratic), FORWARD) == {"bytes", "memory"}


def test_the_memory_of_a_simulation_is_that_of_a_real_call() -> None:
    """On a CPU the same operations run, if the device is not asked."""
    attention: Attention = variants.create("full", implementation="plain")
    work = simulate(attention, Shape(seq_len=512, heads=2, dtype="float32"), FORWARD)
    scores = 2 * 512 * 512 * 4
    assert work.peak_bytes >= scores
    assert work.memory_ratio == work.peak_bytes / (4 * 2 * 512 * 64 * 4)


# --- The command.


def run(*arguments: str) -> Any:
    from click.testing import CliRunner

    from bench.cli.launch_command import launches as command

    return CliRunner().invoke(command, list(arguments), catch_exceptions=False)


def test_the_command_prints_each_call_and_names_the_variants_over_budget() -> None:
    asked = ("--seq-len", "1024,4096", "--simulate", "--json", "--heads", "2")
    said = run(*asked, "--variant", "full", "--variant", "full implementation=plain")
    rows = json.loads(said.output)
    assert len(rows) == 2 * 2 * 2
    first = rows[0]
    assert (first["launches"], first["waits"], first["source"]) == (1, 0, "simulated")
    assert first["times exact"] == 1.0
    said = run(*asked[:3], "--variant", "full", "--heads", "2", "--places")
    assert said.output.splitlines()[-1] == "0 of 1 variants are over budget"
    said = run(*asked[:3], "--variant", "full implementation=plain", "--direction", "forward")
    assert said.output.splitlines()[-1].startswith(
        "1 of 1 variants are over budget: full implementation=plain ("
    )


def test_a_call_that_cannot_run_gives_its_reason() -> None:
    said = run("--variant", "full implementation=flash", "--simulate", "--json")
    assert all("cannot run here" in row["failed"] for row in json.loads(said.output))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--variant", "nosuch"), "nosuch"),
        (("--seq-len", "many"), "--seq-len takes numbers"),
        (("--seq-len", "0"), "--seq-len"),
    ],
)
def test_invalid_arguments_end_with_one_message(arguments: tuple[str, ...], reason: str) -> None:
    said = run(*arguments)
    assert said.exit_code == 2
    assert reason in said.output


# --- The profiler.


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("void at::native::vectorized_elementwise_kernel<4>", True),
        ("_block_softmax_kernel", True),
        ("Memset (Device)", True),
        ("Memcpy DtoD (Device -> Device)", True),
        ("Memcpy HtoD (Pageable -> Device)", False),
        ("Memcpy DtoH (Device -> Pageable)", False),
    ],
)
def test_kernels_are_told_from_copies_by_name(name: str, counts: bool) -> None:
    assert profiled.is_kernel(name) == counts


def test_named_parts_of_a_program_are_no_kernels() -> None:
    assert profiled.is_annotation(SimpleNamespace(name="mine", is_user_annotation=True))
    assert not profiled.is_annotation(SimpleNamespace(name="kernel", is_user_annotation=False))
    assert not profiled.is_annotation(SimpleNamespace(name="kernel"))  # an older torch


@pytest.mark.gpu
def test_the_profiler_and_the_simulation_agree() -> None:
    shape = Shape(seq_len=1024, heads=4)
    for name in ("full", "sliding_window", "linear"):
        attention = variants.create(name)
        measured = profiled.measure(attention, shape)
        simulated = simulate(attention, shape)
        assert measured.source == "measured"
        assert 0.5 * simulated.launches <= measured.launches <= 2 * simulated.launches
        assert measured.waits.total() == simulated.waits.total()
        assert measured.seconds > 0


@pytest.mark.gpu
def test_the_profiler_counts_kernels_and_waits() -> None:
    tensor = torch.ones(1024, device="cuda")
    assert profiled.kernels_of(lambda: (tensor + 1) * 2).total() == 2
    ((where, count),) = profiled.waits_of(lambda: (tensor + 1).sum().item()).items()
    assert count == 1
    assert where.startswith("test_launches.py:")


def test_the_table_of_operations_names_operations_of_torch() -> None:
    for name in operations.KERNELS.keys() | operations.READS_SOME | operations.WRITES_SOME:
        if name not in ("index_put_accumulated", "argsort", "embedding"):
            assert hasattr(torch.ops.aten, name) or hasattr(torch.ops.aten, f"{name}_"), name
