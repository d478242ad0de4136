"""What Jupyter shows for a lineage: the ledger as SVG, and as text where there are no pictures."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from provkeep.display.ledger import ledger_svg
from provkeep.display.text import ledger_text
from provkeep.model.graph import Graph

LIMIT: Final = 500  # rows: a notebook keeps its outputs


def mimebundle(
    graph: Graph,
    focus: str | None = None,
    title: str | None = None,
    *,
    path: Set[str] | None = None,
    way: str = "upstream",
) -> dict[str, str]:
    """Return the MIME types and texts for ``_repr_mimebundle_``; arguments as of ``ledger_svg``.

    Raises:
        KeyError: the graph has no node ``focus``.
    """
    return {
        "image/svg+xml": ledger_svg(
            graph, focus=focus, title=title, limit=LIMIT, path=path, way=way
        ),
        "text/plain": ledger_text(graph, focus=focus, path=path),
    }
