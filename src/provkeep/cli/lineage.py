"""``lineage`` and ``sources``: what one answer, step or part came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from provkeep.cli.output import (
    LEDGER_WIDTH,
    as_json,
    database,
    note,
    one_id,
    opened,
    reader,
    say,
    say_json,
    say_table,
    width,
)
from provkeep.cli.pages import command
from provkeep.errors import UnknownIdError
from provkeep.model.graph import ARTIFACT_KINDS, BASES

if TYPE_CHECKING:
    from provkeep.reading.lineage import Source
    from provkeep.trail import Lineage


@command(
    "Draw what an answer came from.",
    "provkeep lineage audit.db",
    "provkeep lineage audit.db 01a20a34 --from handbook.pdf",
    "provkeep lineage audit.db 01a20a34.a3 --downstream",
    "provkeep lineage audit.db --basis id --basis content --json",
    terms=(
        "How a link is known (its basis)",
        [
            ("observed", "the framework said so, or one step took it in and gave it out"),
            ("id", "a document, message or tool call carries the same id"),
            ("content", "the same content"),
            ("contained", "the text stands in the other one; spans say where"),
            ("structural", "only the shape of the chain says so"),
        ],
    ),
)
@database
@one_id
@click.option("--downstream", is_flag=True, help="What it led to, instead of what it came from.")
@click.option(
    "--basis",
    multiple=True,
    type=click.Choice(BASES),
    help="Follow only links known in this way; may be repeated.",
)
@click.option("--depth", type=click.IntRange(0), metavar="N", help="At most N links away.")
@click.option(
    "--kind",
    multiple=True,
    metavar="KIND",
    help="Show only these kinds: model, tool, retriever, source, "
    + ", ".join(ARTIFACT_KINDS[:6])
    + ", …; may be repeated.",
)
@click.option(
    "--from",
    "begin",
    metavar="WHAT",
    help="Only what lies on a path from this: a source's name, or a part such as a3.",
)
@click.option("--whole", is_flag=True, help="Also draw the rest of the traces, with hollow dots.")
@reader
@as_json
def lineage(
    database: Path,
    wanted: str | None,
    downstream: bool,
    basis: tuple[str, ...],
    depth: int | None,
    kind: tuple[str, ...],
    begin: str | None,
    whole: bool,
    reader: str | None,
    as_json: bool,
) -> None:
    """Draw what an answer, or any step or part, came from.

    One line a step, causes above effects, joined by rails. Nothing that was said is shown, only
    kinds, names and sizes. With --json: the graph as node-link JSON, as `provkeep export` gives.
    """
    if whole and (as_json or kind):
        raise click.UsageError("--whole is for the drawing of all kinds: leave --json, --kind out")
    if downstream and begin is not None:
        raise click.UsageError("--from asks what lies upstream: leave --downstream out")
    if downstream and wanted is None:
        raise click.UsageError("--downstream needs an ID: an answer is the end of its trace")
    with opened(database, reader) as trail:
        found: Any = trail.downstream(wanted) if downstream and wanted else trail.lineage(wanted)
    if basis or depth is not None:
        follow = found.downstream if downstream else found.upstream
        found = follow(basis=basis or None, depth=depth)
    if begin is not None:
        found = found.between(_part(found, begin), found.focus)
    if kind:
        found = found.filter(kind=kind)
    if as_json:
        say_json(found.to_dict())
    else:
        say(found.to_text(width=width(LEDGER_WIDTH), whole=whole))


def _part(found: Lineage, wanted: str) -> str:
    """The node of a lineage that a person means by an id, ``a3``, or a source's name."""
    nodes = found.whole.nodes
    here = f"{(found.focus or '').partition('.')[0]}.{wanted}"
    for candidate in (wanted, here):
        if candidate in nodes:
            return candidate
    named = [
        n.id
        for n in nodes.values()
        if n.type == "source" and (n.label == wanted or n.label.endswith("/" + wanted))
    ]
    if not named:
        raise UnknownIdError("source or part", wanted)
    return named[0]


@command(
    "List the documents an answer came from.",
    "provkeep sources audit.db",
    'provkeep sources audit.db 01a20a34 --purpose "complaint 4711"',
    "provkeep sources audit.db --json",
)
@database
@one_id
@click.option(
    "--purpose",
    metavar="WHY",
    help="Open the answer and print the passages quoted; recorded as an access, with this reason.",
)
@reader
@as_json
def sources(
    database: Path, wanted: str | None, purpose: str | None, reader: str | None, as_json: bool
) -> None:
    """List the documents an answer came from: those whose text reached the model.

    Documents that were retrieved and dropped on the way are not listed. QUOTED counts the
    characters of the answer that stand word for word in the document, COVERAGE how much of the
    document reached what the model read.
    """
    with opened(database, reader) as trail:
        found = trail.lineage(wanted)
        listed = found.sources()
        text = trail.text(found.focus, purpose=purpose) if purpose is not None else None
        who = trail.actor
    if as_json:
        say_json([_source(source, text) for source in listed])
    elif not listed:
        say("no document reached it")
    else:
        rows = []
        for source in listed:
            quoted = sum(q.end - q.start for q in source.quotations)
            share = source.coverage_permille
            rows.append(
                [
                    source.name,
                    len(source.documents),
                    source.basis,
                    None if share is None else f"{share / 10:.0f} %",
                    f"{quoted} chars" if quoted else None,
                ]
            )
        say_table(["SOURCE", "DOCUMENTS", "BASIS", "COVERAGE", "QUOTED"], rows)
        if text is not None:
            for source in listed:
                for q in source.quotations:
                    say(f"\n{source.name}, characters {q.document_start} to {q.document_end}:")
                    say(f"  “{text[q.start : q.end]}”")
    if purpose is not None:
        note(f"access recorded: {who}, “{purpose}”")


def _source(source: Source, text: str | None) -> dict[str, Any]:
    quotations = []
    for q in source.quotations:
        span: dict[str, Any] = {
            "document": q.document,
            "span": [q.start, q.end],
            "document_span": [q.document_start, q.document_end],
        }
        if text is not None:
            span["text"] = text[q.start : q.end]
        quotations.append(span)
    return {
        "id": source.id,
        "name": source.name,
        "documents": list(source.documents),
        "basis": source.basis,
        "coverage_permille": source.coverage_permille,
        "prompt_spans": [
            [place, [s.target_start, s.target_end, s.source_start, s.source_end]]
            for place, s in source.prompt_spans
        ],
        "quotations": quotations,
    }
