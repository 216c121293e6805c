"""Answers: statuses, alternatives, the ladder, caveats, and commands that measure the missing."""

from __future__ import annotations

import shlex
from dataclasses import replace
from io import StringIO

import pandas as pd
import pytest

import variants
from bench.cli.commands import main as bench
from bench.plan.sweep import Sweep
from bench.schema.entry_point import console
from reports.recommender.advice import Advice, advise
from reports.recommender.advice_json import as_json
from reports.recommender.advice_words import one_line, words
from reports.recommender.choose import Bounds
from reports.recommender.evidence import Evidence
from reports.recommender.layer_policy import Policy
from reports.recommender.measuring import commands
from reports.recommender.question import Question
from reports.rows import Runs
from tests.evidence_frames import SCENE, evidence, exact, frame_of, row

LONGFORMER = "num_global_tokens=64 window_size="
LENGTHS = (1024, 2048, 4096)


def rows(**changes: object) -> list[dict[str, object]]:
    """Exact attention, and three settings of longformer with errors of 0.2, 0.1 and 0.05."""
    return [
        one
        for n in LENGTHS
        for one in (
            exact(n, **changes),
            *(
                row(
                    "longformer",
                    n,
                    time * n / 1024,
                    error,
                    **{"hyperparameters": f"{LONGFORMER}{size}", **changes},
                )
                for size, time, error in ((128, 1, 0.2), (256, 2, 0.1), (512, 4, 0.05))
            ),
        )
    ]


def asked(
    found: Evidence,
    seq_len: int,
    max_error: float,
    *,
    layer: Policy = "worst",
    max_memory: float | None = None,
    max_time: float | None = None,
    **scene: object,
) -> Advice:
    limits = Bounds(max_error, max_memory, max_time)
    return advise(found, Question(replace(SCENE, **scene), seq_len, layer, limits))


def text(found: Evidence, advice: Advice) -> str:
    screen = console(file=StringIO(), width=160, highlight=False)
    for part in words(found, advice):
        screen.print(part, soft_wrap=not hasattr(part, "columns"))
    return screen.file.getvalue()


class TestStatus:
    def test_a_measured_method_within_the_limits_is_chosen(self) -> None:
        found = evidence(*rows())
        advice = asked(found, 4096, 0.12)
        assert advice.status == "chosen"
        assert advice.chosen.name == f"longformer {LONGFORMER}256"
        assert advice.chosen.evidence == "measured"
        assert text(found, advice).splitlines()[1].startswith("USE longformer num_global")

    def test_exact_attention_is_an_answer(self) -> None:
        found = evidence(*rows())
        advice = asked(found, 4096, 0.01)
        assert (advice.status, advice.chosen.name) == ("chosen", "full")
        assert "USE exact attention: full" in text(found, advice)
        assert "WHY no approximation" in text(found, advice)

    def test_beyond_the_longest_length_exact_attention_is_the_fall_back(self) -> None:
        found = evidence(*rows())
        advice = asked(found, 8192, 0.3)
        assert (advice.status, advice.chosen.name) == ("unsure", "full")
        assert advice.chosen.evidence == "extrapolated"
        assert (advice.compared_at, advice.nearby.time_ms) == (4096, exact(4096)["time_ms_median"])
        assert advice.chosen_nearby.name == f"longformer {LONGFORMER}128"
        said = text(found, advice)
        assert "UNSURE, the evidence is too thin: USE exact attention: full" in said
        assert f"the choice there: longformer {LONGFORMER}128, 4.00 ms, 41.9× exact" in said
        assert "EXTRAPOLATED" in said
        assert "nothing was measured above 4096 tokens, so no approximation is chosen" in said

    def test_the_fall_back_is_the_exact_implementation_that_is_fastest_where_measured(self) -> None:
        # The times of `plain` grow less, so its extrapolated time is smaller.
        plain = [exact(n, 30 + n / 50, implementation="plain") for n in LENGTHS]
        advice = asked(evidence(*rows(), *plain), 1 << 20, 0.12)
        assert advice.status == "unsure"
        assert advice.chosen is not None
        assert advice.exact is not None
        by_time = {"auto": 1e-5 * 4096**2, "plain": 30 + 4096 / 50}
        fastest = min(by_time, key=lambda name: by_time[name])
        assert advice.chosen.implementation == advice.exact.implementation == fastest == "plain"
        slow = [exact(n, 170 + n / 50, implementation="plain") for n in LENGTHS]
        advice = asked(evidence(*rows(), *slow), 1 << 20, 0.12)
        assert advice.chosen is not None
        assert advice.chosen.implementation == "auto"
        assert advice.tied == []

    def test_if_nothing_is_within_the_limits_the_answer_says_so(self) -> None:
        found = evidence(*rows())
        advice = asked(found, 4096, 0.3, max_time=1.0)
        assert (advice.status, advice.chosen, advice.exact.name) == ("none", None, "full")
        said = text(found, advice)
        assert "NO METHOD is within the limits" in said
        assert "time up to 171 ms, above 1.00 ms" in said

    def test_without_any_row_of_the_kind_the_answer_is_exact_attention(self) -> None:
        found = evidence(*rows())
        advice = asked(found, 4096, 0.3, dtype="bfloat16")
        assert (advice.status, advice.chosen, advice.compared_at) == ("unsure", None, None)
        said = text(found, advice)
        assert "UNSURE, the evidence is too thin: USE exact attention" in said
        assert "these runs have no rows of this kind" in said
        assert "--set settings=default" in said

    def test_an_unmeasured_head_count_outside_is_unsure(self) -> None:
        found = evidence(*rows())
        advice = asked(found, 4096, 0.3, heads=16, kv_heads=16)
        assert (advice.status, advice.chosen.name) == ("unsure", "full")
        said = text(found, advice)
        assert "measured numbers of heads: 8" in said
        assert "not measured with numbers of heads near 16" in said
        assert "longformer" in commands(found, advice)[0]

    def test_an_extrapolated_time_above_the_limit_is_said(self) -> None:
        found = evidence(*rows())
        advice = asked(found, 8192, 0.3, max_time=1.0)
        assert (advice.status, advice.chosen) == ("unsure", None)
        assert "which is not within the limits: full" in text(found, advice)


