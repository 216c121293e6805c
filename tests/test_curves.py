"""Curves along the knob of quality: their rows, their order, and the figures and tables that show
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.schema.measurement import Measurement
from reports.curves import name_of, one_setting
from reports.rows import read_runs
from tests.test_reports import ENVIRONMENT, REFERENCE, done, write

KNOBS = {"window": "size=256", "rounds": "hashes=1", "pair": "back=4 segment=4", "plain": ""}


def frame_of(folder: Path, rows: list[Measurement], knobs: Any = KNOBS) -> pd.DataFrame:
    sweep = {"name": "cpu", "groups": []} | ({} if knobs is None else {"knobs": knobs})
    return read_runs([write(folder, rows, ENVIRONMENT | {"sweep": sweep})]).frame


def setting(variant: str, hyperparameters: str, time: float = 1, **changes: Any) -> Measurement:
    return done(time, variant=variant, hyperparameters=hyperparameters, **changes)


def window(*sizes: int, **changes: Any) -> list[Measurement]:
    """Rows of a window: a larger one is slower and more exact."""
    return [setting("window", f"globals=2 size={n}", n / 64, error=8 / n, **changes) for n in sizes]


def curves_of(frame: pd.DataFrame) -> dict[str, list[str]]:
    """The settings of every curve in order."""
    return {
        str(curve): list(rows.sort_values("place")["setting"])
        for curve, rows in frame.groupby("curve")
    }


class TestFormingCurves:
    def test_a_curve_holds_the_settings_of_the_knob_in_numeric_order(self, tmp_path: Path) -> None:
        frame = frame_of(tmp_path, window(512, 64, 1024, 256))
        assert curves_of(frame) == {"window": ["64", "256", "512", "1024"]}
        assert list(frame["place"]) == [2, 0, 3, 1]
        assert list(frame["is_default"]) == [False, False, False, True]
        assert name_of(frame) == "window, size 64 to 1024"
        assert name_of(frame[:1]) == "window size=512"

    def test_other_implementations_and_other_settings_form_other_curves(
        self, tmp_path: Path
    ) -> None:
        rows = [
            *window(64, 256),
            *window(64, 256, implementation="flex"),
            *(setting("window", f"globals=4 size={n}") for n in (64, 256)),
        ]
        frame = frame_of(tmp_path, rows)
        both = ["64", "256"]
        assert curves_of(frame) == {
            "window globals=2": both,
            "window/flex globals=2": both,
            "window globals=4": both,
        }
        assert list(frame["label"])[2] == "window/flex globals=2 size=64"

    def test_two_numbers_that_increase_together_are_one_knob(self, tmp_path: Path) -> None:
        rows = [setting("pair", f"back={n} segment={n}") for n in (16, 4)]
        frame = frame_of(tmp_path, rows)
        assert curves_of(frame) == {"pair": ["4", "16"]}
        assert name_of(frame) == "pair, back and segment 4 to 16"
        assert list(frame["is_default"]) == [False, True]
        unequal = frame_of(tmp_path, [setting("pair", f"back={n} segment=9") for n in (8, 16)])
        assert name_of(unequal) == "pair, back and segment 8, 9 to 16, 9"

    def test_in_a_run_without_recorded_knobs_the_only_varying_number_is_the_knob(
        self, tmp_path: Path
    ) -> None:
        rows = [
            *window(256, 64),
            *(setting("rounds", f"hashes={n} seed={n}") for n in (1, 2)),
            *(setting("pair", f"back={n} segment={n}") for n in (4, 16)),
            *(setting("plain", f"feature={name}") for name in ("elu", "relu")),
        ]
        for knobs in (None, {}, {"window": ""}):
            frame = frame_of(tmp_path, rows, knobs)
            assert curves_of(frame) == {
                "window": ["64", "256"],
                # Not a seed, because no seed is better, and not two numbers, which may be two
                # knobs.
                "rounds seed=1": ["1"],
                "rounds seed=2": ["2"],
                "pair back=4 segment=4": [""],
                "pair back=16 segment=16": [""],
                "plain feature=elu": [""],
                "plain feature=relu": [""],
            }
            # The run records no defaults.
            assert not frame.loc[frame["variant"] == "window", "is_default"].any()

    def test_a_variant_without_a_knob_forms_a_curve_by_itself(self, tmp_path: Path) -> None:
        frame = frame_of(tmp_path, [done(), *window(64)])
        assert curves_of(frame) == {"full": [""], "window": ["64"]}
        assert name_of(frame[:1]) == "full"


class TestOneSetting:
    def test_the_one_setting_is_the_default(self, tmp_path: Path) -> None:
        rows = [*window(256, 512, 1024, 2048), *window(256, 512, seq_len=512), done()]
        kept = one_setting(frame_of(tmp_path, rows))
        assert list(kept["label"]) == ["window size=256", "window size=256", "full"]

    def test_the_one_setting_is_the_middle_one_if_the_default_was_not_measured(
        self, tmp_path: Path
    ) -> None:
        kept = one_setting(frame_of(tmp_path, window(512, 64, 128)))
        assert list(kept["label"]) == ["window size=128"]

    def test_every_curve_of_a_variant_keeps_one_setting(self, tmp_path: Path) -> None:
        rows = [*window(64, 256), *window(64, 256, implementation="flex")]
        kept = one_setting(frame_of(tmp_path, rows))
        assert list(kept["label"]) == ["window size=256", "window/flex size=256"]


@pytest.mark.parametrize("name", ["", "-field", "-peers"])
def test_published_runs_have_curves(name: str) -> None:
    frame = read_runs([REFERENCE / f"amd-epyc-2-threads{name}"]).frame
    assert frame.groupby(["curve", "place"])["label"].nunique().max() == 1
    assert frame.groupby("curve")[["variant", "implementation"]].nunique().max().max() == 1
    assert len(curves_of(frame)["lsh" if name != "-peers" else "lsh shared_qk=True"]) > 1
