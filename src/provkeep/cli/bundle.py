"""``bundle`` writes the evidence for one lineage; ``verify-bundle`` checks it with a public key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from provkeep.cli.output import (
    as_json,
    complain,
    database,
    note,
    one_id,
    opened,
    reader,
    say,
    say_json,
    say_table,
)
from provkeep.cli.pages import command
from provkeep.errors import CheckpointError
from provkeep.model.records import COMPARTMENTS

if TYPE_CHECKING:
    from provkeep.export.outcome import BundleReport

ALL: Final = "all"


@command(
    "Write a lineage with its proofs for a stranger.",
    "provkeep bundle audit.db -o case.json",
    'provkeep bundle audit.db 01a20a34 --reveal output,document --purpose "case 17" -o case.json',
    'provkeep bundle audit.db --reveal all --purpose "case 17" --pin auditor-pin.json -o case.json',
)
@database
@one_id
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write here (mode 0600).",
)
@click.option(
    "--reveal",
    multiple=True,
    metavar="WHAT",
    help=f"Disclose what was said, of these classes: {', '.join(COMPARTMENTS)}, or all; with commas"
    " or repeated. Needs --purpose.",
)
@click.option("--purpose", metavar="WHY", help="Why it is disclosed; stands in the access record.")
@click.option(
    "--pin",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A pin that the receiver holds: the bundle then shows that the log still begins so. The"
    " pin in your configuration is shown in any case.",
)
@reader
@as_json
def bundle(
    database: Path,
    wanted: str | None,
    output: Path,
    reveal: tuple[str, ...],
    purpose: str | None,
    pin: Path | None,
    reader: str | None,
    as_json: bool,
) -> int:
    """Write the evidence for one answer, or any step or part, as one JSON document.

    It holds the records that the lineage passes through, the proof that each stands in the signed
    log, and what you choose to reveal. Whoever receives it needs the log's public key (log.pub)
    and no database: `provkeep verify-bundle`. Each revealed text comes with a key that opens it
    and nothing else; the access is recorded, committed and signed before anything is opened.
    """
    classes = [each.strip() for part in reveal for each in part.split(",")]
    for each in classes:
        if each not in (*COMPARTMENTS, ALL):
            known = ", ".join((*COMPARTMENTS, ALL))
            raise click.BadParameter(f"{each!r} is none of {known}", param_hint="--reveal")
    if classes and purpose is None:
        raise click.UsageError('--reveal discloses texts: say why with --purpose "…"')
    if purpose is not None and not classes:
        raise click.UsageError("--purpose is for --reveal; nothing is disclosed without it")
    with opened(database, reader) as trail:
        made = trail.bundle(output, wanted, reveal=classes, pin=pin, purpose=purpose)
        who = trail.actor
    if as_json:
        say_json(
            {
                "file": str(output),
                "focus": made.focus,
                "records": [each.seq for each in made.records],
                "revealed": [each.payload for each in made.reveals],
                "not_revealed": [{"payload": n, "why": why} for n, why in made.unopened],
            }
        )
    else:
        what = f"{len(made.records)} records, {len(made.reveals)} payloads revealed"
        note(f"wrote {output}: {what}, about {made.focus}")
        for number, why in made.unopened:
            complain(f"payload {number} is not revealed: {why}")
    if classes:
        note(f"access recorded: {who}, “{purpose}”")
    return 0


@command(
    "Check an evidence bundle with the log's public key.",
    "provkeep verify-bundle case.json --key log.pub",
    "provkeep verify-bundle case.json --pin auditor-pin.json --show",
    "provkeep verify-bundle case.json --key log.pub --json | jq .proved",
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--key",
    metavar="KEY",
    help="The log's public key, or a file that holds it (log.pub). Get it from the log's owner by"
    " a way that you trust; by default the pin's.",
)
@click.option(
    "--pin",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also check that the log began as this pin of yours remembers.",
)
@click.option("--show", is_flag=True, help="Print what was revealed.")
@as_json
def verify_bundle(file: Path, key: str | None, pin: Path | None, show: bool, as_json: bool) -> int:
    """Check an evidence bundle: no database and no private key is needed.

    Every record has to lead to the signed root of the log by its proof, and every revealed text
    has to be what such a record sealed. It prints what that proves, and what it leaves open. The
    exit code is 0 when all holds, 1 when anything is wrong, 3 when FILE is no bundle.
    """
    from provkeep.export.verdict import verify_bundle as check

    if key is None and pin is None:
        raise click.UsageError("say whose log it should be: --key log.pub, or --pin FILE")
    report = check(file, key=_key(key), pin=pin)
    if as_json:
        say_json(report.to_dict(texts=show))
    else:
        _say(file, report, show=show)
    return 0 if report else 1


def _say(file: Path, report: BundleReport, *, show: bool) -> None:
    say(f"{file}: {repr(report).partition(chr(10))[0].strip('<>').removeprefix('BundleReport ')}")
    wrong = [f for f in report.findings if f.severity == "error" or f.code == "lineage-open"]
    if wrong:
        headers = ["SEVERITY", "CODE", "PLACE", "FINDING"]
        say_table(headers, [[f.severity, f.code, f.place, f.sentence] for f in wrong])
    for title, sentences in (("proved:", report.proved), ("open:", report.open)):
        if sentences:
            say(title)
            for sentence in sentences:
                say(f"  - {sentence}")
    if report.revealed and not show:
        say("revealed (--show prints the texts):")
        rows = [[e.payload, e.compartment, e.chars, ", ".join(e.what)] for e in report.revealed]
        say_table(["PAYLOAD", "CLASS", "CHARS", "WHAT"], rows)
    for each in report.revealed if show else ():
        text = each.text if each.text is not None else "(not UTF-8)"
        say(f"\npayload {each.payload}, {each.compartment}, {', '.join(each.what)}:\n{text}")


def _key(wanted: str | None) -> str | None:
    """A public key given as itself or as a file."""
    from provkeep.tlog.mldsa import read_keys

    if wanted is None:
        return None
    text = wanted
    try:
        if "+" not in wanted or Path(wanted).is_file():
            text = Path(wanted).read_text(encoding="utf-8").strip()
        return read_keys(text).vkeys()
    except (OSError, ValueError, CheckpointError) as error:
        raise click.BadParameter(
            f"{wanted} is neither a public key (origin+id+base64) nor a file that holds one",
            param_hint="--key",
        ) from error
