"""The command `python -m reports recommend`. It imports pandas when it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bench.schema.entry_point import Summarized, console
from bench.schema.short_forms import whole_dtype, whole_number
from reports.recommender.quantities import bytes_of, milliseconds_of

if TYPE_CHECKING:
    from reports.recommender.layer_policy import Policy

PIPED_WIDTH = 160  # characters, if the output is no terminal
POLICIES = ("worst", "median")


class Parsed(click.ParamType[Any]):
    """A parameter that a function parses; the function returns None for an invalid text."""

    def __init__(self, name: str, parse: Callable[[str], Any], expected: str) -> None:
        self.name = name
        self.parse = parse
        self.expected = expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = self.parse(value) if isinstance(value, str) else value
        if found is None:
            self.fail(f"expected {self.expected}; got {value!r}", param, ctx)
        return found


def _count(text: str) -> int | None:
    return whole_number(text) or None


def _positive(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None


def _layer(text: str) -> str | int | None:
    name = text.strip().lower()
    return name if name in POLICIES else int(name) if name.isdecimal() else None


COUNT = Parsed("count", _count, "a whole number such as 8192 or 8k")
NUMBER = Parsed("number", _positive, "a number above 0, such as 0.1")
MEMORY = Parsed("bytes", bytes_of, "a size such as 8GiB or 500MB")
TIME = Parsed("time", milliseconds_of, "a time such as 5ms or 2s")
LAYER = Parsed("layer", _layer, "worst, median or the number of a layer")


@click.command(cls=Summarized)
@click.argument(
    "runs", metavar="RUN [RUN ...]", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--seq-len", type=COUNT, help="Tokens of a sequence, such as 8192 or 8k; required.")
@click.option(
    "--max-error",
    type=NUMBER,
    help="Largest relative L2 error of the output, such as 0.1; the upper end of its interval; "
    "required.",
)
@click.option("--heads", type=COUNT, help="Query heads.")
@click.option("--kv-heads", type=COUNT, help="Key/value heads; default: as many as query heads.")
@click.option("--head-dim", type=COUNT, help="Channels per head.")
@click.option("--batch", type=COUNT, help="Sequences in a batch.")
@click.option("--dtype", help="float32, bfloat16 or float16; also bf16, fp16, f32.")
@click.option("--causal/--not-causal", default=True, show_default=True)
@click.option("--inputs", help="Inputs of the rows, such as smollm2; default: captured inputs.")
@click.option(
    "--layer",
    type=LAYER,
    default="worst",
    show_default=True,
    help="For captured inputs: the worst or the median layer, or the number of one.",
)
@click.option(
    "--direction",
    type=click.Choice(("forward", "forward_backward", "decode")),
    default="forward",
    show_default=True,
)
@click.option("--max-memory", type=MEMORY, help="Largest memory of a call, such as 8GiB.")
@click.option("--max-time", type=TIME, help="Longest time of a call, such as 5ms.")
@click.option(
    "--max-perplexity-ratio",
    type=NUMBER,
    help="Largest ratio of a model's perplexity to that with exact attention, such as 1.1.",
)
@click.option("--machine", help="A machine of the runs, or a part of its name; default: each.")
@click.option(
    "--evaluate",
    is_flag=True,
    help="Judge the answers instead: leave out rows, and ask about them.",
)
@click.option("--json", "as_object", is_flag=True, help="Print JSON.")
def recommend(
    runs: tuple[Path, ...],
    seq_len: int | None,
    max_error: float | None,
    dtype: str | None,
    layer: Policy,
    max_memory: float | None,
    max_time: float | None,
    max_perplexity_ratio: float | None,
    evaluate: bool,
    as_object: bool,
    **scene: Any,
) -> None:
    """Say which attention to use, from the evidence of results folders.

    The answer names a method, its time, memory and error with their intervals, the rows that are
    its evidence, and the command that measures what is missing. Runs of `python -m bench model`
    among the folders add the perplexity of a model. Values that are not given are those of most
    rows.
    """
    if evaluate:
        _check_alone(click.get_current_context())
        from reports.recommender.evaluate_command import print_evaluation

        print_evaluation(runs, as_object=as_object)
        return
    if seq_len is None or max_error is None:
        missing = "--seq-len" if seq_len is None else "--max-error"
        raise click.UsageError(f"Missing option '{missing}'.")
    from reports.recommender.advice import advise
    from reports.recommender.advice_json import as_json
    from reports.recommender.advice_words import words
    from reports.recommender.choose import Bounds
    from reports.recommender.question import Asked, questions
    from reports.recommender.run_folders import evidence_of

    evidence = evidence_of(runs)
    asked = Asked(dtype=whole_dtype(dtype) if dtype else None, **scene)
    limits = Bounds(max_error, max_memory, max_time, max_perplexity_ratio)
    answers = [advise(evidence, one) for one in questions(evidence, asked, seq_len, layer, limits)]
    if as_object:
        click.echo(json.dumps([as_json(evidence, answer) for answer in answers], indent=2))
        return
    screen = console(highlight=False)
    if not screen.is_terminal:
        screen.width = PIPED_WIDTH
    for number, answer in enumerate(answers):
        if number:
            screen.print()
        for part in words(evidence, answer):
            # Commands are copied, so they are not broken into lines.
            screen.print(part, soft_wrap=not hasattr(part, "columns"))


def _check_alone(context: click.Context) -> None:
    """UsageError if a part of a question was given, as an evaluation has its own questions."""
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in ("runs", "evaluate", "as_object")
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"--evaluate has its own questions; got {', '.join(given)}, too")
