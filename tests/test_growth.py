"""The comparison of measured growth with declared orders."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from bench.loop.result_files import write_json, write_table
from bench.schema.case import Case
from bench.schema.measurement import Measurement
from bench.schema.outcome import DIFFERS, Status
from reports import declared
from reports.__main__ import main
from reports.growth import FASTER, MARGIN, UNDECIDED, WITHIN, Audit, audit, fit, table
from reports.rows import read_runs
from tests import cases
from tests.examples import ROOT

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
Row = dict[str, Any]  # the columns of results.csv


def measured(
    time: Callable[[int], float] = float,
    memory: Callable[[int], float] = float,
    lengths: Sequence[int] = LENGTHS,
    **changes: Any,
) -> list[Row]:
    """Finished rows with a time in ms and bytes that are functions of the length."""
    linear = {"variant": "linear", "hyperparameters": "feature_map=elu", "causal": True}
    return [
        {
            **cases.good(
                cases.case(seq_len=length, **linear),
                implementation_used="chunks",
                time_ms_median=time(length),
                peak_memory_bytes=int(memory(length)),
            ).values,
            **changes,
        }
        for length in lengths
    ]


def write(folder: Path, rows: Sequence[Row]) -> Path:
    folder.mkdir(parents=True)
    write_table(folder / "results.csv", Measurement.columns(), rows)
    write_json(folder / "environment.json", {"hardware": {"processor": "Some CPU", "threads": 2}})
    return folder


def audited(folder: Path, rows: Sequence[Row]) -> Audit:
    return audit(read_runs([write(folder / "run", rows)]).frame)


def verdicts(found: Audit) -> list[str]:
    return [claim.verdict for curve in found.curves for claim in curve.claims]


def test_quadratic_time_and_memory_of_a_linear_variant_are_reported(tmp_path: Path) -> None:
    rows = measured(lambda n: 1e-6 * n**2, lambda n: 4 * n**2)
    (curve,) = audited(tmp_path, rows).broken
    assert [claim.words for claim in curve.broken] == [
        "time grows as n^2 (2 to 2), declared n^1",
        "memory grows as n^2 (2 to 2), declared n^1",
    ]
    assert curve.lengths == (4096, 8192, 16384)


def test_growth_as_declared_is_not_reported(tmp_path: Path) -> None:
    exact = {"variant": "full", "hyperparameters": ""}
    rows = [
        *measured(lambda n: 0.01 * n, lambda n: 256 * n),
        *measured(lambda n: 1e-6 * n**2, lambda n: 256 * n, **exact),
        *measured(lambda n: 5.0, lambda n: 1e6, causal=False),
    ]
    found = audited(tmp_path, rows)
    assert found.summary == "0 of 3 curves grow faster than declared"
    assert verdicts(found) == [WITHIN] * 6


def test_short_lengths_with_constant_costs_do_not_hide_quadratic_growth(tmp_path: Path) -> None:
    rows = measured(lambda n: 1 + 1e-6 * n**2, lengths=[2**k for k in range(7, 17)])
    (curve,) = audited(tmp_path, rows).broken
    assert curve.lengths == (4096, 8192, 16384, 32768, 65536)


def test_three_noisy_lengths_are_undecided(tmp_path: Path) -> None:
    rows = measured(lambda n: 1e-6 * n**2 * (3 if n == 2048 else 1), lengths=[1024, 2048, 4096])
    assert verdicts(audited(tmp_path, rows)) == [UNDECIDED, WITHIN]


def test_costs_that_do_not_grow_make_no_method_faster_than_declared(tmp_path: Path) -> None:
    rows = measured(lambda n: 5 + 0.001 * n, lambda n: 1e6 + 100 * n)
    assert FASTER not in verdicts(audited(tmp_path, rows))


def test_a_curve_needs_three_finished_lengths_of_one_kernel(tmp_path: Path) -> None:
    quadratic = measured(lambda n: 1e-6 * n**2, lengths=[1024, 2048, 4096])
    last = Case.of_values(quadratic[2])
    timeout = Measurement.of(last, Status.TIMEOUT, "longer than 9 s")
    for name, rows in {
        "two lengths": quadratic[:2],
        "a failed length": [*quadratic[:2], timeout.values],
        "two kernels": [
            *quadratic[:2],
            *measured(lengths=[4096], implementation_used="fla"),
        ],
        "two dtypes": [*quadratic[:2], *measured(lengths=[4096], dtype="bfloat16")],
    }.items():
        found = audited(tmp_path / name, rows)
        assert (found.curves, found.too_short > 0) == ((), True), name
    assert len(audited(tmp_path / "three", quadratic).broken) == 1


def test_cases_that_a_declaration_does_not_describe_are_left_out(tmp_path: Path) -> None:
    rows = [
        *measured(lambda n: 1e-6 * n**2, direction="decode"),
        *measured(lambda n: 1e-6 * n**2, key_len=1024),
        *measured(lambda n: 1e-6 * n**2, reason=f"{DIFFERS}an exact product"),
        *measured(lambda n: 1e-6 * n**2, variant="of_another_version"),
    ]
    found = audited(tmp_path, rows)
    assert (found.curves, found.too_short) == ((), 0)


def flags(noise: Callable[[int], np.ndarray], power: float, lengths: Sequence[int]) -> float:
    """The part of 2000 simulated curves that grow faster than n^1 in the audit."""
    times = np.asarray(lengths, float) ** power
    lows = [fit(lengths, list(times * noise(len(times)))).low for _ in range(2000)]
    return float(np.mean(np.array(lows) > 1 + MARGIN))


@pytest.mark.parametrize("lengths", [LENGTHS[-3:], LENGTHS[-4:], LENGTHS[-5:]], ids=len)
def test_few_honest_curves_are_reported_whatever_the_noise_is(lengths: Sequence[int]) -> None:
    random = np.random.default_rng(0)
    loads: dict[str, Callable[[int], np.ndarray]] = {
        "small": lambda k: np.exp(random.normal(0, 0.02, k)),
        "large": lambda k: np.exp(random.normal(0, 0.5, k)),
        "growing": lambda k: np.exp(random.normal(0, 1, k) * np.linspace(0.01, 0.3, k)),
        "load at times": lambda k: np.where(
            random.random(k) < 0.2, 10.0, random.normal(1, 0.03, k)
        ),
        "load from some length": lambda k: np.where(
            np.arange(k) >= random.integers(0, k + 1), 3.0, random.normal(1, 0.03, k)
        ),
    }
    for name, noise in loads.items():
        assert flags(noise, 1.0, lengths) < 0.025, name
    # The interval is right: 2.5 % of the curves whose exponent is at the limit are above it.
    assert 0.015 < flags(loads["small"], 1 + MARGIN, lengths) < 0.035


@pytest.mark.parametrize("lengths", [LENGTHS[-4:], LENGTHS[-5:]], ids=len)
def test_quadratic_curves_are_reported_in_spite_of_noise(lengths: Sequence[int]) -> None:
    random = np.random.default_rng(0)
    assert flags(lambda k: np.exp(random.normal(0, 0.05, k)), 2.0, lengths) > 0.98


@pytest.fixture
def with_fake_linear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reports know the declaration of the variant in tests/fake_linear.py."""
    file = tmp_path / "declared.json"
    code = (
        "import tests.fake_linear; from reports.documents.declarations import text; print(text())"
    )
    file.write_text(python("-c", code))
    monkeypatch.setattr(declared, "FILE", file)
    declared._declared.cache_clear()
    yield
    declared._declared.cache_clear()


