"""``anchor``: places and parties outside the store that remember the log."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import click

from provkeep.cli.output import as_json, complain, database, note, say, say_json, say_table
from provkeep.cli.outside import key_option, trusted_key
from provkeep.cli.pages import Topic, command
from provkeep.errors import AnchorError, KeyFileError
from provkeep.tlog.anchorbook import AnchorBook, State, read_book
from provkeep.tlog.rounds import Outcome, offer_all, unrecorded

name_argument = click.argument("name", metavar="NAME")


@click.group(
    cls=Topic,
    short_help="Have the log remembered where it cannot be rewritten.",
    examples=(
        "provkeep anchor add audit.db shelf --file /mnt/append-only/audit.log",
        "provkeep anchor run audit.db",
        "provkeep anchor list audit.db --json",
    ),
)
def anchor() -> None:
    """Name the anchors of a log: places and parties outside the store that hold its tree heads.

    A recorder submits to them by itself, on a thread of its own and at most once a minute; an
    anchor that hangs or fails delays nothing. Their proofs are recorded in the log, and
    `provkeep verify` compares the log with them. What it believes (keys, certificates, paths) is
    in your configuration, never in the database.
    """


@command(
    "Name an anchor.",
    "provkeep anchor add audit.db shelf --file /mnt/append-only/audit.log",
    "provkeep anchor add audit.db usb --pin /media/safe/pin.json",
    "provkeep anchor add audit.db w1 --witness https://witness.example.org --witness-key"
    " witness.example.org/w1+1a2b3c4d+BAAA",
    "provkeep anchor add audit.db tsa --timestamp https://tsa.example.org --certificate root.pem",
)
@database
@name_argument
@click.option("--witness", metavar="URL", help="A C2SP witness: its submission prefix.")
@click.option("--witness-key", metavar="KEY", help="Its public key: name+id+base64.")
@click.option("--timestamp", metavar="URL", help="A time-stamping authority (RFC 3161).")
@click.option(
    "--certificate",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Its root certificate, and those in between, as PEM.",
)
@click.option("--file", metavar="FILE", help="A file to append every checkpoint to.")
@click.option("--pin", metavar="FILE", help="A pin in another place.")
@as_json
def add(database: Path, name: str, as_json: bool, **given: Any) -> int:
    """Name an anchor of DATABASE's log. Give exactly one of the four kinds.

    Do not use a name again for another file, witness or authority: proofs in the log bear it.
    The operator of a witness needs the log's public key first (log.pub, or `provkeep init`).
    """
    book = _book(database)
    kind, fields = _fields(given)
    try:
        book.add(name, kind, **fields)
    except AnchorError as error:
        raise click.UsageError(f"{name}: {error.problem}") from error
    book.write()
    if as_json:
        say_json({"anchor": name, "type": kind, "anchors": str(book.path)})
    else:
        say(f"{name}: {kind}, in {book.path}")
        note(f"run `provkeep anchor run {database}` to have the log anchored now")
    return 0


def _fields(given: dict[str, Any]) -> tuple[str, dict[str, str]]:
    kinds = [kind for kind in ("witness", "timestamp", "file", "pin") if given[kind]]
    if len(kinds) != 1:
        raise click.UsageError("give exactly one of --witness, --timestamp, --file and --pin")
    kind, key, certificate = kinds[0], given["witness_key"], given["certificate"]
    if (kind == "witness") != (key is not None):
        raise click.UsageError("--witness and --witness-key go together")
    if (kind == "timestamp") != (certificate is not None):
        raise click.UsageError("--timestamp and --certificate go together")
    if kind == "witness":
        return kind, {"url": given["witness"], "key": key}
    if kind == "timestamp":
        try:
            return kind, {"url": given["timestamp"], "certificates": certificate.read_text("ascii")}
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{certificate} cannot be read, or is not PEM") from error
    return kind, {"path": str(Path(given[kind]).absolute())}


@command(
    "List anchors, and what each gave last.",
    "provkeep anchor list audit.db",
    "provkeep anchor list audit.db --json",
)
@database
@as_json
def list_(database: Path, as_json: bool) -> int:
    """List the anchors of DATABASE's log, what each has seen last, and what failed since."""
    book = _book(database)
    states = book.states()
    rows = [_row(name, book.anchors[name], states[name]) for name in book.anchors]
    if as_json:
        say_json({"every_s": book.every_s, "quorum": book.quorum, "anchors": rows})
    elif not rows:
        say("no anchors; `provkeep anchor add` names one")
    else:
        headers = ("anchor", "type", "where", "records seen", "failures", "problem")
        say_table(headers, [[each[h] for h in _COLUMNS] for each in rows])
        witnesses = sum(each["type"] == "witness" for each in rows)
        if witnesses:
            say(f"{book.quorum} of {witnesses} witnesses must have seen the log")
    return 0


_COLUMNS = ("anchor", "type", "where", "size", "failures", "problem")


def _row(name: str, fields: dict[str, str], state: State) -> dict[str, Any]:
    size = None
    if state.proof is not None:
        with contextlib.suppress(AnchorError):
            size = state.proof.stated(name).size
    return {
        "anchor": name,
        "type": fields["type"],
        "where": fields.get("url") or fields.get("path"),
        "size": size,
        "at_us": None if state.proof is None else state.proof.at_us,
        "recorded": state.recorded,
        "failures": state.failures,
        "problem": state.problem or None,
    }


