"""The command `python -m bench.gpu_check`: its parts in the order of their value."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from bench.gpu_check import gpu_tests
from bench.gpu_check.beside import Beside
from bench.gpu_check.gpu_tests import ROOT
from bench.gpu_check.parts import CheckPart, interruptible, run, show

SECONDS = 525.0
WARM_PROCESSES = 4  # that compile kernels while the tests run
SIMULATED = "simulated.json"


def parts(device: str, out: Path, folder: Path) -> list[CheckPart]:
    """All parts. On a CPU they do the same with short inputs, to test the command."""
    lengths = "16384,65536" if device == "cuda" else "128,256"
    heads = "16" if device == "cuda" else "2"
    calls = ("--device", device, "--seq-len", lengths, "--heads", heads)
    rows = ("--rows", str(out / "variants.csv"), "--simulated", str(out / SIMULATED))
    sweep = ("--device", device, "--out", str(out), "--run", str(folder / "sweep"))
    return [
        CheckPart("environment", 45, ("bench.gpu_check.machine", "--device", device)),
        CheckPart("tests", 110, gpu_tests.arguments(device, serial=False)),
        CheckPart("tests", 40, gpu_tests.arguments(device, serial=True), alone=True),
        CheckPart("sweep", 120, ("bench.gpu_check.small_sweep", *sweep), alone=True),
        CheckPart("variants", 170, ("bench.gpu_check.variant_times", *calls, *rows), alone=True),
        CheckPart("profiles", 40, ("bench.gpu_check.slow_calls", *calls, *rows), alone=True),
    ]


def beside(device: str, wanted: list[CheckPart]) -> list[tuple[str, ...]]:
    """The commands that prepare the timing of variants: they simulate calls and compile kernels."""
    timing = [part.arguments for part in wanted if part.name == "variants"]
    shares = range(WARM_PROCESSES if device == "cuda" else 0)
    warm = [("--warm", f"{share}/{WARM_PROCESSES}") for share in shares]
    return [(*words, *more) for words in timing for more in (("--simulate",), *warm)]


def environment_of(folder: Path) -> dict[str, str]:
    """The environment of the parts, with the packages of `.whl/` installed in `folder`."""
    wheels = sorted(map(str, (ROOT / ".whl").glob("*.whl")))
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if wheels:
        target = folder / "site"
        pip = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        more = ["--no-cache-dir", "--disable-pip-version-check", "--target", str(target)]
        subprocess.run([sys.executable, *pip, *more, *wheels], check=False)
        places.insert(0, str(target))
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(places),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Several parts and workers compile at the same time, and each would start a process a core.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "COLUMNS": "200",
    }


@click.command(name="gpu-check")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/gpu-check"))
@click.option(
    "--seconds",
    type=click.FloatRange(min=10),
    default=SECONDS,
    show_default=True,
    help="Limit of all parts together.",
)
@click.option(
    "--part",
    "chosen",
    multiple=True,
    help="environment, tests, sweep, variants or profiles; may be given several times. "
    "Default: all.",
)
def gpu_check(device: str, out: Path, seconds: float, chosen: tuple[str, ...]) -> None:
    """Run everything once that needs a GPU, in order of value, each part with a limit of time.

    The parts: the environment; the tests for a GPU; a small sweep; each variant beside exact
    attention, with its launches and waits beside those of the simulation; profiles of the slowest.
    The output of each part is kept in --out, in at most eight files. A part that fails does not
    stop the others. `--device cpu` runs every part with short inputs.
    """
    started = time.monotonic()
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name, interruptible():
        folder = Path(name)
        asked = parts(device, out, folder)
        if unknown := set(chosen) - {part.name for part in asked}:
            raise click.UsageError(f"--part: unknown {', '.join(sorted(unknown))}")
        wanted = [part for part in asked if not chosen or part.name in chosen]
        for part in wanted:
            (out / part.file).unlink(missing_ok=True)
        environment = environment_of(folder)
        prepare = Beside(beside(device, wanted), environment)
        os.chdir(ROOT)
        try:
            for index, part in enumerate(wanted):
                # The environment is small, and is read first if the device does not work.
                if part.name != "environment":
                    prepare.start()
                if part.alone:
                    prepare.wait()
                spent = time.monotonic() - started
                click.echo(f"\n=== {part.name} ({spent:.0f} s)")
                limit = seconds_of(part, wanted[index + 1 :], seconds - spent)
                if limit < 5:
                    click.echo("no time left")
                    continue
                ended = run(part, out, limit, environment)
                show(part, out, click.echo)
                click.echo(f"--- {part.name}: {ended}")
        finally:
            prepare.stop()
            for partial in out.glob("*.part"):
                partial.unlink()
    click.echo(f"\n{out}: {', '.join(sorted(file.name for file in out.iterdir()))}")


def seconds_of(part: CheckPart, later: list[CheckPart], left: float) -> float:
    """The limit of a part. Time that other parts leave is for the timing of variants."""
    if part.name == "variants":
        return min(left, max(part.seconds, left - sum(one.seconds for one in later)))
    return min(part.seconds, left)
