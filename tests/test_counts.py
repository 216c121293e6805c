"""`python -m bench counts`: changes of kernels that no test of time could see."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

import variants
from bench.cli import counts_command, counts_of_base
from bench.cli.commands import main
from bench.counts import call_counts, counts_file
from bench.counts.call_counts import CallCounts, count
from bench.counts.differences import differences
from bench.counts.dispatched_operations import Operation
from bench.plan.sweep import parse
from bench.schema.case import Case
from bench.schema.case_names import benchmark_name
from bench.schema.validation import FileError
from bench.time_gate import revisions
from bench.workloads.attention.given_inputs import Given

VARIANT = type(variants.create("sliding_window"))
KERNEL = VARIANT.attend


def case(direction: str = "forward", variant: str = "sliding_window window_size=16") -> Case:
    axes = {"variant": [variant], "seq_len": [96], "heads": [2], "causal": [True]}
    (found,) = parse("one", {**axes, "direction": [direction]}).cases("cpu", {})
    return found


def counted(one: Case) -> CallCounts:
    return count(one, Given.load(one, {}))


def changed(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor], direction: str = "forward"
) -> tuple[CallCounts, list[str]]:
    """The counts before, and the sentences about a kernel whose output goes through `change`."""
    one = case(direction)
    before = counted(one)

    def attend(*args: Any, **more: Any) -> Tensor:
        return change(KERNEL(*args, **more))

    with monkeypatch.context() as patch:
        patch.setattr(VARIANT, "attend", attend)
        now = counted(one)
    name = benchmark_name(one.values)
    return before, [
        text for it in differences({name: before}, {name: now}) for text in it.sentences
    ]


class TestChanges:
    @pytest.mark.parametrize("direction", ["forward", "forward_backward"])
    def test_the_same_code_has_the_same_counts(
        self, monkeypatch: pytest.MonkeyPatch, direction: str
    ) -> None:
        assert changed(monkeypatch, lambda out: out, direction)[1] == []

    def test_one_more_tensor_is_named_with_its_operation(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, said = changed(monkeypatch, lambda out: out.add_(out.clone(), alpha=0))
        known = before.operations.get("clone", Operation(0, 0))
        made = 2 * 96 * 64 * 4  # bytes of the output
        (clone,) = [it for it in said if it.startswith("operation clone: ")]
        assert f"{known.calls + 1} call" in clone
        assert f"{known.bytes + made:,} now" in clone

    def test_a_tensor_that_lives_longer_is_named_with_its_operation(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def long(out: Tensor) -> Tensor:
            kept = out.repeat(64, 1, 1, 1)
            out.repeat(64, 1, 1, 1)
            return out if kept.numel() else kept

        def short(out: Tensor) -> Tensor:
            out.repeat(64, 1, 1, 1)
            out.repeat(64, 1, 1, 1)
            return out

        with monkeypatch.context() as patch:
            patch.setattr(VARIANT, "attend", lambda *a, **more: short(KERNEL(*a, **more)))
            before = counted(case())
            patch.setattr(VARIANT, "attend", lambda *a, **more: long(KERNEL(*a, **more)))
            now = counted(case())
        (found,) = differences({"a": before}, {"a": now})
        made = 64 * 2 * 96 * 64 * 4  # bytes of 64 outputs
        assert [it for it in found.sentences if "repeat" in it] == [
            f"at the peak, tensors of repeat hold {made:,} bytes before, {2 * made:,} now"
        ]
        assert found.sentences[0].startswith("peak_bytes: ")

    def test_a_larger_peak_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before, said = changed(monkeypatch, lambda out: out.add_(out.repeat(64, 1, 1, 1)[:1] * 0))
        (peak,) = [it for it in said if it.startswith("peak_bytes: ")]
        assert f"{before.peak_bytes:,} before" in peak

    def test_an_operation_that_allocates_nothing_is_seen(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, said = changed(monkeypatch, lambda out: out.mul_(1))
        changes = [it.split(":")[0] for it in said]
        assert changes == ["gpu_bytes", "operation mul_", "GPU kernel mul_"]

    def test_one_more_launch_on_a_gpu_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def two_more(out: Tensor) -> Tensor:
            return out.neg().neg() if out.is_meta else out  # only the simulation of a GPU

        _, said = changed(monkeypatch, two_more)
        assert said[1:] == ["GPU kernel neg: 0 launches before, 2 now"]
        assert said[0].startswith("gpu_bytes: ")

    def test_an_error_of_twice_the_floor_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        floor = counted(case()).rounding_error
        _, said = changed(monkeypatch, lambda out: out.mul_(1 + 2 * floor))
        assert any(it.startswith("rounding_error: ") for it in said)

    def test_another_result_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _, said = changed(monkeypatch, lambda out: out.mul_(1.01))
        assert any(it.startswith("error: ") for it in said)

    def test_another_gradient_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def hooked(out: Tensor) -> Tensor:
            if out.requires_grad:
                out.register_hook(lambda grad: grad * 1.01)
            return out

        before, said = changed(monkeypatch, hooked, "forward_backward")
        assert list(before.gradient_errors) == ["query", "key", "value"]
        assert [it.split(":")[0] for it in said if it.startswith("error")] == [
            f"error of the gradient of the {name}" for name in ("query", "key", "value")
        ]
        assert changed(monkeypatch, hooked, "forward")[1] == []

    def test_errors_of_rounding_may_differ_between_cpus(self) -> None:
        one = replace(counted(case("forward_backward")), error=3e-7, rounding_error=2e-7)
        one = replace(one, gradient_errors={"query": 2e-7, "key": 0.5, "value": 3e-6})
        for now, names in (
            (replace(one, error=3.9e-7), []),
            (replace(one, error=4.1e-7), ["error"]),
            (replace(one, gradient_errors={"query": 2.9e-7, "key": 0.5004, "value": 3.4e-6}), []),
            (
                replace(one, gradient_errors={"query": 3.1e-7, "key": 0.5006, "value": 3.6e-6}),
                [f"error of the gradient of the {name}" for name in ("query", "key", "value")],
            ),
        ):
            found = [text for it in differences({"a": one}, {"a": now}) for text in it.sentences]
            assert [text.split(":")[0] for text in found] == names

    def test_a_tensor_that_waits_for_the_backward_pass_is_seen(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, said = changed(monkeypatch, lambda out: out * out.sign(), "forward_backward")
        assert any(it.startswith("saved_bytes: ") for it in said)

    def test_an_error_that_is_not_a_number_is_seen(self) -> None:
        one = counted(case("forward_backward"))
        for name in ("query", "key", "value"):
            errors = one.gradient_errors | {name: math.nan}
            for before, now in ((one.gradient_errors, errors), (errors, one.gradient_errors)):
                pair = [replace(one, gradient_errors=it) for it in (before, now)]
                (found,) = differences({"a": pair[0]}, {"a": pair[1]})
                assert [it.split(":")[0] for it in found.sentences] == [
                    f"error of the gradient of the {name}"
                ]
        for name in ("error", "rounding_error"):
            (found,) = differences({"a": one}, {"a": replace(one, **{name: math.nan})})
            assert [it.split(":")[0] for it in found.sentences] == [name]

    def test_new_and_missing_cases_are_named(self) -> None:
        one = counted(case())
        found = differences({"old": one, "both": one}, {"new": one, "both": one})
        assert [(it.case, it.sentences) for it in found] == [
            ("new", ("is not in the file",)),
            ("old", ("is in the file, and the code has no such case",)),
        ]


class TestCases:
    def test_every_variant_and_implementation_of_a_cpu_is_counted(self) -> None:
        found = call_counts.cases()
        assert {it.variant for it in found} == set(variants.REGISTRY)
        assert len({benchmark_name(it.values) for it in found}) == len(found)
        for name, known in variants.REGISTRY.items():
            for implementation in set(known.info.implementations) - known.info.libraries:
                one = replace(variants.create(name), implementation=implementation)
                runs = not one.cannot_run(torch.device("cpu")) and not one.differs
                assert runs == any(
                    (it.variant, it.attention.implementation) == (name, implementation)
                    for it in found
                )


class TestCommand:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        planned = [case(), case("decode"), case(variant="lsh bucket_size=16")]
        monkeypatch.setattr(call_counts, "cases", lambda: planned)

    def run(self, file: Path, *words: str) -> Result:
        return CliRunner().invoke(main, ["counts", str(file), *words])

    def test_a_file_is_written_read_and_compared(self, tmp_path: Path) -> None:
        file = tmp_path / "counts.toml"
        assert self.run(file, "--update").exit_code == 0
        same = self.run(file)
        assert same.exit_code == 0, same.output
        assert f"3 cases are as in {file}" in same.output

    def test_a_difference_has_the_exit_status_1(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "counts.toml"
        self.run(file, "--update")
        monkeypatch.setattr(VARIANT, "attend", lambda *a, **more: KERNEL(*a, **more).clone())
        found = self.run(file)
        assert found.exit_code == 1
        assert "sliding_window window_size=16 causal forward n=96 batch=1 " in found.output
        assert "operation clone: " in found.output
        assert "lsh" not in found.output
        assert f"1 of 3 cases differ from {file}.\n" in found.output
        monkeypatch.setattr(counts_command, "FILE", file)
        assert "run `make update-baseline`" in self.run(file).output

    def test_a_missing_file_has_the_exit_status_3(self, tmp_path: Path) -> None:
        refused = self.run(tmp_path / "counts.toml")
        assert refused.exit_code == 3
        assert "counts.toml; `make update-baseline` writes it" in refused.output

    def test_usage_errors_have_the_exit_status_3(self, tmp_path: Path) -> None:
        assert self.run(tmp_path / "counts.toml", "--fast").exit_code == 3
        assert self.run(tmp_path).exit_code == 3
        unknown = self.run(tmp_path / "counts.toml", "--update", "--case", "lhs *")
        assert unknown.exit_code == 3
        assert "no case is named 'lhs *'" in unknown.output

    def test_counts_of_other_versions_have_the_exit_status_2(self, tmp_path: Path) -> None:
        file = tmp_path / "counts.toml"
        self.run(file, "--update")
        present = f'torch = "{counts_file.versions()["torch"]}"'
        assert present in file.read_text()
        file.write_text(file.read_text().replace(present, 'torch = "2.0.0"'))
        refused = self.run(file)
        assert refused.exit_code == 2
        assert "torch 2.0.0" in refused.output

    def test_other_contents_have_the_exit_status_3(self, tmp_path: Path) -> None:
        file = tmp_path / "counts.toml"
        self.run(file, "--update")
        text = file.read_text()
        form = counts_file.FORMAT
        for old, new, message in (
            (form, "attention-counts-0", f"expected the format {form}"),
            ("peak_bytes = ", "peak_bytes = 0.5 # ", "peak_bytes: expected `int`"),
            ("[versions]", "[versions", "is not valid TOML"),
        ):
            assert old in text
            file.write_text(text.replace(old, new))
            refused = self.run(file)
            assert refused.exit_code == 3, message
            assert message in refused.output

    def test_a_call_that_fails_has_the_exit_status_1(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "counts.toml"
        self.run(file, "--update")

        def fail(*arguments: Any, **more: Any) -> Tensor:
            raise RuntimeError("no kernel")

        monkeypatch.setattr(VARIANT, "attend", fail)
        found = self.run(file)
        assert found.exit_code == 1
        assert "the call fails: RuntimeError: no kernel" in found.output
        assert "lsh" not in found.output

    def test_some_cases_are_compared_and_updated(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "counts.toml"
        self.run(file, "--update")
        before = counts_file.read(file).case
        monkeypatch.setattr(VARIANT, "attend", lambda *a, **more: KERNEL(*a, **more).clone())
        same = self.run(file, "--case", "lsh *")
        assert same.exit_code == 0, same.output
        assert "1 cases are as in" in same.output
        assert self.run(file, "--case", "sliding_window *").exit_code == 1
        assert self.run(file, "--update", "--case", "sliding_window * forward *").exit_code == 0
        now = counts_file.read(file).case
        assert now.keys() == before.keys()
        assert {name for name in now if now[name] != before[name]} == {
            name for name in now if name.startswith("sliding_window") and " forward " in name
        }

    @pytest.mark.parametrize(
        ("error", "status"),
        [(RuntimeError("no kernel"), 2), (KeyboardInterrupt(), 130)],
        ids=["failure", "interrupt"],
    )
    def test_an_update_that_does_not_end_writes_nothing(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        status: int,
    ) -> None:
        file = tmp_path / "counts.toml"
        self.run(file, "--update")
        before = file.read_bytes()

        def fail(*arguments: Any, **more: Any) -> Tensor:
            raise error

        monkeypatch.setattr(VARIANT, "attend", fail)
        found = self.run(file, "--update")
        assert found.exit_code == status
        assert file.read_bytes() == before
        assert list(tmp_path.iterdir()) == [file]
        if status == 2:
            assert "RuntimeError: no kernel" in found.output
            assert "case sliding_window window_size=16" in found.output

    def test_a_file_that_cannot_be_written_has_the_exit_status_3(self, tmp_path: Path) -> None:
        refused = self.run(tmp_path / "missing" / "counts.toml", "--update")
        assert refused.exit_code == 3
        assert "cannot write" in refused.output

    def test_another_kind_of_cpu_is_not_compared(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "counts.toml"
        self.run(file, "--update")
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NEON")
        refused = self.run(file)
        assert refused.exit_code == 2
        assert "this is cpu NEON" in refused.output
        said = self.run(file, "--if-comparable")
        assert said.exit_code == 0
        assert said.output.startswith("NOT COMPARED: ")
        assert "was counted with cpu " in said.output

    def test_a_truncated_file_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "counts.toml"
        self.run(file, "--update")
        text = file.read_text()
        file.write_text(text[: text.index("error = ")])
        with pytest.raises(FileError, match="expected the name error"):
            counts_file.read(file)
        for cut in (text.index("\n[case."), text.rindex("operations."), text.index("\n[end]")):
            file.write_text(text[:cut] + "\n")
            with pytest.raises(FileError, match=r"expected the name (case|end)"):
                counts_file.read(file)

    def test_a_file_without_one_of_its_cases_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "counts.toml"
        self.run(file, "--update")
        first, *others = file.read_text().split("\n[case.")
        file.write_text("\n[case.".join([first, *others[1:]]))
        with pytest.raises(FileError, match="its last line says 3 cases, and it holds 2"):
            counts_file.read(file)


class TestBase:
    """`--base` counts the variants of a revision and those of the working tree."""

    CASE = "sliding_window window_size=256 causal forward n=96 *"

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["counts", "--case", self.CASE, *words])

    def test_a_revision_is_counted_and_compared(self, monkeypatch: pytest.MonkeyPatch) -> None:
        same = self.run("--base", revisions.WORKTREE)
        assert same.exit_code == 0, same.output
        assert "1 cases are as in the working tree" in same.output
        # The base is counted in another process, which has the kernel as it is.
        monkeypatch.setattr(VARIANT, "attend", lambda *a, **more: KERNEL(*a, **more).clone())
        changed = self.run("--base", revisions.WORKTREE)
        assert changed.exit_code == 1, changed.output
        assert "operation clone: " in changed.output
        assert changed.output.endswith("1 of 1 cases differ from the working tree.\n")

    def counted_base(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        """The base has these cases, with the counts of the code."""
        one = counted(case())
        found = dict.fromkeys(names, one)
        monkeypatch.setattr(counts_command, "counted_revision", lambda *_: found)
        monkeypatch.setattr(counts_command, "_counted", lambda planned: (dict(planned), {}))
        monkeypatch.setattr(counts_command, "_planned", lambda *_: {"both": one, "new": one})

    def test_a_case_that_only_the_working_tree_has_is_no_regression(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.counted_base(monkeypatch, "both")
        found = self.run("--base", revisions.WORKTREE)
        assert found.exit_code == 0, found.output
        assert "new is not in the working tree\n1 cases are as in" in found.output

    def test_a_case_that_only_the_base_has_is_a_regression(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.counted_base(monkeypatch, "both", "new", "old")
        found = self.run("--base", revisions.WORKTREE)
        assert found.exit_code == 1
        assert "old\n  is in the working tree, and the code has no such case\n" in found.output

    def test_a_case_may_differ_if_its_entry_was_updated(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.counted_base(monkeypatch, "both", "new")
        one = counted(case())
        more = replace(one, peak_bytes=one.peak_bytes + 8)
        now = {"both": more, "new": more}
        for updated, failed, status, said in (
            ({"both", "new"}, {}, 0, "was updated for 2 of them."),
            ({"both"}, {}, 1, "was updated for 1 of them.\nIf this is intended, run"),
            ({"both", "new"}, {"new": "RuntimeError: no kernel"}, 1, "for 1 of them."),
        ):
            found = {name: it for name, it in now.items() if name not in failed}
            answer = (found, failed)
            monkeypatch.setattr(counts_command, "_counted", lambda _, answer=answer: answer)
            names = updated
            monkeypatch.setattr(counts_command, "updated_cases", lambda *_, names=names: names)
            result = self.run("--base", revisions.WORKTREE)
            assert result.exit_code == status, result.output
            assert "2 of 2 cases differ from the working tree.\n" in result.output
            assert said in result.output

    def test_the_updated_cases_are_those_whose_entries_differ(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        texts = {
            "before": '[case."same"]\nerror = 1\n[case."other"]\nerror = 1\n[case."old"]\n',
            revisions.WORKTREE: '[case."same"]\nerror = 1\n[case."other"]\nerror = 2\n',
            "none": None,
            "invalid": "[case",
        }
        monkeypatch.setattr(revisions, "text_of", lambda revision, _: texts[revision.name])

        def updated(name: str) -> set[str]:
            return counts_of_base.updated_cases(revisions.Revision(name, "c"), Path("f.toml"))

        assert updated("before") == {"other", "old"}
        assert updated(revisions.WORKTREE) == set()
        assert updated("none") == updated("invalid") == set()

    def test_a_base_that_cannot_be_counted_has_the_exit_status_2(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failed = CompletedProcess((), 2)
        monkeypatch.setattr(counts_of_base, "run_counts", lambda *_, **options: failed)
        refused = self.run("--base", revisions.WORKTREE)
        assert refused.exit_code == 2
        assert "the working tree cannot be counted" in refused.output

    def test_bad_input_has_the_exit_status_3(self) -> None:
        assert self.run("--base", "no-such-revision").exit_code == 3
        for words in (["counts.toml"], ["--update"], ["--if-comparable"]):
            refused = self.run("--base", revisions.WORKTREE, *words)
            assert refused.exit_code == 3
            assert "--base takes no FILE" in refused.output
