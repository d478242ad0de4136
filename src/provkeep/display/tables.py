"""Plain tables for terminals: aligned columns, cut to the width there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from provkeep.display.words import clean, clip, columns

GAP: Final = "  "
NARROWEST: Final = 4  # cells a column is never cut below


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], *, width: int) -> str:
    """Return ``rows`` under ``headers``; numbers stand right, the widest columns are cut first.

    Args:
        headers: one name a column.
        rows: one value a column; ``None`` is left empty.
        width: terminal cells a line may take; a table of many columns may still be wider, since
            no column is cut below four cells.

    Raises:
        ValueError: a row has more or fewer values than there are headers.
    """
    for number, row in enumerate(rows):
        if len(row) != len(headers):
            raise ValueError(f"row {number} has {len(row)} values for {len(headers)} headers")
    cells = [["" if v is None else clean(str(v)) for v in row] for row in (headers, *rows)]
    widths = [max(map(columns, column)) for column in zip(*cells, strict=True)]
    spare = width - len(GAP) * (len(widths) - 1)
    while widths and sum(widths) > spare and max(widths) > NARROWEST:
        widest = max(widths)
        at = widths.index(widest)
        second = max((w for w in widths if w < widest), default=NARROWEST)
        over = -(-(sum(widths) - spare) // widths.count(widest))
        widths[at] = max(widest - over, second, NARROWEST)
    right = [
        bool(rows) and all(isinstance(v, int | float | None) for v in column)
        for column in zip(*rows, strict=True)
    ] or [False] * len(headers)
    return "\n".join(
        GAP.join(_pad(c, w, r) for c, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in (cells[0], ["─" * w for w in widths], *cells[1:])
    )


def _pad(text: str, width: int, right: bool) -> str:
    text = clip(text, width)
    space = " " * (width - columns(text))
    return space + text if right else text + space
