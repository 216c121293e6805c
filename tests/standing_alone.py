"""Which rows and keys of a padded sequence a method computes as one call, said a second time."""

from __future__ import annotations

from torch import Tensor


def calls_of(mask: Tensor, query_len: int, *, causal: bool) -> list[tuple[slice, slice]]:
    """Rows and keys of one sequence, whose mask (key_len,) is True at padding.

    The keys are those from the first token to the last. If causal or with as many queries as keys,
    queries of tokens go together; the others see nothing if causal, and are else computed apart.
    Other queries are of another sequence, and go together.
    """
    tokens = (~mask).nonzero()[:, 0].tolist()
    if not tokens:
        return []
    first, last, key_len = tokens[0], tokens[-1] + 1, len(mask)
    keys = slice(first, last)
    if not causal and query_len != key_len:
        return [(slice(0, query_len), keys)]
    shift = query_len - key_len
    begin = first if shift > 0 else max(0, first + shift)
    own = slice(begin, max(0, last + shift))
    rows = [own] if causal else [slice(0, own.start), own, slice(own.stop, query_len)]
    return [(some, keys) for some in rows if some.start < some.stop]
