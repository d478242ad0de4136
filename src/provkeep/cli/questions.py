"""Questions across traces: which there are, what a document reached, who read what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from provkeep.cli.output import (
    as_json,
    database,
    note,
    opened,
    reader,
    say,
    say_json,
    say_table,
    short_ids,
    took,
)
from provkeep.cli.pages import command
from provkeep.model.records import OPENED

if TYPE_CHECKING:
    from provkeep.reading.answers import TraceSummary


@command(
    "List the traces, newest first.",
    "provkeep runs audit.db",
    "provkeep runs audit.db --status error --limit 5",
    "provkeep runs audit.db --session user-17 --json",
)
@database
@click.option("--session", metavar="NAME", help="Only traces of this conversation.")
@click.option("--actor", metavar="NAME", help="Only traces this person or service answers for.")
@click.option("--status", metavar="STATUS", help="Only ok, error, interrupted, cancelled, open, …")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=20,
    metavar="N",
    help="At most N; 20 unless told.",
)
@click.option("--offset", type=click.IntRange(0), default=0, metavar="N", help="Skip the newest N.")
@reader
@as_json
def runs(
    database: Path,
    session: str | None,
    actor: str | None,
    status: str | None,
    limit: int,
    offset: int,
    reader: str | None,
    as_json: bool,
) -> None:
    """List the traces in DATABASE, newest first.

    A trace is one call of your program and everything under it. Names of actors and sessions are
    sealed; with the keys on this machine they are shown, and one access record says so.
    """
    with opened(database, reader) as trail:
        found = trail.runs(
            limit=limit + 1, offset=offset, session=session, actor=actor, status=status
        )
    if as_json:
        say_json([trace.to_dict() for trace in found[:limit]])
        return
    if not found:
        say("no traces" + (" fit" if session or actor or status or offset else " recorded yet"))
        return
    _say_traces(found[:limit])
    if len(found) > limit:
        note(f"there are more; --offset {offset + limit} goes on")


def _say_traces(found: list[TraceSummary], how: list[str] | None = None) -> None:
    from provkeep.reading.answers import clock

    ids = short_ids([trace.id for trace in found])
    headers = ["ID", "BEGAN (UTC)", "TOOK", "STATUS", "NAME", "RUNS", "ERRORS", "ACTOR", "SESSION"]
    rows: list[list[Any]] = [
        [
            ids[t.id],
            clock(t.started_us),
            took(t),
            t.status,
            t.name,
            t.runs,
            t.errors,
            t.actor,
            t.session,
        ]
        for t in found
    ]
    if how is not None:
        headers.insert(1, "HOW")
        for row, word in zip(rows, how, strict=True):
            row.insert(1, word)
    for name in ("SESSION", "ACTOR"):  # an empty column tells nothing
        at = headers.index(name)
        if not any(row[at] for row in rows):
            del headers[at]
            for row in rows:
                del row[at]
    say_table(headers, rows)


@command(
    "List every trace that a document reached.",
    "provkeep impact audit.db handbook.pdf",
    "provkeep impact audit.db s3://docs/2026/handbook.pdf --json",
)
@database
@click.argument("source", metavar="SOURCE")
@reader
@as_json
def impact(database: Path, source: str, reader: str | None, as_json: bool) -> None:
    """List every trace that a document reached.

    SOURCE is its name as recorded, the end of its path, or its id (s.…). HOW is "reached" when
    its text reached the answer, "later" when a later turn built on such an answer, "retrieved"
    when it was found and dropped.
    """
    with opened(database, reader) as trail:
        found = trail.impact(source)
        if as_json:
            say_json(found.to_dict())
            return
        groups = {"reached": found.reached, "later": found.later, "retrieved": found.retrieved}
        listed = [(how, trace) for how, traces in groups.items() for trace in traces]
    if not listed:
        say(f"{source} reached nothing")
        return
    _say_traces([trace for _, trace in listed], [how for how, _ in listed])
    counts = {word: len(traces) for word, traces in groups.items()}
    say(", ".join(f"{word}: {n}" for word, n in counts.items()))


@command(
    "List who opened what, when and why.",
    "provkeep accesses audit.db",
    "provkeep accesses audit.db --source handbook.pdf",
    "provkeep accesses audit.db --actor alice@example.com --json",
    "provkeep accesses audit.db --what refused",
)
@database
@click.option("--source", metavar="NAME", help="Only those that opened this document's text.")
@click.option("--trace", metavar="ID", help="Only those that opened something of this trace.")
@click.option("--actor", metavar="NAME", help="Only those by this reader (a name, or a key's id).")
@click.option(
    "--person", metavar="NAME", help="Only those of traces of this actor, or about this subject."
)
@click.option(
    "--what", multiple=True, type=click.Choice(OPENED), help="Only these; may be repeated."
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=50,
    metavar="N",
    help="At most N; 50 unless told.",
)
@reader
@as_json
def accesses(
    database: Path,
    source: str | None,
    trace: str | None,
    actor: str | None,
    person: str | None,
    what: tuple[str, ...],
    limit: int,
    reader: str | None,
    as_json: bool,
) -> None:
    """List who opened what, when and why, newest first.

    A reading is recorded before anything is opened. "names" means that names of sources, actors
    and sessions were shown, "payloads" that text was, "refused" that it was not, and why. With
    --source, REACH is "direct" when the document itself was opened and "derived" when something
    made from it was.
    """
    from provkeep.reading.answers import clock

    with opened(database, reader) as trail:
        found = trail.accesses(
            source=source, trace=trace, actor=actor, person=person, what=what or None, limit=limit
        )
    if as_json:
        say_json([access.to_dict() for access in found])
        return
    if not found:
        say(
            "no accesses"
            + (" fit" if source or trace or actor or person or what else " recorded yet")
        )
        return
    headers = ["RECORD", "AT (UTC)", "READER", "PURPOSE", "WHAT", "TRACE", "PARTS"]
    ids = short_ids([a.trace for a in found if a.trace])
    rows: list[list[Any]] = [
        [
            a.record,
            clock(a.at_us),
            a.actor,
            a.purpose,
            a.what if a.why is None else f"{a.what}: {a.why}",
            ids[a.trace] if a.trace else None,
            len(a.artifacts) or None,
        ]
        for a in found
    ]
    if source is not None:
        headers.append("REACH")
        rows = [[*row, a.reach] for row, a in zip(rows, found, strict=True)]
    say_table(headers, rows)
