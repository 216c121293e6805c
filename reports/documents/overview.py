"""The README's table of variants."""

from __future__ import annotations

from reports import markdown_table as markdown
from reports.documents.docstrings import summary
from variants import REGISTRY
from variants.contract.info import Info

CAUSAL = {(False, True): "yes", (True,): "only", (False,): "no"}


def names() -> list[str]:
    """The registered variants, in alphabetical order."""
    return sorted(REGISTRY)


def table() -> str:
    """The registered variants, each with a link to its page, as Markdown."""
    return markdown.table(
        ("variant", "keys of a query", "time", "memory", "causal", "decoding", "paper"),
        [_row(REGISTRY[name].info) for name in names()],
    )


def _row(info: Info) -> tuple[str, ...]:
    return (
        f"[`{info.name}`](docs/variants/{info.name}.md)",
        summary(info.name),
        info.time,
        info.memory,
        CAUSAL[info.causal_choices],
        "yes" if "step" in info.supports else "no",
        f"[{info.year}]({info.url})",
    )
