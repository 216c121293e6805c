"""Tables as one compressed text that a page holds and a browser unpacks.

The text is base64 of gzip of: the length of a JSON header (4 bytes, little-endian), the header, and
the arrays of all columns. A column of words has a dictionary in the header and an array of codes.
The bytes of an array are in planes (all first bytes, then all second bytes, ...), because numbers
of one size have similar high bytes.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Table = Mapping[str, Any]  # a sequence of numbers, of truth values or of words for each column
CODES = (np.uint8, np.uint16, np.uint32)


def packed(tables: Mapping[str, Table], facts: Mapping[str, Any]) -> str:
    """The tables and facts (anything that JSON can hold) as base64 text.

    Floating-point numbers are stored with the precision of their array; None becomes NaN.
    """
    arrays: list[bytes] = []
    described = {
        name: {column: _stored(values, arrays) for column, values in table.items()}
        for name, table in tables.items()
    }
    offset = 0
    for stored, array in zip(
        (stored for table in described.values() for stored in table.values()), arrays, strict=True
    ):
        stored["offset"] = offset
        offset += len(array)
    header = json.dumps({"tables": described, "facts": facts}, allow_nan=False).encode("ascii")
    whole = b"".join([len(header).to_bytes(4, "little"), header, *arrays])
    return base64.b64encode(gzip.compress(whole, compresslevel=6, mtime=0)).decode("ascii")


def rounded(values: Any, bits: int = 16) -> NDArray[np.float32]:
    """Numbers as float32 with fewer bits of precision, which compress better.

    With 16 bits, the relative difference is at most 2**-17, so four digits stay as they were.
    """
    exact = np.asarray(pd.Series(values).astype("float64"), dtype=np.float32)
    left_out = 24 - bits
    codes = exact.view(np.uint32)
    half = np.uint32(1 << (left_out - 1))
    mask = np.uint32(0xFFFFFFFF ^ ((1 << left_out) - 1))
    return np.where(np.isfinite(exact), ((codes + half) & mask).view(np.float32), exact)


def _stored(values: Any, arrays: list[bytes]) -> dict[str, Any]:
    """Appends the array of a column, and describes it."""
    series = pd.Series(values)
    words: list[str] | None = None
    if pd.api.types.is_bool_dtype(series) or pd.api.types.is_numeric_dtype(series):
        array = np.asarray(series.to_numpy(dtype="float64", na_value=np.nan))
        if isinstance(series.dtype, np.dtype) and series.dtype.kind in "ubf":
            array = series.to_numpy()
        elif isinstance(series.dtype, np.dtype) and series.dtype.kind == "i" and len(series):
            array = series.to_numpy()
            if array.min() >= 0 and array.max() < 2**32:
                array = array.astype(_smallest(int(array.max())))
            else:
                array = array.astype(np.float64)
        if array.dtype == bool:
            array = array.astype(np.uint8)
    else:
        codes, found = pd.factorize(series.astype(str), sort=True)
        words = [str(word) for word in found]
        array = codes.astype(_smallest(max(0, len(words) - 1)))
    arrays.append(_planes(array))
    size = array.dtype.itemsize
    return {
        "kind": f"{'float' if array.dtype.kind == 'f' else 'uint'}{8 * size}",
        "rows": len(array),
        **({} if words is None else {"words": words}),
    }


def _smallest(largest: int) -> Any:
    """The smallest type of codes that holds a number."""
    return next(kind for kind in CODES if largest <= np.iinfo(kind).max)


def _planes(array: NDArray[Any]) -> bytes:
    size = array.dtype.itemsize
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    return little.view(np.uint8).reshape(-1, size).T.tobytes()
