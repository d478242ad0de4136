"""``pin`` remembers the log outside the database; ``tiles`` writes it out for other programs."""

from __future__ import annotations

import contextlib
from base64 import b64encode
from pathlib import Path

import click

from provkeep.cli.keeping import public_key
from provkeep.cli.output import as_json, complain, database, progress, say, say_json
from provkeep.cli.pages import command
from provkeep.errors import CheckpointError, KeyFileError, PinError, PinMismatchError
from provkeep.tlog.checkpoint import LogPublicKey
from provkeep.tlog.heads import View, check_head, check_pin, fresh_pin
from provkeep.tlog.mldsa import SecondPublicKey, read_keys, verify_second
from provkeep.tlog.pin import Pin, read_pin, write_pin
from provkeep.tlog.tiles import export_tiles

key_option = click.option(
    "--key",
    metavar="KEY",
    help="The log's public key, or a file that holds it (log.pub); by default the one in your"
    " configuration.",
)


def trusted_key(database: Path, given: str | None) -> tuple[LogPublicKey, Path | None]:
    """The log's key in force, from outside the store, and where this user's pin of it is.

    Raises:
        KeyFileError: nobody said which key it is, and the configuration does not know it either.
        CheckpointError: what was given is no key; or a second key is known, and it did not sign
            the newest checkpoint.
        LogKeyError: one is known, and the installed cryptography cannot check with it.
    """
    from provkeep.sealing.home import find_by_path, log_public, pin_path
    from provkeep.store.sqlite import SqliteStore

    said = public_key(given)
    store_id = find_by_path(database)
    if store_id is None:
        with contextlib.closing(SqliteStore(database, read_only=True)) as store:
            store_id = store.store_id
    if said is None:
        said = log_public(store_id)
    known = read_keys(said)
    if not known.ed25519:
        raise CheckpointError(database.name, "a second key alone was given; name the first, too")
    public, keys = known.ed25519[-1], known.vkeys().split("\n")  # the last one signs
    if known.second is not None:
        _require_second(database, public, known.second)
    with contextlib.suppress(PinError, KeyFileError):
        if read_pin(pin_path(store_id)).vkey not in {*keys, *_ours(log_public(store_id), keys)}:
            return public, None  # somebody else's log
    return public, pin_path(store_id)


def _require_second(database: Path, public: LogPublicKey, second: SecondPublicKey) -> None:
    """Did both keys sign the newest head?"""
    from provkeep.store.sqlite import SqliteStore

    with contextlib.closing(SqliteStore(database, read_only=True)) as store:
        verify_second(View(store.query).newest_head(public).note, second)


def _ours(known: str, given: list[str]) -> list[str]:
    """All keys of our log, if one of them was given."""
    keys = known.split("\n")
    return keys if set(keys) & set(given) else []


@command(
    "Remember the log as it is now, outside the database.",
    "provkeep pin audit.db",
    "provkeep pin audit.db --pin /media/safe/pin.json",
    "provkeep pin audit.db --json",
)
@database
@click.option(
    "--pin",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to write it; by default the pin in your configuration. A pin that is there is"
    " compared first.",
)
@key_option
@as_json
def pin(database: Path, path: Path | None, key: str | None, as_json: bool) -> int:
    """Remember how many records DATABASE has, their root and the log's key.

    A pin only moves forward, along a log that still begins with what it remembers; else it stays
    as it is and the exit code is 1. The pin in your configuration is asked as well, wherever the
    new one goes. Keep a copy where those who can write the database cannot.
    """
    from provkeep.store.sqlite import SqliteStore

    public, ours = trusted_key(database, key)
    target = path or ours
    if target is None:
        raise click.UsageError("the key that was given is not that of your pin: name a file, --pin")
    older: dict[Path, Pin] = {}
    for each in {target, *([ours] if ours else [])}:
        if each.exists():
            older[each] = read_pin(each)
    with contextlib.closing(SqliteStore(database, read_only=True)) as store:
        view = View(store.query)
        try:
            for each, known in older.items():
                _continues(view, public, each, known)
            fresh = fresh_pin(view, public, *older.values())
        except PinMismatchError as error:
            complain(str(error))
            return 1
    before = older.get(target)
    if fresh != before:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_pin(target, fresh)
    if as_json:
        say_json(
            {
                "pin": str(target),
                "origin": fresh.origin,
                "size": fresh.size,
                "root": b64encode(fresh.root).decode(),
                "log_key": fresh.vkey,
                "before": None if before is None else before.size,
            }
        )
    elif before is None:
        say(f"{target}: pinned {fresh.size} records")
    elif fresh == before:
        say(f"{target}: remembers all {fresh.size} signed records already")
    else:
        say(f"{target}: moved from {before.size} to {fresh.size} records")
    return 0


def _continues(view: View, public: LogPublicKey, path: Path, known: Pin) -> None:
    """As ``fresh_pin`` checks, but the error names the file."""
    try:
        check_pin(view, public, known)
    except PinMismatchError as error:
        raise PinMismatchError(error.problem, str(path)) from error


@command(
    "Write the log out as tiles, for other verifiers.",
    "provkeep tiles audit.db -o log/",
    "provkeep tiles audit.db -o /srv/www/log --json",
)
@database
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="FOLDER",
    help="Where to; an earlier export of the same log is continued.",
)
@key_option
@as_json
def tiles(database: Path, out: Path, key: str | None, as_json: bool) -> int:
    """Write DATABASE's log in the layout of C2SP tlog-tiles, up to its newest checkpoint.

    Hashes, record bodies and the signed checkpoint become plain files that any client of that
    specification checks, and that a web server can hand out. No payload is in them; what stands
    in the clear in records (ids, names of components, times, sizes) is.
    """
    from provkeep.store.sqlite import SqliteStore

    public, _ = trusted_key(database, key)
    with contextlib.closing(SqliteStore(database, read_only=True)) as store:
        view = View(store.query)
        head = view.newest_head(public)
        check_head(view, head)
        with progress("writing tiles") as step:
            done = export_tiles(view, head, out, progress=step)
    if as_json:
        say_json(
            {
                "folder": str(out.absolute()),
                "origin": head.origin,
                "size": done.size,
                "root": b64encode(done.root).decode(),
                "log_key": public.vkey(),
                "written": done.written,
                "unchanged": done.unchanged,
            }
        )
    else:
        say(f"{out}: {done.size} records, {done.written} files new, {done.unchanged} unchanged")
    return 0