class TestReasons:
    def test_faster_methods_name_the_limit_that_they_violate(self) -> None:
        advice = asked(evidence(*rows()), 4096, 0.06)
        assert advice.chosen.name.endswith("512")
        assert [(it.candidate.name[-3:], it.reasons) for it in advice.alternatives] == [
            ("256", ["error up to 0.110, above 0.06"]),
            ("128", ["error up to 0.220, above 0.06"]),
        ]

    def test_approximations_within_the_limits_can_be_slower(self) -> None:
        slow = row("top_k", 4096, 500.0, 0.01)
        advice = asked(evidence(*rows(), slow), 4096, 0.02)
        assert advice.chosen.name == "full"
        assert (advice.alternatives[-1].candidate.name, advice.alternatives[-1].reasons) == (
            "top_k",
            ["slower"],
        )

    def test_without_near_misses_methods_that_are_never_chosen_say_why(self) -> None:
        other = row("linear", 4096, 0.5, 1.4, other_operator=True)
        advice = asked(evidence(exact(4096), other), 4096, 0.1)
        assert advice.alternatives[0].reasons[0] == "another operator"

    def test_the_ladder_names_the_budgets_at_which_a_faster_method_is_chosen(self) -> None:
        advice = asked(evidence(*rows()), 4096, 0.01)
        assert [(rung.max_error, rung.candidate.name[-3:]) for rung in advice.ladder] == [
            (0.06, "512"),
            (0.2, "256"),
            (0.3, "128"),
        ]
        for rung in advice.ladder:
            assert rung.candidate.error_high <= rung.max_error

    def test_a_rung_is_not_a_method_that_is_never_chosen_or_slower(self) -> None:
        useless = row("lsh", 4096, 0.1, 0.85, mean_value_error_rel_l2=0.9)
        slow = row("top_k", 4096, 500.0, 0.3)
        advice = asked(evidence(*rows(), useless, slow), 4096, 0.2)
        assert [rung.candidate.name[-3:] for rung in advice.ladder] == ["128"]


