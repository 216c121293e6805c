"""Own implementations against public code: the pairs, the wins that count, and the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from bench.schema.measurement import Measurement
from bench.schema.outcome import DIFFERS, Status
from reports.__main__ import main
from reports.answers import answers
from reports.build import build_report
from reports.machine_columns import allocator
from reports.peer_races import FASTER, ONE_SETTING, SLOWER, UNDECIDED, Race, races, standing
from reports.rows import read_runs
from reports.slices import split
from reports.tables import reproduce_command
from tests.test_reports import ENVIRONMENT, done, failed, write

ADDED = ["sliding_window/public", "sliding_window/slow", "sliding_window/other", "lsh/other"]
SWEEP = {"name": "peers", "groups": [{}], "modules": ["bench.peers"], "added": ADDED}
DEFAULT = ENVIRONMENT | {"sweep": SWEEP}
KEPT = DEFAULT | {"settings": {"MALLOC_MMAP_MAX_": "0"}}


def row(implementation: str, time: float, **changes: Any) -> Measurement:
    given = {"variant": "sliding_window", "hyperparameters": "window_size=256"} | changes
    return done(time, implementation=implementation, **given)


def other(implementation: str, time: float, **changes: Any) -> Measurement:
    seen = row(implementation, time, **changes)
    return replace(seen, reason=f"{DIFFERS}of another kind")


def frame(tmp_path: Path, default: list[Any], kept: list[Any] | None = None) -> pd.DataFrame:
    folders = [write(tmp_path / "default", default, DEFAULT)]
    if kept is not None:
        folders.append(write(tmp_path / "kept", kept, KEPT))
    return read_runs(folders).frame


def only(found: list[Race]) -> Race:
    (race,) = found
    return race


def test_the_fastest_of_each_side_is_compared_under_each_setting(tmp_path: Path) -> None:
    race = only(
        races(
            frame(
                tmp_path,
                [row("auto", 3), row("fused", 2), row("public", 4), row("slow", 9)],
                [row("auto", 2), row("fused", 3), row("public", 9), row("slow", 8)],
            )
        )
    )
    assert {name: duel.ratio for name, duel in race.duels.items()} == {
        "default": "2.00×",
        "kept": "4.00×",
    }
    assert race.duels["default"].names == ("fused 2.00 ms", "public 4.00 ms")
    assert race.duels["kept"].names == ("auto 2.00 ms", "slow 8.00 ms")
    assert (race.variant, race.settings, race.verdict) == (
        "sliding_window",
        "window_size=256",
        FASTER,
    )
    assert race.case == "forward · causal · float32 · length 256"


@pytest.mark.parametrize(("error", "fastest"), [(1.9e-7, "coarse"), (2.1e-7, "auto")])
def test_coarse_scores_may_have_twice_the_error_of_public_code(
    error: float, fastest: str, tmp_path: Path
) -> None:
    rows = [
        replace(row(name, time), impl_error_rel_l2=found)
        for name, time, found in (("auto", 3, 9e-7), ("coarse", 2, error), ("public", 4, 1e-7))
    ]
    race = only(races(frame(tmp_path, rows)))
    assert race.duels["default"].ours["implementation"] == fastest


def test_against_code_of_another_function_coarse_scores_do_not_count(tmp_path: Path) -> None:
    rows = [row("auto", 3), row("coarse", 2), other("other", 4)]
    race = only(races(frame(tmp_path, rows)))
    assert race.duels["default"].ours["implementation"] == "auto"


@pytest.mark.parametrize(
    ("default", "kept", "verdict"),
    [
        ((1.0, 2.0), (1.0, 2.0), FASTER),
        ((2.0, 1.0), (2.0, 1.0), SLOWER),
        ((1.0, 2.0), (2.0, 1.0), UNDECIDED),
        ((1.0, 2.0), (1.0, 1.1), UNDECIDED),  # the interquartile ranges overlap
        ((1.0, 1.1), (1.0, 1.1), UNDECIDED),
        ((1.0, 2.0), None, ONE_SETTING),
    ],
)
def test_a_win_counts_if_it_occurs_under_both_settings(
    tmp_path: Path, default: tuple[float, float], kept: tuple[float, float] | None, verdict: str
) -> None:
    rows = [
        None if pair is None else [row("auto", pair[0]), row("public", pair[1])]
        for pair in (default, kept)
    ]
    assert rows[0] is not None
    assert only(races(frame(tmp_path, rows[0], rows[1]))).verdict == verdict


def test_on_a_gpu_the_allocator_of_the_host_does_not_count(tmp_path: Path) -> None:
    rows = [row("auto", 1, device="cuda"), row("public", 2, device="cuda")]
    assert only(races(frame(tmp_path, rows))).verdict == FASTER


def test_code_that_computes_another_function_is_compared_separately_and_marked(
    tmp_path: Path,
) -> None:
    rows = [row("auto", 1), row("public", 2), other("other", 0.5)]
    same, apart = races(frame(tmp_path, rows, rows))
    assert (same.verdict, same.differs) == (FASTER, "")
    assert (apart.verdict, apart.differs) == (SLOWER, "of another kind")
    # It is not in the count.
    assert standing([same, apart]) == "1 faster"


def test_races_under_one_allocator_setting_say_what_is_missing(tmp_path: Path) -> None:
    rows = [row("auto", 1), row("public", 2)]
    assert standing(races(frame(tmp_path, rows))) == (
        "1 race ran under one allocator setting; add the other run for a verdict"
    )


def test_a_difference_is_shown_wherever_the_implementation_is_named(tmp_path: Path) -> None:
    found = frame(tmp_path, [row("auto", 1), other("other", 0.5)])
    assert list(found["label"]) == ["sliding_window", "sliding_window/other (differs)"]
    fastest = answers(split(found)[0])[0].choices[0]
    assert fastest.label == "sliding_window/other (differs)"


def test_only_the_same_case_is_compared(tmp_path: Path) -> None:
    rows = [row("auto", 1), row("public", 2, hyperparameters="window_size=128")]
    rows += [row("public", 2, **change) for change in ({"seq_len": 512}, {"causal": False})]
    assert races(frame(tmp_path, rows)) == []


def test_unfinished_cases_are_not_compared(tmp_path: Path) -> None:
    lost = failed(
        Status.UNSUPPORTED,
        "x is not installed",
        variant="sliding_window",
        implementation="public",
        hyperparameters="window_size=256",
    )
    assert races(frame(tmp_path, [row("auto", 1), lost])) == []
    assert standing([]) == ""


def test_for_full_attention_the_library_kernels_are_the_public_code(tmp_path: Path) -> None:
    full = {"variant": "full", "hyperparameters": ""}
    rows = [row("plain", 2, **full), row("sdpa", 1, **full)]
    assert only(races(frame(tmp_path, rows, rows))).verdict == SLOWER


def test_a_run_without_added_implementations_has_no_comparison(tmp_path: Path) -> None:
    full = {"variant": "full", "hyperparameters": ""}
    folder = write(tmp_path / "run", [row("plain", 2, **full), row("sdpa", 1, **full)])
    assert races(read_runs([folder]).frame) == []


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "default"),
        ({"settings": {}}, "default"),
        ({"settings": {"MALLOC_MMAP_MAX_": "65536"}}, "default"),
        ({"settings": {"MALLOC_MMAP_MAX_": "0"}}, "kept"),
    ],
)
def test_the_setting_is_read_from_the_environment(environment: dict[str, Any], name: str) -> None:
    assert allocator(environment) == name


def test_runs_under_both_settings_have_two_machine_names(tmp_path: Path) -> None:
    rows = [row("auto", 1)]
    assert list(frame(tmp_path, rows, rows)["machine"]) == [
        "cpu, Some CPU, 2 threads",
        "cpu, Some CPU, 2 threads, memory kept",
    ]


def test_the_command_imports_the_module_that_added_the_implementation(tmp_path: Path) -> None:
    found = frame(tmp_path, [row("public", 1)])
    assert reproduce_command(found.iloc[0]).startswith(
        "python -m bench run --import bench.peers --device cpu --set "
    )


def test_the_comparison_is_on_the_page_and_in_the_terminal(tmp_path: Path) -> None:
    rows = [row("auto", 1), row("public", 2), other("other", 0.5)]
    frame(tmp_path, rows, rows)
    runs = [tmp_path / "default", tmp_path / "kept"]
    page = build_report(runs).read_text()
    section = page.split('id="public"')[1].split("<h2")[0]
    assert "Against code that computes the same: 1 faster." in section
    assert section.count("<tr") == 1 + 2 * 2  # two kinds of opponents, with one heading each
    assert "2.00×" in section
    assert "of another kind" in section
    said = CliRunner().invoke(main, ["build", *map(str, runs)])
    assert "Against public code that computes the same: 1 faster." in said.output
