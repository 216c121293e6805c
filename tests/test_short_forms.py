"""Short forms of dtypes and numbers, and times in words."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from bench.cli.options import DtypeChoice, NumberRange
from bench.loop.progress import in_words
from bench.plan.sweep import Sweep, SweepError, parse
from bench.schema.short_forms import whole_dtype, whole_number


@pytest.mark.parametrize(
    ("text", "number"),
    [("8k", 8192), ("1M", 2**20), ("1K", 1024), (" 12 ", 12), ("0", 0)],
)
def test_numbers_may_end_in_k_or_m(text: str, number: int) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("text", ["", "k", "8kb", "-8k", "1.5k", "1e3", "8g", "1" * 20])
def test_other_texts_are_no_number(text: str) -> None:
    assert whole_number(text) is None


def test_dtypes_have_short_forms() -> None:
    assert [whole_dtype(text) for text in ("bf16", "FP16", "fp32", "float64", "int8")] == [
        "bfloat16",
        "float16",
        "float32",
        "float64",
        "int8",
    ]


def test_axes_take_short_forms() -> None:
    axes = ["seq_len=1k,1M", "dtype=bf16,fp32", "heads=8", "longest=full=16k"]
    (group,) = Sweep("axes", ({},)).overridden(axes).groups
    assert group == {
        "seq_len": (1024, 2**20),
        "dtype": ("bfloat16", "float32"),
        "heads": (8,),
        "longest": ("full=16k",),
    }
    assert {c.seq_len for c in Sweep("axes", (group,)).cases("cpu", {}) if c.variant == "full"} == {
        1024
    }
    assert parse("mine", {"seq_len": 16, "dtype": ["fp16"]}).groups[0]["dtype"] == ("float16",)
    with pytest.raises(SweepError, match="seq_len must be a whole number of at least 1; got '8kb'"):
        Sweep("axes", ({},)).overridden(["seq_len=8kb"])


def test_options_take_short_forms() -> None:
    @click.command()
    @click.option("--dtype", type=DtypeChoice())
    @click.option("--seq-len", type=NumberRange(min=1, max=8192))
    def shown(dtype: str, seq_len: int) -> None:
        click.echo(f"{dtype} {seq_len}")

    def said(*words: str) -> str:
        return CliRunner().invoke(shown, words).output

    assert said("--dtype", "bf16", "--seq-len", "8k") == "bfloat16 8192\n"
    assert "16384 is not in the range" in said("--seq-len", "16k")
    assert "'int8' is not one of 'float32'" in said("--dtype", "int8")
    assert "'8kb' is not a valid integer range" in said("--seq-len", "8kb")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.534, "0.53 s"),
        (9.96, "10 s"),
        (99.4, "99 s"),
        (99.6, "2 min"),
        (3569, "59 min"),
        (3599, "1 h"),
        (15402, "4 h 17 min"),
        (360_000, "100 h"),
    ],
)
def test_times_are_written_in_hours_and_minutes(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
