"""Questions: values that no row has, values that were not given, and what each machine has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reports.recommender.choose import Bounds
from reports.recommender.quantities import bytes_of, milliseconds_of
from reports.recommender.question import Asked, QuestionError, questions, scenes_of
from tests.evidence_frames import SCENE, evidence, exact

ROWS = (
    exact(1024),
    exact(2048),
    exact(1024, heads=4),
    exact(1024, dtype="bfloat16"),
    exact(1024, inputs="sinks effective_keys=32", layer=None),
    *(exact(n, inputs="gaussian", layer=None) for n in (256, 512, 1024)),
)
OTHER = "cpu, Other CPU"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"dtype": "float16"}, "--dtype: no row of these runs has 'float16' (did you mean"),
        ({"inputs": "smollm"}, "(did you mean 'smollm2'?); valid: gaussian; sinks"),
        ({"causal": False}, "--causal/--not-causal: no row of these runs has 'False'; valid: True"),
        ({"head_dim": 80}, "--head-dim: no row of these runs has '80'; valid: 64"),
        ({"direction": "decode"}, "valid: forward"),
        ({"machine": "gpu"}, "--machine: no row of these runs has 'gpu'; valid: cpu, Some CPU"),
    ],
)
def test_a_value_that_no_row_has_is_refused_with_the_valid_ones(
    asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(QuestionError) as error:
        scenes_of(evidence(*ROWS), Asked(**asked))
    assert message in str(error.value)


def test_values_that_were_not_given_are_those_of_most_rows_with_captured_inputs_first() -> None:
    assert scenes_of(evidence(*ROWS), Asked()) == [SCENE]


def test_as_many_key_value_heads_as_query_heads_come_before_fewer() -> None:
    grouped = [exact(n, kv_heads=2) for n in (256, 512, 1024, 2048)]
    found = evidence(*grouped, exact(1024))
    assert scenes_of(found, Asked()) == [SCENE]
    assert scenes_of(found, Asked(kv_heads=2)) == [replace(SCENE, kv_heads=2)]


@pytest.mark.parametrize(
    "asked", [{"heads": 4}, {"dtype": "bfloat16"}, {"inputs": "gaussian"}, {"heads": 5}]
)
def test_given_values_are_kept(asked: dict[str, Any]) -> None:
    changes = asked | ({"kv_heads": asked["heads"]} if "heads" in asked else {})
    assert scenes_of(evidence(*ROWS), Asked(**asked)) == [replace(SCENE, **changes)]


def test_a_combination_that_no_row_has_is_kept_as_asked() -> None:
    found = scenes_of(evidence(*ROWS), Asked(dtype="bfloat16", inputs="gaussian"))
    assert found == [replace(SCENE, dtype="bfloat16", inputs="gaussian")]


def test_each_machine_answers_unless_one_is_named() -> None:
    found = evidence(*ROWS, exact(1024, machine=OTHER))
    assert [one.machine for one in scenes_of(found, Asked())] == [OTHER, SCENE.machine]
    assert [one.machine for one in scenes_of(found, Asked(machine="other"))] == [OTHER]
    assert [one.machine for one in scenes_of(found, Asked(machine=SCENE.machine))] == [
        SCENE.machine
    ]


def test_a_machine_without_rows_of_this_kind_does_not_answer() -> None:
    found = evidence(*ROWS, exact(1024, machine=OTHER))
    assert [one.machine for one in scenes_of(found, Asked(dtype="bfloat16"))] == [SCENE.machine]


def test_a_layer_is_asked_where_it_was_measured_else_of_any_machine_with_layers() -> None:
    found = evidence(*ROWS, exact(1024, layer=3), exact(1024, machine=OTHER))
    limits = Bounds(0.1)
    assert [one.scene.machine for one in questions(found, Asked(), 1024, 3, limits)] == [
        SCENE.machine
    ]
    assert {one.scene.machine for one in questions(found, Asked(), 1024, 7, limits)} == {
        SCENE.machine,
        OTHER,
    }
    with pytest.raises(QuestionError, match="gaussian has no layers; got layer 3"):
        questions(found, Asked(inputs="gaussian"), 1024, 3, limits)


def test_runs_without_evidence_are_refused() -> None:
    with pytest.raises(QuestionError, match="no finished row"):
        scenes_of(evidence(exact(1024, status="timeout")), Asked())


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8GiB", 2**33),
        ("500MB", 5e8),
        ("1.5 kib", 1536),
        ("1048576", 2**20),
        ("8 apples", None),
        ("-1MB", None),
        ("0MB", None),
        ("", None),
    ],
)
def test_sizes(text: str, number: float | None) -> None:
    assert bytes_of(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("5ms", 5), ("2s", 2000), ("80us", 0.08), ("80 µs", 0.08), ("5", None), ("ms", None)],
)
def test_times(text: str, number: float | None) -> None:
    assert milliseconds_of(text) == (pytest.approx(number) if number else None)
