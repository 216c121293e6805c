"""The cases of the time gate: their names, and the choice by a name, a pattern or some words."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from bench.plan import sweep
from bench.schema.case import Case
from bench.time_gate import gate_cases
from bench.time_gate.gate_cases import NoSuchCaseError, selected


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    small = sweep.read(gate_cases.CASES).overridden(["variant=full,linear", "seq_len=32"])
    return gate_cases.cases_of(small, "cpu", {})


def test_the_cases_have_all_directions_and_implementations(cases: dict[str, Case]) -> None:
    assert {one.direction for one in cases.values()} == {"forward", "forward_backward", "decode"}
    assert {"auto", "plain"} <= {
        one.attention.implementation for one in cases.values() if one.variant == "full"
    }


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("full * decode *", 1),
        ("full implementation=plain causal forward", 1),
        ("full causal forward n=32", 1),  # not the named implementations
        ("feature_map=elu decode", 1),
        ("full", 3),
    ],
)
def test_a_case_is_chosen_by_some_words(cases: dict[str, Case], pattern: str, count: int) -> None:
    found = selected(cases, [pattern])
    assert len(found) == count
    words = pattern.replace("*", " ").split()
    assert all(set(words) <= set(name.split()) for name in found)


def test_a_whole_name_chooses_its_case_alone(cases: dict[str, Case]) -> None:
    for name in cases:
        assert list(selected(cases, [name])) == [name]


def test_an_unknown_case_is_refused_with_names_that_are_near(cases: dict[str, Case]) -> None:
    with pytest.raises(NoSuchCaseError, match=r"no case is named 'full causal forwards'; .*full "):
        selected(cases, ["full causal forwards"])


def test_cases_of_one_shape_share_their_inputs(cases: dict[str, Case], tmp_path: Path) -> None:
    requests = gate_cases.requests(cases, {}, tmp_path)
    files = {request["inputs"] for request in requests.values()}
    assert len(files) == len({one.shape for one in cases.values()})
    for request in requests.values():
        assert load_file(request["inputs"])["query"].shape == (1, 4, 32, 64)
