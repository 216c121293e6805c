"""The answers that close a run."""

from __future__ import annotations

from reports.recommender.closing import closing_lines
from tests.evidence_frames import SCENE, evidence, exact, row


def test_the_longest_real_length_is_answered_at_three_budgets() -> None:
    found = evidence(
        *(exact(n) for n in (1024, 8192)),
        *(row("window", n, 1.0, 0.15) for n in (1024, 8192)),
        row("narrow", 8192, 0.5, 0.4),
        # Longer, and neither real nor forward.
        *(exact(n, inputs="sinks", layer=None) for n in (1024, 16384)),
        *(exact(n, direction="decode") for n in (1024, 32768)),
    )
    scene, *lines = closing_lines(found)
    assert scene == f"{SCENE.words}:"
    assert [line.split(",")[0] for line in lines] == [
        "error ≤ 0.05 at 8192 tokens: full",
        "error ≤ 0.2 at 8192 tokens: window",
        "error ≤ 0.5 at 8192 tokens: narrow",
    ]


def test_of_two_scenes_the_one_with_more_rows_is_answered() -> None:
    found = evidence(exact(4096), exact(4096, heads=2), row("window", 4096, 1.0, 0.1, heads=2))
    assert "2 heads" in closing_lines(found)[0]


def test_a_run_without_real_inputs_has_no_closing_answer() -> None:
    assert closing_lines(evidence(exact(1024, inputs="sinks", layer=None))) == []
