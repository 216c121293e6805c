"""Curves along the knob of quality: their rows, their order, and the figures and tables that show
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from reports.build import draw_all
from reports.curves import name_of, one_setting
from reports.figures.kinds import MOST_LINES
from reports.figures.style import styles
from reports.growth import audit
from reports.html import page
from reports.rows import read_runs
from tests.test_reports import ENVIRONMENT, KIND, REFERENCE, done, failed, figure_of, write

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

    def test_figures_show_one_setting_if_there_are_too_many_lines(self, tmp_path: Path) -> None:
        few = frame_of(tmp_path, window(64, 128, 256, 512))
        many = frame_of(tmp_path, [*window(64, 256), *others(MOST_LINES - 1)])
        for name in ("time_vs_length", "memory_vs_length", "error_vs_length", "time_vs_heads"):
            assert len(KIND[name].shown(few)) == len(few)
            assert len(KIND[name].shown(many)) == MOST_LINES
        assert len(KIND["error_vs_time"].shown(many)) == MOST_LINES + 1

    def test_the_link_states_that_one_setting_is_shown(self, tmp_path: Path) -> None:
        said = "one setting of each method"
        for rows, figures in (
            ([*window(64, 256), *others(MOST_LINES - 1)], {"error_vs_time"}),
            (window(64, 256), {drawing for drawing in KIND if "_vs_" in drawing}),
        ):
            frame = frame_of(tmp_path, rows)
            runs = read_runs([tmp_path])
            drawn = [it for it in draw_all(runs, tmp_path / "figures") if it.path]
            whole = {it.kind.name for it in drawn if not it.is_of_one_setting}
            assert whole == figures & {it.kind.name for it in drawn}
            written = " ".join(page(runs, drawn, audit(runs.frame)).split())
            assert written.count(said) == len(drawn) - len(whole)
            assert len(frame) == len(rows)


def others(count: int) -> list[Measurement]:
    return [setting(f"v{k:02}", "", time=1 + k) for k in range(count)]


class TestFigure:
    def test_a_curve_is_a_line_in_the_order_of_its_knob(self, tmp_path: Path) -> None:
        # The second point is slower than the third, so the line goes right and then left.
        rows = window(64, 256, 1024)
        rows[1] = setting("window", "globals=2 size=256", 99, error=8 / 256)
        ax = drawn(tmp_path, [rows[2], rows[0], rows[1], done(3, 0.0)])
        (line,) = [line for line in ax.lines if line.get_label() == "window"]
        assert list(line.get_xdata()) == [1.0, 99.0, 16.0]
        (marks,) = [it for it in ax.collections if len(it.get_offsets()) == 3 and sized(it)]
        assert np.allclose(np.asarray(marks.get_offsets())[:, 0], [1.0, 99.0, 16.0])
        assert list(marks.get_sizes()) == sorted(set(marks.get_sizes()))

    def test_curves_of_two_implementations_are_separate(self, tmp_path: Path) -> None:
        rows = [*window(64, 256), *window(128, 512, implementation="flex")]
        ax = drawn(tmp_path, rows)
        lines = {str(it.get_label()): it for it in ax.lines if it.get_gid() != "zeros"}
        assert list(lines["window"].get_xdata()) == [1.0, 4.0]
        assert list(lines["window/flex"].get_xdata()) == [2.0, 8.0]
        assert lines["window"].get_color() == lines["window/flex"].get_color()

    def test_the_variant_is_named_once_and_the_legend_has_the_first_and_last_setting(
        self, tmp_path: Path
    ) -> None:
        rows = [*window(64, 128, 256, 512), setting("rounds", "hashes=4"), done(9, 0.0)]
        frame = frame_of(tmp_path, rows)
        figure, (ax,) = figure_of(KIND["error_vs_time"], frame)
        assert [text.get_text() for text in ax.texts].count("window") == 1
        (legend,) = figure.legends
        texts = [text.get_text() for text in legend.get_texts()]
        assert texts == ["full", "rounds", "window, size 64 to 512"]

    def test_a_setting_that_failed_leaves_a_gap_and_is_named(self, tmp_path: Path) -> None:
        rows = window(64, 128, 512)
        rows.append(failed(Status.TIMEOUT, variant="window", hyperparameters="globals=2 size=256"))
        ax = drawn(tmp_path, rows)
        (line,) = [line for line in ax.lines if line.get_label() == "window"]
        assert list(line.get_xdata()) == [1.0, 2.0, 8.0]
        assert "×T window size=256" in [text.get_text() for text in ax.texts]

    def test_intervals_of_every_setting_are_drawn(self, tmp_path: Path) -> None:
        ax = drawn(tmp_path, window(64, 256))
        ends = {
            tuple(np.round(segment[:, 1], 6))
            for it in ax.collections
            if hasattr(it, "get_segments")
            for segment in it.get_segments()
            if segment[0, 0] == segment[1, 0]
        }
        assert ends == {(0.1125, 0.1375), (0.028125, 0.034375)}

    def test_a_curve_has_the_color_of_its_variant_and_the_style_of_its_first_setting(
        self, tmp_path: Path
    ) -> None:
        frame = frame_of(tmp_path, [*window(512, 64, 128), *others(3), done()])
        looks = styles(frame)
        assert looks["window"] == looks["window size=64"]
        assert len({looks[f"window size={n}"].color for n in (64, 128, 512)}) == 1
        assert len({looks[f"window size={n}"].marker for n in (64, 128, 512)}) == 3
        _, (ax,) = figure_of(KIND["error_vs_time"], frame)
        (line,) = [line for line in ax.lines if line.get_label() == "window"]
        assert to_hex(line.get_color()) == looks["window"].color

    def test_no_name_overlaps_a_line(self, tmp_path: Path) -> None:
        rows = [setting("window", f"size={n}", n / 64, error=0.1) for n in (64, 1024)]
        rows.append(setting("near", "", 4, error=0.11))  # the preferred place is on the line
        ax = drawn(tmp_path, rows)
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.draw_without_rendering()
        (line,) = [line for line in ax.lines if line.get_label() == "window"]
        start, end = ax.transData.transform(line.get_xydata())
        for text in [it for it in ax.texts if it.get_text() in ("window", "near")]:
            box = text.get_window_extent()
            on_it = [box.contains(*(start + (end - start) * k / 50)) for k in range(51)]
            assert not any(on_it), text.get_text()


def drawn(folder: Path, rows: list[Measurement]) -> Axes:
    _, (ax,) = figure_of(KIND["error_vs_time"], frame_of(folder, rows))
    return ax


def sized(collection: Any) -> bool:
    return hasattr(collection, "get_sizes") and len(collection.get_sizes()) > 1


@pytest.mark.parametrize("name", ["", "-field", "-peers"])
def test_published_runs_have_curves(name: str) -> None:
    frame = read_runs([REFERENCE / f"amd-epyc-2-threads{name}"]).frame
    assert frame.groupby(["curve", "place"])["label"].nunique().max() == 1
    assert frame.groupby("curve")[["variant", "implementation"]].nunique().max().max() == 1
    assert len(curves_of(frame)["lsh" if name != "-peers" else "lsh shared_qk=True"]) > 1
