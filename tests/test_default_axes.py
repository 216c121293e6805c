"""The inputs and the mask of a sweep that consists of axes alone."""

from __future__ import annotations

import pytest

from bench import inputs
from bench.plan.default_axes import LONGER, OTHER_SHAPE, REAL, with_real_inputs
from bench.plan.sweep import Sweep

CAPTURE = inputs.open_capture(REAL, {})
assert CAPTURE is not None
TOKENS = CAPTURE.tokens


def completed(*axes: str) -> tuple[dict[int, str], str]:
    """The inputs of each length of a sweep, and the sentence."""
    sweep, said = with_real_inputs(Sweep("axes", ({},)).overridden(axes), "cpu")
    cases = sweep.located()[0].cases("cpu", {})
    assert all(not inputs.refusal(case, {}) for case in cases)
    return {case.seq_len: case.inputs for case in cases}, said


def test_lengths_within_the_capture_have_real_inputs() -> None:
    assert completed(f"seq_len=16,{TOKENS}", "variant=full") == ({16: REAL, TOKENS: REAL}, "")


def test_longer_lengths_are_like_a_middle_layer_of_the_model_and_a_sentence_says_so() -> None:
    found, said = completed(f"seq_len=16,{2 * TOKENS},{4 * TOKENS}", "variant=full")
    assert found == {16: REAL, 2 * TOKENS: LONGER, 4 * TOKENS: LONGER}
    assert said == (
        f"inputs {LONGER}, because smollm2 holds {TOKENS} tokens; --set inputs=... selects others"
    )


@pytest.mark.parametrize(
    ("axes", "why"),
    [
        (("head_dim=8", "heads=1"), "only whole heads are split"),
        (("head_dim=48",), "must be a multiple or a divisor of 64"),
        (("key_len=8",), r"must not exceed key_len"),
    ],
)
def test_other_shapes_than_the_capture_has_are_synthetic(axes: tuple[str, ...], why: str) -> None:
    found, said = completed("seq_len=16", "variant=full", *axes)
    assert found == {16: OTHER_SHAPE}
    assert why in said


@pytest.mark.parametrize("axes", [("heads=12",), ("head_dim=32",), ("width=384", "heads=6")])
def test_captured_heads_serve_several_shapes(axes: tuple[str, ...]) -> None:
    assert completed("seq_len=16", "variant=full", *axes) == ({16: REAL}, "")


def test_given_axes_are_kept() -> None:
    given = ("seq_len=16", "inputs=needle", "causal=false", "implementation=auto", "layer=28")
    sweep, said = with_real_inputs(Sweep("axes", ({},)).overridden(given), "cpu")
    assert said == ""
    (group,) = sweep.groups
    assert (group["inputs"], group["causal"], group["layer"]) == (("needle",), (False,), (28,))


def test_methods_that_cannot_be_causal_stay_without_a_mask() -> None:
    axes = ["seq_len=16", "variant=full,linformer"]
    sweep, _ = with_real_inputs(Sweep("axes", ({},)).overridden(axes), "cpu")
    causal = {case.variant: case.causal for case in sweep.cases("cpu", {})}
    assert causal == {"full": True, "linformer": False}
