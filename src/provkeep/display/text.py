"""The ledger in plain text, for terminals, log files and notebooks without pictures."""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from provkeep.display.rows import Ledger, Row, arrange
from provkeep.display.words import by_weight, clean, clip, columns, duration, extent, name
from provkeep.model.graph import ERASED, Graph

LIMIT: Final = 2000
NARROWEST: Final = 40
_NORTH, _SOUTH, _EAST, _WEST = 1, 2, 4, 8
# by the sides a line leaves a cell from; no rail ends in the middle of a cell
_CELLS: Final = " │││─╰╭├─╯╮┤─┴┬┼"
_FAILED: Final = frozenset({"error", "blocked", "cancelled", "interrupted", "unfinished"})


def ledger_text(
    graph: Graph, *, focus: str | None = None, width: int = 100, path: Set[str] | None = None
) -> str:
    """Draw ``graph`` in text, one step a line, with rails from causes to effects.

    A full dot is upstream of the focus (or there is no focus), or on the path; a hollow one is not;
    a dotted one was erased; the focus is ``◉``. Rails for which there is no room are counted in the
    last line.

    Args:
        graph: what to draw.
        focus: id of the node whose upstream is emphasised.
        width: terminal cells a line may take; below 40 counts as 40.
        path: ids of what is emphasised instead of the upstream of the focus.

    Raises:
        KeyError: the graph has no node ``focus``.
    """
    ledger = arrange(graph, focus=focus, limit=LIMIT, share=False, path=path)
    if not ledger.rows:
        return "nothing to show"
    width = max(width, NARROWEST)
    lanes = min(ledger.lanes, (width * 3 // 10) // 2)
    rails = _rails(ledger, lanes)
    kind = max(columns(row.word) for row in ledger.rows)
    lines = []
    for number, row in enumerate(ledger.rows):
        dot = "◉" if row.focus else "●" if row.strong and not row.wrapper else "○"
        dot = "◌" if row.erased else dot
        head = f"{rails[number]}{dot} {row.word}{' ' * (kind - columns(row.word))}  "
        lines.append((head + _rest(row, width - columns(head))).rstrip())
    left = sum(rail.lane >= lanes for rail in ledger.rails)
    if left:
        lines.append(f"({left:,} long rail{'' if left == 1 else 's'} not drawn for want of room)")
    if ledger.cut:
        lines.append("(rows with very many causes show only the nearest)")
    if ledger.left_out:
        lines.append(
            f"… {ledger.left_out:,} more step{'' if ledger.left_out == 1 else 's'} not shown"
        )
    return "\n".join(lines)


def _rails(ledger: Ledger, lanes: int) -> list[str]:
    """Return the rails of every row, two cells a lane, the innermost on the right."""
    grid = [bytearray(2 * lanes) for _ in ledger.rows]
    for rail in ledger.rails:
        if rail.lane >= lanes:
            continue
        at = 2 * (lanes - 1 - rail.lane)
        cause, last = rail.causes[0], rail.effects[-1]
        grid[cause][at] |= _SOUTH
        for number in range(cause + 1, last + 1):
            grid[number][at] |= _NORTH | (_SOUTH if number < last else 0)
        for number in (cause, *rail.effects):
            line = grid[number]
            line[at] |= _EAST
            for cell in range(at + 1, 2 * lanes):
                line[cell] |= _EAST | _WEST
    return ["".join(_CELLS[bits] for bits in line) for line in grid]


def _rest(row: Row, room: int) -> str:
    """Return label, size, labels, status and time, as many as there is room for."""
    node = row.node
    details = []
    if node.status in _FAILED:
        details.append(f"!{node.status}")
    elif row.erased:
        details.append(ERASED)
    labels = by_weight(node.labels)
    if labels:
        more = f" +{len(labels) - 2}" if len(labels) > 2 else ""
        details.append(f"[{', '.join(clip(clean(x), 14) for x in labels[:2])}{more}]")
    if size := extent(node):
        details.append(size)
    if node.start_ns is not None and node.end_ns is not None:
        details.append(duration(max(0, node.end_ns - node.start_ns)))
    label = name(node)
    while details and columns(label) + columns("  ".join(details)) + 2 > room:
        if columns("  ".join(details)) <= room // 2:
            label = clip(label, room - columns("  ".join(details)) - 2)
            break
        details.pop()
    return "  ".join([clip(label, max(1, room)), *details])
