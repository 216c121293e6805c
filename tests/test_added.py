"""Implementations that a user adds: registration, calls, errors, and measurement by `--import`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import variants
from bench.cli.commands import main
from bench.schema.outcome import DIFFERS, Status
from bench.workloads.attention import measure_case
from tests.cases import case, fresh_worker, settings
from variants import Call, UnsupportedError, add_implementation
from variants.contract.added import ADDED

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = dict(ADDED)
    with fresh_worker():
        yield
    ADDED.clear()
    ADDED.update(before)


def own(attention: variants.Attention, *tensors: Tensor, **call: Any) -> Tensor:
    """The result of the variant's own kernel."""
    return attention.attend(*tensors, Call(**call))


def zeros(attention: variants.Attention, query: Tensor, *tensors: Tensor, **call: Any) -> Tensor:
    return torch.zeros_like(query)


def add(name: str = "mine", **more: Any) -> None:
    add_implementation("sliding_window", name, **{"attend": own, **more})


def mine(window_size: int = 8) -> variants.Attention:
    return variants.create("sliding_window", implementation="mine", window_size=window_size)


class TestEntered:
    def test_an_added_name_is_a_valid_value_of_implementation(self) -> None:
        with pytest.raises(ValueError, match=r"implementation must be one of auto, .*got 'mine'"):
            mine()
        add()
        assert mine().implementation == "mine"
        with pytest.raises(ValueError, match="implementation must be one of"):
            variants.create("full", implementation="mine")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"variant": "window"}, "unknown variant 'window' .*; known variants: .*full, "),
            ({"name": "blocks"}, "sliding_window has an implementation 'blocks' already"),
            ({"name": "auto"}, "sliding_window has an implementation 'auto' already"),
            ({"name": "mine"}, "sliding_window has an implementation 'mine' already"),
            ({"name": "my kernel"}, "must be letters, digits and underscores; got 'my kernel'"),
            ({"attend": None}, "sliding_window/other: attend must be a function; got None"),
            ({"supports": {"magic"}}, r"sliding_window/other: supports \['magic'\] is not in"),
        ],
    )
    def test_invalid_registrations_raise_an_error(
        self, changes: dict[str, Any], message: str
    ) -> None:
        add()
        with pytest.raises(ValueError, match=message):
            add_implementation(
                **{"variant": "sliding_window", "name": "other", "attend": own} | changes
            )

    def test_a_sweep_of_all_variants_does_not_include_an_added_implementation(self) -> None:
        add()
        assert "mine" not in variants.REGISTRY["sliding_window"].info.implementations
        assert all(it.implementation == "auto" for it in variants.grid("sliding_window"))


class TestCalled:
    def test_an_added_kernel_receives_the_variant_and_the_arguments_of_attend(self) -> None:
        seen: list[Any] = []

        def attend(*given: Any, **call: Any) -> Tensor:
            seen.append((given, call))
            return own(*given, **call)

        add(attend=attend)
        query, key, value = torch.randn(3, 2, 4, 24, 8).unbind()
        padding = torch.zeros(2, 24, dtype=torch.bool)
        padding[:, 20:] = True
        call = {"causal": True, "key_padding_mask": padding, "scale": 0.2}
        out = mine()(query, key, value, **call)
        torch.testing.assert_close(
            out, variants.create("sliding_window", window_size=8)(query, key, value, **call)
        )
        ((attention, *tensors), passed) = seen[0]
        assert attention == mine()
        torch.testing.assert_close(tensors[0], query)
        assert bool((tensors[1][:, :, 20:] == 0).all())
        assert passed == {**call, "parameters": {}}

    @pytest.mark.parametrize(
        ("capability", "call"),
        [
            ("causal", {"causal": True}),
            ("key_padding_mask", {"key_padding_mask": torch.zeros(1, 8, dtype=torch.bool)}),
        ],
    )
    def test_undeclared_capabilities_are_refused(
        self, capability: str, call: dict[str, Any]
    ) -> None:
        add(supports={"backward"})
        x = torch.randn(1, 2, 8, 4)
        mine()(x, x, x)
        message = f"^sliding_window/mine does not support '{capability}'; it supports: backward$"
        with pytest.raises(UnsupportedError, match=message):
            mine()(x, x, x, **call)
        variants.create("sliding_window")(x, x, x, **call)

    def test_an_implementation_supports_no_more_than_its_variant(self) -> None:
        add(supports={"causal", "step"})
        assert mine().supports == {"causal"}

    def test_an_implementation_that_cannot_run_raises_the_reason(self) -> None:
        add(unavailable=lambda device: f"not on a {device.type}")
        x = torch.randn(1, 2, 8, 4)
        assert mine().cannot_run(CPU) == "not on a cpu"
        with pytest.raises(UnsupportedError, match="'mine' cannot run here: not on a cpu"):
            mine()(x, x, x)
        row, _ = measure_case.measure(case(implementation="mine"), settings())
        assert (row.status, row.reason) == (Status.UNSUPPORTED, "not on a cpu")


