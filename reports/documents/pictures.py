"""Pictures of attention weights, drawn from the variants' own definitions."""

from __future__ import annotations

import io
from functools import cache

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

import variants
from bench.inputs.captured import SMOLLM2, Capture
from variants import Attention
from variants.contract.registry import reference_attention

TOKENS = 96
LAYER, HEAD = 28, 1  # a head with weight on the first key, on near and on distant keys
CELL = 3  # pixels of a query or key
GAP = 12  # pixels between the two pictures
LEVELS = 16
FAINTEST = 0.15  # place in a colour map of the smallest weight that is not 0
TOLERANCE = 24  # of a colour channel: about the difference of two levels, less than that to white

Pixels = npt.NDArray[np.uint8]


@cache
def png(name: str) -> bytes:
    """A PNG file: exact softmax weights on the left, those of the variant (small) on the right.

    Rows are queries, columns are keys.
    """
    query, key = _tokens()
    chosen = small(name)
    causal = True in chosen.info.causal_choices
    sides = [
        _drawn(attention.weights(query, key, causal=causal))
        for attention in (reference_attention(), chosen)
    ]
    gap = np.full((TOKENS * CELL, GAP, 3), 255, dtype=np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(np.concatenate([sides[0], gap, sides[1]], axis=1))
    image.quantize(colors=4 * LEVELS).save(file, "png", optimize=True)
    return file.getvalue()


def small(name: str) -> Attention:
    """The variant with settings that are small enough to show its structure on `TOKENS` tokens."""
    return variants.create(name, **{one.name: one.small for one in variants.hyperparameters(name)})


def same(old: bytes, new: bytes) -> bool:
    """Whether two files show the same picture.

    Other versions of libraries may write it in other bytes, and round a colour to the next one.
    """
    if not old:
        return False
    before, after = (_pixels(content).astype(int) for content in (old, new))
    return before.shape == after.shape and bool(np.abs(before - after).max() <= TOLERANCE)


def _pixels(content: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@cache
def _tokens() -> tuple[Tensor, Tensor]:
    """Query and key of one head of a language model, (1, 1, TOKENS, head_dim)."""
    query, key, _ = Capture.open(SMOLLM2).load(LAYER, TOKENS)
    return query[None, HEAD : HEAD + 1].double(), key[None, :1].double()


def _drawn(weights: Tensor) -> Pixels:
    """Pixels of weights: positive in blue, negative in red, larger ones darker, 0 in white."""
    shares = weights[0, 0] / weights.abs().max()
    # The square root keeps small weights visible.
    levels = (shares.abs().sqrt() * LEVELS).ceil().clamp(max=LEVELS)
    places = FAINTEST + (1 - FAINTEST) * levels.numpy() / LEVELS
    colours = np.full((*places.shape, 3), 255, dtype=np.uint8)
    for name, chosen in (("Blues", shares > 0), ("Reds", shares < 0)):
        where = chosen.numpy()
        drawn = matplotlib.colormaps[name](places[where], bytes=True)
        colours[where] = np.asarray(drawn)[:, :3]
    assert torch.isfinite(weights).all()
    return colours.repeat(CELL, axis=0).repeat(CELL, axis=1)
