"""Reads queries, keys and values that were captured from a pretrained model.

One safetensors file holds, for each captured layer L, three float16 tensors: `layer_L.query`
(heads, tokens, head_dim) and `layer_L.key`, `layer_L.value` (kv_heads, tokens, head_dim). Query
head h reads key/value head h // (heads // kv_heads). The string metadata of the file:

format              attention-capture-1
model               name of the model, with its quantisation if it is quantised
model_license       licence of the weights
layers              JSON list of the captured layers, counted from 0
query_heads         JSON list: indices of the query heads in the model
kv_heads            JSON list: indices of the key/value heads in the model
tokens              number of positions
text, text_license  title and licence of the text that the model read
text_sha256         SHA-256 of the whole text file
position_encoding   position encoding that is applied to query and key
scale               factor of the model on query @ key.T before the softmax
software            versions of torch and transformers that made the file
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.schema.column_types import Index
from bench.schema.validation import (
    FileError,
    convert,
    is_file,
    name_of,
    one_line,
    parse_json,
    shown,
)

FORMAT = "attention-capture-1"
KEYS = (
    "format",
    "model",
    "model_license",
    "layers",
    "query_heads",
    "kv_heads",
    "tokens",
    "text",
    "text_sha256",
    "text_license",
    "position_encoding",
    "scale",
    "software",
)
ROTARY = "rotary"  # prefix of position_encoding for a model with rotary positions
SMOLLM2 = Path(__file__).with_name("smollm2.safetensors")


# The factor of a model is at most a few; the query in float32 is multiplied by it.
Scale = Annotated[float, msgspec.Meta(gt=1e-6, le=1e6)]


class CaptureError(FileError):
    """A capture cannot be read or cannot be made."""


@dataclass(frozen=True)
class Capture:
    """A capture with a valid header; `load` reads the tensors.

    `heads` and `kv_heads` are the numbers of heads in the file. Their indices in the model are in
    `metadata`, under "query_heads" and "kv_heads".
    """

    path: Path
    metadata: dict[str, str] = field(repr=False, hash=False)
    layers: tuple[int, ...]
    heads: int
    kv_heads: int
    tokens: int
    head_dim: int

    @property
    def scale(self) -> float:
        """The factor of the model on query @ key.T; not every model uses head_dim**-0.5."""
        return float(self.metadata["scale"])

    @property
    def is_rotary(self) -> bool:
        """Whether query and key have rotary positions, which pair channels i and i + head_dim/2."""
        return self.metadata["position_encoding"].startswith(ROTARY)

    @classmethod
    def open(cls, path: Path | str) -> Capture:
        """Open a file and check its header, without reading tensors.

        Raises:
            CaptureError: the file is missing, is not a capture, or is inconsistent.
        """
        path = Path(path)
        file = name_of(path)
        metadata, shapes = _header(path)
        _expect(path, "format", FORMAT, metadata.get("format", "none"))
        missing = [key for key in KEYS if key not in metadata]
        if missing:
            raise CaptureError(
                f"{file}: the metadata must have {', '.join(KEYS)}; missing {', '.join(missing)}"
            )
        layers, query_heads, kv_heads = (
            _integers(path, key, metadata[key]) for key in ("layers", "query_heads", "kv_heads")
        )
        _, first = shapes.get(f"layer_{layers[0]}.query", ("", ()))
        tokens, head_dim = first[1:] if len(first) == 3 else (0, 0)
        for layer in layers:
            for role, heads in (("query", query_heads), ("key", kv_heads), ("value", kv_heads)):
                name = f"layer_{layer}.{role}"
                if name not in shapes:
                    raise CaptureError(
                        f"{file}: expected a tensor {name} because layers is "
                        f"{shown(list(layers))}; the file has {shown(sorted(shapes))}"
                    )
                _expect(path, name, ("F16", (len(heads), tokens, head_dim)), shapes[name])
        _expect(path, "number of tokens", metadata["tokens"], str(tokens))
        if 0 in first or len(query_heads) % len(kv_heads):
            raise CaptureError(
                f"{file}: expected at least one token and a number of key/value heads that "
                f"divides that of the query; got {tokens} tokens, {len(query_heads)} query heads, "
                f"{len(kv_heads)} key/value heads"
            )
        try:
            msgspec.convert(metadata["scale"], Scale, strict=False)
        except msgspec.ValidationError:
            raise CaptureError(
                f"{file}: scale must be a number between 1e-6 and 1e6; got "
                f"{shown(metadata['scale'])}"
            ) from None
        return cls(path, metadata, layers, len(query_heads), len(kv_heads), tokens, head_dim)

    def load(self, layer: int, tokens: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Query (heads, tokens, head_dim), key and value (kv_heads, tokens, head_dim), float16.

        Args:
            layer: one of `layers`.
            tokens: number of tokens, from the start; None means all. In a causal model, the tensors
                of a prefix do not depend on later tokens.

        Raises:
            CaptureError: the layer is unknown, there are fewer tokens, or a number is not finite.
        """
        file = name_of(self.path)
        if layer not in self.layers:
            raise CaptureError(
                f"{file}: layer must be one of {', '.join(map(str, self.layers))}; got {layer}"
            )
        wanted = self.tokens if tokens is None else tokens
        if not 1 <= wanted <= self.tokens:
            raise CaptureError(
                f"{file}: tokens must be between 1 and {self.tokens}, the number captured; "
                f"got {wanted}"
            )
        try:
            with _opened(self.path) as content:
                # Cloned, as safetensors may return a strided view of the mapped file.
                query, key, value = (
                    content.get_slice(f"layer_{layer}.{role}")[:, :wanted].contiguous().clone()
                    for role in ("query", "key", "value")
                )
        except (OSError, SafetensorError) as error:
            raise CaptureError(f"{file}: the file changed after it was opened") from error
        for role, tensor in (("query", query), ("key", key), ("value", value)):
            broken = int((~torch.isfinite(tensor)).sum())
            if broken:
                raise CaptureError(
                    f"{file}: layer_{layer}.{role} must be finite; got {broken} NaN or "
                    f"infinite numbers of {tensor.numel()}"
                )
        return query, key, value


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open safetensors file. The library opens no name that is not UTF-8, so such a file is
    opened here and named by its number."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as named, safe_open(f"/dev/fd/{named.fileno()}", "pt") as file:
            yield file
    else:
        with safe_open(path, "pt") as file:
            yield file


