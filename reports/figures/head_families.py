"""Scenes that can be compared by their number of heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from reports.figures.scene_points import SceneLengths, layer_words
from reports.slices import common


@dataclass(frozen=True)
class HeadFamily:
    """Scenes that differ in the number of heads, at one length at least."""

    fixed: dict[str, Any]
    scenes: Sequence[SceneLengths]

    @property
    def seq_len(self) -> int:
        """The longest length of all scenes."""
        return _longest(self.scenes)


def head_families(group: Sequence[SceneLengths]) -> list[HeadFamily]:
    """Scenes with several numbers of heads of one head_dim, and those of one width of all heads."""
    found: dict[Any, list[SceneLengths]] = {}
    for one in group:
        alike = replace(one.scene, heads=one.scene.group, kv_heads=1)
        width = one.scene.heads * one.scene.head_dim
        for by, key in (("head_dim", alike), ("width", replace(alike, head_dim=width))):
            found.setdefault((by, key), []).append(one)
    families = []
    for (by, _), scenes in found.items():
        heads = {one.scene.heads for one in scenes}
        shared_lengths = set.intersection(*(set(one.lengths) for one in scenes))
        dims = {one.scene.head_dim for one in scenes}
        if len(heads) < 2 or not shared_lengths or (by == "width" and len(dims) < 2):
            continue
        at = [one.at(_longest(scenes)) for one in scenes]
        fixed = common([one.fixed for one in at])
        if layers := [one.layers for one in at if one.layers]:
            fixed["layer"] = layer_words([n for several in layers for n in several])
        if by == "width":
            fixed["width"] = scenes[0].scene.heads * scenes[0].scene.head_dim
        families.append(HeadFamily(fixed, scenes))
    return sorted(families, key=lambda family: -len(family.scenes))


def _longest(scenes: Sequence[SceneLengths]) -> int:
    return max(set.intersection(*(set(one.lengths) for one in scenes)))
