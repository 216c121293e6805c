"""Pictures of attention weights, drawn from the variants' own definitions, and facts about them."""

from __future__ import annotations

import io
import json
from functools import cache

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

import variants
from bench.inputs.captured import SMOLLM2, Capture
from reports.page.pattern_gallery import FOLDER
from variants import REGISTRY, Attention
from variants.contract.registry import reference_attention

TOKENS = 96
LAYER, HEAD = 28, 1  # a head with weight on the first key, on near and on distant keys
CELL = 3  # pixels of a query or key
GAP = 12  # pixels between the two pictures
LEVELS = 16
FAINTEST = 0.15  # place in a colour map of the smallest weight that is not 0
TOLERANCE = 24  # of a colour channel: about the difference of two levels, less than that to white

Pixels = npt.NDArray[np.uint8]


PLACE = FOLDER.relative_to(FOLDER.parents[1]).as_posix()  # every file of this folder is generated


@cache
def png(name: str) -> bytes:
    """A PNG file: exact softmax weights on the left, those of the variant (small) on the right.

    Rows are queries, columns are keys.
    """
    sides = [_drawn(weights) for weights in _weights(name)]
    gap = np.full((TOKENS * CELL, GAP, 3), 255, dtype=np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(np.concatenate([sides[0], gap, sides[1]], axis=1))
    image.quantize(colors=4 * LEVELS).save(file, "png", optimize=True)
    return file.getvalue()


def facts() -> str:
    """The file with the settings and the measured shares of all pictures."""
    head = f"head {HEAD} of layer {LAYER} of SmolLM2-135M"
    measured = {name: _measured(name) for name in sorted(REGISTRY)}
    content = {"tokens": TOKENS, "source": head, "variants": measured}
    return json.dumps(content, indent=2) + "\n"


def settings(name: str) -> str:
    """`name` and the settings of `small` that are not at their defaults."""
    default, chosen = variants.create(name), small(name)
    names = (one.name for one in variants.hyperparameters(name))
    changed = [
        f"{key}={getattr(chosen, key)}"
        for key in names
        if getattr(chosen, key) != getattr(default, key)
    ]
    return " ".join([name, *changed])


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


def _measured(name: str) -> dict[str, str | bool | float | None]:
    exact, own = (weights[0, 0] for weights in _weights(name))
    causal = _is_causal(name)
    pairs = torch.ones_like(exact, dtype=torch.bool)
    visible = pairs.tril() if causal else pairs
    weighted = (own != 0) & visible
    shares = {
        "share_of_pairs": weighted.sum(-1) / visible.sum(-1),
        "exact_weight": (exact * weighted).sum(-1),
        "common_weight": torch.minimum(exact, own).sum(-1),
    }
    rounded = {share: round(float(rows.mean()), 3) for share, rows in shares.items()}
    common = rounded.pop("common_weight") if REGISTRY[name].info.convex else None
    return {"settings": settings(name), "causal": causal, **rounded, "common_weight": common}


@cache
def _weights(name: str) -> tuple[Tensor, Tensor]:
    """Exact weights and those of the variant (small), (1, 1, TOKENS, TOKENS)."""
    query, key = _tokens()
    causal = _is_causal(name)
    exact, own = (
        attention.weights(query, key, causal=causal)
        for attention in (reference_attention(), small(name))
    )
    return exact, own


def _is_causal(name: str) -> bool:
    return True in REGISTRY[name].info.causal_choices


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