def _header(path: Path) -> tuple[dict[str, str], dict[str, tuple[str, tuple[int, ...]]]]:
    """The metadata, and the dtype and shape of each tensor."""
    try:
        exists = is_file(path)
    except FileError as error:
        raise CaptureError(str(error)) from None
    if not exists:
        what = "a directory" if path.is_dir() else "no such file"
        raise CaptureError(
            f"{name_of(path)}: expected a .safetensors file made by capture; got {what}"
        )
    shapes = {}
    try:
        with _opened(path) as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118 - the handle itself is not iterable
                part = file.get_slice(name)
                shapes[name] = (part.get_dtype(), tuple(part.get_shape()))
    except (OSError, SafetensorError) as error:
        raise CaptureError(
            f"{name_of(path)}: expected a .safetensors file made by capture; it cannot be "
            f"read: {one_line(error)}"
        ) from error
    return metadata, shapes


def _expect(path: Path, what: str, wanted: object, got: object) -> None:
    if wanted != got:
        raise CaptureError(f"{name_of(path)}: {what} must be {shown(wanted)}; got {shown(got)}")


def _integers(path: Path, key: str, text: str) -> tuple[int, ...]:
    """A metadata entry that must be a JSON list of distinct integers of at least 0."""
    try:
        values: list[int] = convert(parse_json(text, key), list[Index], key)
    except FileError:
        values = []
    if not values or len(set(values)) != len(values):
        raise CaptureError(
            f"{name_of(path)}: {key} must be a JSON list of distinct integers, such as [3, 15]; "
            f"got {shown(text)}"
        )
    return tuple(values)
