"""The comparison as Markdown."""

from __future__ import annotations

from typing import Any, Final

from peers import PEERS

NAMES: Final = {
    "rag": "RAG chain: 9 runs, 18 events, four documents of 1 KB",
    "agent": "Agent: 15 runs, 30 events, three tool calls",
    "stream": "Stream of 500 tokens; per event, tokens are events",
    "chat": "Chat of 40 turns, the history passed as messages",
    "concurrent": "100 RAG chains at once under asyncio",
    "query": "LlamaIndex query engine: 12 spans, 36 begins, ends and events",
}
_HEAD: Final = (
    "recorder",
    "calling thread, CPU us",
    "whole process, CPU us",
    "added wall us",
    "events/s, all flushed",
    "of the rate without",
    "bytes per event",
    "peak RSS above, MB",
)


def _three(values: list[float]) -> str:
    low, middle, high = values
    return f"{middle:,.0f} ({low:,.0f}–{high:,.0f})"


def _bytes(name: str, cell: dict[str, Any]) -> str:
    keeps = PEERS[name].keeps
    if keeps in ("nothing", "memory"):
        return "-"
    said = f"{cell['bytes']:,.0f}" + (" (wire)" if keeps == "wire" else "")
    if cell.get("lost", 0) >= 0.005:
        said += f", **lost {cell['lost']:.0%}** of the spans"
    return said


def _rows(cells: dict[str, Any]) -> list[tuple[str, ...]]:
    base = cells.get("none", {}).get("peak_mb")
    rows = []
    for name, cell in cells.items():
        title = PEERS[name].title
        if "failed" in cell:
            rows.append((title, cell["failed"], *[""] * (len(_HEAD) - 2)))
            continue
        if name == "none":
            rate = _three(cell["without_per_s"])
            rows.append((title, "-", "-", "-", rate, "100 %", "-", "-"))
            continue
        above = "" if base is None else f"{cell['peak_mb'] - base:,.0f}"
        rows.append(
            (
                title,
                _three(cell["caller_us"]),
                _three(cell["process_us"]),
                _three(cell["wall_us"]),
                _three(cell["events_per_s"]),
                f"{cell['rate'][1]:.0%}",
                _bytes(name, cell),
                above,
            )
        )
    return rows


def _survives(about: dict[str, Any]) -> str:
    if "survives_failed" in about:
        return str(about["survives_failed"])
    share = about.get("survives")
    if share is None:
        return "-"
    return "all of it" if share >= 0.995 else "nothing" if share == 0 else f"{share:.0%}"


def _about(found: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("recorder", "kept after kill -9", "import and start, CPU s", "their memory, MB")
    ]
    rows.append(("---",) * 4)
    for name, about in found["about"].items():
        if not about:
            continue
        if "failed" in about:
            rows.append((PEERS[name].title, about["failed"], "", ""))
            continue
        cost = about.get("import_s")
        memory = about.get("import_mb")
        rows.append(
            (
                PEERS[name].title,
                _survives(about),
                about.get("import_failed", "") if cost is None else f"{cost[1]:.2f}",
                "" if memory is None else f"{memory[1]:,.0f}",
            )
        )
    return rows


def _table(rows: list[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def report(found: dict[str, Any]) -> str:
    """All tables, with the machine and the versions."""
    out = [found["machine"], "", "Median (quartiles) of paired rounds, per event.", ""]
    for workload, cells in found["cells"].items():
        if cells:
            out += [f"### {NAMES[workload]}", ""]
            out += [_table([_HEAD, ("---",) * len(_HEAD), *_rows(cells)]), ""]
    out += ["### Once", "", _table(_about(found)), "", "### Versions", ""]
    for name, about in found["about"].items():
        known = about.get("versions")
        environment = PEERS[name].environment
        if known and (environment or name == "provkeep"):
            own = {k: v for k, v in known.items() if not k.startswith("opentelemetry-semantic")}
            said = ", ".join(f"{k} {v}" for k, v in own.items())
            out.append(f"- {PEERS[name].title}: {said}")
    return "\n".join(out)
