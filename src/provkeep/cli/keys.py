"""``keys`` and what is done to them."""

from __future__ import annotations

from pathlib import Path

import click

from provkeep.cli.output import as_json, database, say, say_json
from provkeep.cli.pages import Command, Subgroup
from provkeep.errors import NotAProvkeepFileError

ROTATE_LOG = (
    "provkeep keys rotate audit.db --log",
    "provkeep keys rotate audit.db --log --yes --json",
)


@click.group(cls=Subgroup, short_help="Change keys.", examples=ROTATE_LOG)
def keys() -> None:
    """Change the keys of a database."""


@keys.command(cls=Command, short_help="Use new keys from now on.", examples=ROTATE_LOG)
@database
@click.option("--log", "log", is_flag=True, help="The key that signs the log.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def rotate(database: Path, log: bool, yes: bool, as_json: bool) -> int:
    """Use a new key from now on, and forget the old one.

    With --log: the old key signs a record that names the new one, and is then removed from this
    machine. What it signed stays verifiable, and nobody can sign it anew, not even with the new
    key. Give whoever verifies the new log.pub; it lists all keys, the oldest first.
    """
    if not log:
        raise click.UsageError("say which key: --log")
    if not database.exists():
        raise NotAProvkeepFileError(database, "there is no such file")
    if not yes:
        click.confirm("The old key is destroyed. Go on?", abort=True, err=True)
    from provkeep.recording.rotation import rotate_log_key
    from provkeep.sealing.home import find_by_path, pin_path

    done = rotate_log_key(database)
    store_id = find_by_path(database)
    public = str(pin_path(store_id).with_name("log.pub")) if store_id is not None else None
    if as_json:
        said = {"record": done.record, "old": done.old, "new": done.new, "log_pub": public}
        say_json({"database": str(database.absolute()), **said})
    else:
        say(f"record {done.record} names the new key of the log: {done.new}")
        say(f"all its keys, the oldest first, for whoever verifies: {public}")
    return 0
