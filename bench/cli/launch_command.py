"""The command `python -m bench launches`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import click
import torch
from rich.table import Table

import variants
from bench.cli.options import DtypeChoice, import_modules, numbers
from bench.launches import budget, profiled
from bench.launches.simulation import FORWARD, FORWARD_BACKWARD, CallWork, Shape, simulate
from bench.schema.entry_point import console
from variants import Attention, UnsupportedError
from variants.contract.registry import reference_attention

COLUMNS = (
    "variant",
    "seq_len",
    "direction",
    "causal",
    "launches",
    "waits",
    "bytes",
    "memory",
    "peak MiB",
    "ms",
    "exact ms",
    "times exact",
    "source",
    "over budget",
)
# The columns on a narrow terminal.
NARROW = ("variant", "seq_len", "direction", "launches", "bytes", "times exact", "over budget")
WIDE = 150


@dataclass(frozen=True)
class CallRow:
    """One call of the table. `work` is None if the call failed, with the reason in `failed`."""

    attention: Attention
    shape: Shape
    direction: str
    work: CallWork | None
    exact: CallWork | None
    over: tuple[str, ...] = ()
    failed: str = ""

    def cells(self) -> dict[str, Any]:
        """The columns of the table."""
        cells: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        cells |= {
            "variant": self.attention.text if self.failed else _label(self.attention),
            "seq_len": self.shape.seq_len,
            "direction": self.direction,
            "causal": self.shape.causal,
            "over budget": self.failed or ", ".join(self.over),
        }
        if self.work is None:
            return cells
        work, exact = self.work, self.exact
        cells |= {
            "launches": f"> {work.launches}" if work.cut else work.launches,
            "waits": work.waits.total(),
            "source": work.source,
        }
        if work.cut:
            return cells
        cells |= {
            "bytes": round(work.bytes_ratio, 2),
            "memory": round(work.memory_ratio, 2),
            "peak MiB": round(work.peak_bytes / 2**20, 1),
            "ms": round(1e3 * work.seconds, 3),
        }
        if exact is not None:
            cells["exact ms"] = round(1e3 * exact.seconds, 3)
            cells["times exact"] = round(work.seconds / exact.seconds, 2)
        return cells


@click.command()
@click.option(
    "--variant",
    "texts",
    multiple=True,
    metavar="TEXT",
    help="A variant as in a sweep, such as 'lsh num_hashes=2'; may be given several times. "
    "Default: all variants with their default settings.",
)
@click.option("--seq-len", "lengths", default="16384,131072", show_default=True)
@click.option(
    "--direction",
    type=click.Choice([FORWARD, FORWARD_BACKWARD, "both"]),
    default="both",
    show_default=True,
)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--heads", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--kv-heads", type=click.IntRange(min=1), help="Default: as many as --heads.")
@click.option("--head-dim", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--dtype", type=DtypeChoice(), default="bfloat16", show_default=True)
@click.option(
    "--causal/--not-causal",
    default=True,
    help="Default: causal, for variants that can be causal.",
)
@click.option("--simulate/--measure", "simulated", default=None, help="Default: measure on a GPU.")
@click.option(
    "--most-launches",
    type=click.IntRange(min=1),
    default=20000,
    show_default=True,
    help="Stop the simulation of a call after this number of kernels.",
)
@click.option("--places", is_flag=True, help="Also list the kernels, and the places of waits.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--import", "modules", multiple=True, metavar="MODULE")
def launches(
    texts: tuple[str, ...],
    lengths: str,
    direction: str,
    batch: int,
    heads: int,
    kv_heads: int | None,
    head_dim: int,
    dtype: str,
    causal: bool,
    simulated: bool | None,
    most_launches: int,
    places: bool,
    as_json: bool,
    modules: tuple[str, ...],
) -> None:
    """Count the kernels of calls on a GPU, their waits for the device, and the bytes they move.

    Without a GPU the calls are simulated. `bytes` is the memory traffic divided by the bytes of
    query, key, value and output (and their gradients), `memory` the peak divided by the same.
    `ms` is an estimate if the row is simulated. The last line names the calls over budget.
    """
    import_modules(modules)
    try:
        asked = [variants.parse(text) for text in texts or sorted(variants.REGISTRY)]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    simulated = not torch.cuda.is_available() if simulated is None else simulated
    if not simulated and not torch.cuda.is_available():
        raise click.UsageError("--measure: torch finds no CUDA device here")
    seq_lens = numbers("--seq-len", lengths) or []
    if min(seq_lens) < 1:
        raise click.UsageError(f"--seq-len takes numbers of at least 1; got {lengths!r}")
    directions = [FORWARD, FORWARD_BACKWARD] if direction == "both" else [direction]
    rows: list[CallRow] = []
    for attention in asked:
        for way in directions:
            for seq_len in seq_lens:
                shape = Shape(
                    seq_len=seq_len,
                    batch=batch,
                    heads=heads,
                    kv_heads=kv_heads,
                    head_dim=head_dim,
                    dtype=dtype,
                    causal=_possible(attention, causal),
                )
                rows.append(_row(attention, shape, way, simulated, most_launches, rows))
    screen = console()
    if as_json:
        click.echo(json.dumps([_record(row) for row in rows], indent=1))
        return
    table = Table()
    shown = COLUMNS if screen.width >= WIDE else NARROW
    for column in shown:
        table.add_column(
            column, justify="left" if column in COLUMNS[:3] else "right", overflow="fold"
        )
    for row in rows:
        table.add_row(*(str(row.cells()[column]) for column in shown))
    screen.print(table)
    if places:
        for row in rows:
            for line in _places(row):
                screen.print(line, highlight=False)
    click.echo(_last_line(rows))


def _row(
    attention: Attention,
    shape: Shape,
    direction: str,
    simulated: bool,
    most_launches: int,
    before: list[CallRow],
) -> CallRow:
    if direction == FORWARD_BACKWARD and "backward" not in attention.supports:
        return CallRow(attention, shape, direction, None, None, failed="no backward pass")
    try:
        if simulated:
            work = simulate(attention, shape, direction, most_launches=most_launches)
            exact = simulate(reference_attention(), shape, direction)
        else:
            work = profiled.measure(attention, shape, direction)
            exact = profiled.measure(reference_attention(), shape, direction)
    except UnsupportedError as error:
        return CallRow(attention, shape, direction, None, None, failed=str(error))
    except Exception as error:  # a kernel that needs data which a simulation does not have
        failed = f"failed, {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return CallRow(attention, shape, direction, None, None, ("failed",), failed)
    over = budget.exceeded(work, direction)
    for row in before:
        like = row.attention == attention and row.direction == direction
        if like and row.work and row.shape.seq_len < shape.seq_len:
            over |= budget.grown(row.work, work)
    return CallRow(attention, shape, direction, work, exact, tuple(sorted(over)))


def _possible(attention: Attention, causal: bool) -> bool:
    choices = attention.info.causal_choices
    return causal if causal in choices else not causal


def _label(attention: Attention) -> str:
    """The name, with the settings that are not the default."""
    name = attention.info.name
    return name if attention == variants.create(name) else attention.text


def _places(row: CallRow) -> list[str]:
    if row.work is None:
        return []
    lines = [f"{_label(row.attention)}, {row.shape.seq_len} tokens, {row.direction}:"]
    lines += [f"  wait {count} x {where}" for where, count in row.work.waits.most_common()]
    lines += [f"  two devices {count} x {where}" for where, count in row.work.mixed.most_common()]
    lines += [f"  {count} x {name[:90]}" for name, count in row.work.kernels.most_common(12)]
    return lines


def _record(row: CallRow) -> dict[str, Any]:
    record = row.cells() | {"over budget": list(row.over), "failed": row.failed}
    if row.work is not None:
        record |= {
            "waits in": dict(row.work.waits),
            "on two devices": dict(row.work.mixed),
            "kernels": dict(row.work.kernels.most_common()),
            "moved_bytes": row.work.moved_bytes,
            "peak_bytes": row.work.peak_bytes,
            "input_bytes": row.work.input_bytes,
            "kept_bytes": row.work.kept_bytes,
        }
    return record


def _last_line(rows: list[CallRow]) -> str:
    over: dict[str, set[str]] = {}
    for row in rows:
        if row.over:
            over.setdefault(_label(row.attention), set()).update(row.over)
    if not over:
        return f"0 of {len({_label(row.attention) for row in rows})} variants are over budget"
    named = "; ".join(f"{name} ({', '.join(sorted(found))})" for name, found in over.items())
    count = len({_label(row.attention) for row in rows})
    return f"{len(over)} of {count} variants are over budget: {named}"
