"""What a reader sees instead of raw columns: names of lines, machines and inputs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from bench.measurement import DIFFERS

ALONE = "attention alone"  # before the names of other calls, by alphabet too
OTHER_KERNEL = "other_kernel"  # a target that is not softmax attention
OTHER_OPERATOR = "another operator"  # what is said of it


def with_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Add `other_operator`, whether a row is of another operator than softmax attention; `label` of
    a line; `source`, the inputs with their layer; `passage`, the direction and the source; `width`,
    that of all heads together; `grouping`, `memory`, `call` and `keys`.

    `grouping` names the key/value heads where they are fewer than the query heads, `memory` the
    keys where they are not as many as the queries, `call` what is timed where that could be a
    layer, as it is in some rows; of `keys` alone errors depend there.
    """
    layer = frame["layer"].astype("string")
    heads, keys = frame["kv_heads"], frame["key_len"]
    projections = frame["projections"]
    projected = projections != "none"
    calls = (projections + " projections").where(projected, ALONE)
    # Steps of decoding have none, and need not say so.
    calls = calls.where(projected | (frame["direction"] != "decode"), "")
    source = frame["inputs"].where(layer.isna(), frame["inputs"] + " layer " + layer.fillna(""))
    names, others = labels(frame), other_operators(frame)
    return frame.assign(
        other_operator=others,
        label=marked(names, others),
        source=source,
        passage=frame["direction"].astype(str) + " of " + source.astype(str),
        width=frame["heads"] * frame["head_dim"],
        call=calls if projected.any() else "",
        keys=(projections == "shared").map({True: "shared with the query", False: "own"}),
        grouping=("kv_heads=" + heads.astype(str)).where(heads != frame["heads"], ""),
        memory=("key_len=" + keys.astype(str)).where(keys != frame["seq_len"], ""),
    )


def labels(
    frame: pd.DataFrame, without: Mapping[str, Collection[str]] | None = None
) -> pd.Series[str]:
    """A name per row: the variant, and what varies within that variant in this data.

    `lsh num_hashes=4` if the number of hashes varies and nothing else; `full/sdpa` if
    implementations of `full` are compared, and `full` for the one it chooses itself. One that
    computes something else says `(differs)`. `without` has hyperparameters of variants that are
    not named.
    """
    left_out = without or {}
    settings = frame["hyperparameters"].map(settings_of)
    result = frame["variant"].copy()
    for variant, rows in frame.groupby("variant"):
        own = settings[rows.index]
        names = sorted({name for each in own for name in each} - {*left_out.get(str(variant), ())})
        varying = [name for name in names if len({each.get(name) for each in own}) > 1]
        asked = rows["implementation"]
        several = asked.nunique() > 1
        result[rows.index] = [
            " ".join(
                [
                    f"{variant}/{name}" if several and name != "auto" else str(variant),
                    *(f"{key}={each[key]}" for key in varying if key in each),
                ]
            )
            for name, each in zip(asked, own, strict=True)
        ]
    return result.mask(differing(frame), result + " (differs)")


def marked(names: pd.Series[str], others: pd.Series[bool]) -> pd.Series[str]:
    """Names that say which are of another operator."""
    return names.mask(others, names + f" ({OTHER_OPERATOR})")


def differing(frame: pd.DataFrame) -> pd.Series[bool]:
    """Whether a row's implementation computes something else than its variant."""
    return frame["reason"].str.startswith(DIFFERS)


def other_operators(frame: pd.DataFrame) -> pd.Series[bool]:
    """Whether a row's method is no approximation of softmax attention, as one that finished says.

    So a case that failed is named like those of the same settings that did not.
    """
    same = [frame["variant"], frame["hyperparameters"]]
    return (frame["target"] == OTHER_KERNEL).groupby(same).transform("any")


def settings_of(text: str) -> dict[str, str]:
    """`name=value name=value` as a dict; a value may hold spaces."""
    return dict(re.findall(r"(\w+)=(.*?)(?= \w+=|$)", text))


def allocator(environment: Mapping[str, Any]) -> str:
    """`kept` if the C library was told to give no memory back between calls, else `default`."""
    settings = environment.get("settings")
    given = settings.get("MALLOC_MMAP_MAX_") if isinstance(settings, dict) else None
    return "kept" if given == "0" else "default"


def machine_name(environment: Mapping[str, Any], device: str) -> str:
    """The device and the hardware behind it, as far as the environment names it."""
    hardware = environment.get("hardware")
    hardware = hardware if isinstance(hardware, dict) else {}
    if device != "cpu":
        gpu = hardware.get("gpu")
        name = gpu.get("name") if isinstance(gpu, dict) else gpu
        return f"{device}, {name}" if name else device
    parts = [device]
    if processor := hardware.get("processor"):
        parts.append(str(processor))
    if threads := hardware.get("threads"):
        parts.append(f"{threads} thread" + ("s" if threads != 1 else ""))
    return ", ".join(parts)
