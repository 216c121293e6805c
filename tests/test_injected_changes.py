"""The proof of the gates: changes are inserted into copies of kernels and caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.gate_proof.calibration import corrected
from bench.gate_proof.changes import (
    KERNELS,
    UNCHANGED,
    AddedWork,
    inserted,
    operation,
    scaled,
    scaled_gradients,
    temporary,
)
from bench.gate_proof.counted_changes import named
from bench.gate_proof.counts_gate import CountsRun, counts, sentences
from bench.gate_proof.slowed_kernels import TimedKernels
from bench.gate_proof.source_copies import SourceCopies
from bench.time_gate import gate_cases
from bench.time_gate.revisions import ROOT
from bench.time_gate.side import Side

SOURCE = '''\
def first():
    return 1


class Kernel:
    @staticmethod
    def run(
        value,
    ):
        """Say it."""
        return value  # first
'''


class TestInserted:
    def test_statements_stand_after_the_docstring_of_the_function(self) -> None:
        changed = inserted(SOURCE, "Kernel.run", "value = 2\nvalue += 1")
        assert changed == SOURCE.replace(
            "        return value", "        value = 2\n        value += 1\n        return value"
        )

    @pytest.mark.parametrize("name", ["second", "Kernel", "Kernel.first", "first.run"])
    def test_a_missing_function_is_an_error(self, name: str) -> None:
        with pytest.raises(LookupError, match=name):
            inserted(SOURCE, name, "pass")

    def test_every_kernel_takes_every_change(self, tmp_path: Path) -> None:
        for one in KERNELS:
            copy = tmp_path / one.file
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / one.file).read_bytes())
            for change in (operation(one), temporary(one), scaled(1.5), scaled_gradients(1.5)):
                one.add(tmp_path, change)
            one.slow_down(tmp_path, AddedWork(3, 4))
            text = copy.read_text()
            compile(text, one.file, "exec")
            assert text.endswith(f"\n{one.work_name} = (3, 4)\n")
            assert f"{one.tensor}.new_ones({one.work_name}[1]).exp_()" in text


class TestAmountOfWork:
    def test_elements_follow_the_time_that_is_wanted(self) -> None:
        assert corrected(1000, 1.25) == 1250
        assert corrected(1000, 0.0001) == 1
        # Noise may hide the work, or make it negative.
        assert corrected(1000, 1e9) == corrected(1000, -2.0) == 10_000


class TestAnswers:
    def test_sentences_belong_to_the_case_above_them(self) -> None:
        text = "one n=1 x\n  a: 1\n  b: 2\ntwo n=1 y\n  c: 3\n2 of 3 cases differ\n"
        run = CountsRun(1, sentences(text), text)
        assert run.about("one") == ["a: 1", "b: 2"]
        assert run.about("two") == ["c: 3"]
        assert run.about("tw") == []

    def test_a_change_is_named_only_with_all_its_numbers_and_both_figures(self) -> None:
        kernel = next(it for it in KERNELS if it.change == "temporary")
        peak = "peak_bytes: 1 before, 2 now"
        empty = "operation new_empty: 1 call before, 2 calls now"

        def found(*said: str, status: int = 1) -> list[str]:
            return named(kernel, CountsRun(status, {f"{kernel.case} n=320 x": list(said)}, ""))

        assert found(peak, empty) == [peak, empty]
        assert found(peak, empty, status=0) == []
        assert found(empty) == []
        assert found("peak_bytes: 2 now", empty) == []
        assert found(peak, "operation new_empty_strided: 1 call before, 2 calls now") == []


def test_each_direction_gets_an_operation_and_a_tensor() -> None:
    for word in ("forward", "forward_backward", "decode"):
        changes = {it.change for it in KERNELS if it.case.endswith(f" {word}")}
        assert changes >= {"operation", "temporary"}
    assert {it.change for it in KERNELS} >= {"error", "gradient_error", "rounding_error"}
    assert all(it.case != UNCHANGED for it in KERNELS)


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> SourceCopies:
    return SourceCopies(tmp_path_factory.mktemp("copies"))


def test_counts_accept_equal_code_and_name_an_operation_of_the_backward_pass(
    copies: SourceCopies, tmp_path: Path
) -> None:
    kernel = next(it for it in KERNELS if "backward" in it.case and it.change == "operation")
    file = tmp_path / "base.toml"
    pattern = [kernel.pattern(96)]
    assert counts(copies.base, file, pattern, update=True).status == 0
    same = counts(copies.new("same"), file, pattern)
    assert (same.status, same.said) == (0, {}), same.text
    folder = copies.new("operation")
    kernel.add(folder, operation(kernel))
    found = counts(folder, file, pattern)
    assert found.status == 1, found.text
    (sentence,) = found.about(kernel.case)
    assert sentence.startswith("operation mul: ")
    assert " calls before, " in sentence
    assert " calls now" in sentence


@pytest.mark.serial
def test_added_work_makes_a_call_slower(copies: SourceCopies) -> None:
    """Much work, so that noise cannot hide it."""
    kernel, folder = KERNELS[-2], copies.new("slow")
    kernel.slow_down(folder, AddedWork(0, 0))
    timed = TimedKernels(copies, rounds=3)
    name, case = timed.case(kernel)
    request = gate_cases.requests({name: case}, {}, copies.folder)[name]
    with Side(folder, 1, "bench.gate_proof.slowed_worker") as side:
        side.started()
        side.ask("prepare", 60.0, case=request)
        place = {"module": kernel.module, "name": kernel.work_name}
        little, much = (
            side.ask("slowdown", 60.0, **place, work=(operations, 30_000), seconds=0.5)["share"]
            for operations in (2, 8)
        )
    assert little > 0.05
    assert much > 2 * little  # it is four times as much
