"""The command `python -m bench.gpu_check`: its parts in the order of their value."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from bench.gpu_check.parts import CheckPart, run, show, start, stop

ROOT = Path(__file__).parent.parent.parent
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
        CheckPart("tests", 150, _tests(device)),
        CheckPart("sweep", 120, ("bench.gpu_check.small_sweep", *sweep)),
        CheckPart("variants", 170, ("bench.gpu_check.variant_times", *calls, *rows)),
        CheckPart("profiles", 40, ("bench.gpu_check.slow_calls", *calls, *rows)),
    ]


def _tests(device: str) -> tuple[str, ...]:
    """The tests with the marker `gpu`; on a CPU they are collected and skipped."""
    files = [
        str(file.relative_to(ROOT))
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if any(word in file.read_text(encoding="utf-8") for word in ("mark.gpu", "CUDA,"))
    ]
    if device == "cpu":
        files = files[:3]
    workers = ("-n", "6") if importlib.util.find_spec("xdist") and device == "cuda" else ()
    shown = ("-q", "-rfE", "--tb=short", "-W", "default", "--maxfail=200")
    only = ("-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors")
    return ("pytest", *workers, *shown, *only, *files)


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
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        folder = Path(name)
        asked = parts(device, out, folder)
        if unknown := set(chosen) - {part.name for part in asked}:
            raise click.UsageError(f"--part: unknown {', '.join(sorted(unknown))}")
        wanted = [part for part in asked if not chosen or part.name in chosen]
        environment = environment_of(folder)
        beside = []
        if any(part.name == "variants" for part in wanted):
            *_, times, _ = asked
            beside.append(start((*times.arguments, "--simulate"), environment))
            for share in range(WARM_PROCESSES if device == "cuda" else 0):
                warm = f"{share}/{WARM_PROCESSES}"
                beside.append(start((*times.arguments, "--warm", warm), environment))
        os.chdir(ROOT)
        spare = 0.0
        try:
            for part in wanted:
                begun = time.monotonic()
                left = seconds - (begun - started)
                click.echo(f"\n=== {part.name} ({begun - started:.0f} s)")
                # Time that earlier parts left over is for the measurements.
                limit = part.seconds + (spare if part.name == "variants" else 0.0)
                limit = min(limit, left)
                if limit < 5:
                    click.echo("no time left")
                    continue
                ended = run(part, out, limit, environment)
                spare += part.seconds - (time.monotonic() - begun)
                show(part.name, out, click.echo)
                click.echo(f"--- {part.name}: {ended}")
        finally:
            for process in beside:
                stop(process)
    click.echo(f"\n{out}: {', '.join(sorted(file.name for file in out.iterdir()))}")
