"""`python -m reports recommend` on the reference runs, its options, and how fast it starts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reports.__main__ import main

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference"
RUN = REFERENCE / "amd-epyc-2-threads"
PEERS = [REFERENCE / f"amd-epyc-2-threads-peers{end}" for end in ("", "-kept")]
MODELS = [REFERENCE / f"amd-epyc-2-threads-model{end}" for end in ("", "-8192")]
EXAMPLE = ("--seq-len", "8k", "--heads", "8", "--dtype", "bf16", "--causal", "--inputs", "smollm2")


def recommend(runs: Sequence[Path], *options: str) -> Result:
    return CliRunner().invoke(main, ["recommend", *map(str, runs), *options])


def answers(runs: Sequence[Path], *options: str) -> list[dict]:
    result = recommend(runs, *options, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


class TestWorkedExample:
    """The reference runs end at 4096 tokens; at 8192, exact attention is extrapolated."""

    def test_exact_attention_is_extrapolated_from_4096_tokens(self) -> None:
        [answer] = answers([RUN, *PEERS, *MODELS], *EXAMPLE, "--max-error", "0.1")
        assert answer["status"] == "unsure"
        assert answer["chosen"]["name"] == "full implementation=coarse"
        assert answer["chosen"]["evidence"] == "extrapolated"
        assert 150 < answer["chosen"]["time_low"] < 212 < answer["chosen"]["time_high"] < 290
        nearby = answer["nearby"]
        assert answer["compared_at"] == 4096
        assert (nearby["time_ms"], nearby["time_low"], nearby["time_high"]) == pytest.approx(
            (50.1, 49.7, 50.7), abs=0.05
        )
        assert nearby["times_exact"] == pytest.approx(1.19, abs=0.005)
        assert nearby["sdpa_ms"] / nearby["time_ms"] == pytest.approx(2.2, abs=0.06)
        assert (nearby["error"], nearby["error_high"]) == pytest.approx((0.0048, 0.0052), abs=5e-5)

    def test_the_ladder_has_longformer_at_04(self) -> None:
        [answer] = answers([RUN], *EXAMPLE, "--max-error", "0.1")
        first = answer["ladder"][0]
        assert first["max_error"] == 0.4
        assert first["candidate"]["name"] == (
            "longformer num_global_tokens=64 window_size=256 implementation=coarse"
        )
        assert first["candidate"]["error_high"] == pytest.approx(0.390, abs=5e-4)

    def test_caveats_and_commands_name_what_is_missing(self) -> None:
        said = recommend([RUN, *MODELS], *EXAMPLE, "--max-error", "0.1").output
        assert "nothing was measured above 4096 tokens, so no approximation is chosen" in said
        assert "layer 15 only" in said
        assert "python -m bench run --device cpu --set seq_len=8192" in said

    def test_at_4096_tokens_the_answer_is_measured(self) -> None:
        options = ("--seq-len", "4096", *EXAMPLE[2:], "--max-error", "0.4")
        [answer] = answers([RUN], *options)
        assert answer["status"] == "chosen"
        assert answer["chosen"]["evidence"] == "measured"
        assert answer["chosen"]["variant"] == "longformer"

    def test_the_perplexity_of_model_runs_is_in_the_answer_and_a_limit(self) -> None:
        options = ("--seq-len", "4096", "--heads", "8", "--dtype", "f32", "--max-error", "0.4")
        [free] = answers([RUN, *MODELS], *options, "--inputs", "smollm2")
        [held] = answers([RUN, *MODELS], *options, "--max-perplexity-ratio", "1.0001")
        assert not free["chosen"]["is_exact"]
        assert free["chosen"]["perplexity_ratio"] is None or (
            free["chosen"]["perplexity_ratio"][2] > 1.0001
        )
        assert held["chosen"]["is_exact"]


class TestOptions:
    def test_a_value_that_no_row_has_ends_with_status_2(self) -> None:
        result = recommend([RUN], "--seq-len", "4096", "--max-error", "0.1", "--dtype", "fp16")
        assert result.exit_code == 2
        assert "--dtype: no row of these runs has 'float16'" in result.output
        assert "valid: bfloat16; float32" in result.output

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--seq-len", "many"), "expected a whole number such as 8192 or 8k; got 'many'"),
            (("--seq-len", "0"), "expected a whole number"),
            (("--max-error", "-1"), "expected a number above 0"),
            (("--max-memory", "8"), ""),
            (("--max-memory", "8 apples"), "expected a size such as 8GiB or 500MB"),
            (("--max-time", "5"), "expected a time such as 5ms or 2s"),
            (("--layer", "best"), "expected worst, median or the number of a layer"),
        ],
    )
    def test_texts_that_cannot_be_read(self, options: tuple[str, ...], message: str) -> None:
        start = {"--seq-len": "4096", "--max-error": "0.1"} | {options[0]: options[1]}
        words = [word for pair in start.items() for word in pair]
        result = recommend([RUN], *words)
        assert result.exit_code == (2 if message else 0)
        assert message in result.output

    def test_runs_of_a_model_alone_are_refused(self) -> None:
        result = recommend(MODELS, "--seq-len", "4096", "--max-error", "0.1")
        assert result.exit_code == 2
        assert "expected at least one results folder with results.csv" in result.output

    def test_each_machine_answers(self) -> None:
        found = answers([RUN, *PEERS], "--seq-len", "4096", "--max-error", "0.4", "--not-causal")
        machines = [answer["scene"]["machine"] for answer in found]
        assert len(machines) == len(set(machines)) > 1

    def test_piped_output_has_no_colours(self) -> None:
        said = recommend([RUN], "--seq-len", "4096", "--max-error", "0.4").output
        assert "\x1b" not in said


def test_a_question_imports_no_torch_and_no_matplotlib() -> None:
    words = ["recommend", str(RUN), "--seq-len", "4096", "--max-error", "0.4"]
    code = (
        "import sys\n"
        "from reports.recommender.recommend_command import recommend\n"
        "assert 'pandas' not in sys.modules, 'pandas before the command runs'\n"
        f"recommend.main({words[1:]!r}, standalone_mode=False)\n"
        "assert 'pandas' in sys.modules\n"
        "found = {'torch', 'matplotlib', 'scipy', 'textalloc'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
