"""report.html in headless Chromium. One browser serves all tests; without Chromium they skip."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.schema.measurement import Measurement
from reports.figures.drawn_figures import Drawings
from reports.growth import Audit
from reports.html import page
from reports.metrics import show_bytes, show_count, show_error, show_ms, show_percent, show_ratio
from reports.model_page import read_models
from reports.page.answer_data import PageQuestion, default_question, questions
from reports.page.crossover_lengths import crossovers
from reports.recommender.choose import Bounds, choose, violations
from reports.recommender.evidence import Evidence
from reports.rows import Runs, read_runs
from reports.tables import reproduce_command
from tests.chromium import PROGRAM, Browser, browser
from tests.test_reports import ENVIRONMENT, REFERENCE, done, failed, write

pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium to open the page with"),
]
KNOWN = "amd-epyc-2-threads"
HOSTILE = (
    "<script>window.hurt=1</script>",
    "$x^$",
    "[bold]",
    "=1+1",
    '"><img src=x onerror=hurt=1>',
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.size(1440, 900)
        yield opened


@pytest.fixture(scope="module")
def known() -> Runs:
    return read_runs([REFERENCE / KNOWN])


@pytest.fixture(scope="module")
def asked(known: Runs) -> list[PageQuestion]:
    return questions(Evidence(known, read_models([REFERENCE / f"{KNOWN}-model"]).frame))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, known: Runs, asked: list[PageQuestion]) -> str:
    """The page of a published run, without figures, which take most of the time of a report."""
    return stored(tmp_path_factory.mktemp("page"), known, asked)


def stored(folder: Path, runs: Runs, asked: list[PageQuestion]) -> str:
    path = folder / "report.html"
    path.write_text(page(runs, Drawings(), Audit((), 0), asked), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def tab(chromium: Browser, url: str) -> Iterator[Browser]:
    """The page, opened; no test may leave an error in the console or ask for another file."""
    chromium.size(1440, 900)
    chromium.open(url)
    yield chromium
    quiet(chromium, url)


def quiet(tab: Browser, url: str) -> None:
    assert tab.messages == []
    asked = {it.partition("#")[0] for it in tab.requests if not it.startswith(("blob:", "data:"))}
    assert asked == {url}


def text(tab: Browser, selector: str) -> str:
    return str(tab.run(f"document.querySelector({json.dumps(selector)}).innerText"))


def put(tab: Browser, name: str, value: object, event: str) -> None:
    """Set a control and tell the page."""
    tab.run(
        f"(() => {{ const it = byId({name!r}); it.value = {json.dumps(value)}; "
        f"it.dispatchEvent(new Event({event!r})); }})()"
    )


def test_the_page_and_python_choose_alike(tab: Browser, asked: list[PageQuestion]) -> None:
    draw = random.Random(17)
    wanted: list[list[Any]] = []
    expected: list[Any] = []
    for _ in range(1000):
        number = draw.randrange(len(asked))
        candidates = asked[number].candidates
        some = draw.choice(candidates)
        error = draw.choice([10 ** draw.uniform(-3, 0.2), 1.01 * some.error_high])
        size = draw.choice([None, None, some.memory_bytes * draw.choice([0.99, 1.01])])
        time = draw.choice([None, None, some.time_high * draw.choice([0.99, 1.01])])
        ratio = draw.choice([None, None, None, draw.uniform(1, 3)])
        limits = [None if it is None or math.isnan(it) else it for it in (error, size, time, ratio)]
        if limits[0] is None:
            limits[0] = 0.5
        wanted.append([number, *limits])
        chosen = choose(candidates, *limits).chosen
        expected.append(
            None
            if chosen is None
            else [chosen.variant, chosen.hyperparameters, chosen.implementation]
        )
    found = tab.run(
        f"{json.dumps(wanted)}.map(([number, error, memory, time, perplexity]) => {{"
        "const it = choose(questions.candidates(number), {error, memory, time, perplexity}).chosen;"
        "return it && [it.variant, it.hyperparameters, it.implementation]; })"
    )
    assert found == expected
    assert len({str(it) for it in expected}) > 10  # not one method for all questions


def test_numbers_are_shown_as_in_python(tab: Browser) -> None:
    values = [0, 1, 999.6, 1024, 0.1, 1e-7, *(2 ** (k * 0.61 - 20) for k in range(100))]
    shown = {f.__name__: f for f in (show_ms, show_bytes, show_error, show_ratio, show_percent)}
    for name, show in shown.items():
        found = tab.run(f"{json.dumps(values)}.map(SHOWN.{name})")
        assert found == [show(value) for value in values], name
    counts = [1, 256, 1000, 1024, 1536, 16384, 2**20]
    assert tab.run(f"{counts}.map(showCount)") == [show_count(count) for count in counts]


def test_the_commands_of_all_rows_are_those_of_python(tab: Browser, known: Runs) -> None:
    found = tab.run(
        "Array.from({length: page.cases.count}, (_, row) => commandOf(page.cases.commands, row))"
    )
    assert found == [reproduce_command(row) for _, row in known.frame.iterrows()]


def test_the_answer_follows_the_controls_and_the_address(tab: Browser, url: str) -> None:
    first = text(tab, "#answer-body .use")
    assert first.startswith("USE ")
    put(tab, "max-error", 118, "input")
    other = text(tab, "#answer-body .use")
    assert other != first
    lengths = tab.run("[...byId('axis-length').options].map(it => it.value)")
    assert len(lengths) > 2
    put(tab, "axis-length", lengths[0], "change")
    assert f"length={lengths[0]}" in tab.run("location.hash")
    address, answer = tab.run("location.href"), text(tab, "#answer-body")
    tab.open(address)
    assert text(tab, "#answer-body") == answer
    assert tab.run("location.href") == address
    tab.requests[:] = [url]


def test_the_next_budget_has_the_answer_that_its_sentence_names(tab: Browser) -> None:
    found = tab.run(
        "questions.asked.flatMap(({number}) => [.001, .01, .05, .1, .2, .3].map(error => {"
        "const all = questions.candidates(number), limits = {...limitsOf(state), error}, "
        "{chosen} = choose(all, limits), next = nextBudget(all, limits, chosen); "
        "if (!next) return null; "
        "const shown = Number(budgetInWords(next.error)); "
        "const then = choose(all, {...limits, error: shown}).chosen; "
        "return [error, shown, next.other.label, then?.label, next.other.noiseHigh, "
        "chosen?.noiseLow ?? Infinity]; })).filter(Boolean)"
    )
    assert len(found) > 100
    for budget, next_budget, named, then, slowest, chosen_fastest in found:
        assert next_budget > budget
        assert named == then
        assert chosen_fastest is None or slowest < chosen_fastest  # JSON has no infinity
    tab.run("document.querySelector('#answer-body button.link').scrollIntoView()")
    sentence = tab.run("document.querySelector('#answer-body button.link').parentNode.innerText")
    tab.run("document.querySelector('#answer-body button.link').click()")
    label = text(tab, "#answer-body .use b").removeprefix("exact attention: ")
    assert f": {label}, " in sentence


def test_the_next_budget_has_a_method_that_is_faster_beyond_noise(tab: Browser) -> None:
    def method(label: str, low: float, high: float, error: float) -> dict[str, Any]:
        times = {"time": (low + high) / 2, "noiseLow": low, "noiseHigh": high}
        return {"label": label, "isExact": False, "excluded": "", "errorHigh": error, **times}

    accurate, fast = method("accurate", 9.8, 10.2, 0.1), method("fast", 8.9, 9.1, 0.5)
    similar = method("similar", 9.05, 9.9, 0.3)  # chosen at 0.5, where it is tied with `fast`

    def following(*others: dict[str, Any]) -> Any:
        return tab.run(
            f"(all => nextBudget(all, {{...limitsOf(state), error: .1}}, all[0]))"
            f"({json.dumps([accurate, *others])})"
        )

    assert following(fast) == {"error": 0.5, "other": fast}
    assert following(fast, similar) is None


@pytest.mark.parametrize("number", ["1e400", "1e300"])
def test_an_error_budget_that_is_no_limit_changes_nothing(
    tab: Browser, url: str, number: str
) -> None:
    tab.open(f"{url}#max-error={number}")
    assert text(tab, "#max-error-words") == "0.1"
    assert tab.run("page.frontier.drawn.length") > 0


def test_each_step_of_the_slider_is_another_budget(tab: Browser) -> None:
    budgets = tab.run("BUDGET_STEPS.map(budgetInWords)")
    found = [float(words) for words in budgets]
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (0.001, 1)
    assert int(tab.run("byId('max-error').max")) == len(found) - 1 > 100
    for step in (0, 1, 82, 83, 84, len(found) - 1):
        put(tab, "max-error", step, "input")
        assert text(tab, "#max-error-words") == budgets[step]
        assert int(tab.run("byId('max-error').value")) == step


def test_limits_are_written_as_the_command_writes_them(
    tab: Browser, asked: list[PageQuestion]
) -> None:
    number = default_question(asked)
    limits = [0.3, 0.05, 1e-3, 0.123456789, 1e-5, 1 / 3]
    found = tab.run(
        f"{limits}.map(error => questions.candidates({number})"
        ".map(it => whyNot(it, {error, memory: 1e6, time: 3, perplexity: 1})))"
    )
    for error, reasons in zip(limits, found, strict=True):
        for one, words in zip(asked[number].candidates, reasons, strict=True):
            expected = "; ".join(violations(one, Bounds(error, 1e6, 3, 1)))
            assert above(words) == above(expected)
    assert above(found[0][-1])[0] == "0.3"


def above(words: str) -> list[str]:
    """The limits in a sentence; the measured numbers of the page are rounded."""
    return re.findall(r", above ([^;]+)", words)


def test_a_point_shows_its_case_and_a_click_pins_it(tab: Browser) -> None:
    place = (
        "(() => { const view = Bokeh.index.get_by_id(page.frontier.model('chart').id); "
        "const {x, y} = page.frontier.points.data; "
        "const i = page.frontier.drawn.findIndex(it => !it.excluded); "
        "const box = view.el.getBoundingClientRect(), frame = view.frame; "
        "return [box.x + frame.x_scale.compute(x[i]), box.y + frame.y_scale.compute(y[i]), "
        "page.frontier.drawn[i].label]; })()"
    )
    tab.run("byId('frontier-chart').scrollIntoView({block: 'center'})")
    x, y, label = tab.run(place)
    tab.run(
        "window.deepText = node => node.nodeType === 3 ? node.data : [node.shadowRoot, "
        "...node.childNodes].filter(Boolean).map(window.deepText).join(' ')"
    )
    tab.run("window.named = name => deepText(document.body).split(name).length")
    before = tab.run(f"named({json.dumps(label)})")
    tab.mouse("mouseMoved", x - 30, y)
    tab.mouse("mouseMoved", x, y)
    tab.wait(f"named({json.dumps(label)}) > {before}", 5)
    tab.click(x, y)
    tab.wait("document.querySelector('#pinned .card')", 5)
    assert f"pin={label.split(' ')[0]}" in tab.run("decodeURIComponent(location.hash)")
    assert "error" in text(tab, "#pinned .card")
    tab.run("document.querySelector('#pinned button').click()")
    assert tab.run("byId('pinned').children.length") == 0


def test_one_method_can_be_isolated(tab: Browser) -> None:
    before = tab.run("page.frontier.drawn.length")
    tab.run("document.querySelector('#legend button:last-child').click()")
    drawn = "page.frontier.drawn.filter(it => !it.isExact)"
    names = tab.run(f"[...new Set({drawn}.map(it => it.variant))]")
    assert len(names) <= 1
    assert tab.run("page.frontier.drawn.length") < before
    tab.run("document.querySelector('#legend button:last-child').click()")
    assert tab.run("page.frontier.drawn.length") == before


def test_the_map_has_the_answer_of_each_cell(tab: Browser) -> None:
    cells = tab.run("document.querySelectorAll('#map-body button').length")
    assert cells > 10
    tab.run("document.querySelectorAll('#map-body button')[3].click()")
    here = text(tab, "#map-body [aria-current] ").split("\n")[0]
    assert here in text(tab, "#answer-body .use")


def test_the_answer_states_the_time_of_exact_attention_over_its_own(
    tab: Browser, asked: list[PageQuestion]
) -> None:
    candidates = asked[default_question(asked)].candidates
    budget = max(it.error_high for it in candidates if not it.is_exact and not it.excluded)
    chosen = choose(candidates, budget * 1.01).chosen
    assert chosen is not None
    assert chosen.exact_ms is not None
    assert chosen.exact_ms > 1.5 * chosen.time_ms
    tab.run(f"page.set({{error: {budget * 1.01}}})")
    speed = show_ratio(chosen.exact_ms / chosen.time_ms)
    assert f"speed against exact\n{speed}" in text(tab, "#answer-body .numbers")
    assert f"{speed} as fast as exact attention" in tab.run("byId('said').textContent")
    assert speed in text(tab, "tr.chosen")
    assert speed in text(tab, "#map-body [aria-current]")


def test_the_map_keeps_every_limit(tab: Browser, asked: list[PageQuestion]) -> None:
    columns = sorted(alike(asked), key=lambda it: it.seq_len)
    budgets = tab.run("[...new Set([...BUDGETS, state.error])].sort((a, b) => a - b)")
    cells = (
        "[...document.querySelectorAll('#map-body tbody tr')].map(row => "
        "[...row.querySelectorAll('td')].map(it => (it.querySelector('button') ?? it)"
        ".firstChild.data))"
    )

    def expected(**limits: float) -> list[list[str]]:
        found = [
            [choose(one.candidates, budget, **limits).chosen for one in columns]
            for budget in budgets
        ]
        return [[it.label if it else "none" for it in row] for row in found]

    free = expected()
    assert tab.run(cells) == free
    longest = [it for it in columns[-1].candidates if not it.excluded]
    limits = {
        "memory": ("max_memory", 1.01 * min(it.memory_bytes for it in longest)),
        "time": ("max_time", 1.01 * min(it.time_high for it in longest)),
        "perplexity": ("max_perplexity_ratio", 1.0),
    }
    for name, (parameter, limit) in limits.items():
        tab.run(f"page.set({{memory: null, time: null, perplexity: null, {name}: {limit}}})")
        held = expected(**{parameter: limit})
        assert tab.run(cells) == held, name
        assert held != free, name


def test_excluded_methods_are_grey_in_the_band_and_never_on_the_frontier(
    tab: Browser, asked: list[PageQuestion]
) -> None:
    candidates = asked[default_question(asked)].candidates
    excluded = {it.label for it in candidates if it.excluded}
    assert 0 < len(excluded) < len(candidates)
    points = tab.run(
        "page.frontier.drawn.map((it, i) => [it.label, page.frontier.points.data.color[i], "
        "page.frontier.points.data.y[i]])"
    )
    grey, band = tab.run("[page.grey(), page.frontier.model('useless').bottom]")
    assert {label for label, color, _ in points if color == grey} == excluded
    assert {label for label, _, height in points if height > band} == excluded
    times = tab.run("page.frontier.model('frontier').data.x")
    best = {
        it.label
        for it in candidates
        if any(math.isclose(it.time_ms, x, rel_tol=1e-4) for x in times)
    }
    assert best
    assert not best & excluded


def test_crossovers_of_useless_methods_are_folded(tab: Browser, asked: list[PageQuestion]) -> None:
    found = crossovers({it.seq_len: it.candidates for it in alike(asked)})
    useless = {it.label for it in found if it.is_useless}
    assert 0 < len(useless) < len(found)
    names = (
        "[...document.querySelectorAll('#crossover-body > %s tbody th')].map(it => it.textContent)"
    )
    folded = tab.run(names % "details")
    assert set(folded) == useless
    assert set(tab.run(names % "table")) == {it.label for it in found} - useless
    assert len(folded) == len(useless)


def test_the_worst_layer_is_named_and_the_address_chooses_a_layer(
    chromium: Browser, tmp_path: Path
) -> None:
    rows = [
        done(time, error, variant=name, inputs="smollm2", layer=layer, seq_len=n)
        for n in (256, 512)
        for layer, error_of_lsh in ((3, 0.2), (9, 0.4), (15, 0.1))
        for name, time, error in (("full", 2, 1e-7), ("lsh", 1, error_of_lsh))
    ]
    runs = read_runs([write(tmp_path / "run", rows)])
    url = stored(tmp_path, runs, questions(Evidence(runs)))
    chromium.open(f"{url}#length=256&layer=15&max-error=0.15")
    assert chromium.run("byId('axis-policy').value") == "15"
    assert "error, layer 15\n0.100 " in text(chromium, "#answer-body .numbers")
    assert text(chromium, "#answer-body .use b") == "lsh"
    assert "layer 9: 0.400" in text(chromium, "tr.chosen")
    put(chromium, "axis-policy", "worst", "change")
    assert "layer=worst" in chromium.run("location.hash")
    assert text(chromium, "#answer-body .use b") == "exact attention: full"
    lines = chromium.run(
        "[...document.querySelectorAll('.ranking tbody tr')].map(it => it.innerText)"
    )
    (line,) = [it for it in lines if it.startswith("lsh")]
    assert "layer 9: 0.400" in line
    quiet(chromium, url)


LINES = "page.lines.then(it => it.drawn.map(({it: own, x, y}) => [own.label, x, y, own.excluded]))"


def unfold(tab: Browser, name: str, filled: str) -> None:
    tab.run(f"location.hash = '#{name}'")
    tab.wait(f"byId('{name}').closest('details').open && {filled}", 5)


def alike(asked: list[PageQuestion]) -> list[PageQuestion]:
    """The questions that differ from the first one of the page in the length only."""
    first = asked[default_question(asked)]
    return [it for it in asked if (it.scene, it.policy) == (first.scene, first.policy)]


def test_the_chart_against_length_has_measured_points_and_states_the_result(
    tab: Browser, asked: list[PageQuestion]
) -> None:
    unfold(tab, "against", "byId('lines-said').innerText")
    measured = {
        (it.label, question.seq_len): it
        for question in alike(asked)
        for it in question.candidates
        if it.evidence == "measured"
    }
    points = tab.run(LINES)
    assert {length for _, length, _, _ in points} == {length for _, length in measured}
    assert {measured[label, n].variant for label, n, _, _ in points} == {
        it.variant for it in measured.values()
    }
    for label, length, time, excluded in points:
        one = measured[label, length]
        assert time == pytest.approx(one.time_ms, rel=1e-6)
        assert excluded == one.excluded
    longest = max(length for _, length in measured)
    useful = [
        it
        for (_, length), it in measured.items()
        if length == longest and not (it.is_exact or it.excluded)
    ]
    fastest = min(useful, key=lambda it: it.time_ms)
    assert fastest.label not in {it[0] for it in points}  # its method has a line of another setting
    said = text(tab, "#lines-said")
    assert said.startswith(
        f"At length {show_count(longest)}, the fastest approximation is {fastest.label} "
        f"with {show_ms(fastest.time_ms)}, which has no line here; "
    )
    assert said in tab.run("byId('lines-chart').getAttribute('aria-label')")
    colors = tab.run("page.lines.then(it => it.points.data.color)")
    grey = tab.run("page.grey()")
    assert [color == grey for color in colors] == [bool(it[3]) for it in points]
    assert 0 < colors.count(grey) < len(colors)


def test_the_chart_shows_memory_error_and_the_share_of_the_limit(
    tab: Browser, known: Runs, asked: list[PageQuestion]
) -> None:
    unfold(tab, "against", "byId('lines-said').innerText")
    columns = {"error": "approx_error_rel_l2", "share": "roofline_fraction"}
    columns["memory"] = "peak_memory_bytes"
    rows = {
        (it.label, question.seq_len): it.rows
        for question in alike(asked)
        for it in question.candidates
    }
    for measure, column in columns.items():
        put(tab, "lines-measure", measure, "change")
        tab.wait("byId('lines-chart').ariaLabel.startsWith(byId('lines-measure').value)", 5)
        points = tab.run(LINES)
        assert len(points) > 10
        for label, length, number, _ in points:
            (row,) = rows[label, length]
            assert number == pytest.approx(known.frame[column][row], rel=2**-16), measure
        assert f"measure={measure}" in tab.run("location.hash")


def test_the_chart_has_an_axis_of_heads_where_several_were_measured(
    chromium: Browser, tmp_path: Path
) -> None:
    rows = [
        done(heads * time, error, heads=heads, head_dim=64, variant=name)
        for heads in (2, 4, 8)
        for name, time, error in (("full", 2, 1e-7), ("lsh", 1, 0.2))
    ]
    rows += [done(5, 0.2, heads=1, head_dim=512, variant="lsh")]
    runs = read_runs([write(tmp_path / "run", rows)])
    url = stored(tmp_path, runs, questions(Evidence(runs)))
    chromium.open(f"{url}#heads=8+×+64&along=heads")
    chromium.run("byId('against').closest('details').open = true")
    chromium.wait("byId('lines-said').innerText", 5)
    along = "[...byId('lines-along').options].filter(it => !it.disabled).map(it => it.value)"
    assert chromium.run(along) == ["length", "heads", "width"]
    found = [(label, heads, time) for label, heads, time, _ in chromium.run(LINES)]
    assert sorted(found) == [
        *(("full", heads, 2 * heads) for heads in (2, 4, 8)),
        *(("lsh", heads, heads) for heads in (2, 4, 8)),
    ]
    put(chromium, "lines-along", "width", "change")
    chromium.wait("byId('lines-said').innerText.startsWith('At 8 heads')", 5)
    assert sorted({heads for _, heads, _, _ in chromium.run(LINES)}) == [1, 8]
    quiet(chromium, url)


def test_the_table_of_errors_has_the_baselines_of_the_rows(
    tab: Browser, known: Runs, asked: list[PageQuestion]
) -> None:
    unfold(tab, "accuracy", "document.querySelector('.accuracy')")
    candidates = asked[default_question(asked)].candidates
    found = tab.run(
        "[...document.querySelectorAll('.accuracy tbody tr:not(.apart)')]"
        ".map(it => [it.querySelector('th').childNodes[1].data, it.innerText])"
    )
    measured = [it for it in candidates if it.evidence == "measured"]
    lines = dict(found)
    assert len(found) == len(lines) == len(measured)
    errors = known.frame[["approx_error_rel_l2", "mean_value_error_rel_l2", "other_operator"]]
    for one in measured:
        (row,) = one.rows
        error, mean, is_other = errors.loc[row]
        assert show_error(one.error) in lines[one.label]
        assert show_error(mean) in lines[one.label].split()
        if not is_other and error > max(mean, 1):
            assert "no better than the mean of V" in lines[one.label]
    assert any("no better than" in line for line in lines.values())
    assert not all("no better than" in line for line in lines.values())


def test_a_link_opens_the_page_of_a_method_and_of_inputs(tab: Browser, url: str) -> None:
    tab.run("location.hash = '#method=longformer'")
    tab.wait("!byId('subject').hidden", 5)
    assert "Method longformer" in text(tab, "#subject")
    assert tab.run("document.querySelectorAll('#subject tbody tr').length") > 5
    tab.run("location.hash = '#family=smollm2'")
    tab.wait("byId('subject').innerText.includes('Inputs smollm2')", 5)
    tab.run("location.hash = '#machine'")
    tab.wait("byId('machine').closest('details').open", 5)


def test_the_pages_of_a_method_and_of_inputs_keep_machines_apart(
    chromium: Browser, tmp_path: Path
) -> None:
    runs = read_runs(
        [
            write(
                tmp_path / name,
                [done(2 * slower, 1e-7), done(slower, 0.1, variant="lsh")],
                {**ENVIRONMENT, "hardware": {"processor": name}},
            )
            for name, slower in (("Fast", 1), ("Slow", 10))
        ]
    )
    url = stored(tmp_path, runs, questions(Evidence(runs)))
    chromium.open(f"{url}#method=lsh&max-error=0.2")
    lines = "[...document.querySelectorAll('#subject tbody tr')].map(it => it.innerText)"
    found = chromium.run(lines)
    assert [it for it in found if "\t" not in it] == ["cpu, Fast", "cpu, Slow"] == found[::2]
    for line, time in zip(found[1::2], ("1.00 ms", "10.0 ms"), strict=True):
        assert line.startswith("lsh\t")
        assert time in line
        assert line.endswith("chosen")
    family = "Object.keys(page.facts.inputs)[0]"
    chromium.run(f"page.set({{method: '', family: {family}, time: 5}})")
    found = chromium.run(lines)
    assert found[::2] == ["cpu, Fast", "cpu, Slow"]
    assert "\tlsh\t" in found[1]
    assert "\tnone\t" in found[3]  # the time limit
    chromium.run("page.set({family: '', method: 'lsh'})")
    assert "time up to 11.0 ms, above 5.00 ms" in chromium.run(lines)[3]
    quiet(chromium, url)


def test_rows_are_filtered_sorted_and_explained_by_keyboard(tab: Browser, known: Runs) -> None:
    tab.run("location.hash = '#all'")
    tab.wait("byId('cases').clientHeight > 0", 5)
    put(tab, "words", "longformer OK", "input")
    rows = known.frame[(known.frame["variant"] == "longformer") & (known.frame["status"] == "ok")]
    assert text(tab, "#shown") == f"{len(rows)} of {len(known.frame)} rows"
    headings = "[...document.querySelectorAll('.cases thead button')]"
    tab.run(f"{headings}.find(it => it.innerText === 'time').focus()")
    tab.key("Enter", 13, "\r")
    assert tab.run("document.querySelector('[aria-sort=ascending]').innerText").startswith("time")
    times = rows["time_ms_median"].sort_values()
    assert show_ms(times.iloc[0]) in text(tab, ".cases tbody tr:nth-child(2)")
    visible = "[...document.querySelectorAll('.cases tbody tr:not([aria-hidden])')]"
    heights = tab.run(f"{visible}.map(it => it.clientHeight)")
    assert set(heights) == {tab.run("ROW_HEIGHT")}
    order = tab.run("[...page.cases.order]")
    assert known.frame["time_ms_median"][order].tolist() == pytest.approx(times.tolist(), rel=1e-4)
    tab.run("document.querySelector('.cases tbody button').focus()")
    tab.key("Enter", 13, "\r")
    assert "python -m bench run" in text(tab, "#detail")
    assert "words=longformer" in tab.run("location.hash")
    assert "sort=time" in tab.run("location.hash")


def test_names_of_results_are_text_everywhere(chromium: Browser, tmp_path: Path) -> None:
    rows: list[Measurement] = []
    for number, name in enumerate(HOSTILE):
        rows += [done(2 + number, 1e-7, seq_len=n, inputs=name) for n in (256, 512)] + [
            done(1 + number, 0.1, seq_len=n, inputs=name, variant=name, hyperparameters=f"k={name}")
            for n in (256, 512)
        ]
    rows.append(failed(reason=HOSTILE[0]))
    runs = read_runs([write(tmp_path / "run", rows)])
    url = stored(tmp_path, runs, questions(Evidence(runs)))
    chromium.size(1440, 900)
    chromium.open(url)
    shown = chromium.run("document.body.textContent")
    assert all(" ".join(name.split()) in " ".join(shown.split()) for name in HOSTILE)
    for name in HOSTILE:
        chromium.run(f"page.set({{method: {json.dumps(name)}}}); page.pin({json.dumps(name)})")
        assert name in chromium.run("byId('subject').textContent")
    chromium.run("document.querySelectorAll('details').forEach(it => { it.open = true; })")
    chromium.wait("byId('lines-said').innerText && document.querySelector('.accuracy')", 5)
    for place in ("lines-legend", "accuracy-body"):
        named = chromium.run(f"byId('{place}').textContent")
        assert any(name in named for name in HOSTILE)
    assert chromium.run("typeof window.hurt") == "undefined"
    assert chromium.run("page.cases.csv()").count("'=1+1") == 6
    assert chromium.run("document.querySelectorAll('img').length") == 0
    quiet(chromium, url)


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
@pytest.mark.parametrize("dark", [False, True])
def test_a_screen_shows_the_answer_without_scrolling_sideways(
    tab: Browser, width: int, height: int, dark: bool
) -> None:
    tab.size(width, height, dark=dark)
    tab.wait(f"innerWidth === {width}", 5)
    assert tab.run("document.documentElement.scrollWidth") <= width
    top = tab.run("document.querySelector('#answer-body .use').getBoundingClientRect().bottom")
    assert top < height


def test_a_print_is_at_most_six_sheets(tab: Browser) -> None:
    assert 1 <= tab.pdf().count(b"/Type /Page\n") <= 6


def test_a_print_on_a4_has_all_columns(chromium: Browser, tmp_path: Path) -> None:
    long = {"variant": "attention_sinks", "hyperparameters": "window_size=1024"}
    rows = [
        line
        for k in range(10)
        for line in (done(2, 1e-7, seq_len=256 << k), done(1, 0.2, seq_len=256 << k, **long))
    ]
    runs = read_runs([write(tmp_path / "run", rows)])
    url = stored(tmp_path, runs, questions(Evidence(runs)))
    width = 703  # pixels of 210 mm less two margins of 12 mm
    chromium.size(width, 1000)
    chromium.open(url)
    chromium.call("Emulation.setEmulatedMedia", media="print")
    chromium.wait("matchMedia('print').matches", 5)
    assert chromium.run("document.querySelectorAll('.map thead th').length") == 11
    right = "[...document.querySelectorAll('.map, .ranking')].map(it => %s)"
    assert max(chromium.run(right % "it.getBoundingClientRect().right")) <= width
    quiet(chromium, url)


def test_a_hundred_thousand_rows_are_sorted_and_filtered_within_a_second(
    chromium: Browser, tmp_path: Path, known: Runs
) -> None:
    many = pd.concat([known.frame] * math.ceil(100_000 / len(known.frame)), ignore_index=True)
    spread = pd.Series(range(len(many))) / len(many) + 0.5
    many["time_ms_median"] *= spread
    many["approx_error_rel_l2"] *= 1 / spread
    runs = Runs(many, known.environments, known.per_head)
    url = stored(tmp_path, runs, [])
    assert (tmp_path / "report.html").stat().st_size < 15e6
    chromium.open(url)
    chromium.run("byId('all').closest('details').open = true")
    timed = (
        "(() => { const start = performance.now(); %s; byId('cases').getBoundingClientRect(); "
        "return performance.now() - start; })()"
    )
    time = chromium.run(
        timed % "page.cases.sort(page.cases.columns.findIndex(it => it.title === 'time'))"
    )
    method = chromium.run(timed % "page.cases.sort(0)")
    chromium.run("byId('words').value = 'longformer 4096'")
    found = chromium.run(timed % "byId('words').dispatchEvent(new Event('input'))")
    assert max(time, method, found) < 1000
    assert chromium.run("document.querySelectorAll('.cases tr').length") < 100
    quiet(chromium, url)
