"""Loads query, key and value of a case: from a synthetic family, from `smollm2` (a capture that is
part of this package) or from `file:NAME` (another capture), each at a temperature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bench.inputs import families
from bench.inputs.captured import SMOLLM2, Capture, CaptureError
from bench.inputs.source import KNOWN, InputsError, Source
from bench.inputs.temperature import temperature_for
from bench.inputs.widths import joined, split
from bench.schema.case import Case


@dataclass(frozen=True)
class Inputs:
    """The tensors of one case on its device; `detail` states which part of the source they are."""

    query: Tensor  # (batch, heads, seq_len, head_dim)
    key: Tensor  # (batch, kv_heads, key_len, head_dim)
    value: Tensor
    detail: str


def open_capture(inputs: str, files: Mapping[str, Path]) -> Capture | None:
    """The capture that an `inputs` value names; None for synthetic inputs.

    `files` maps the NAME of `file:NAME` to a path. An unknown family raises InputsError.
    """
    source = Source.parse(inputs)
    if source.name == "smollm2":
        return Capture.open(SMOLLM2)
    if source.file is not None:
        return Capture.open(files.get(source.file, Path(source.file)))
    return None


def load(case: Case, files: Mapping[str, Path]) -> Inputs:
    """The tensors of a case. The same case always gets the same numbers.

    Raises InputsError or CaptureError if the source cannot provide this shape.
    """
    source = Source.parse(case.inputs)
    capture = open_capture(case.inputs, files)
    if capture is None:
        query, key, value = families.draw(source.name, case)
        detail = f"{families.DETAILS[source.name]}, seed {case.seed}"
    else:
        query, key, value, detail = _captured(replace(case, inputs=source.name), capture)
    temperature = source.temperature
    if source.effective_keys is not None:
        temperature, said = temperature_for(source.effective_keys, query, key, causal=case.causal)
        detail = f"{detail}; {said}"
    if temperature != 1:
        query = query / temperature
    device, dtype = torch.device(case.device), getattr(torch, case.dtype)
    query, key, value = (x.to(device=device, dtype=dtype) for x in (query, key, value))
    if temperature != 1 and not bool(query.isfinite().all()):
        raise InputsError(
            f"{case.inputs}: a query divided by {temperature:.3g} must be finite in {case.dtype}; "
            "got infinite numbers, so take a higher temperature"
        )
    return Inputs(query, key, value, detail)


def refusal(case: Case, files: Mapping[str, Path]) -> str:
    """Why the capture of a case does not have its shape, in one sentence; empty if it has, or if
    the inputs are synthetic."""
    capture = open_capture(case.inputs, files)
    try:
        if capture is not None:
            named = replace(case, inputs=Source.parse(case.inputs).name)
            _check_length(named, capture)
            if case.head_dim != capture.head_dim:
                _check_width(named, capture)
    except InputsError as error:
        return str(error)
    return ""


def _captured(case: Case, capture: Capture) -> tuple[Tensor, Tensor, Tensor, str]:
    if case.head_dim == capture.head_dim:
        return _as_captured(case, capture)
    _check_width(case, capture)
    whole = case.heads * case.head_dim // capture.head_dim
    asked = replace(case, heads=whole, kv_heads=whole, head_dim=capture.head_dim)
    *tensors, detail = _as_captured(asked, capture)
    if case.heads < whole:
        query, key, value = (joined(x, case.heads) for x in tensors)
        made = f"{whole // case.heads} joined to each head of {case.head_dim} channels"
    else:
        query, key, value = (split(x, case.heads) for x in tensors)
        made = f"each split into {case.heads // whole} heads of {case.head_dim} channels"
        made += ", which keep rotary pairs together" if capture.is_rotary else ""
    scale = capture.scale * (capture.head_dim / case.head_dim) ** 0.5
    scale_detail = f"scale {scale:.3g}, as the model's {capture.scale:g} is for {capture.head_dim}"
    return query, key, value, f"{detail}; {made}; {scale_detail}"


def _check_width(case: Case, capture: Capture) -> None:
    """InputsError unless heads of this width are several captured heads joined, or equal parts of
    one."""
    name, heads, head_dim = case.inputs, case.heads, case.head_dim
    own = capture.head_dim
    if head_dim % own and own % head_dim:
        raise InputsError(
            f"{name} has head_dim {own}; its heads are joined or split evenly, so head_dim "
            f"must be a multiple or a divisor of {own}; got {head_dim}"
        )
    if heads * head_dim % own:
        raise InputsError(
            f"{name} has head_dim {own}; only whole heads are split, so heads * head_dim must "
            f"be a multiple of {own}; got {heads} * {head_dim} = {heads * head_dim}"
        )
    if head_dim < own and head_dim % 2 and capture.is_rotary:
        raise InputsError(
            f"{name} has rotary positions, which pair channels, so head_dim must be even; "
            f"got {head_dim}"
        )
    if case.kv_heads != heads:
        raise InputsError(
            f"{name} has head_dim {own}; heads of another width need as many key/value heads as "
            f"query heads; got heads={heads}, kv_heads={case.kv_heads}"
        )


def _check_length(case: Case, capture: Capture) -> None:
    if max(case.seq_len, case.key_len) > capture.tokens:
        raise InputsError(
            f"{case.inputs} holds {capture.tokens} tokens; "
            f"{max(case.seq_len, case.key_len)} were asked for; take inputs=sinks "
            "effective_keys=32, or capture a longer text"
        )
    if case.seq_len > case.key_len:
        raise InputsError(
            f"{case.inputs}: queries are the last of the captured keys, so seq_len "
            f"({case.seq_len}) must not exceed key_len ({case.key_len})"
        )


def _as_captured(case: Case, capture: Capture) -> tuple[Tensor, Tensor, Tensor, str]:
    _check_length(case, capture)
    if case.layer is None:
        raise InputsError(f"{case.inputs} needs a layer, one of {list(capture.layers)}")
    query, key, value = capture.load(case.layer)
    # Variants scale by 1 / sqrt(head_dim). If the model has another scale, the query is multiplied.
    query = query.float() * (capture.scale * case.head_dim**0.5)
    group = capture.heads // capture.kv_heads
    # If more key/value heads are needed than captured, they are drawn with replacement. Each drawn
    # one gets query heads that read it in the model.
    generator = torch.Generator().manual_seed(case.seed)
    kv_heads = _draw(case.batch * case.kv_heads, capture.kv_heads, generator)
    per_kv = case.heads // case.kv_heads
    members = torch.empty(len(kv_heads), per_kv, dtype=torch.int64)
    for head in kv_heads.unique():
        slots = kv_heads == head
        members[slots] = _draw(int(slots.sum()) * per_kv, group, generator).view(-1, per_kv)
    heads = (kv_heads[:, None] * group + members).view(case.batch, case.heads)
    kv_heads = kv_heads.view(case.batch, case.kv_heads)
    query = query[heads][:, :, case.key_len - case.seq_len : case.key_len]
    key, value = (x[kv_heads][:, :, : case.key_len] for x in (key, value))
    repeated = len(heads.unique()) < heads.numel()
    detail = (
        f"layer {case.layer}, tokens 0 to {case.key_len - 1}, query heads "
        f"{' '.join(map(str, heads.flatten().tolist()))} of {capture.heads}"
        f"{', drawn with replacement' if repeated else ''}"
    )
    return query, key, value, detail


def _draw(count: int, available: int, generator: torch.Generator) -> Tensor:
    """The first `count` of the available indices, and if needed more, drawn with replacement."""
    if count <= available:
        return torch.arange(count)
    extra = torch.randint(available, (count - available,), generator=generator)
    return torch.cat([torch.arange(available), extra])


__all__ = [
    "KNOWN",
    "CaptureError",
    "Inputs",
    "InputsError",
    "Source",
    "load",
    "open_capture",
    "refusal",
]
