"""Static figures: the points that they draw, what they only name, their limits, and their files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from reports.figures import against_count, drawn_figures, frame, frontier
from reports.figures.drawn_figures import draw_figures, groups_of
from reports.figures.scene_figures import FigureData, Sketch, sketches
from reports.figures.style import styles
from reports.page.answer_data import questions
from reports.recommender.evidence import Evidence
from reports.rows import read_runs
from tests.cases import changed
from tests.test_reports import done, failed, write

REAL: dict[str, Any] = {"inputs": "smollm2", "layer": 3, "heads": 2}


def held(time: float, error: float, **changes: Any) -> Measurement:
    """A row on inputs in which the mean of the values has error 0.8."""
    row = done(time, error, **{**REAL, **changes})
    return changed(row, mean_value_error_rel_l2=0.8)


def another(time: float, **changes: Any) -> Measurement:
    return changed(held(time, 0.01, variant="linear", **changes), target="other_kernel")


# At 1024 tokens: `fast` and `good` are on the frontier with `full`, `slow` is beaten, `bad` and
# `linear` are useless. `good` has three settings.
ROWS = [
    *(held(10 * n / 1024, 1e-7, seq_len=n) for n in (256, 1024)),
    *(held(12 * n / 1024, 2e-7, implementation="sdpa", seq_len=n) for n in (256, 1024)),
    *(held(1 if n > 256 else 9, 0.5, variant="fast", seq_len=n) for n in (256, 1024)),
    *(
        held(2 * size, 0.2 / size, variant="good", hyperparameters=f"size={size}", seq_len=n)
        for n in (256, 1024)
        for size in (1, 2, 4)
    ),
    *(held(5, 0.4, variant="slow", seq_len=n) for n in (256, 1024)),
    *(held(0.5, 0.9, variant="bad", seq_len=n) for n in (256, 1024)),
    *(another(0.1, seq_len=n) for n in (256, 1024)),
    failed(variant="lsh", seq_len=1024, **REAL),
    failed(Status.UNSUPPORTED, "no", variant="nystrom", seq_len=1024, **REAL),
]


def drawn(folder: Path, rows: Sequence[Measurement], group: int = 0) -> dict[str, Sketch]:
    """The figures of a group of scenes by their names."""
    runs = read_runs([write(folder, rows)])
    groups = groups_of(questions(Evidence(runs)))
    return {it.name: it for it in sketches(FigureData(runs.frame), groups[group])}


def axes_of(figure: Figure) -> list[Axes]:
    """The axes that are shown, from left to right and then down."""
    shown = [ax for ax in figure.axes if ax.get_visible()]
    return sorted(shown, key=lambda ax: (-round(ax.get_position().y0, 3), ax.get_position().x0))


def said(figure: Figure) -> str:
    """The texts outside the axes, in one line."""
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def with_id(ax: Axes, gid: str) -> list[Any]:
    return [it for it in ax.get_children() if str(it.get_gid()).startswith(gid)]


def test_methods_worse_than_a_baseline_are_named_in_one_band_and_not_drawn(tmp_path: Path) -> None:
    figure = drawn(tmp_path, ROWS)["frontier"].figure
    (ax,) = axes_of(figure)
    (names,) = with_id(ax, "useless-names")
    words = " ".join(names.get_text().split())
    assert words == "no better than a baseline: bad another operator: linear"
    (band,) = with_id(ax, "useless")[:1]
    assert band.get_y() == 0.8
    curves = {str(line.get_gid()) for line in with_id(ax, "curve:")}
    assert curves == {f"curve:{name}" for name in ("fast", "full", "full/sdpa", "good", "slow")}
    assert len([text for text in ax.texts if text.get_text() == "bad"]) == 0
    (legend,) = figure.legends
    assert not {"bad", "linear"} & {text.get_text() for text in legend.get_texts()}


def test_the_frontier_joins_the_methods_that_no_other_beats_and_their_names_are_bold(
    tmp_path: Path,
) -> None:
    (ax,) = axes_of(drawn(tmp_path, ROWS)["frontier"].figure)
    (line,) = with_id(ax, "frontier")
    assert list(zip(line.get_xdata(), line.get_ydata(), strict=True)) == [
        (1.0, 0.5), (2.0, 0.2), (4.0, 0.1), (8.0, 0.05), (10.0, 1e-7),
    ]  # fmt: skip
    weights = {text.get_text(): text.get_fontweight() for text in with_id(ax, "name")}
    assert weights == {
        "fast": "bold", "good": "bold", "full": "bold", "slow": "normal", "full/sdpa": "normal",
    }  # fmt: skip
    (good,) = [line for line in with_id(ax, "curve:") if line.get_gid() == "curve:good"]
    assert list(good.get_xdata()) == [2, 4, 8]


def test_names_are_beside_their_points_and_cover_neither_each_other_nor_points(
    tmp_path: Path,
) -> None:
    crowd = [
        held(3 + k / 99, 0.3 + k / 900, variant=f"a_method_{k}", seq_len=1024) for k in range(40)
    ]
    figure = drawn(tmp_path, [*ROWS, *crowd])["frontier"].figure
    figure.draw_without_rendering()
    (ax,) = axes_of(figure)
    names = with_id(ax, "name")
    boxes = [text.get_window_extent() for text in names]
    assert 8 <= len(names) < 40  # names without a free place are in the legend only
    assert {"fast", "good", "full"} <= {text.get_text() for text in names}
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert ax.bbox.x0 <= box.x0 < box.x1 <= ax.bbox.x1
    points = [ax.transData.transform(p) for c in ax.collections for p in c.get_offsets()]
    assert not any(box.contains(*point) for box in boxes for point in points)


def test_cases_that_did_not_finish_are_named(tmp_path: Path) -> None:
    text = said(drawn(tmp_path, ROWS)["frontier"].figure)
    assert "Did not finish — timeout: lsh at 1k. unsupported: nystrom." in text


def test_panels_are_three_wide_with_labels_at_the_edges_only(tmp_path: Path) -> None:
    rows = [
        held(time, error, variant=name, heads=heads, head_dim=512 // heads)
        for heads in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
        for name, time, error in (("full", 2, 1e-7), ("fast", 1, 0.3))
    ]
    sketch = drawn(tmp_path, rows)["frontier"]
    axes = axes_of(sketch.figure)
    assert len({round(ax.get_position().x0, 3) for ax in axes}) == 3
    assert len(axes) == 9
    assert [bool(ax.get_ylabel()) for ax in axes] == [True, False, False] * 3
    assert [bool(ax.get_xlabel()) for ax in axes] == [False] * 6 + [True] * 3
    titles = [ax.get_title(loc="left").replace("\n", " ") for ax in axes]
    assert len(set(titles)) == 9
    assert all("smollm2" not in title for title in titles)
    assert "smollm2 · layer 3 · cpu, Some CPU, 2 threads" in said(sketch.figure)
    # The tenth scene is named, in the figure and in the report.
    assert "Scenes that are not drawn: " in said(sketch.figure)
    assert sketch.left_out in said(sketch.figure)


def test_lines_show_one_setting_of_the_useful_methods_and_the_best_exact_implementation(
    tmp_path: Path,
) -> None:
    figure = drawn(tmp_path, ROWS)["length"].figure
    time, memory, error = axes_of(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "exact attention (best implementation)", "fast", "good", "slow",
    ]  # fmt: skip
    lines = [list(line.get_ydata()) for line in with_id(time, "line")]
    assert lines == [[2.5, 10], [9, 1], [4, 4], [5, 5]]
    assert len(with_id(memory, "line")) == 4
    assert [list(line.get_ydata()) for line in with_id(error, "line")][2] == [0.1, 0.1]
    assert (
        "as no better than a baseline at the largest length, or another operator: bad, linear"
        in (said(figure))
    )


def test_lines_beyond_the_limit_are_named(tmp_path: Path) -> None:
    many = [
        held(1, 0.1 + k / 100, variant=f"v{k:02}", seq_len=n)
        for k in range(12)
        for n in (256, 1024)
    ]
    figure = drawn(tmp_path, [*ROWS[:2], *many])["length"].figure
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 1 + 8
    assert "Useful, but beyond the limit of 8 methods: v08, v09, v10, v11." in said(figure)


def test_a_crossover_is_between_the_lengths_where_the_method_is_not_and_is_faster(
    tmp_path: Path,
) -> None:
    # This method is useful at the shorter length only.
    later = [held(9, error, variant="late", seq_len=n) for n, error in ((256, 0.1), (1024, 0.9))]
    sketch = drawn(tmp_path, [*ROWS, *later])["crossover"]
    faster, smaller = axes_of(sketch.figure)
    names = [text.get_text() for text in faster.get_yticklabels()]
    assert names == ["fast", "good", "slow"]
    marks = {
        (names[int(mark.get_ydata()[0])], int(mark.get_xdata()[0])): str(mark.get_gid())
        for mark in faster.lines
        if mark.get_gid()
    }
    assert marks == {
        ("fast", 256): "not", ("fast", 1024): "better",
        ("good", 256): "not", ("good", 1024): "better",
        ("slow", 256): "not", ("slow", 1024): "better",
    }  # fmt: skip
    assert {line.get_linestyle() for line in faster.lines if not line.get_gid()} == {":"}
    assert not with_id(smaller, "better")


def test_marks_are_coloured_where_a_method_is_faster_and_useful(tmp_path: Path) -> None:
    # `fast` is faster from 512 tokens on, and no better than a baseline at 2048.
    lengths = {256: (20, 0.1), 512: (5, 0.1), 1024: (5, 0.1), 2048: (5, 0.9), 4096: (5, 0.1)}
    rows = [held(10, 1e-7, seq_len=n) for n in lengths]
    rows += [held(*point, variant="fast", seq_len=n) for n, point in lengths.items()]
    figure = drawn(tmp_path, rows)["crossover"].figure
    (faster, _) = axes_of(figure)
    own = styles(read_runs([tmp_path]).frame)["fast"].color
    faces = {
        int(it.get_xdata()[0]): (str(it.get_gid()), it.get_markerfacecolor())
        for it in faster.lines
        if it.get_gid()
    }
    assert faces.pop(2048)[0] == "useless"
    better = ("better", own)
    assert faces == {256: ("not", "white"), 512: better, 1024: better, 4096: better}
    between = {
        tuple(it.get_xdata()): (it.get_linestyle(), it.get_color())
        for it in faster.lines
        if not it.get_gid()
    }
    assert between == {
        (256, 512): (":", own), (512, 1024): ("-", own),
        (1024, 2048): ("-", "0.8"), (2048, 4096): ("-", "0.8"),
    }  # fmt: skip


def test_a_method_is_not_drawn_at_lengths_where_it_is_no_better_than_a_baseline(
    tmp_path: Path,
) -> None:
    early = [held(9, error, variant="early", seq_len=n) for n, error in ((256, 0.9), (1024, 0.1))]
    figure = drawn(tmp_path, [*ROWS, *early])["length"].figure
    lines = [list(line.get_xdata()) for ax in axes_of(figure) for line in with_id(ax, "line")]
    assert len(lines) == 3 * 5
    assert lines.count([1024]) == 3


@pytest.mark.parametrize("count", range(2, 12))
def test_legends_are_not_wider_than_the_panels(count: int) -> None:
    figure, _ = frame.grid(1, 3, frontier.SIZE, sharex="none", sharey="none")
    names = [f"{'m' * (7 + 5 * (n % 4))} mode={n}" for n in range(count)]
    frame.foot(figure, [against_count.EXACT.handle(name) for name in names], [])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert 0.3 * figure.bbox.width < legend.get_window_extent().width <= figure.bbox.width


def test_the_layers_of_captured_inputs_are_named(tmp_path: Path) -> None:
    rows = [
        held(time, error, variant=name, layer=layer, inputs=inputs)
        for inputs, layers in (("smollm2", range(2)), ("other", range(5)))
        for layer in layers
        for name, time, error in (("full", 2, 1e-7), ("fast", 1, 0.3))
    ]
    axes = axes_of(drawn(tmp_path, rows)["frontier"].figure)
    titles = {ax.get_title(loc="left").replace("\n", " ") for ax in axes}
    assert titles == {"smollm2 · worst of layers 0, 1", "other · worst of 5 layers"}
    some = [*rows, held(1, 0.3, variant="fast", inputs="other", seq_len=1024)]
    some += [held(1, 0.1, inputs="other", seq_len=1024)]
    figure = drawn(tmp_path / "some", some)["length"].figure
    assert "other · worst of up to 5 layers" in said(figure)


def test_markers_belong_to_the_variant_and_are_hollow_for_a_requested_implementation(
    tmp_path: Path,
) -> None:
    looks = styles(read_runs([write(tmp_path, ROWS)]).frame)
    assert looks["good size=1"].marker == looks["good size=4"].marker != looks["fast"].marker
    assert looks["full"].marker == looks["full/sdpa"].marker
    assert (looks["full"].face, looks["full/sdpa"].face) == ("black", "white")
    assert "Hollow: another implementation" in said(drawn(tmp_path, ROWS)["frontier"].figure)


def test_a_figure_of_heads_is_drawn_if_several_numbers_were_measured(tmp_path: Path) -> None:
    assert "heads" not in drawn(tmp_path / "one", ROWS)
    both: list[dict[str, Any]] = [
        {"heads": n, "variant": name} for n in (2, 4) for name in ("full", "fast")
    ]
    same = [held(it["heads"], 0.1, **it) for it in both]
    figure = drawn(tmp_path / "same", same)["heads"].figure
    assert "head_dim 64" in said(figure)
    assert "width" not in said(figure)
    wide = [held(it["heads"], 0.1, **it, head_dim=128 // it["heads"]) for it in both]
    figure = drawn(tmp_path / "wide", wide)["heads"].figure
    assert "width 128" in said(figure)
    (ax, *_) = axes_of(figure)
    assert [list(line.get_xdata()) for line in with_id(ax, "line")] == [[2, 4], [2, 4]]


def test_decoding_has_figures_of_time_per_token_and_state(tmp_path: Path) -> None:
    steps = [
        changed(held(time, 0.1, variant=name, seq_len=n, direction="decode"), state_bytes=n * size)
        for n in (256, 1024)
        for name, time, size in (("full", 2, 512), ("fast", 1, 64))
    ]
    found = drawn(tmp_path, [*ROWS, *steps], group=1)
    time, state, _ = axes_of(found["length"].figure)
    titles = [ax.texts[0].get_text() for ax in (time, state)]
    assert titles == ["time per token", "bytes held between two steps"]
    assert time.get_xlabel() == "tokens so far"
    assert [list(line.get_ydata()) for line in with_id(state, "line")][1] == [256 * 64, 1024 * 64]


def test_every_figure_is_a_png_and_an_svg_with_texts_that_are_equal_each_time(
    tmp_path: Path,
) -> None:
    runs = read_runs([write(tmp_path / "run", ROWS)])
    asked = questions(Evidence(runs))
    first, second = (draw_figures(asked, runs.frame, tmp_path / name) for name in "ab")
    assert [it.png.name for it in first.files] == ["frontier.png", "length.png", "crossover.png"]
    for one, two in zip(first.files, second.files, strict=True):
        assert one.png.read_bytes().startswith(b"\x89PNG")
        svg = one.svg.read_text()
        assert svg == two.svg.read_text()
        assert "dc:date" not in svg
        assert ">fast<" in svg


def test_beyond_the_limit_of_figures_machines_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawn_figures, "MOST_FIGURES", 1)
    rows = [held(1, 0.1, heads=1, variant="full"), done(1, 0.1, device="cuda")]
    runs = read_runs([write(tmp_path, rows)])
    found = draw_figures(questions(Evidence(runs)), runs.frame, tmp_path / "figures")
    assert len(found.files) == 1
    assert found.left_out[-1].startswith("No figures, as a report stops after 1 or more: cuda")


def test_lines_of_one_variant_have_one_colour_and_different_dashes(tmp_path: Path) -> None:
    rows = [
        held(1, 0.1, variant="fast", implementation=name, seq_len=n)
        for name in ("auto", "other")
        for n in (256, 1024)
    ]
    (ax, *_) = axes_of(drawn(tmp_path, [*ROWS[:2], *rows])["length"].figure)
    _, one, two = with_id(ax, "line")
    assert one.get_color() == two.get_color() == styles(read_runs([tmp_path]).frame)["fast"].color
    assert one.get_linestyle() != two.get_linestyle()


def test_ticks_of_a_wide_axis_are_readable(tmp_path: Path) -> None:
    lengths = (64, 2**20)
    rows = [held(n / 3000, 0.1, variant=v, seq_len=n) for n in lengths for v in ("full", "fast")]
    figure = drawn(tmp_path, rows)["length"].figure
    figure.draw_without_rendering()
    (ax, *_) = axes_of(figure)
    shown = [text.get_text() for text in ax.get_yticklabels()]
    low, high = ax.get_ylim()
    places = [y for y in ax.get_yticks() if low <= y <= high]
    assert 3 <= len(places) <= 7
    assert all(later > earlier for earlier, later in pairwise(places))
    assert {"1 ms", "100 ms"} <= set(shown)
