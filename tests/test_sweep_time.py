"""The expected time and memory of sweeps on a GPU, which needs no GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

import variants
from bench.launches import sweep_memory, sweep_time
from bench.launches.sweep_time import GroupTime
from bench.plan.sweep import Sweep, parse, read
from bench.schema.case import Case

LIMIT_SECONDS = 15 * 60
LIMIT_BYTES = 80e9


def planned(**axes: object) -> Sweep:
    """A sweep of a few axes."""
    return parse("mine", axes)


def seconds(**axes: object) -> GroupTime:
    (found,) = sweep_time.of_sweep(planned(**axes), {})
    return found


def test_the_sweep_of_a_gpu_takes_at_most_fifteen_minutes() -> None:
    sweep, files = read("gpu").located()
    times = sweep_time.of_sweep(sweep, files)
    total = sum(times, GroupTime(other=sweep_time.START_SECONDS)).seconds
    assert total <= LIMIT_SECONDS, times
    assert sum(time.cases for time in times) == len(sweep.cases("cuda", files))


def test_a_case_costs_its_calls_its_baselines_and_its_compiling() -> None:
    shape = {"seq_len": [16384], "heads": [16], "dtype": ["bfloat16"], "causal": [True]}
    window = "sliding_window window_size=256"
    once = seconds(variant=[window], **shape)
    flex = seconds(variant=[f"{window} implementation=flex"], **shape)
    assert once.exact > 0
    assert flex.compiling == sweep_time.COMPILE_SECONDS["forward"]
    both = seconds(variant=[window, f"{window} implementation=flex"], **shape)
    assert both.exact == once.exact
    assert both.calls == pytest.approx(once.calls + flex.calls)
    # Exact attention is measured as a baseline, and not again.
    assert seconds(variant=["full"], **shape).calls == 0


def test_the_time_grows_with_the_work_of_a_call() -> None:
    exact = variants.create("full", implementation="sdpa")
    found = [planned(variant=[exact.text], seq_len=[n], heads=[16]) for n in (16384, 65536)]
    short, long = (sweep.cases("cuda", {})[0] for sweep in found)
    times = [sweep_time.seconds_of_call(case.attention, case) for case in (short, long)]
    assert times[1] == pytest.approx(16 * times[0], rel=0.1)


def test_a_case_that_the_variant_refuses_takes_no_time() -> None:
    refused = seconds(variant=["linformer"], settings=["default"], seq_len=[1024], causal=[True])
    assert refused.cases == refused.refused == 1
    assert refused.seconds < 0.1


def test_a_group_has_no_cases_of_an_earlier_one() -> None:
    axes = {"variant": ["linear"], "seq_len": [64]}
    sweep = parse("mine", {"group": [axes, axes, {**axes, "seq_len": [64, 128]}]})
    groups = sweep.grouped("cuda", {})
    assert [len(group) for group in groups[:2]] == [len(groups[0]), 0]
    assert {case.seq_len for case in groups[2]} == {128}


# --- Memory.


def largest() -> list[Case]:
    """The longest cases of the GPU's sweep for each attention and direction, without those of
    libraries."""
    found: dict[object, Case] = {}
    for case in read("gpu").cases("cuda", {}):
        if case.attention.implementation not in variants.REGISTRY[case.variant].info.libraries:
            size = case.seq_len * case.heads * case.head_dim
            key = (case.variant, case.attention.hyperparameters, case.direction)
            if key not in found or size >= _size(found[key]):
                found[key] = case
            assert size <= 131072 * 16 * 64
    return [case for case in found.values() if case.seq_len >= 16384]


def _size(case: Case) -> int:
    return case.seq_len * case.heads * case.head_dim


@pytest.mark.parametrize("case", largest(), ids=lambda c: f"{c.label}-{c.direction}-{c.seq_len}")
def test_the_largest_cases_fit_the_memory_of_a_gpu(case: Case) -> None:
    needed = sweep_memory.bytes_of(case, most_launches=300)
    assert needed is None or needed <= LIMIT_BYTES


def test_the_memory_of_a_case_has_inputs_output_and_scores() -> None:
    (case,) = planned(
        variant=["full implementation=sdpa"], seq_len=[4096], dtype=["float64"]
    ).cases("cuda", {})
    one = 8 * 4096 * 64 * 8
    # torch computes float64 with all scores in memory.
    needed = sweep_memory.bytes_of(case)
    assert needed is not None
    assert needed >= 4 * one + 8 * 4096**2 * 8 + sweep_memory.FLUSH_BYTES
    refused = replace(case, attention=variants.create("linformer"), causal=True)
    assert sweep_memory.bytes_of(refused) is None
