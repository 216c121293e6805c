"""Types of columns: each has bounds that a measured value cannot exceed.

NaN and infinite numbers are out of all bounds. Readers refuse a file with a value out of bounds.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

DTYPES = ("float32", "bfloat16", "float16", "float64")
LONGEST_NAME = 500  # characters
LONGEST_TEXT = 10_000


def one_of(names: tuple[str, ...]) -> Meta:
    """The bound of a text that has one of these values."""
    return Meta(pattern=rf"^(?:{'|'.join(names)})\Z", description=f"one of {', '.join(names)}")


Device = Annotated[str, one_of(("cpu", "cuda"))]
Dtype = Annotated[str, one_of(DTYPES)]
Name = Annotated[
    str,
    Meta(
        max_length=LONGEST_NAME,
        pattern=r"^[^\x00-\x1f\x7f]*\Z",
        description=f"a text of at most {LONGEST_NAME} characters, without control characters",
    ),
]
Sentence = Annotated[
    str, Meta(max_length=LONGEST_TEXT, description=f"a text of at most {LONGEST_TEXT} characters")
]
Milliseconds = Annotated[
    float, Meta(ge=1e-6, le=1e10, description="a time from 1e-06 to 1e+10 milliseconds")
]
MillisecondsOrZero = Annotated[
    float, Meta(ge=0, le=1e10, description="a time from 0 to 1e+10 milliseconds")
]
Bytes = Annotated[int, Meta(ge=0, le=2**62, description="a whole number of bytes from 0 to 2^62")]
Count = Annotated[int, Meta(ge=1, le=2**31, description="a whole number from 1 to 2^31")]
Length = Annotated[int, Meta(ge=1, le=2**40, description="a whole number from 1 to 2^40")]
Index = Annotated[int, Meta(ge=0, le=2**31, description="a whole number from 0 to 2^31")]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1, description="a whole number from 0 to 2^63 - 1")]
Positive = Annotated[float, Meta(gt=0, le=1e30, description="a number above 0 and at most 1e+30")]
Amount = Annotated[float, Meta(ge=0, le=1e30, description="a number from 0 to 1e+30")]
ErrorSize = Annotated[float, Meta(ge=0, le=1e30, description="an error from 0 to 1e+30")]
# Sums of rounded parts may exceed 1 a little.
Share = Annotated[float, Meta(ge=0, le=1.001, description="a share from 0 to 1")]
Cosine = Annotated[float, Meta(ge=-1.001, le=1.001, description="a cosine from -1 to 1")]
# A model that predicts nothing right has the exponential of a large loss.
Perplexity = Annotated[
    float, Meta(gt=0, le=1e300, description="a number above 0 and at most 1e+300")
]