@command(
    "Forget an anchor.",
    "provkeep anchor remove audit.db shelf",
    "provkeep anchor remove audit.db shelf --yes --json",
)
@database
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def remove(database: Path, name: str, yes: bool, as_json: bool) -> int:
    """Forget an anchor of DATABASE's log, with the proof that is kept of it.

    Verification then no longer believes it, nor misses it. The file and the proofs in the log stay.
    """
    book = _book(database)
    if name not in book.anchors:
        raise click.UsageError(f"no anchor {name!r}; `provkeep anchor list` names them")
    if not yes:
        click.confirm(f"Forget {name}? What it has seen will prove nothing any more", abort=True)
    del book.anchors[name]
    book.write()
    if as_json:
        say_json({"removed": name, "anchors": str(book.path)})
    else:
        say(f"{name} is forgotten")
    return 0


@command(
    "Say how many witnesses are needed, and how often to submit.",
    "provkeep anchor set audit.db --quorum 2",
    "provkeep anchor set audit.db --every 300 --json",
)
@database
@click.option(
    "--quorum", type=click.IntRange(0), metavar="N", help="Witnesses that must have seen the log."
)
@click.option(
    "--every",
    type=click.IntRange(1),
    metavar="SECONDS",
    help="A recorder submits at most so often.",
)
@as_json
def set_(database: Path, quorum: int | None, every: int | None, as_json: bool) -> int:
    """Set the quorum of witnesses (1 at first) and the pace (60 seconds at first)."""
    book = _book(database)
    book.quorum = book.quorum if quorum is None else quorum
    book.every_s = book.every_s if every is None else every
    book.write()
    if as_json:
        say_json({"quorum": book.quorum, "every_s": book.every_s})
    else:
        say(f"quorum {book.quorum}, at most every {book.every_s} s")
    return 0


@command(
    "Submit the newest checkpoint now.",
    "provkeep anchor run audit.db",
    "provkeep anchor run audit.db --json",
)
@database
@key_option
@as_json
def run(database: Path, key: str | None, as_json: bool) -> int:
    """Submit DATABASE's newest checkpoint to every anchor, and record what they give.

    For a timer, or before a store is handed on: what a recorder could not submit is submitted here.
    The exit code is 1 when an anchor failed or refused. A witness that refuses has seen another
    history of this log: run `provkeep verify` then.
    """
    from provkeep.store.sqlite import SqliteStore
    from provkeep.tlog.heads import View

    public, _ = trusted_key(database, key)
    book = _book(database)
    if not book.anchors:
        raise click.UsageError("there are no anchors; `provkeep anchor add` names one")
    with contextlib.closing(SqliteStore(database, read_only=True)) as store:
        outcomes = offer_all(
            book,
            View(store.query),
            public,
            now_us=lambda: time.time_ns() // 1000,
            pause=_pause,
        )
    problem = _record(database, book)
    rows = [_outcome(each) for each in outcomes]
    if as_json:
        say_json({"anchors": rows, "recorded": problem is None, "problem": problem})
    else:
        say_table(("anchor", "type", "records", "outcome"), [list(each.values()) for each in rows])
    if problem is not None:
        complain(f"the proofs are kept, and not recorded: {problem}")
    return 1 if problem is not None or any(each.error for each in outcomes) else 0


def _outcome(each: Outcome) -> dict[str, Any]:
    said = "anchored" if each.proof is not None else "had it already"
    if each.error is not None:
        said = each.error.problem if isinstance(each.error, AnchorError) else str(each.error)
    return {"anchor": each.anchor, "type": each.kind, "size": each.size, "outcome": said}


def _record(database: Path, book: AnchorBook) -> str | None:
    """Append the proofs that are not in the log yet, and sign; why not, or None."""
    from provkeep.recording.opening import advance_pin, open_for_recording, sign

    waiting = unrecorded(book)
    if not waiting:
        return None
    try:
        opened = open_for_recording(database)
    except KeyFileError as error:  # an auditor's machine, which may not sign
        return str(error)
    try:
        if opened.pin_problem is not None:
            return opened.pin_problem
        opened.log.append(waiting.values(), durable=True)
        problem = advance_pin(opened, sign(opened))
    finally:
        opened.close()
    for name in waiting:
        book.remember(name, recorded=True)
    return problem


def _pause(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _book(database: Path) -> AnchorBook:
    """The anchors of the store at this path.

    Raises:
        StoreError: there is no store, and none was seen there.
    """
    from provkeep.sealing.home import anchors_path, find_by_path
    from provkeep.store.sqlite import SqliteStore

    store_id = find_by_path(database)
    if store_id is None:
        with contextlib.closing(SqliteStore(database, read_only=True)) as store:
            store_id = store.store_id
    return read_book(anchors_path(store_id))


for _name, _each in (
    ("add", add),
    ("list", list_),
    ("remove", remove),
    ("set", set_),
    ("run", run),
):
    _each.name = _name
    anchor.add_command(_each)
