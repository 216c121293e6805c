"""Facts from the registry that reports use for the rows of a run."""

from __future__ import annotations

import pandas as pd
import pytest

from reports.declared import (
    calls_library,
    exact_variant,
    has_reduced_precision,
    reference_implementation,
)


def test_torch_sdpa_is_the_reference() -> None:
    assert (exact_variant(), reference_implementation()) == ("full", "sdpa")


@pytest.mark.parametrize(
    ("variant", "implementation", "used", "library", "reduced"),
    [
        ("full", "sdpa", "sdpa", True, False),
        ("full", "auto", "flash", True, False),
        ("full", "auto", "onednn", False, False),
        ("full", "coarse", "coarse", False, True),
        ("linear", "fla", "", True, False),
        ("sliding_window", "xformers", "", True, False),
        ("bigbird", "flex", "flex", True, False),
        ("bigbird", "coarse", "coarse", False, True),
        ("bigbird", "auto", "blocks", False, False),
        ("a_variant_of_an_earlier_run", "sdpa", "sdpa", False, False),
    ],
)
def test_a_row_has_the_facts_of_its_variant_and_implementation(
    variant: str, implementation: str, used: str, library: bool, reduced: bool
) -> None:
    row = {"variant": variant, "implementation": implementation, "implementation_used": used}
    frame = pd.DataFrame([row])
    assert calls_library(frame).tolist() == [library]
    assert has_reduced_precision(frame).tolist() == [reduced]
