"""``grant``, ``revoke``, ``grants``: who may read which class of payloads, until when."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from provkeep.cli.output import as_json, database, note, opened, reader, say, say_json, say_table
from provkeep.cli.pages import command

_SPAN: Final = re.compile(r"(\d{1,6})([hdw])")
_HOURS: Final = {"h": 1, "d": 24, "w": 168}

admin_option = click.option(
    "--admin",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The admin's key file; by default the one in your configuration.",
)


def until_us(text: str, now_us: int | None = None) -> int:
    """A time from ``30d``, ``12h``, ``2w`` or a date such as 2026-12-31, as microseconds UTC.

    Raises:
        ValueError: it is none.
    """
    span = _SPAN.fullmatch(text)
    if span is not None:
        now = time.time_ns() // 1000 if now_us is None else now_us
        return now + int(span[1]) * _HOURS[span[2]] * 3_600_000_000
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return int(when.timestamp()) * 1_000_000


@command(
    "Let a reader open what a role covers.",
    'provkeep grant audit.db reviewer --to alice.key.pub --purpose "complaints" --until 30d',
    'provkeep grant audit.db auditor --to office.pub --purpose "audit" --until 2099-12-31 --json',
    "provkeep grant audit.db privacy-officer --to b.pub --purpose p --until 12h --admin admin.json"
    " --keys reader.json",
    terms=(
        "Roles",
        [
            ("auditor", "no payload: the graph, times, sizes, findings"),
            ("reviewer", "prompts and outputs"),
            ("privacy-officer", "everything"),
            ("your own", 'in roles.json beside the keys: {"support": ["prompt", "output"]}'),
        ],
    ),
)
@database
@click.argument("role", metavar="ROLE")
@click.option(
    "--to",
    required=True,
    metavar="PUBKEY",
    help="The reader's public key: the line that `provkeep keys new` wrote, or its file.",
)
@click.option("--purpose", required=True, metavar="WHY", help="What for; stands in the record.")
@click.option("--until", required=True, metavar="WHEN", help="30d, 12h, 2w, or a date (UTC).")
@admin_option
@click.option(
    "--keys",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The private keys to grant (reader.json); by default those in your configuration.",
)
@reader
@as_json
def grant(
    database: Path,
    role: str,
    to: str,
    purpose: str,
    until: str,
    admin: Path | None,
    keys: Path | None,
    reader: str | None,
    as_json: bool,
) -> None:
    """Grant ROLE in DATABASE to a reader: a signed record, and the keys sealed to that reader.

    The reader opens with `--as FILE`. When the grant ends or is revoked, provkeep refuses and
    records that it did. Somebody who kept the key goes on holding it: rotate the compartment keys
    to shut them out of what is recorded from then on.
    """
    from provkeep.reading.granting import Office
    from provkeep.sealing.principals import PublicPrincipal

    try:
        end = until_us(until)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{until!r} is no time: say 30d, 12h, 2w or 2099-12-31") from error
    path = Path(to)
    line = path.read_text(encoding="utf-8") if "+" not in to or path.is_file() else to
    whom = PublicPrincipal.from_line(line)
    with Office(database, actor=_actor(reader), admin=admin, keys=keys) as office:
        made = office.grant(role, whom, purpose=purpose, until_us=end)
    if as_json:
        say_json({**made, "to": whom.name, "reader": whom.id.hex()})
        return
    covers = ", ".join(made["compartments"]) or "the graph only"
    say(f"granted {role} ({covers}) to {whom.name} until {_clock(end)}: {made['id']}")


@command(
    "Take a grant back.",
    'provkeep revoke audit.db Zm9vYmFy --reason "left the team"',
    "provkeep revoke audit.db Zm9vYmFy --reason p --yes --admin admin.json --json",
    dashes=True,
)
@database
@click.argument("wanted", metavar="GRANT")
@click.option("--reason", required=True, metavar="WHY", help="Stands sealed in the record.")
@admin_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@reader
@as_json
def revoke(
    database: Path,
    wanted: str,
    reason: str,
    admin: Path | None,
    yes: bool,
    reader: str | None,
    as_json: bool,
) -> None:
    """Revoke GRANT (its id, or the beginning of one): a signed record; its sealed keys are deleted.

    Somebody who opened it before may have kept the keys in it: rotate the compartment keys to shut
    them out of what is recorded from then on.
    """
    from provkeep.reading.granting import Office

    with Office(database, actor=_actor(reader), admin=admin) as office:
        if not yes:
            click.confirm(
                f"revoke grant {wanted} and delete its sealed keys?", abort=True, err=True
            )
        record = office.revoke(wanted, reason=reason)
    if as_json:
        say_json({"grant": wanted, "record": record})
        return
    say(f"revoked {wanted} (record {record})")
    note("whoever kept its keys can still use them outside provkeep: rotate to end that")


@command(
    "List who was granted what.",
    "provkeep grants audit.db",
    "provkeep grants audit.db --as alice.key --json",
)
@database
@reader
@as_json
def grants(database: Path, reader: str | None, as_json: bool) -> None:
    """List the grants in DATABASE, newest first, with their state."""
    with opened(database, reader) as trail:
        found = trail.grants()
    if as_json:
        say_json([each.to_dict() for each in found])
        return
    if not found:
        say("nothing has been granted")
        return
    headers = ["GRANT", "ROLE", "TO", "PURPOSE", "FROM (UTC)", "UNTIL (UTC)", "STATE"]
    say_table(
        headers,
        [
            [
                each.id,
                each.role,
                each.name or each.reader,
                each.purpose,
                _clock(each.at_us),
                _clock(each.until_us),
                each.status(),
            ]
            for each in found
        ],
    )


def _clock(at_us: int) -> str:
    from provkeep.reading.answers import clock

    return clock(at_us)


def _actor(name: str | None) -> str:
    from provkeep.reading.reader import user

    return name or user()
