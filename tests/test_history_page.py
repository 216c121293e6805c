"""history.html in headless Chromium; without Chromium the tests skip."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from reports.history.history_page import write_history
from reports.history.metric_series import histories
from reports.history.moved_table import moves
from reports.history.stored_files import read_history
from tests.chromium import PROGRAM, Browser, browser
from tests.stored_history import MACHINE, Call, save, save_commits, stored
from tests.test_history import OTHER, noisy, with_numbers

pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium to open the page with"),
]
HOSTILE = '<img src=x onerror="window.hurt=1">[bold]'
COMMITS = 40
MODEL = "Bokeh.documents[0].get_model_by_name"


def calls(commit: int) -> list[Call]:
    """Two steps of the time of one method, one of the memory of another one."""
    slow = 1.3 if 15 <= commit < 30 else 1.0
    return [
        Call(ms=noisy(10 * slow, commit)),
        with_numbers(Call(variant=HOSTILE), peak_memory_bytes=10**6 + (commit >= 38)),
    ]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("track")
    save_commits(folder, COMMITS, calls)
    save_commits(folder, 3, calls, machine=OTHER)
    save(folder, stored(calls(20), 20, later=5, dirty=True), 99)
    (folder / "bad.json").write_text("{", encoding="utf-8")
    read = read_history(folder)
    machines = histories(read.runs)
    return write_history(machines, moves(machines), read.skipped, folder / "out").as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def tab(chromium: Browser, url: str) -> Iterator[Browser]:
    """The page, opened; no test may leave an error in the console or ask for another file."""
    chromium.size(1440, 900)
    chromium.open(url)
    yield chromium
    assert chromium.messages == []
    assert chromium.requests == [url]
    assert not chromium.run("window.hurt")


def choose(tab: Browser, name: str, words: str) -> None:
    """Choose the first option of a control that contains these words."""
    assert tab.run(f"""(() => {{
        const control = byId("{name}");
        const found = [...control.options].find(it => it.text.includes("{words}"));
        control.value = found?.value;
        control.dispatchEvent(new Event("change"));
        return Boolean(found);
    }})()""")


def drawn(tab: Browser, source: str, column: str) -> list[float]:
    found = tab.run(f"[...{MODEL}('{source}').data.{column}]")
    assert isinstance(found, list)
    return found


def test_the_newest_step_is_drawn_first_and_no_name_is_markup(tab: Browser) -> None:
    said = tab.run("byId('said').textContent")
    assert HOSTILE in said
    assert "0000026ee" in said  # commit 38
    assert "1,000,000 bytes to 1,000,001 bytes, ×1.000001" in said
    assert drawn(tab, "steps", "x") == [37.5]


def test_the_steps_of_a_time_are_drawn_with_their_ratios_and_levels(tab: Browser) -> None:
    choose(tab, "metric", "time")
    choose(tab, "case", "sliding_window")
    first, second = drawn(tab, "steps", "x")
    assert abs(first - 14.5) <= 1
    assert abs(second - 29.5) <= 1
    before, slow, after = (level[0] for level in drawn(tab, "levels", "ys"))  # type: ignore[index]
    assert slow == pytest.approx(13, rel=0.03)
    assert before == pytest.approx(10, rel=0.03)
    assert after == pytest.approx(10, rel=0.03)
    texts = tab.run(f"[...{MODEL}('names').data.text]")
    assert len(texts) == 2
    assert all(text.startswith("×") and " at 00000" in text for text in texts)


def test_a_dirty_run_is_a_cross(tab: Browser) -> None:
    marks = tab.run(f"[...{MODEL}('points').data.marker]")
    assert marks.count("x") == 1
    assert len(marks) == COMMITS + 1


def test_a_link_of_the_table_shows_its_series(tab: Browser) -> None:
    link = "[...document.querySelectorAll('.moved tr')].find(it => it.cells[1].textContent"
    tab.run(f"{link} === 'time').querySelector('a').click()")
    tab.wait("byId('said').textContent.startsWith('Time per call of sliding_window')")
    assert tab.run("byId('metric').value") == "time_ms_median"


def test_another_machine_has_its_own_series_and_claims_no_step(tab: Browser) -> None:
    choose(tab, "machine", OTHER["fingerprint"])
    choose(tab, "metric", "time")
    said = tab.run("byId('said').textContent")
    assert "3 runs. No steps are claimed: 3 commits; steps need" in said
    assert drawn(tab, "steps", "x") == []
    assert len(drawn(tab, "points", "x")) == 3
    assert MACHINE["fingerprint"] != OTHER["fingerprint"]


def test_a_filter_and_the_buttons_walk_through_the_cases(tab: Browser) -> None:
    tab.run("byId('wanted').value = 'sliding'; byId('wanted').oninput()")
    tab.run("byId('later').click()")
    assert "sliding_window" in tab.run("byId('said').textContent")


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_the_page_is_not_wider_than_the_screen_and_its_ticks_do_not_touch(
    tab: Browser, url: str, width: int
) -> None:
    tab.size(width, 800)
    tab.open(url)
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
    ticks = sorted(tab.run(f"[...{MODEL}('x_axis_ticks').ticks]"))
    assert ticks[-1] == COMMITS - 1
    pixels = tab.run("byId('series-chart').clientWidth") - 150
    assert min(b - a for a, b in itertools.pairwise(ticks)) * pixels / COMMITS > 66


def test_the_numbers_are_a_table_and_the_files_left_out_are_named(tab: Browser) -> None:
    assert tab.run("byId('numbers-table').querySelectorAll('tbody tr').length") == COMMITS + 1
    assert "bad.json is not a JSON file" in tab.run("document.body.textContent")
