"""The ledger: a graph as a picture that reads like ``git log``, one row a step.

Lineage rails run down the left, from causes to effects (out of a dot's lower half, into a dot's
upper half), names stand in the middle and timing bars on the right. The SVG is self-contained and
lives in notebooks that get committed: presentation attributes only (no style sheet, class, id,
script or link), a ``viewBox`` with ``width="100%"``, names but never a payload.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from provkeep.display.rows import Ledger, Rail, Row, arrange
from provkeep.display.words import (
    PALE,
    by_weight,
    clean,
    clip,
    columns,
    duration,
    extent,
    label_fill,
    name,
)
from provkeep.model.graph import ERASED, Graph

WIDTH: Final = 900
ROW: Final = 22
LANE: Final = 11.0  # pixels between lanes
GUTTER: Final = 250.0  # pixels for lanes at most; more lanes stand closer
CLOSEST: Final = 2.0  # pixels between lanes at least; what has no lane left shares the outermost
BEND: Final = 5
SPLIT: Final = 3  # rails enter a dot this far above its middle and leave as far below
KIND_WIDTH: Final = 70
TIME_LEFT, TIME_RIGHT = 690.0, 856.0
PILL_RIGHT, PILL, PILL_GAP = 676, 74, 6
BOLD_CELL, PLAIN_CELL, SMALL_CELL = 7.5, 6.9, 5.6  # pixels a character, measured in DejaVu Sans
FONT: Final = "system-ui,-apple-system,'Segoe UI','DejaVu Sans',Verdana,sans-serif"
INK, GREY, FAINT, STRIPE = "#0f172a", "#64748b", "#cbd5e1", "#f8fafc"
_FAILED: Final = frozenset({"error", "blocked", "cancelled", "interrupted", "unfinished"})


class _Layout:
    """Where things stand, in pixels."""

    def __init__(self, ledger: Ledger, title: str | None) -> None:
        fits = max(1.0, GUTTER // CLOSEST)
        self.lanes = int(min(ledger.lanes, fits))
        self.step = min(LANE, GUTTER / max(1, self.lanes))
        self.dot = 16.0 + self.lanes * self.step + 6
        self.kind = self.dot + 12
        self.label = self.kind + KIND_WIDTH
        self.top = 22 + (24 if title else 0)
        times = [t for row in ledger.rows for t in (row.node.start_ns, row.node.end_ns) if t]
        self.start, self.end = (min(times), max(times)) if times else (0, 0)
        self.timed = self.end > self.start
        most = max((len(set(row.node.labels)) for row in ledger.rows), default=0)
        self.pills = min(2, most)
        self.right = PILL_RIGHT if self.timed else WIDTH - 16

    def y(self, row: int) -> int:
        return self.top + row * ROW + ROW // 2

    def x(self, rail: Rail) -> float:
        return self.dot - 6 - self.step * (min(rail.lane, self.lanes - 1) + 1)

    def at(self, ns: int) -> float:
        share = (ns - self.start) / (self.end - self.start)
        return TIME_LEFT + share * (TIME_RIGHT - TIME_LEFT)


def ledger_svg(
    graph: Graph,
    *,
    focus: str | None = None,
    title: str | None = None,
    limit: int = 2000,
    path: Set[str] | None = None,
    way: str = "upstream",
) -> str:
    """Draw ``graph`` as an SVG document of 900 px design width.

    Args:
        graph: what to draw. Containers, copies and, in long ledgers, chains that only wrap others
            are folded away; rails run on past them.
        focus: id of the node whose upstream is drawn bold; the rest turns pale.
        title: a heading.
        limit: at most this many rows; the last row says how many are not shown.
        path: ids of what is drawn bold instead of the upstream of the focus.
        way: what the path is to the focus: ``upstream``, ``downstream`` or ``between``.

    Raises:
        KeyError: the graph has no node ``focus``.
        ValueError: ``limit`` is below 1.
    """
    ledger = arrange(graph, focus=focus, limit=limit, path=path)
    at = _Layout(ledger, title)
    notes = _notes(ledger)
    height = at.top + ROW * (len(ledger.rows) + len(notes)) + 8
    about = clean(title) if title else f"provenance ledger, {len(ledger.rows)} steps"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="100%"'
        f' role="img" aria-label="{_xml(about)}" font-family="{FONT}" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *_header(ledger, at, title, way),
        _stripes(ledger, at),
        *_rails(ledger, at),
        *(_row(row, number, at) for number, row in enumerate(ledger.rows)),
    ]
    for number, note in enumerate(notes, start=len(ledger.rows)):
        out.append(_text(at.kind, at.y(number) + 4, note, fill=GREY, extra=' font-style="italic"'))
    out.append("</svg>")
    return "\n".join(out)


def _notes(ledger: Ledger) -> list[str]:
    if not ledger.rows:
        return ["nothing to show"]
    notes = ["rows with very many causes show only the nearest"] if ledger.cut else []
    if ledger.left_out:
        plural = "" if ledger.left_out == 1 else "s"
        notes.append(f"… {ledger.left_out:,} more step{plural} not shown")
    return notes


def _header(ledger: Ledger, at: _Layout, title: str | None, way: str) -> list[str]:
    out = []
    if title:
        shown = clip(clean(title), 105)
        out.append(_text(16, 20, shown, fill=INK, extra=' font-size="14" font-weight="700"'))
    focus = next((row for row in ledger.rows if row.focus), None)
    what = "STEP"
    if way == "between":
        what += " (what lies between in bold)"
    elif focus is not None:
        room = int((at.right - at.dot) / SMALL_CELL) - 28
        what += f" ({way} of “{clip(name(focus.node), room)}” in bold)"
    y = at.top - 6
    out.append(_text(at.dot, y, what, fill=GREY, extra=' font-size="10"'))
    if at.timed:
        bottom = at.y(len(ledger.rows) - 1) + ROW // 2
        for quarter in range(5):
            x = TIME_LEFT + (TIME_RIGHT - TIME_LEFT) * quarter / 4
            out.append(f'<path d="M{x:g} {at.top}V{bottom}" stroke="#e2e8f0" stroke-width="1"/>')
        small = ' font-size="10"'
        out.append(_text(TIME_LEFT, y, "0 s", fill=GREY, extra=small))
        whole = duration(at.end - at.start)
        out.append(_text(WIDTH - 12, y, whole, fill=GREY, extra=small + ' text-anchor="end"'))
    return out


def _stripes(ledger: Ledger, at: _Layout) -> str:
    rows = range(1, len(ledger.rows), 2)
    bands = "".join(f"M0 {at.y(n) - ROW // 2}h{WIDTH}v{ROW}H0z" for n in rows)
    return f'<path d="{bands}" fill="{STRIPE}" fill-opacity=".9"/>' if bands else ""


def _rails(ledger: Ledger, at: _Layout) -> list[str]:
    """Draw pale rails below strong ones; a rail is one path."""
    pale, strong = [], []
    for rail in ledger.rails:
        firm = tuple(e for e in rail.effects if rail.strong and ledger.rows[e].strong)
        faint = tuple(e for e in rail.effects if e not in firm) if firm else rail.effects
        if faint:
            pale.append(_path(rail, faint, at))
        if firm:
            path = _path(rail, firm, at)
            strong.append(f'<path d="{path}" stroke="{rail.colour}"/>')
    out = []
    if pale:
        shape = "".join(pale)
        out.append(f'<path d="{shape}" fill="none" stroke="{FAINT}" stroke-width="1.1"/>')
    if strong:
        out += ['<g fill="none" stroke-width="1.5" stroke-opacity=".9">', *strong, "</g>"]
    return out


def _path(rail: Rail, effects: tuple[int, ...], at: _Layout) -> str:
    x, dot = at.x(rail), at.dot
    first, last = rail.causes[0], effects[-1]
    out = []
    for cause in rail.causes:
        out.append(f"M{dot:.4g} {at.y(cause) + SPLIT}H{x + BEND:.4g}q-{BEND} 0-{BEND} {BEND}")
        if cause == first:
            out.append(f"V{at.y(last) - SPLIT - BEND}")
    for effect in effects:
        y = at.y(effect) - SPLIT
        out.append(f"M{x:.4g} {y - BEND}q0 {BEND} {BEND} {BEND}H{dot:.4g}")
    return "".join(out)


def _row(row: Row, number: int, at: _Layout) -> str:
    """Draw dot, kind, label, marks and time of one step."""
    node, y = row.node, at.y(number)
    lively = row.strong and not row.wrapper and not row.erased
    faded = "" if row.strong else ' opacity=".5"'
    radius = 5.5 if row.focus else 4 if lively else 3.5
    fill = row.colour if lively else "#ffffff"
    out = [
        f"<g><title>{_xml(_tooltip(row))}</title>",
        f'<circle cx="{at.dot:.4g}" cy="{y}" r="{radius:g}" fill="{fill}"'
        f' stroke="{row.colour if row.strong else PALE}" stroke-width="1.2"/>',
        _text(
            at.kind,
            y + 3.5,
            row.word,
            fill=row.colour,
            extra=f' font-size="9" font-weight="700" letter-spacing=".2"{faded}',
        ),
    ]
    marks, left = _marks(row, y, at)
    cell = BOLD_CELL if lively else PLAIN_CELL
    size = extent(node)
    room = (left - at.label - 10) / cell
    full = name(node)
    if size and columns(full) + len(size) * SMALL_CELL / cell + 2 > room:
        size = ""
    shown = clip(full, int(room))
    weight = ' font-weight="600"' if lively else ""
    text = _xml(shown)
    if size:
        grey = f'fill="{GREY if row.strong else PALE}" font-size="10" font-weight="400"'
        text += f'<tspan dx="8" {grey}>{size}</tspan>'
    ink = INK if lively else GREY if row.strong else PALE
    out.append(f'<text x="{at.label:.4g}" y="{y + 4}" fill="{ink}"{weight}>{text}</text>')
    out += [*marks, *_time(row, y, at), "</g>"]
    return "".join(out)


def _tooltip(row: Row) -> str:
    node = row.node
    said = [name(node), f"{row.word.lower()} · {clean(node.id)}"]
    details = [extent(node), clean(node.status or "")]
    if node.start_ns is not None and node.end_ns is not None:
        details.append(duration(max(0, node.end_ns - node.start_ns)))
    said.append(" · ".join(d for d in details if d))
    said.append(", ".join(clean(label) for label in by_weight(node.labels)))
    return "\n".join(line for line in said if line)


def _marks(row: Row, y: int, at: _Layout) -> tuple[list[str], float]:
    """Draw labels, and a status that is not well, from the right; also return where they begin."""
    labels = by_weight(row.node.labels)
    right: float = at.right
    out = []
    shown = labels[: at.pills]
    for label in shown:
        text = clip(clean(label), 12)
        faded = "" if row.strong else ' fill-opacity=".4"'
        out.append(
            f'<rect x="{right - PILL:g}" y="{y - 6.5:.10g}" width="{PILL}" height="13" rx="6.5"'
            f' fill="{label_fill(label)}"{faded}/>'
        )
        ink = "#1e293b" if row.strong else PALE
        middle = ' font-size="9.5" text-anchor="middle"'
        out.append(_text(right - PILL / 2, y + 3.2, text, fill=ink, extra=middle))
        right -= PILL + PILL_GAP
    if len(labels) > len(shown):
        more = f"+{len(labels) - len(shown)}"
        end = ' font-size="9.5" text-anchor="end"'
        out.append(_text(right, y + 3.2, more, fill=GREY, extra=end))
        right -= len(more) * SMALL_CELL + PILL_GAP
    if row.node.status in _FAILED:
        red = ' font-size="9.5" font-weight="700" text-anchor="end"'
        status = row.node.status or ""
        out.append(_text(right, y + 3.2, status, fill="#dc2626", extra=red))
        right -= len(status) * SMALL_CELL * 1.2 + PILL_GAP
    elif row.erased:
        grey = ' font-size="9.5" font-weight="700" text-anchor="end"'
        out.append(_text(right, y + 3.2, ERASED, fill=GREY, extra=grey))
        right -= len(ERASED) * SMALL_CELL * 1.2 + PILL_GAP
    return out, right


def _time(row: Row, y: int, at: _Layout) -> list[str]:
    """Draw a bar for what took time, a tick for what happened."""
    start, end = row.node.start_ns, row.node.end_ns
    if not at.timed or not start:
        return []
    x = at.at(start)
    faded = "" if row.strong else ' fill-opacity=".35"'
    if not end or end <= start:
        return [
            f'<rect x="{x - 0.75:.1f}" y="{y - 4}" width="1.5" height="8"'
            f' fill="{row.colour}"{faded}/>'
        ]
    width = max(2.0, at.at(end) - x)
    height = 4 if row.wrapper else 8
    bar = (
        f'<rect x="{x:.1f}" y="{y - height // 2}" width="{width:.1f}" height="{height}" rx="1.5"'
        f' fill="{row.colour}"{faded}/>'
    )
    took = duration(end - start)
    right = x + width + 4
    place, anchor = (right, "")
    if right + len(took) * 5 > WIDTH - 4:
        place, anchor = (x - 4, ' text-anchor="end"')
    if place < TIME_LEFT + 20 and anchor:
        return [bar]
    ink = GREY if row.strong else PALE
    return [bar, _text(place, y + 3, took, fill=ink, extra=f' font-size="8.5"{anchor}')]


def _text(x: float, y: float, text: str, *, fill: str, extra: str = "") -> str:
    return f'<text x="{x:.4g}" y="{y:.10g}" fill="{fill}"{extra}>{_xml(text)}</text>'


def _xml(text: str) -> str:
    """Escape cleaned text for an element or a double-quoted attribute."""
    return (
        text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace('"', "&quot;")
        .replace("'", "&#39;")
    )
