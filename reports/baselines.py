"""Baselines that ignore the query or the weights: zeros, the mean of all values, random keys.

A method whose error is not below that of such a baseline is not worth its time.
"""

from __future__ import annotations

import pandas as pd

from reports.metrics import ERROR, MEAN_OF_VALUES

MEAN, RANDOM, KEYS = MEAN_OF_VALUES, "random_keys_error_rel_l2", "baseline_keys"
FLOOR, ROUNDING = "dtype_floor_rel_l2", "impl_error_rel_l2"
ZEROS = "zeros"
NAMES = {MEAN: "the mean of V", RANDOM: "random keys"}
TWICE = 2.0  # an error of at most this multiple of the rounding is never marked as beaten
ALL_KEYS = 0.98  # with this share of the visible keys, the baseline of random keys is nearly exact


def unbeaten(rows: pd.DataFrame) -> pd.DataFrame:
    """Whether each baseline has no larger error than the row: a column for each baseline by name.

    No baseline beats an error that is only rounding. A baseline that was not measured beats
    nothing, nor do random keys if the budget of the method is all visible keys: the baseline is
    then exact attention.
    """
    known = rows.reindex(columns=[ERROR.column, MEAN, RANDOM, FLOOR, ROUNDING]).astype("float64")
    error = known[ERROR.column]
    counts = error > TWICE * known[[FLOOR, ROUNDING]].max(axis=1).fillna(0.0)
    found = pd.DataFrame({words: counts & (error >= known[name]) for name, words in NAMES.items()})
    found[NAMES[RANDOM]] &= ~reads_all_keys(rows)
    assert ERROR.useless is not None
    found[ZEROS] = counts & (error >= ERROR.useless)
    return found


def useless(rows: pd.DataFrame) -> pd.Series[bool]:
    """Whether a row is no better than one of the baselines."""
    return unbeaten(rows).any(axis=1)


def names_of_unbeaten(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    """The baselines with no larger error than the row, for each row."""
    found = unbeaten(rows)
    return [
        tuple(str(name) for name, beats in zip(found, row, strict=True) if beats)
        for row in found.itertuples(index=False)
    ]


def reads_all_keys(rows: pd.DataFrame) -> pd.Series[bool]:
    """Whether the budget of a row is all keys that an average query sees."""
    if KEYS not in rows:
        return pd.Series(False, rows.index)
    whole = rows["key_len"].astype("float64")
    unseen = (rows["seq_len"] - 1) / 2  # of an average query, by those after it
    causal = rows["causal"] & (rows["direction"] != "decode")
    visible = whole.mask(causal, whole - unseen.astype("float64"))
    return (rows[KEYS].astype("float64") >= ALL_KEYS * visible).fillna(False)
