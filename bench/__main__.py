"""The command line of the benchmark: `python -m bench COMMAND`.

Start with `python -m bench run`; it measures the default sweep of this machine.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

import variants
from bench.cli import compare as comparison
from bench.cli import variant_tables
from bench.cli.gpu_check_command import gpu_check
from bench.cli.launch_command import launches
from bench.cli.model_command import model
from bench.cli.options import DEVICES, chosen_device, import_modules, numbers
from bench.inputs import CaptureError
from bench.inputs.capture import capture as make_capture
from bench.launches import sweep_time
from bench.loop import journal, runner
from bench.plan.sweep import SECONDS, Sweep, SweepError, read
from bench.plan.sweep import parse as parse_sweep
from bench.schema.measurement import Measurement, Status
from bench.workloads.model.text import ModelError
from bench.workloads.training import training_runs as trainings
from bench.workloads.training import training_summary
from bench.workloads.training.settings import attention_at
from bench.workloads.training.tasks import TASKS

ERRORS = (
    SweepError,
    CaptureError,
    runner.RunError,
    journal.JournalError,
    comparison.CompareError,
    trainings.TrainingError,
    ModelError,
)


@click.group(help=__doc__)
def main() -> None:
    pass


main.add_command(model)
main.add_command(gpu_check)
main.add_command(launches)


def _import_option(command: click.decorators.FC) -> click.decorators.FC:
    return click.option(
        "--import",
        "modules",
        multiple=True,
        metavar="MODULE",
        help="Import a module that adds implementations; may be given several times.",
    )(command)


def _sweep_options(command: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="AXIS=V1,V2",
            help="Replace an axis in every group of the sweep; may be given several times.",
        ),
        click.option(
            "--device",
            type=click.Choice(DEVICES),
            default="auto",
            help="auto: CUDA if available.",
        ),
        _import_option,
        click.argument("sweep", required=False),
    ):
        command = option(command)
    return command


@main.command()
@_sweep_options
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--resume", type=click.Path(path_type=Path), help="Continue the run in this folder.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.01),
    default=0.2,
    show_default=True,
    help="Sampling time of a case.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    help="Seconds after which a case is stopped. Default: that of the sweep, 180 in most sweeps.",
)
def run(
    sweep: str | None,
    settings: tuple[str, ...],
    device: str,
    modules: tuple[str, ...],
    out: Path | None,
    resume: Path | None,
    seconds: float,
    timeout: float | None,
) -> None:
    """Measure a sweep: a .toml file, or the name of a built-in one (cpu, field, gpu,
    gpu_check, layer, long, smoke, peers).

    Without SWEEP, the default sweep of the device (cpu or gpu) is measured. If SWEEP is left out
    and --set contains seq_len, the sweep has only the axes of --set and default values for others.
    """
    if resume is not None and out is not None:
        raise click.UsageError("give --out for a new run or --resume for an old one, not both")
    if resume is not None:
        record = journal.read(resume)
        recorded = tuple(record.header["environment"]["sweep"].get("modules", ()))
        if set(modules) - set(recorded):
            raise click.UsageError(
                f"{resume} was started with --import of {', '.join(recorded) or 'nothing'}; a "
                "resumed run imports the same modules"
            )
        modules = recorded
        import_modules(modules)
        chosen, files = _recorded(record)
        device = chosen_device(device) if device != "auto" else record.header["device"]
        if device != record.header["device"]:
            raise click.UsageError(
                f"{resume} was measured on {record.header['device']}, not on {device}"
            )
        if sweep is not None or settings:
            wanted, wanted_files = _resolve(sweep, settings, device)
            if wanted.cases(device, wanted_files) != chosen.cases(device, files):
                raise click.UsageError(
                    f"{resume} was started with another sweep ({chosen.name}); resume it without "
                    "SWEEP and --set, or start a new run with --out"
                )
        folder = resume
    else:
        import_modules(modules)
        device = chosen_device(device)
        chosen, files = _resolve(sweep, settings, device)
        folder = out or Path("results") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{device}"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # handled like Ctrl-C
    try:
        runner.run(
            chosen,
            folder,
            device=device,
            files=files,
            seconds=seconds,
            timeout=chosen.timeout if timeout is None else timeout,
            modules=modules,
            resume=resume is not None,
        )
    except KeyboardInterrupt:
        hint = f"continue with: python -m bench run --resume {folder}"
        click.echo(f"stopped; {hint if journal.begun(folder) else 'nothing measured'}", err=True)
        sys.exit(130)
    click.echo(folder)


@main.command()
@_sweep_options
def plan(
    sweep: str | None, settings: tuple[str, ...], device: str, modules: tuple[str, ...]
) -> None:
    """Count the cases of a sweep for each variant and length, without measuring them.

    For a GPU, also say how long the sweep takes there; this needs no GPU. The sweep `gpu` is
    planned for a GPU unless --device says otherwise.
    """
    import_modules(modules)
    if device == "auto" and sweep == "gpu":
        device = "cuda"
    device = device if device == "cuda" else chosen_device(device)
    chosen, files = _resolve(sweep, settings, device)
    cases = chosen.cases(device, files)
    lengths = sorted({case.seq_len for case in cases})
    table = Table(title=f"{chosen.name} on {device}: {len(cases)} cases")
    table.add_column("variant")
    for length in lengths:
        table.add_column(f"n={length}", justify="right")
    for name in sorted({case.variant for case in cases}):
        counts = [sum(c.variant == name and c.seq_len == n for c in cases) for n in lengths]
        table.add_row(name, *map(str, counts))
    console = Console()
    console.print(table)
    if device == "cuda":
        expected, said = sweep_time.table(chosen, files)
        console.print(expected)
        console.print(said, highlight=False)


@main.command(name="list")
@click.argument("variant", required=False)
@_import_option
def list_(variant: str | None, modules: tuple[str, ...]) -> None:
    """Show all variants, their settings, and the implementations that run here.

    With VARIANT, show details of one variant and the meaning of each hyperparameter.
    """
    import_modules(modules)
    console = Console()
    try:
        for part in variant_tables.of_one(variant) if variant else variant_tables.of_all():
            console.print(part, highlight=False)
    except ValueError as error:  # an unknown variant
        raise click.UsageError(str(error)) from error


@main.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
def compare(before: Path, after: Path) -> None:
    """Show the ratio of the times of two runs for each case."""
    Console().print(comparison.table(before, after))


@main.command()
@click.option("--model", required=True, help="smollm2, a folder, a .gguf file or a model's name.")
@click.option(
    "--text",
    "text_file",
    required=True,
    type=click.Path(path_type=Path),
    help="UTF-8 text file that the model reads; it must have at least --tokens tokens.",
)
@click.option(
    "--layers", help="Layers, such as 3,15,28; default: an early, a middle and a late one."
)
@click.option("--kv-groups", help="Key/value heads to capture, such as 0,2; default: all.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The .safetensors file to write."
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    help="Tokens to capture, from the start of the text.",
)
@click.option("--text-title", help="Provenance: title of the text; default: its file name.")
@click.option("--text-license", help="Provenance: licence of the text.")
@click.option("--model-license", help="Provenance: licence of the weights.")
def capture(
    model: str,
    text_file: Path,
    layers: str | None,
    kv_groups: str | None,
    out: Path,
    tokens: int,
    **provenance: str | None,
) -> None:
    """Capture queries, keys and values of a pretrained model that reads a text."""
    made = make_capture(
        model,
        text_file,
        numbers("--layers", layers),
        out,
        tokens=tokens,
        kv_groups=numbers("--kv-groups", kv_groups),
        **provenance,
    )
    click.echo(
        f"{out}: layers {', '.join(map(str, made.layers))}, {made.tokens} tokens, "
        f"{made.heads} query and {made.kv_heads} key/value heads; use it with "
        f"--set inputs=file:{out}"
    )


@main.command()
@click.option(
    "--variant",
    "texts",
    multiple=True,
    metavar="TEXT",
    help="A variant as in a sweep, such as 'lsh num_hashes=2'; may be given several times. "
    "Default: all variants with a backward pass.",
)
@click.option(
    "--task",
    "tasks",
    type=click.Choice(list(TASKS)),
    multiple=True,
    help="May be given several times. Default: all tasks.",
)
@click.option(
    "--seed",
    "seeds",
    type=click.IntRange(min=0, max=2**32),
    multiple=True,
    default=(0,),
    help="Seed of model and data; may be given several times.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    help="Maximum number of steps.",
)
@click.option(
    "--seq-len",
    type=click.IntRange(min=8),
    default=32,
    show_default=True,
    help="Tokens in a sequence.",
)
@click.option("--device", type=click.Choice(DEVICES), default="cpu", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of training.csv, curves.csv.")
def train(
    texts: tuple[str, ...],
    tasks: tuple[str, ...],
    seeds: tuple[int, ...],
    steps: int,
    seq_len: int,
    device: str,
    out: Path | None,
) -> None:
    """Train a tiny model with each variant on the tasks copy and recall; show which learn them.

    Hyperparameters that --variant does not set are small, so that approximate methods are not exact
    on these short sequences.
    """
    device = chosen_device(device)
    texts = texts or tuple(
        name for name, cls in sorted(variants.REGISTRY.items()) if "backward" in cls.info.supports
    )
    asked = [
        trainings.Training(attention, task, seed, seq_len, steps, device)
        for attention in dict.fromkeys(attention_at(text, seq_len) for text in texts)
        for task in dict.fromkeys(tasks or TASKS)
        for seed in dict.fromkeys(seeds)
    ]
    folder = out or Path("results") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-train"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # handled like Ctrl-C
    try:
        rows = trainings.run(asked, folder)
    except KeyboardInterrupt:
        click.echo(f"stopped; finished trainings are in {folder}", err=True)
        sys.exit(130)
    console = Console()
    console.print(training_summary.table(rows))
    for sentence in training_summary.sentences(rows):
        console.print(sentence, highlight=False, markup=False)
    click.echo(folder)
    if any(row["status"] != Status.OK for row in rows):
        sys.exit(1)


def _resolve(
    sweep: str | None, settings: Iterable[str], device: str
) -> tuple[Sweep, dict[str, Path]]:
    settings = tuple(settings)
    if sweep is None and any(text.startswith("seq_len=") for text in settings):
        chosen = Sweep("axes", ({},))
    else:
        chosen = read(sweep or {"cpu": "cpu", "cuda": "gpu"}[device])
    return chosen.overridden(settings).located()


def _recorded(record: journal.Record[Measurement]) -> tuple[Sweep, dict[str, Path]]:
    plan = record.header["environment"]["sweep"]
    files = {name: Path(path) for name, path in record.header["files"].items()}
    asked = {key: plan[key] for key in SECONDS if key in plan}
    return parse_sweep(plan["name"], {"group": plan["groups"], **asked}), files


def _entry() -> None:
    """Invalid input ends with one message and exit status 2 in all commands."""
    try:
        main(standalone_mode=True)
    except ERRORS as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    _entry()
