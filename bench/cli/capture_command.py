"""The command `python -m bench capture`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli.options import NumberRange, numbers
from bench.inputs.capture import capture as make_capture


@click.command()
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
    type=NumberRange(min=1),
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
