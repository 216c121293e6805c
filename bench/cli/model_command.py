"""The command `python -m bench model`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from click.core import ParameterSource

from bench.cli.options import DEVICES, DtypeChoice, NumberRange, chosen_device, numbers
from bench.cli.stopping import until_stopped
from bench.cli.sweep_options import new_folder
from bench.loop import journal, worker_start
from bench.loop.executor import WorkerCall
from bench.loop.local_executor import LocalExecutor
from bench.loop.run_loop import run
from bench.schema.entry_point import console
from bench.schema.outcome import Status
from bench.workloads.model import model_summary
from bench.workloads.model.model_workload import TIMEOUT, ModelWorkload
from bench.workloads.model.plan import Setup, attentions, plan
from bench.workloads.model.reading import BLOCKS
from bench.workloads.model.text import NOVEL
from variants.contract.registry import SETTINGS


@click.command()
@click.option(
    "--model",
    "name",
    default="smollm2",
    show_default=True,
    help="smollm2, a folder, a .gguf file or a model's name.",
)
@click.option(
    "--variant",
    "texts",
    multiple=True,
    metavar="TEXT",
    help="A variant as in a sweep, such as 'lsh num_hashes=4'; may be given several times. "
    "Default: all variants that can be causal.",
)
@click.option(
    "--settings",
    type=click.Choice(SETTINGS),
    help="The settings of a --variant without hyperparameters: grid, its whole grid; default, "
    "those with the quality knob at its default. Default: grid with --variant, else default.",
)
@click.option(
    "--seq-len",
    "seq_lens",
    type=NumberRange(min=2 * BLOCKS),
    multiple=True,
    default=(2048,),
    show_default=True,
    help="Tokens to read; may be given several times.",
)
@click.option("--layers", help="Layers to replace, such as 0,5,29; default: all.")
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    default=NOVEL,
    help="UTF-8 text file that the model reads; default: three chapters of a novel.",
)
@click.option(
    "--device", type=click.Choice(DEVICES), default="auto", help="auto: CUDA if available."
)
@click.option("--dtype", type=DtypeChoice(), default="float32", show_default=True)
@click.option(
    "--passes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Timed passes for each variant.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=TIMEOUT,
    show_default=True,
    help="Seconds after which a case is stopped.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--resume", type=click.Path(path_type=Path), help="Continue the run in this folder.")
@click.pass_context
def model(
    context: click.Context,
    name: str,
    texts: tuple[str, ...],
    settings: str | None,
    seq_lens: tuple[int, ...],
    layers: str | None,
    text: Path,
    device: str,
    dtype: str,
    passes: int,
    timeout: float,
    out: Path | None,
    resume: Path | None,
) -> None:
    """Replace the attention of a pretrained model by variants, without retraining.

    The model reads a text. Shows the changes in perplexity, most probable next tokens and time.
    """
    if resume is not None:
        given = [
            parameter.opts[0]
            for parameter in context.command.params
            if parameter.name != "resume"
            and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
        ]
        if given:
            raise click.UsageError(
                f"--resume takes everything else from the run; got {', '.join(given)} too"
            )
        folder, recorded = resume, journal.read(resume, ModelWorkload)
        workload = ModelWorkload.of_header(recorded.header)
    else:
        # An absolute path: the run can be resumed from any working directory.
        found = str(Path(name).resolve()) if name != "smollm2" and Path(name).exists() else name
        setup = Setup(found, text, chosen_device(device), dtype, passes)
        planned = plan(
            setup, attentions(texts, settings), seq_lens, numbers("--layers", layers) or ()
        )
        folder, recorded = new_folder(out, "model"), None
        workload = ModelWorkload(planned, timeout)
    start = WorkerCall(worker_start.start, (workload.device == "cuda",))
    executor = LocalExecutor(start, log=folder / "worker.log")
    rows = until_stopped(lambda: run(workload, folder, executor, recorded), folder, "model")
    screen = console()
    screen.print(model_summary.table(rows))
    for sentence in model_summary.sentences(rows):
        screen.print(sentence, highlight=False)
    click.echo(folder)
    if all(row.status is not Status.OK for row in rows):
        sys.exit(1)
