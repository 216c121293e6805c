"""Suggests a known name for a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 60  # characters of a name that is compared


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """The text ` (did you mean 'lsh'?)` with the most similar known name; empty if none is similar.

    It is for the message about an unknown name, behind this name.
    """
    by_lower = {name.lower(): name for name in known}
    found = get_close_matches(str(given)[:LONGEST].lower(), by_lower, n=1)
    return f" (did you mean {by_lower[found[0]]!r}?)" if found else ""