class TestRow:
    def test_a_wrong_implementation_is_incorrect(self) -> None:
        add(attend=zeros)
        row, _ = measure_case.measure(case(implementation="mine"), settings())
        assert row.status is Status.INCORRECT

    def test_an_implementation_with_a_declared_difference_is_measured_and_its_row_names_it(
        self,
    ) -> None:
        add(attend=zeros, differs="returns zeros")
        row, _ = measure_case.measure(case(implementation="mine"), settings())
        assert row.status is Status.OK
        assert row.reason == f"{DIFFERS}returns zeros"
        assert row.approx_error_rel_l2 == 1.0
        assert row.impl_error_rel_l2 is row.mass_recall is row.tflops is None

    def test_an_implementation_without_backward_is_unsupported_in_a_backward_case(self) -> None:
        add(supports={"causal"})
        row, _ = measure_case.measure(
            case(implementation="mine", direction="forward_backward"), settings()
        )
        assert row.status is Status.UNSUPPORTED
        assert "backward" in row.reason


MODULE = """
from variants import Call, add_implementation

def attend(attention, query, key, value, **call):
    return attention.attend(query, key, value, Call(**call))

add_implementation("sliding_window", "mine", attend=attend)
"""
AXES = ["--set=implementation=auto,mine", "--set=heads=1", "--set=head_dim=8", "--device=cpu"]


class TestCommand:
    """`--import`, in separate processes."""

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Any:
        (tmp_path / "my_kernel.py").write_text(MODULE)

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            return subprocess.run(
                [sys.executable, "-m", "bench", *words],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
            )

        return run

    def test_a_module_of_the_current_folder_is_measured_and_the_run_is_resumed(
        self, bench: Any, tmp_path: Path
    ) -> None:
        variant = "--set=variant=sliding_window window_size=8"
        words = ["--import=my_kernel", *AXES, variant, "--set=seq_len=32,64", "--seconds=0.01"]
        said = bench("run", *words, "--out=run")
        assert said.returncode == 0, said.stderr
        journal = tmp_path / "run" / "journal.jsonl"
        lines = journal.read_text().splitlines()
        plan = json.loads(lines[0])["environment"]["sweep"]
        assert (plan["modules"], plan["added"]) == (["my_kernel"], ["sliding_window/mine"])

        journal.write_text("\n".join(lines[:3]) + "\n")  # as if the run had stopped after one case
        (tmp_path / "run" / "results.csv").unlink()
        said = bench("run", "--resume", "run")
        assert said.returncode == 0, said.stderr
        rows = pd.read_csv(tmp_path / "run" / "results.csv")
        assert list(rows["status"]) == ["ok"] * 4
        assert sorted(rows["implementation_used"]) == ["blocks", "blocks", "mine", "mine"]

        said = bench("run", "--resume", "run", "--import", "json")
        assert said.returncode == 2
        assert "was started with --import of my_kernel" in said.stderr

    def test_an_added_implementation_is_planned_and_listed(self, bench: Any) -> None:
        axes = [*AXES, "--set=variant=sliding_window", "--set=seq_len=32"]
        count = 2 * len(variants.grid("sliding_window"))
        assert f"{count} cases" in bench("plan", "--import=my_kernel", *axes).stdout
        assert "mine" in bench("list", "--import", "my_kernel").stdout


@pytest.mark.parametrize("verb", ["run", "plan", "list"])
def test_a_missing_module_ends_with_a_message_of_one_sentence(verb: str) -> None:
    said = CliRunner().invoke(main, [verb, "--import", "nosuch"])
    assert said.exit_code == 2
    assert said.stderr.splitlines()[-1] == "Error: --import nosuch: No module named 'nosuch'"
