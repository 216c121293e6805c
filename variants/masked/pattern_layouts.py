"""The layouts that compute a `Pattern` tile by tile."""

from __future__ import annotations

from functools import partial

import torch

from variants.contract.pattern import Pattern
from variants.contract.tensor_cache import cached
from variants.engines.tiled.layouts.all_keys import AllKeys
from variants.engines.tiled.layouts.key_blocks import KeyBlocks
from variants.engines.tiled.layouts.layout import Layout
from variants.engines.tiled.layouts.window import Window


@cached
def layouts_of(pattern: Pattern, heads: int, device: torch.device) -> list[Layout]:
    """Return the layouts of all rows.

    The rows in the middle have a layout of a window or of blocks. Global rows are at the two ends,
    see all keys and have a layout of all keys. All rows have a layout of all keys if a window or
    blocks would read as many keys.

    The result is cached while the pattern is in use, so that the call waits for a GPU only once.
    """
    query_len = pattern.query_len
    # Causal rows before the first key see nothing, and are in no layout.
    begin = max(0, -pattern.offset) if pattern.causal else 0
    whole = partial(AllKeys, pattern.query_len, pattern.key_len, causal=pattern.causal)
    # A causal row at the position of a leading key sees all keys up to its own in any case.
    ends = pattern.global_rows or pattern.causal
    leading = pattern.leading - pattern.offset if pattern.leading and ends else 0
    first = max(begin, min(leading, query_len))
    trailing = pattern.trailing if pattern.global_rows else 0
    last = max(first, min(query_len, pattern.key_len - trailing - pattern.offset))
    middle: Layout | None = None
    if first < last:
        if pattern.block_size > 1 or pattern.random_blocks is not None:
            middle = KeyBlocks.of(pattern, first, last, heads, device)
        else:
            middle = Window.of(pattern, first, last)
        if middle.keys >= pattern.key_len:
            return [whole(begin, query_len, device=device, pattern=pattern)]
    layouts = [] if middle is None else [middle]
    for start, stop in ((begin, first), (last, query_len)):
        if start < stop:
            # Rows before the first key are not global.
            shown = pattern if start + pattern.offset < 0 else None
            layouts.append(whole(start, stop, device=device, pattern=shown))
    return layouts
