"""Readable names in place of raw columns: names of lines and inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd

from bench.schema.origin import settings_of
from bench.schema.outcome import DIFFERS

ALONE = "attention alone"  # the first of all calls by alphabet, too
OTHER_KERNEL = "other_kernel"  # the target of methods that do not approximate softmax attention
OTHER_OPERATOR = "another operator"  # the mark of these methods in labels


def with_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Add columns with readable names.

    - `other_operator`: whether the method is another operator than softmax attention
    - `label`: the name of a line
    - `source`: the inputs and their layer
    - `passage`: the direction and the source
    - `width`: heads times head_dim
    - `grouping`: the number of key/value heads, if it differs from that of the query heads
    - `memory`: the number of keys, if it differs from the number of queries
    - `call`: whether attention alone or a layer is timed; empty if no row times a layer
    - `launching`: how the kernels of the call are launched; empty if no row replays a graph
    - `keys`: whether the key is the query; errors depend on this, and not on the rest of `call`
    """
    layer = frame["layer"].astype("string")
    heads, keys = frame["kv_heads"], frame["key_len"]
    projections = frame["projections"]
    projected = projections != "none"
    calls = (projections + " projections").where(projected, ALONE)
    # Decoding steps have no projections, so their call needs no name.
    calls = calls.where(projected | (frame["direction"] != "decode"), "")
    graphs = frame["launch"] == "graph"
    launching = graphs.map({True: "replayed as a CUDA graph", False: "launched by the host"})
    source = frame["inputs"].where(layer.isna(), frame["inputs"] + " layer " + layer.fillna(""))
    names, others = labels(frame), other_operators(frame)
    return frame.assign(
        other_operator=others,
        label=marked(names, others),
        source=source,
        passage=frame["direction"].astype(str) + " of " + source.astype(str),
        width=frame["heads"] * frame["head_dim"],
        call=calls if projected.any() else "",
        launching=launching if graphs.any() else "",
        keys=(projections == "shared").map({True: "shared with the query", False: "own"}),
        grouping=("kv_heads=" + heads.astype(str)).where(heads != frame["heads"], ""),
        memory=("key_len=" + keys.astype(str)).where(keys != frame["seq_len"], ""),
    )


def labels(
    frame: pd.DataFrame, without: Mapping[str, Collection[str]] | None = None
) -> pd.Series[str]:
    """A name for each row: the variant, and the settings of that variant that vary in this data.

    The name is `lsh num_hashes=4` if only the number of hashes varies. If implementations of `full`
    are compared, the names are `full/sdpa` and so on, and `full` for `auto`. The name of an
    implementation that computes something else ends in `(differs)`. Names leave out the
    hyperparameters in `without`, which is by variant.
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
    """The names, with a mark on those of another operator."""
    return names.mask(others, names + f" ({OTHER_OPERATOR})")


def differing(frame: pd.DataFrame) -> pd.Series[bool]:
    """Whether a row's implementation computes something else than its variant."""
    return frame["reason"].str.startswith(DIFFERS)


def other_operators(frame: pd.DataFrame) -> pd.Series[bool]:
    """Whether a row's method is another operator than softmax attention.

    Only finished rows have a target. A failed row takes it from finished rows with the same
    settings, so both have the same name.
    """
    same = [frame["variant"], frame["hyperparameters"]]
    return (frame["target"] == OTHER_KERNEL).groupby(same).transform("any")
