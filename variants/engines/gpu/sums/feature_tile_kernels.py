"""Tiles of rows and of their features, which all kernels of feature sums use.

`KIND` selects the features of a row x: "elu" is elu(x) + 1, "relu" is max(x, 0), "decay" is x
itself with weights that decay with the distance, "exp" is exp(w · x) for random directions w.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl

HIDDEN = tl.constexpr(-1e30)  # logarithm of a feature that is 0
SMALLEST = tl.constexpr(9.8607613e-32)  # sum of weights up to which a row is 0, as in `safe_total`


@triton.jit
def head_start(head, heads, stride_batch, stride_head):
    """Offset of the first row of a head; heads are counted over the batch."""
    batch = (head // heads).to(tl.int64)
    return batch * stride_batch + (head % heads).to(tl.int64) * stride_head


@triton.jit
def load_rows(start, row, keep, stride, channel, channels):
    """Rows (rows, channels) of a head, 0 where `keep` is False and beyond the channels."""
    place = start + row[:, None].to(tl.int64) * stride + channel[None, :]
    return tl.load(place, mask=keep[:, None] & (channel[None, :] < channels), other=0.0)


@triton.jit
def store_rows(start, row, keep, stride, channel, channels, found):
    place = start + row[:, None].to(tl.int64) * stride + channel[None, :]
    found = found.to(start.dtype.element_ty)
    tl.store(place, found, mask=keep[:, None] & (channel[None, :] < channels))


@triton.jit
def shown_keys(PADDING, batch, row, key_len, PADDED: tl.constexpr):
    """Whether rows are keys without padding."""
    shown = (row >= 0) & (row < key_len)
    if PADDED:
        place = PADDING + batch.to(tl.int64) * key_len + row
        shown = shown & (tl.load(place, mask=shown, other=1) == 0)
    return shown


@triton.jit
def multiply(left, right, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """Product in float32 of tiles that are rounded to the dtype of operands."""
    return tl.dot(left.to(OPERAND), right.to(OPERAND), input_precision=PRECISION)


@triton.jit
def elementwise(x, KIND: tl.constexpr):
    """Features of float32 channels."""
    if KIND == "elu":
        x = tl.exp(tl.minimum(x, 0.0)) + tl.maximum(x, 0.0)
    if KIND == "relu":
        x = tl.maximum(x, 0.0)
    return x


@triton.jit
def slope(x, KIND: tl.constexpr):
    """Derivative of `elementwise`."""
    if KIND == "elu":
        x = tl.exp(tl.minimum(x, 0.0))
    elif KIND == "relu":
        x = tl.where(x > 0.0, 1.0, 0.0)
    else:
        x = x * 0.0 + 1.0
    return x


@triton.jit
def directions(HIGH, start, feature, features, channel, channels):
    """Some directions of a head (channels, features)."""
    place = HIGH + start + channel[:, None] * features + feature[None, :]
    inside = (channel[:, None] < channels) & (feature[None, :] < features)
    return tl.load(place, mask=inside, other=0.0)


@triton.jit
def exponents(
    x, HIGH, LOW, start, feature, features, channel, channels,
    SPLIT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """w · x (rows, features). Directions are float32, as a sum of two tensors in the dtype of x if
    SPLIT: rounded directions would be other directions."""
    high = directions(HIGH, start, feature, features, channel, channels)
    found = tl.dot(x, high, input_precision=PRECISION)
    if SPLIT:
        low = directions(LOW, start, feature, features, channel, channels)
        found += tl.dot(x, low, input_precision=PRECISION)
    return tl.where(feature[None, :] < features, found, HIDDEN)


@triton.jit
def half_square(x, root):
    """|root · x|² / 2 of each row."""
    x = x.to(tl.float32) * root
    return tl.sum(x * x, 1) * 0.5
