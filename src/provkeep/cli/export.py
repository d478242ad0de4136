"""``export``: a lineage or a whole trace as a document that other programs read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from provkeep.cli.output import (
    as_json,
    database,
    json_text,
    note,
    one_id,
    opened,
    progress,
    reader,
    say_json,
)
from provkeep.cli.pages import command

if TYPE_CHECKING:
    from provkeep.trail import Lineage

FORMATS: Final = ("json", "prov", "otlp", "mermaid", "svg")


@command(
    "Write a lineage as JSON, PROV, OTLP, Mermaid or SVG.",
    "provkeep export audit.db -o lineage.json",
    "provkeep export audit.db 01a20a34 --format svg -o lineage.svg",
    "provkeep export audit.db --format mermaid",
    "provkeep export audit.db --whole --format otlp -o spans.json",
    'provkeep export audit.db --payloads --purpose "complaint 4711" -o with-texts.json',
)
@database
@one_id
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="json",
    show_default=True,
    help="json: node-link JSON, loads back; prov: W3C PROV-JSON; otlp: OpenTelemetry spans;"
    " mermaid: a flowchart for Markdown; svg: the picture.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write here instead of to stdout.",
)
@click.option("--whole", is_flag=True, help="The whole trace, not only what the answer came from.")
@click.option("--payloads", is_flag=True, help="Include the texts (json only); needs --purpose.")
@click.option(
    "--purpose", metavar="WHY", help="Why the texts are opened; stands in the access record."
)
@reader
@as_json
def export(
    database: Path,
    wanted: str | None,
    form: str,
    output: Path | None,
    whole: bool,
    payloads: bool,
    purpose: str | None,
    reader: str | None,
    as_json: bool,
) -> None:
    """Write the lineage of an answer, or of any step or part, to a file.

    Texts are left out unless --payloads asks for them; one access record then lists all that were
    opened. `provkeep.load_export` reads the JSON back and answers as the database does. With
    --json and -o, what was written is told as JSON.
    """
    if payloads and form != "json":
        raise click.UsageError(f"--payloads goes with --format json, not {form}")
    if payloads and purpose is None:
        raise click.UsageError('--payloads opens texts: say why with --purpose "…"')
    if purpose is not None and not payloads:
        raise click.UsageError("--purpose is for --payloads; nothing is opened without it")
    values: Mapping[str, Any] | None = None
    with opened(database, reader) as trail:
        found: Any = trail.run(wanted) if whole else trail.lineage(wanted)
        if payloads:
            ids = [node.id for node in found.graph.of("artifact")]
            with progress("opening") as step:
                values = trail.values(ids, purpose=purpose, progress=step)
            note(f"access recorded: {trail.actor}, “{purpose}”, {len(ids)} parts")
    if output is None:
        click.echo(_text(found, form, values, shown=True), nl=False)
        return
    try:
        output.write_text(_text(found, form, values, shown=False), encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{output} cannot be written: {error.strerror}") from error
    counts = {"nodes": len(found.graph.nodes), "links": len(found.graph.edges)}
    if as_json:
        say_json({"file": str(output), "format": form, **counts, "payloads": len(values or {})})
    else:
        note(f"wrote {output}: {counts['nodes']} nodes, {counts['links']} links")


def _text(found: Lineage, form: str, values: Mapping[str, Any] | None, *, shown: bool) -> str:
    """The document; where it may meet a terminal, in a form that is safe there."""
    if form == "svg":
        return found.to_svg()
    if form == "mermaid":
        return found.to_mermaid()
    if form == "prov":
        document = found.to_prov()
    elif form == "otlp":
        document = found.to_otlp()
    else:
        document = found.to_dict(payloads=values)
    return (json_text(document) if shown else json.dumps(document, indent=1)) + "\n"
