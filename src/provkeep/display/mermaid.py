"""The graph as Mermaid text, for Markdown that renders it. Text only: no service is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from provkeep.display.rows import visible_links
from provkeep.display.words import clean, clip, kind_word, name
from provkeep.model.graph import ERASED, Graph

_LABEL: Final = 60  # cells
_SHAPES: Final[Mapping[str, tuple[str, str]]] = {
    "run": ('["', '"]'),
    "artifact": ('("', '")'),
    "source": ('[("', '")]'),
    "actor": ('(["', '"])'),
}


def to_mermaid(graph: Graph) -> str:
    """Return a ``flowchart TD`` of what the ledger shows: the same steps, the same links.

    Node names are ``n0``, ``n1``… and labels carry only letters, digits and entity codes for the
    rest, so no label can end its node or add a line, a link or a directive.
    """
    nodes, links = visible_links(graph)
    names = {node.id: f"n{number}" for number, node in enumerate(nodes)}
    lines = ["flowchart TD"]
    for node in nodes:
        begin, end = _SHAPES.get(node.type, _SHAPES["run"])
        text = f"{_escape(kind_word(node))}: {_escape(clip(name(node), _LABEL))}"
        text += f" · {ERASED}" if node.status == ERASED else ""
        lines.append(f"    {names[node.id]}{begin}{text}{end}")
    lines += [f"    {names[cause]} --> {names[effect]}" for cause, effect in links]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    """Write all but letters, digits and harmless punctuation as Mermaid's ``#code;``."""
    return "".join(c if c.isalnum() or c in " .,-_…¶·" else f"#{ord(c)};" for c in clean(text))
