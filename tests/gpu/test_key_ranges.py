"""Lists of blocks against masks of single scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from variants.contract.pattern import Pattern
from variants.engines.gpu.listed import moving_tiles
from variants.engines.gpu.listed.key_ranges import KeyRanges, TileLists, Tiles, tiles
from variants.masked.pattern_ranges import ranges_of

CPU = torch.device("cpu")
Mask = NDArray[np.bool_]


def mask_of(ranges: KeyRanges) -> Mask:
    """Bool (heads or 1, query_len, key_len), row by row as the kernels evaluate it."""
    rows, keys = np.arange(ranges.query_len)[:, None], np.arange(ranges.key_len)
    bounds = ranges.bounds[:, (rows[:, 0] + ranges.lead) // ranges.group_rows]
    first, stop = bounds[..., None, 0], bounds[..., None, 1]
    seen = ((keys >= first) & (keys < stop)).any(2)
    if ranges.causal:
        seen &= (keys <= rows + ranges.offset) | (keys >= ranges.tokens)
    return np.asarray(seen)


def listed(lists: TileLists, head: int, tile: int) -> tuple[list[int], list[int]]:
    """The partly visible and the fully visible blocks of a tile."""
    start, middle, stop = lists.ends[head, tile].tolist()
    blocks = lists.blocks.tolist()
    return blocks[start:middle], blocks[middle:stop]


def assert_lists_are_right(found: Tiles, seen: Mask) -> None:
    rows, keys = found.rows, found.keys
    for head, own in enumerate(seen):
        pairs = set()
        for tile in range(-(-seen.shape[1] // rows)):
            partly, fully = listed(found.by_query, head, tile)
            assert len({*partly, *fully}) == len(partly) + len(fully), "a block is listed twice"
            part = own[tile * rows : (tile + 1) * rows]
            for block in fully:
                whole = part[:, block * keys : (block + 1) * keys]
                assert whole.shape[1] == keys
                assert whole.all()
            visible = {int(key) // keys for key in part.any(0).nonzero()[0]}
            assert visible == {*partly, *fully}, "a block is missing, or read in vain"
            pairs |= {(tile, block, block in fully) for block in (*partly, *fully)}
        turned = set()
        for block in range(-(-seen.shape[2] // keys)):
            partly, fully = listed(found.by_key, head, block)
            turned |= {(tile, block, tile in fully) for tile in (*partly, *fully)}
        assert pairs == turned
    assert sorted(found.by_query.order.tolist()) == list(range(-(-seen.shape[1] // rows)))


def random_blocks(heads: int, blocks: int) -> Tensor:
    return torch.randint(-1, blocks, (heads, blocks, 2), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize(
    ("query_len", "key_len"), [(150, 150), (67, 200), (200, 70), (1, 130), (129, 64)]
)
@pytest.mark.parametrize(
    "settings",
    [
        {"window": 0},
        {"window": 20},
        {"window": 150},
        {"window": 20, "leading": 5, "global_rows": False},
        {"window": 9, "leading": 60},
        {"window": 1, "block_size": 16, "leading": 16, "trailing": 6},
        {"window": 1, "block_size": 24, "drawn": True},
        {"window": 0, "block_size": 5, "drawn": True},
    ],
    ids=str,
)
def test_patterns(settings: dict[str, int], query_len: int, key_len: int, causal: bool) -> None:
    chosen = dict(settings)
    size = chosen.get("block_size", 1)
    drawn = random_blocks(2, -(-key_len // size)) if chosen.pop("drawn", False) else None
    if "trailing" in chosen:
        chosen["trailing"] = key_len % size or size  # the last block
    pattern = Pattern(query_len, key_len, causal, random_blocks=drawn, **chosen)  # type: ignore[arg-type]
    ranges = ranges_of(pattern)
    seen = mask_of(ranges)
    assert (torch.from_numpy(seen) == pattern.mask(torch.arange(query_len))).all()
    for rows, keys in ((64, 64), (64, 32), (16, 16)):
        assert_lists_are_right(tiles(ranges, rows, keys, CPU), seen)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize(("query_len", "key_len"), [(150, 150), (67, 200), (200, 70)])
def test_blocks_within_a_distance(query_len: int, key_len: int, causal: bool) -> None:
    reach = torch.tensor([0, 7, 90], dtype=torch.int32)
    found = moving_tiles.tiles_within(reach, query_len, key_len, size=32, causal=causal)
    distance = np.arange(query_len)[:, None] + key_len - query_len - np.arange(key_len)
    seen = np.stack([np.abs(distance) <= one for one in reach.tolist()])
    if causal:
        seen &= distance >= 0
    assert_lists_are_right(found, seen)


@pytest.mark.parametrize("first", [0, 1, 63, 64, 65])
@pytest.mark.parametrize("stop", [127, 128, 129])
def test_a_block_is_fully_visible_only_from_its_first_to_its_last_key(
    first: int, stop: int
) -> None:
    bounds = np.array([[[[first, stop]]]])
    ranges = KeyRanges(bounds, query_len=64, key_len=192, group_rows=64)
    assert_lists_are_right(tiles(ranges, 64, 64, CPU), mask_of(ranges))
