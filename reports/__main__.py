"""The command line: `python -m reports` with `build`, `recommend`, `history` or `docs`.

Each command imports its modules when it runs, as pandas, matplotlib and torch take long to import.
"""

from __future__ import annotations

from pathlib import Path

import click

from bench.schema.entry_point import CommandLine, console
from reports.history.history_command import history
from reports.recommender.recommend_command import recommend

CHECKOUT = Path(__file__).parents[1]


@click.group(cls=CommandLine)
def main() -> None:
    """Make figures and pages from results folders, and recommend an attention."""


main.add_command(recommend)
main.add_command(history)


@main.command()
@click.argument(
    "runs", metavar="RUN [RUN ...]", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the report; `report` in the first RUN by default.",
)
def build(runs: tuple[Path, ...], out: Path | None) -> None:
    """Make report.html, report.md, answers.csv and figures from one or more results folders.

    report.html is the interactive page, report.md a summary for a pull request, answers.csv the
    choice at each measured length, and figures/ has PNG and SVG files. A results folder holds
    environment.json, and results.csv or model.csv (of `python -m bench model`). The command does
    not change these files. Runs with model.csv are a section of the page.
    """
    from reports.build import write_report
    from reports.growth import audit
    from reports.html import model_page
    from reports.model_page import holds_model, model_section, read_models
    from reports.peer_races import races, standing
    from reports.recommender.closing import closing_lines
    from reports.recommender.evidence import Evidence
    from reports.rows import read_runs
    from reports.tables import summary_table

    folder = out or runs[0] / "report"
    models = [run for run in runs if holds_model(run)]
    others = [run for run in runs if run not in models]
    seen = read_models(models) if models else None
    section = None if seen is None else model_section(seen, folder, is_alone=not others)
    if section and not others:
        page = folder / "report.html"
        page.write_text(model_page(section), encoding="utf-8")
        click.echo(page)
        return
    read = read_runs(others)
    models_read = None if seen is None else seen.frame
    audited, evidence = audit(read.frame), Evidence(read, models_read)
    page = write_report(read, folder, audited, evidence, section, models_read)
    screen = console()
    if not screen.is_terminal:
        screen.width = 120
    screen.print(summary_table(read.frame, screen.width))
    if against := standing(races(read.frame)):
        screen.print(f"Against public code that computes the same: {against}.", highlight=False)
    if audited.curves:
        screen.print(f"{audited.summary}: growth.csv.", highlight=False)
    for line in closing_lines(evidence):
        screen.print(line, highlight=False)
    click.echo(page)


@main.command()
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if a file is stale.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=CHECKOUT,
    help="Folder that holds README.md and docs/; this checkout by default.",
)
def docs(check: bool, root: Path) -> None:
    """Rewrite docs/variants/, the types of `create`, and parts of README.md and docs/columns.md."""
    from reports.documents.docstrings import DocstringError
    from reports.documents.generated import BlockError, rewrite, stale_files

    try:
        files = stale_files(root) if check else rewrite(root)
    except (BlockError, DocstringError) as error:
        raise click.UsageError(str(error)) from None
    if check and files:
        raise click.ClickException(f"{', '.join(files)}: stale; run `python -m reports docs`")
    for file in files:
        click.echo(f"rewrote {file}")


if __name__ == "__main__":
    main(prog_name="python -m reports")
