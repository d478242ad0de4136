"""``show``: one trace with its steps and parts, or one part, opened when a purpose is given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from provkeep.cli.output import (
    as_json,
    database,
    note,
    one_id,
    opened,
    reader,
    say,
    say_json,
    say_table,
    took,
)
from provkeep.cli.pages import command
from provkeep.display.words import duration
from provkeep.errors import UnknownIdError
from provkeep.model.graph import Graph, Node


@command(
    "Show a trace's steps and parts, or open a text.",
    "provkeep show audit.db",
    "provkeep show audit.db 01a20a34",
    'provkeep show audit.db 01a20a34.a12 --purpose "complaint 4711"',
    'provkeep show audit.db --purpose "for the customer" > answer.txt',
)
@database
@one_id
@click.option(
    "--purpose",
    metavar="WHY",
    help="Open the text; recorded as an access, with this reason, before anything is shown.",
)
@reader
@as_json
def show(
    database: Path, wanted: str | None, purpose: str | None, reader: str | None, as_json: bool
) -> None:
    """Show a trace: its steps and its parts; or open the text of one part.

    Without --purpose nothing that was said is opened. With --purpose the text of the part ID is
    printed; of a trace, that of its answer. Who read, when and why is committed to the log first
    (`provkeep accesses` lists it). Text that goes into a file or a pipe is exactly what was
    recorded; on a terminal control characters are made visible.
    """
    with opened(database, reader) as trail:
        if purpose is not None:
            place = wanted if wanted and "." in wanted else trail.output(wanted).id
            whole = trail.value(place, purpose=purpose)
            note(f"access recorded: {trail.actor}, “{purpose}”")
            if as_json:
                say_json({"id": place, "value": whole})
            else:
                from provkeep.reading.unsealing import text_of

                _say_text(text_of(whole))
            return
        if wanted and "." in wanted:
            found = trail.lineage(wanted)
            _show_node(found.whole, found.whole.nodes[found.focus or ""], as_json)
            return
        trace = trail.summary(wanted)
        run: Any = trail.run(trace)  # Trail.lineage_type
    if as_json:
        say_json({"trace": trace.to_dict(), "answer": run.focus, "graph": run.to_dict()})
        return
    from provkeep.reading.answers import clock

    say(f"trace {trace.id}: {trace.name}, {trace.status}")
    say(f"began {clock(trace.started_us)} UTC, took {took(trace) or '…'}, {trace.runs} runs")
    named = [("actor", trace.actor), ("session", trace.session), ("subject", trace.subject)]
    if any(name for _, name in named):
        say(", ".join(f"{word} {name}" for word, name in named if name))
    say()
    _say_steps(run.graph)
    say()
    _say_parts(run.graph, run.focus)
    if run.focus is not None:
        note(f'text: provkeep show {database} {run.focus} --purpose "why you read it"')


def _say_text(text: str) -> None:
    if sys.stdout.isatty():
        say(text)
        return
    sys.stdout.flush()
    raw = text.encode("utf-8", "surrogatepass")
    binary = getattr(sys.stdout, "buffer", None)
    if binary is not None:
        binary.write(raw)
        binary.flush()
    else:
        sys.stdout.write(text)


def _say_steps(graph: Graph) -> None:
    parents = {e.effect: e.cause for e in graph.edges if e.type == "informed"}
    rows = []
    for node in _in_tree(list(graph.of("run")), parents):
        depth, above = 0, parents.get(node.id)
        while above is not None:
            depth, above = depth + 1, parents.get(above)
        rows.append(
            [
                _place(node.id),
                "  " * depth + node.label,
                node.kind,
                node.status,
                _length(node),
                node.attrs.get("model"),
                _list(e.cause for e in graph.into.get(node.id, ()) if e.type == "used"),
                _list(e.effect for e in graph.out_of.get(node.id, ()) if e.type == "generated"),
            ]
        )
    say_table(["ID", "STEP", "KIND", "STATUS", "TOOK", "MODEL", "USED", "MADE"], rows)


def _in_tree(runs: list[Node], parents: dict[str, str]) -> list[Node]:
    """Runs in order of time, each under its parent."""
    children: dict[str | None, list[Node]] = {}
    known = {node.id for node in runs}
    for node in runs:
        above = parents.get(node.id)
        children.setdefault(above if above in known else None, []).append(node)
    out: list[Node] = []
    waiting = children.get(None, [])[::-1]
    while waiting:
        node = waiting.pop()
        out.append(node)
        waiting.extend(children.get(node.id, [])[::-1])
    return out


def _say_parts(graph: Graph, answer: str | None) -> None:
    rows = [
        [
            _place(node.id) + (" (answer)" if node.id == answer else ""),
            node.kind,
            node.label,
            node.size,
            node.compartment,
        ]
        for node in sorted(graph.of("artifact"), key=lambda n: n.order)
    ]
    say_table(["ID", "PART", "WHAT", "CHARACTERS", "SEALED FOR"], rows)


def _show_node(graph: Graph, node: Node, as_json: bool) -> None:
    """One step or part and what it is joined to; nothing of it is opened."""
    if node.type not in ("run", "artifact"):
        raise UnknownIdError("step or part", node.id)
    joined = [(e, "from", e.cause) for e in graph.into.get(node.id, ())]
    joined += [(e, "to", e.effect) for e in graph.out_of.get(node.id, ())]
    if as_json:
        fields: dict[str, Any] = {
            "id": node.id,
            "type": node.type,
            "kind": node.kind,
            "label": node.label,
            "status": node.status,
            "characters": node.size,
            "compartment": node.compartment,
            "attrs": dict(node.attrs),
            "links": [
                {"type": e.type, "basis": e.basis, "direction": way, "id": other, "flow": e.flow}
                for e, way, other in joined
            ],
        }
        say_json(fields)
        return
    say(f"{node.id}: {node.kind}, {node.label}")
    about = {
        "status": node.status,
        "took": _length(node),
        "characters": node.size,
        "sealed for": node.compartment,
        **{word.replace("_", " "): value for word, value in node.attrs.items()},
    }
    for word, value in about.items():
        if value is not None:
            say(f"{word}: {value}")
    if joined:
        say()
        say_table(
            ["LINK", "BASIS", "", "ID", "WHAT"],
            [[e.type, e.basis, way, other, graph.nodes[other].label] for e, way, other in joined],
        )


def _place(node_id: str) -> str:
    return node_id.partition(".")[2]


def _list(ids: Any) -> str:
    places = [_place(i) for i in dict.fromkeys(ids)]
    return ", ".join(places[:6]) + (f" and {len(places) - 6} more" if len(places) > 6 else "")


def _length(node: Node) -> str | None:
    if node.type != "run" or node.start_ns is None or node.end_ns is None:
        return None
    return duration(max(0, node.end_ns - node.start_ns))