class TestWords:
    def test_the_worst_and_the_median_layer_are_both_said(self) -> None:
        layers = [
            row("longformer", 4096, 1, error, layer=layer)
            for layer, error in ((3, 0.05), (15, 0.1), (28, 0.07))
        ]
        found = evidence(exact(4096), *layers)
        said = text(found, asked(found, 4096, 0.2))
        assert "error 0.100 [0.0900, 0.110] in layer 15 (worst of layers 3, 15, 28)" in said
        assert "median 0.0700 [0.0630, 0.0770] in layer 28" in said
        said = text(found, asked(found, 4096, 0.2, layer="median"))
        assert "error 0.0700 [0.0630, 0.0770] in layer 28 (median of layers 3, 15, 28)" in said
        assert "worst 0.100 [0.0900, 0.110] in layer 15" in said
        said = text(found, asked(found, 4096, 0.2, layer=3))
        assert "error 0.0500 [0.0450, 0.0550] in layer 3\n" in said

    def test_a_layer_that_was_not_measured_at_this_length_is_said(self) -> None:
        found = evidence(*rows(), exact(1024, layer=3))
        said = text(found, asked(found, 4096, 0.2))
        assert "the error is that of layer 15 only; other rows have the layers 3" in said

    def test_times_exact_and_the_evidence_rows_are_said(self) -> None:
        found = evidence(*rows())
        said = text(found, asked(found, 4096, 0.12))
        assert "time 8.00 ms [7.84 ms, 8.16 ms]; 21.0× the fastest exact implementation" in said
        assert "4096 tokens  8 heads  layer 15  8.00 ms [7.84 ms, 8.16 ms]" in said

    def test_an_interpolated_answer_is_marked(self) -> None:
        found = evidence(*rows())
        said = text(found, asked(found, 2896, 0.12))
        assert "INTERPOLATED" in said
        assert "nothing was measured at 2896 tokens; measured lengths: 1024, 2048, 4096" in said

    def test_errors_of_gradients_are_said(self) -> None:
        changes = {"direction": "forward_backward", "grad_key_error_rel_l2": 0.4}
        found = evidence(*rows(**changes))
        said = text(found, asked(found, 4096, 0.12, direction="forward_backward"))
        assert "the largest error of a gradient is 0.400" in said

    def test_disturbed_rows_are_said(self) -> None:
        found = evidence(*rows(disturbed="another process"))
        assert "1 of 1 rows were disturbed" in text(found, asked(found, 4096, 0.12))

    def test_names_are_no_markup_and_no_control_characters(self) -> None:
        name = "[bold]x[/bold] :smile: $x^$ <script>\x1b[31m\nnext"
        found = evidence(row(name, 4096, 1, 0.1), exact(4096))
        said = text(found, asked(found, 4096, 0.2))
        assert "[bold]x[/bold] :smile: $x^$ <script>\\x1b[31m\\nnext" in said
        assert "\x1b" not in said
        assert "\x1b" not in one_line(asked(found, 4096, 0.2))

    def test_one_line(self) -> None:
        advice = asked(evidence(*rows()), 4096, 0.12)
        assert one_line(advice) == (
            "error ≤ 0.12 at 4096 tokens: longformer num_global_tokens=64 window_size=256, "
            "8.00 ms, 21.0× exact, error up to 0.110"
        )