def python(*words: str) -> str:
    """The output of a Python process; the registry of this process does not change."""
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.usefixtures("with_fake_linear")
def test_the_memory_of_a_fake_linear_variant_is_reported_in_a_real_run(tmp_path: Path) -> None:
    python(
        *("-m", "bench", "run", "--import", "tests.fake_linear", "--out", str(tmp_path / "run")),
        *("--device", "cpu", "--seconds", "0.01", "--set", "inputs=gaussian", "--set", "heads=1"),
        *("--set", "variant=fake_linear,linear feature_map=elu", "--set", "causal=false"),
        *("--set", "seq_len=512,1024,2048"),
    )
    found = table(audit(read_runs([tmp_path / "run"]).frame)).set_index(["variant", "quantity"])
    assert found.loc[("fake_linear", "memory"), "verdict"] == FASTER
    assert found.loc[("fake_linear", "memory"), "declared"] == "n·d"
    assert found.loc[("linear", "memory"), "verdict"] == WITHIN
    # Times of three lengths are too noisy for a verdict; but they were read.
    assert found.loc[("fake_linear", "time"), "exponent"] > 1


def test_the_page_and_the_terminal_name_broken_claims_first(tmp_path: Path) -> None:
    rows = [*measured(lambda n: 1e-6 * n**2), *measured(causal=False)]
    folder = write(tmp_path / "run", rows)
    result = CliRunner().invoke(main, ["build", str(folder)])
    assert result.exit_code == 0, result.output
    assert "1 of 2 curves grow faster than declared: growth.csv." in result.output
    page = (folder / "report" / "report.html").read_text()
    broken, others = page.split('<h2 id="growth">')[1].split("<details")[:2]
    assert "time grows as n^2 (2 to 2), declared n^1" in broken
    assert "not causal" not in broken
    assert "not causal" in others
    written = pd.read_csv(folder / "report" / "growth.csv")
    assert written["verdict"].tolist() == [FASTER, WITHIN, WITHIN, WITHIN]


def test_the_table_names_each_curve_and_quantity(tmp_path: Path) -> None:
    found = table(audited(tmp_path, measured(lambda n: 1e-6 * n**2)))
    assert found["quantity"].tolist() == ["time", "memory"]
    assert found["verdict"].tolist() == [FASTER, WITHIN]
    assert found["exponent"].tolist() == pytest.approx([2, 1])
    assert found["lengths"].tolist() == ["4096 8192 16384"] * 2


def test_a_run_in_which_no_case_finished_has_no_curves(tmp_path: Path) -> None:
    row = Measurement.of(Case.of_values(measured()[0]), Status.TIMEOUT, "longer than 9 s")
    assert audited(tmp_path, [row.values]) == Audit((), 0)


def test_a_run_without_a_curve_has_no_section(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", measured(lengths=[512]))
    result = CliRunner().invoke(main, ["build", str(folder)])
    assert result.exit_code == 0, result.output
    assert 'id="growth"' not in (folder / "report" / "report.html").read_text()
    assert "grow faster" not in result.output
