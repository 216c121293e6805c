"""Curves of error against time: the settings of a method along its knob of quality."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bench.schema.origin import KNOB_NAMES, settings_of
from reports.names import labels, marked

SEED = "seed"  # its numbers have no order of quality
LEAST = float("-inf")  # sorts a setting that an older run does not name before all others


def with_curves(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of curves; a row that belongs to no curve is a curve of its own.

    - `curve`: the label without the knob
    - `knob`: the names of the hyperparameters that are the knob
    - `setting`: their numbers
    - `place`: the rank of the setting on the curve, from 0
    - `is_default`: whether the knob is at the default in `default_knob`, as `window_size=256`

    If `default_knob` is empty, because neither the run nor this version declares a knob, the knob
    is the one numeric hyperparameter that varies in the rows of the variant; there is no knob if
    several vary.
    """
    settings = frame["hyperparameters"].map(settings_of)
    knobs = {
        str(variant): _knob(settings[rows.index], rows["default_knob"])
        for variant, rows in frame.groupby("variant")
    }
    own = frame["variant"].map(knobs)
    words = [
        [each[name] for name in knob if name in each]
        for each, knob in zip(settings, own, strict=True)
    ]
    recorded = frame["default_knob"].map(settings_of)
    frame = frame.assign(
        curve=marked(labels(frame, without=knobs), frame["other_operator"]),
        knob=own.map(KNOB_NAMES.join),
        setting=[", ".join(dict.fromkeys(numbers)) for numbers in words],
        is_default=[
            default.items() <= each.items() and len(default) == len(knob)
            for default, each, knob in zip(recorded, settings, own, strict=True)
        ],
    )
    points = pd.Series([tuple(map(_number, numbers)) for numbers in words], frame.index)
    places = pd.Series(0, frame.index)
    for _, rows in points.groupby(frame["curve"]):
        order = sorted(set(rows))
        places[rows.index] = rows.map(order.index)
    return frame.assign(place=places)


def one_setting(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one setting of each curve: the default, or the middle one without a default."""
    kept = []
    for _, own in rows.groupby("curve"):
        places = sorted(own["place"].unique())
        defaults = own.loc[own["is_default"], "place"]
        place = defaults.iloc[0] if len(defaults) else places[len(places) // 2]
        kept.append(own[own["place"] == place])
    return pd.concat(kept).sort_index()


def name_of(rows: pd.DataFrame) -> str:
    """The name of a curve, with its first and last setting in these rows: `lsh, num_hashes 1 to 8`.

    If the rows have one setting only, the name is their label.
    """
    ends = rows.sort_values("place").iloc[[0, -1]]
    first, last = ends["setting"]
    if first == last:
        return str(ends["label"].iloc[0])
    curve, knob = ends[["curve", "knob"]].iloc[0]
    return f"{curve}, {knob} {first} to {last}"


def _knob(settings: pd.Series, recorded: pd.Series) -> Sequence[str]:
    """The names of the hyperparameters that are the knob of a variant; empty if it has no knob."""
    if said := max(recorded, key=len):
        return tuple(settings_of(said))
    values: dict[str, set[str | None]] = {
        name: {each.get(name) for each in settings}
        for name in dict.fromkeys(name for each in settings for name in each)
    }
    varying = [
        name
        for name, found in values.items()
        if len(found) > 1 and name != SEED and all(map(_is_number, found))
    ]
    return tuple(varying) if len(varying) == 1 else ()


def _is_number(text: str | None) -> bool:
    return text is not None and _number(text) != LEAST


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return LEAST
