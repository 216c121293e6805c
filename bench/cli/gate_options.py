"""The options that say which cases a time gate measures, and how."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from bench.cli.options import DEVICES

ROUNDS = 10
BAND = 0.03
CASE_HELP = (
    "Only these cases: a name, a pattern such as 'lsh *' with all implementations, or words of a "
    "name, which select the shortest names that have them all. May be given several times."
)


@dataclass(frozen=True)
class GateSettings:
    """The values of the options."""

    sweep: str | None
    cases: tuple[str, ...]
    axes: tuple[str, ...]
    device: str
    threads: int
    rounds: int
    band: float
    timeout: float | None


class Percent(click.ParamType[float]):
    """A number such as 0.03, or 3 %."""

    name = "percent"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            number = -1.0
        if not 0 < number < 1:
            self.fail(f"expected a share above 0 and below 1, such as 3% or 0.03; got {text!r}")
        return number


def gate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the parameter `settings: GateSettings`, and its options."""

    @functools.wraps(command)
    def with_settings(**given: Any) -> Any:
        own = {name: given.pop(name) for name in GateSettings.__dataclass_fields__}
        return command(**given, settings=GateSettings(**own))

    for option in reversed(OPTIONS):
        with_settings = option(with_settings)
    return with_settings


OPTIONS = (
    click.option(
        "--sweep",
        help="A TOML file with cases, or the name of a sweep. Default: all variants and "
        "implementations at 512 tokens.",
    ),
    click.option(
        "--case",
        "cases",
        multiple=True,
        metavar="NAME",
        help=CASE_HELP,
    ),
    click.option(
        "--set",
        "axes",
        multiple=True,
        metavar="AXIS=V1,V2",
        help="Replace an axis of the cases, such as seq_len=1k; may be given several times.",
    ),
    click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Threads of each process. With one thread on a CPU, the CPU time is measured. Other "
        "processes disturb it less than wall time.",
    ),
    click.option(
        "--rounds",
        type=click.IntRange(min=3),
        default=ROUNDS,
        show_default=True,
        help="Rounds of a measurement, each with new processes. UNCLEAR cases are measured again "
        "with two and four times as many.",
    ),
    click.option(
        "--band",
        type=Percent(),
        default=str(BAND),
        help=f"Relative difference that counts as the same. Default: {BAND:.0%}.",
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=1),
        help="Seconds for the preparation of a case, and for a turn. Default: that of the sweep.",
    ),
)