class TestCommands:
    @pytest.mark.parametrize(
        ("seq_len", "change"),
        [
            (2896, {}),
            (4096, {"dtype": "bfloat16"}),
            (4096, {"direction": "forward_backward", "heads": 16, "kv_heads": 4}),
            (8192, {"inputs": "sinks effective_keys=32", "causal": False}),
            (2000, {"inputs": "smollm2 temperature=0.5"}),
        ],
    )
    def test_a_command_names_a_sweep_of_the_question(
        self, seq_len: int, change: dict[str, object]
    ) -> None:
        layer = 15 if change.get("inputs", "smollm2").startswith("smollm2") else None
        found = evidence(*rows(layer=layer, **({"dtype": "float32"} | change)))
        advice = asked(found, seq_len, 0.12, **change)
        assert advice.chosen is not None
        for line in commands(found, advice):
            cases = cases_of(line)
            assert "longformer" in {case.variant for case in cases}
            assert {case.seq_len for case in cases} == {seq_len}
            assert {case.layer for case in cases} == {layer}
            scene = replace(SCENE, **change)
            for name in ("inputs", "dtype", "direction", "causal", "heads", "kv_heads"):
                assert {getattr(case, name) for case in cases} == {getattr(scene, name)}

    def test_implementations_have_commands_of_their_own(self) -> None:
        found = evidence(*rows(), exact(4096, 100.0, implementation="coarse"))
        advice = asked(found, 8192, 0.12)
        lines = commands(found, advice)
        assert [{case.attention.implementation for case in cases_of(line)} for line in lines] == [
            {"coarse"},
            {case.implementation for case in variants.grid("full")},  # for the comparison
        ]

    def test_beyond_the_context_of_the_model_synthetic_inputs_are_measured(self) -> None:
        found = evidence(*rows())
        advice = asked(found, 1_000_000, 0.12)
        (line,) = commands(found, advice)
        assert "--set 'inputs=sinks effective_keys=32'" in line
        assert "layer=" not in line
        assert any(one.startswith("smollm2 reads at most 8192 tokens") for one in advice.caveats)

    def test_added_implementations_are_imported(self) -> None:
        found = evidence(*rows(modules="my.kernels"))
        assert "--import my.kernels" in commands(found, asked(found, 4096, 0.12))[0]


def cases_of(line: str) -> list:
    """The cases of a command, by the options and the sweep of `python -m bench run`."""
    start, words = shlex.split(line)[:4], shlex.split(line)[4:]
    assert start == ["python", "-m", "bench", "run"]
    command = bench.get_command(None, "run")
    options = command.make_context("run", words).params
    sweep, files = Sweep("axes", ({},)).overridden(options["settings"]).located()
    return sweep.cases("cpu", files)


class TestJson:
    def test_missing_numbers_are_null(self) -> None:
        found = evidence(*rows())
        answer = as_json(found, asked(found, 8192, 0.12))
        assert answer["status"] == "unsure"
        assert answer["chosen"]["evidence"] == "extrapolated"
        assert answer["chosen"]["exact_ms"] is None
        assert answer["scene"]["heads"] == 8
        assert [one["seq_len"] for one in answer["evidence"]] == [4096]

    def test_the_keys_are_those_of_the_documentation(self) -> None:
        found = evidence(*rows())
        answer = as_json(found, asked(found, 4096, 0.12))
        assert list(answer) == [
            "scene",
            "seq_len",
            "layer",
            "limits",
            "status",
            "chosen",
            "exact",
            "tied",
            "compared_at",
            "nearby",
            "chosen_nearby",
            "alternatives",
            "ladder",
            "evidence",
            "caveats",
            "commands",
        ]


class TestWhatWasNotMeasured:
    def test_a_length_between_multiples_of_64_can_take_longer(self) -> None:
        sentence = "all measured lengths are multiples of 64, and 1500 tokens can take longer"
        assert any(one.startswith(sentence) for one in asked(evidence(*rows()), 1500, 0.2).caveats)
        assert not any("64" in one for one in asked(evidence(*rows()), 1536, 0.2).caveats)
        both = evidence(*rows(), exact(1500))
        assert not any("64" in one for one in asked(both, 1600, 0.2).caveats)

    def test_another_layer_is_named_and_captured(self) -> None:
        found = evidence(*rows(layer=3), *rows(layer=15))
        advice = asked(found, 1024, 0.3, layer=20)
        assert advice.chosen is not None
        assert advice.chosen.layer == 20
        assert (
            "this method was not measured in layer 20; the numbers there are estimated from layer "
            "3, 15" in advice.caveats
        )
        capture, run = commands(found, advice)
        assert capture.startswith("python -m bench capture --model smollm2 ")
        assert "--layers 20 " in capture
        assert "--set layer=20 " in run

    def test_the_noise_of_the_run_is_said(self) -> None:
        found = evidence(*rows())
        assert not any("selfcheck" in one for one in asked(found, 1024, 0.2).caveats)
        checks = {"start": {"resolution": 0.1}, "end": {"resolution": 0.32}}
        environments = {SCENE.machine: {"selfchecks": {"host": checks}}}
        noisy = Evidence(Runs(frame_of(rows()), environments, pd.DataFrame()))
        sentence = "two measurements of the same code differed by up to 32% in this run"
        assert any(one.startswith(sentence) for one in asked(noisy, 1024, 0.2).caveats)
