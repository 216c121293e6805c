"""The evaluation of the recommender, on curves for which the right numbers are known."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from reports.__main__ import main
from reports.documents.evaluation_page import markdown
from reports.recommender import evaluate_command
from reports.recommender.candidate import Candidate
from reports.recommender.choose import Bounds, Recommendation, choose_within
from reports.recommender.evaluation import Intervals, Summary, evaluate, summary_of
from reports.recommender.evaluation_tables import goals, records, terminal_table
from reports.recommender.evidence import Evidence
from reports.recommender.folds import Fold, folds
from reports.recommender.observations import Method
from reports.recommender.verdicts import BUDGETS, Interval, Judged, Rule, Verdict
from reports.rows import Runs
from tests.evidence_frames import SCENE, exact, frame_of, row

LENGTHS = (512, 1024, 2048, 4096, 8192)
QUESTIONS = len(BUDGETS) + 2  # of a place


def curves(
    error: float = 0.25, lengths: Sequence[int] = LENGTHS, **changes: Any
) -> list[dict[str, Any]]:
    """Exact attention, and a window that takes a quarter of its time at 1024 tokens and grows in
    proportion to the length. Both lie on straight lines."""
    return [
        made
        for n in lengths
        for made in (exact(n, **changes), row("window", n, 0.00256 * n, error, **changes))
    ]


def runs_of(rows: Sequence[dict[str, Any]]) -> Runs:
    return Runs(frame_of(rows), {}, pd.DataFrame())


def found(rows: Sequence[dict[str, Any]], rule: Rule = choose_within) -> dict[str, Summary]:
    return {one.kind: one for one in evaluate(runs_of(rows), rule=rule)}


def folds_of(rows: Sequence[dict[str, Any]]) -> list[Fold]:
    runs = runs_of(rows)
    return list(folds(runs.frame, Evidence(runs)))


def fastest(candidates: Iterable[Candidate], limits: Bounds) -> Recommendation:
    """A wrong rule: no limit is kept."""
    ordered = sorted(candidates, key=lambda one: one.time_ms)
    return Recommendation(ordered[0] if ordered else None, ordered, ordered[:1])


def always_exact(candidates: Iterable[Candidate], limits: Bounds) -> Recommendation:
    known = [one for one in candidates if one.is_exact]
    return Recommendation(known[0] if known else None, known, known)


class TestFolds:
    ROWS = (
        *curves(layer=3),
        *curves(layer=15),
        *curves(layer=28, lengths=LENGTHS[:3]),
        *curves(heads=4, lengths=LENGTHS[:4]),
        *curves(inputs="sinks", layer=None),
        *curves(machine="gpu", hardware="gpu"),
    )

    def test_no_fold_has_a_row_of_its_places(self) -> None:
        for fold in folds_of(self.ROWS):
            left = Evidence(Runs(fold.kept, {}, pd.DataFrame()))
            for place in fold.places:
                known = left.candidates(place.scene, place.seq_len, place.layer)
                assert "measured" not in {one.evidence for one in known}, (fold.kind, place)

    def test_each_kind_leaves_out_its_parts_and_no_more(self) -> None:
        kinds: dict[str, list[str]] = {}
        rows = len(self.ROWS)
        for fold in folds_of(self.ROWS):
            kinds.setdefault(fold.kind, []).append(fold.left_out)
            gone = self.ROWS_BY_FOLD.get((fold.kind, fold.left_out))
            if gone is not None:
                assert rows - len(fold.kept) == gone, fold.left_out
        assert kinds == {
            "interior length": ["1024", "2048", "4096"],
            "longest length": ["that of each scene"],
            "heads": ["4", "8"],
            "inputs": ["sinks", "smollm2"],
            "layer": ["smollm2 layer 3", "smollm2 layer 15", "smollm2 layer 28"],
            "machine": ["cpu, Some CPU", "gpu"],
        }

    # Rows that a fold leaves out. A length has two rows.
    ROWS_BY_FOLD: ClassVar = {
        ("interior length", "4096"): 2 * 5,
        ("longest length", "that of each scene"): 2 * 6,
        ("heads", "4"): 2 * 4,
        ("heads", "8"): 2 * 13,
        ("inputs", "sinks"): 2 * 5,
        ("layer", "smollm2 layer 28"): 2 * 3,
        ("machine", "gpu"): 2 * 5,
    }

    def test_the_worst_layer_is_asked_for_where_all_layers_are_measured(self) -> None:
        asked = {
            (place.seq_len, place.layer)
            for fold in folds_of(self.ROWS)
            if fold.kind == "interior length"
            for place in fold.places
            if place.scene == SCENE
        }
        # Layer 28 ends at 2048, where it has no longer neighbour.
        single = {(n, layer) for n in (1024, 2048, 4096) for layer in (3, 15)}
        assert asked == {*single, (1024, 28), (1024, "worst")}

    def test_the_longest_length_of_a_shorter_layer_is_its_own(self) -> None:
        (fold,) = (one for one in folds_of(self.ROWS) if one.kind == "longest length")
        own = {(p.seq_len, p.layer) for p in fold.places if p.scene == SCENE}
        assert own == {(8192, 3), (8192, 15), (2048, 28)}

    def test_a_failed_longer_row_is_not_the_longest_length(self) -> None:
        rows = [*curves(), exact(16384, status="timeout")]
        (fold,) = (one for one in folds_of(rows) if one.kind == "longest length")
        assert set(fold.kept["seq_len"]) == set(LENGTHS[:-1])
        assert {place.seq_len for place in fold.places} == {8192}

    def test_one_layer_one_head_count_and_one_machine_are_not_left_out(self) -> None:
        kinds = {fold.kind for fold in folds_of(curves())}
        assert kinds == {"interior length", "longest length"}


class TestKnownNumbers:
    def test_straight_lines_are_answered_without_violation_or_regret(self) -> None:
        interior = found(curves())["interior length"]
        assert (interior.parts, interior.questions) == (3, 3 * QUESTIONS)
        assert interior.answered == 1
        assert (interior.violated, interior.exceeded) == (0, 0)
        assert interior.regret == (0, 0, 0)
        assert interior.gap_to_exact == pytest.approx(1)
        assert interior.times.contained == interior.errors.contained == 1
        assert (interior.times.number, interior.errors.number) == (6, 3)

    def test_a_rule_that_ignores_limits_violates_them(self) -> None:
        # The window's error 0.25 exceeds the budgets 0.02, 0.05, 0.1 and 0.2.
        interior = found(curves(), fastest)["interior length"]
        assert interior.violated == interior.exceeded == 4 / QUESTIONS
        # A violation costs the time of exact attention, too: at 4096 tokens, 1 + 1/16.
        assert interior.regret[2] == pytest.approx(1 / 4)
        assert interior.risks[-1].violated == 4 / QUESTIONS

    def test_an_error_within_its_interval_of_the_budget_is_exceeded_but_not_for_sure(self) -> None:
        # 0.21 with the interval 0.189 to 0.231, and the budget 0.2.
        interior = found(curves(0.21), fastest)["interior length"]
        assert interior.violated == 3 / QUESTIONS
        assert interior.exceeded == 4 / QUESTIONS

    def test_always_exact_has_the_regret_of_the_missed_time(self) -> None:
        # The window is allowed in four of eight questions. Exact attention takes 4, 8 and 16 times
        # as long at 1024, 2048 and 4096 tokens.
        interior = found(curves(), always_exact)["interior length"]
        assert interior.violated == 1 / QUESTIONS  # half of its own time
        assert interior.regret == pytest.approx((3, 15, 15))
        assert interior.gap_to_exact == pytest.approx(0)

    def test_the_single_best_method_pays_for_its_violations(self) -> None:
        interior = found(curves(), always_exact)["interior length"]
        # The window: log(1 + 1/4), log(1 + 1/8) and log(1 + 1/16) in four questions each, which is
        # less than log(4) and so on in the four others.
        assert interior.single == "window auto"
        window = 4 * sum(math.log(1 + 1 / k) for k in (4, 8, 16))
        own = 4 * sum(math.log(k) for k in (4, 8, 16))
        assert interior.gap_to_single == pytest.approx(1 - own / window)

    def test_a_method_that_fails_between_two_lengths_is_a_violation(self) -> None:
        rows = curves(0.05)
        (bad,) = (one for one in rows if one["variant"] == "window" and one["seq_len"] == 2048)
        bad |= {name: 8 * bad[name] for name in bad if name.startswith("approx_error")}
        interior = found(rows)["interior length"]
        # 0.4 instead of about 0.05, which the neighbours suggest: above 0.1, 0.2, 0.3 and the two
        # other budgets of 0.3, and below 0.5.
        answers = interior.answered * interior.questions
        assert interior.violated * answers == pytest.approx(5)
        assert interior.errors.contained < 1

    def test_beyond_the_longest_length_exact_attention_is_the_answer(self) -> None:
        longest = found(curves())["longest length"]
        assert (longest.questions, longest.answered) == (QUESTIONS, 0)
        assert math.isnan(longest.violated)
        assert longest.regret == pytest.approx((31, 31, 31))  # the window is 32 times as fast
        assert longest.risks == []

    def test_other_inputs_are_not_answered(self) -> None:
        inputs = found([*curves(), *curves(inputs="sinks", layer=None)])["inputs"]
        assert (inputs.parts, inputs.questions) == (2, 2 * 5 * QUESTIONS)
        assert inputs.answered == 0
        assert inputs.times.number == 0

    def test_a_layer_is_estimated_from_the_others(self) -> None:
        layers = [*curves(0.14, layer=3), *curves(0.15, layer=15), *curves(0.16, layer=28)]
        layer = found(layers)["layer"]
        assert layer.questions == 3 * 5 * QUESTIONS
        assert layer.violated == layer.exceeded == 0
        assert layer.errors.contained == 1
        # The intervals hold the layers, so the upper end is that of the worst of the others: up to
        # 0.176. The window is used with budgets of 0.2 and more where it is faster.
        assert layer.regret[0] == 0
        assert layer.answered > 0.9

    def test_layers_that_differ_much_are_not_trusted(self) -> None:
        # Of 0.05 and 0.15, each is outside the other by a factor of 2.7: 0.165 becomes 0.45.
        layers = [*curves(0.05, layer=3), *curves(0.15, layer=15), *curves(0.4, layer=28)]
        layer = found(layers)["layer"]
        assert layer.violated == 0
        assert found(layers, fastest)["layer"].violated > 0.4

    def test_a_place_without_exact_attention_has_no_verdict(self) -> None:
        rows = [one for one in curves() if (one["variant"], one["seq_len"]) != ("full", 2048)]
        interior = found(rows)["interior length"]
        assert interior.questions == 2 * QUESTIONS
        assert interior.unknown == len(BUDGETS)

    def test_a_tie_within_the_noise_has_no_regret(self) -> None:
        # Exact attention, 1 % slower than the window at each length; quartiles are at 2 %.
        rows = [
            made for n in LENGTHS for made in (exact(n, 1.01 * n), row("window", n, 1.0 * n, 0.001))
        ]
        assert found(rows, always_exact)["interior length"].regret == (0, 0, 0)
        assert found(rows, fastest)["interior length"].regret == (0, 0, 0)
        # 10 % are no tie.
        rows = [made for n in LENGTHS for made in (exact(n, 1.1 * n), row("window", n, n, 0.001))]
        regret = found(rows, always_exact)["interior length"].regret
        assert regret == pytest.approx((0.1, 0.1, 0.1))

    def test_a_limit_of_time_and_one_of_memory_are_kept_or_violated(self) -> None:
        # The window takes three times the memory of exact attention, and 0.6 of its time.
        rows = [
            made
            for n in LENGTHS
            for made in (
                exact(n),
                row("window", n, 0.6e-5 * n**2, 0.01, peak_memory_bytes=3000 * n),
            )
        ]
        wrong = found(rows, fastest)["interior length"]
        assert wrong.violated == 2 / QUESTIONS
        right = found(rows)["interior length"]
        assert right.violated == 0
        assert right.answered == 1 - 1 / QUESTIONS  # no method takes half of the time


def verdict(margin: float, *, violated: bool = False, answered: bool = True) -> Verdict:
    return Verdict(
        limits=Bounds(0.1),
        answered=answered,
        approximate=answered,
        violated=violated,
        exceeded=violated,
        margin=margin,
        best=1.0,
        best_value=1.0,
        taken=2.0,
        is_tied=False,
        exact=4.0,
        costs={Method("window", "", "auto"): 1.0},
    )


class TestSummary:
    def test_risks_follow_the_margin(self) -> None:
        verdicts = [verdict(k) for k in (9, 8, 7, 6)] + [verdict(1, violated=True)]
        verdicts += [verdict(0, answered=False) for _ in range(5)]
        summary = summary_of("heads", 1, [Judged(verdicts, [], [], 0)])
        assert summary.answered == 0.5
        assert summary.violated == 0.2
        # Of ten questions, five have answers; the least confident one is wrong.
        assert [(risk.coverage, risk.violated) for risk in summary.risks] == [
            (0.1, 0), (0.2, 0), (0.3, 0), (0.4, 0), (0.5, 0.2),
        ]  # fmt: skip
        assert (summary.approximations, summary.approximations_violated) == (5, 0.2)
        assert summary.gap_to_exact == pytest.approx(0.5)  # log(2) of log(4)
        assert math.isnan(summary.gap_to_single)  # the single best method is the best everywhere

    def test_intervals_have_their_share_and_median_width(self) -> None:
        intervals = [Interval(1, 2, 1.5), Interval(1, 3, 3), Interval(1, 4, 4.1), Interval(1, 2, 0)]
        summary = summary_of("heads", 1, [Judged([], intervals, [], 0)])
        assert summary.times == Intervals(4, 0.5, 2.5)
        assert summary.errors.number == 0

    def test_goals_are_met_or_missed(self) -> None:
        perfect = found(curves())
        states = [goal.is_met for goal in goals(list(perfect.values()))]
        # All numbers lie in their intervals, which are therefore too wide for the goal.
        assert states == [True, True, True, False, False]
        wrong = found(curves(), fastest)
        assert [goal.is_met for goal in goals(list(wrong.values()))][:3] == [False] * 3
        assert {goal.is_met for goal in goals([])} == {None}
        interior = perfect["interior length"]
        bad = replace(interior, kind="heads", violated=0.021)
        assert not goals([interior, bad])[0].is_met
        # Exact attention, which cannot exceed an error budget, must not hide wrong approximations.
        hidden = replace(interior, violated=0.01, approximations_violated=0.03)
        assert not goals([hidden])[0].is_met

    def test_tables_and_records_have_every_fold(self) -> None:
        summaries = list(found(TestFolds.ROWS).values())
        text = markdown(summaries)
        for one in summaries:
            assert f"| {one.kind} ({one.parts}) | {one.questions} |" in text
        assert "nan" not in text
        assert terminal_table(summaries).row_count == len(summaries) == 6
        read = json.loads(json.dumps(records(summaries), allow_nan=False))
        assert [fold["kind"] for fold in read["folds"]] == [one.kind for one in summaries]
        assert read["folds"][1]["violated"] is None  # nothing was answered


class TestCommand:
    RUN = Path(__file__).parents[1] / "results" / "reference" / "amd-epyc-2-threads"

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["recommend", str(self.RUN), *words])

    def test_the_reference_run_is_evaluated(self) -> None:
        shown = self.run("--evaluate")
        assert shown.exit_code == 0, shown.output
        assert "interior length (2)" in shown.output
        # The goals. A length between two others that are a factor of 16 apart is extrapolated.
        assert shown.output.count("met\n") == 4
        assert "errors in their intervals" in shown.output
        assert shown.output.count("not measured\n") == 1
        read = json.loads(self.run("--evaluate", "--json").output)
        kinds = [fold["kind"] for fold in read["folds"]]
        assert kinds == ["interior length", "longest length", "heads", "inputs", "layer"]
        # A length between two others that differ by a factor of 16 is not answered.
        assert read["folds"][0]["answered"] == 0

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--evaluate", "--seq-len", "8k", "--not-causal"), "got --seq-len, --causal, too"),
            (("--max-error", "0.1"), "Missing option '--seq-len'."),
            (("--seq-len", "8k"), "Missing option '--max-error'."),
        ],
    )
    def test_an_evaluation_asks_its_own_questions(self, words: Sequence[str], message: str) -> None:
        refused = self.run(*words)
        assert refused.exit_code == 2
        assert message in refused.output

    def test_rows_of_one_kind_cannot_be_evaluated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one = runs_of(curves(lengths=[1024]))
        monkeypatch.setattr(evaluate_command, "rows_of", lambda folders: (one, None))
        refused = self.run("--evaluate")
        assert refused.exit_code == 2
        assert "needs rows at two or more lengths" in refused.output
