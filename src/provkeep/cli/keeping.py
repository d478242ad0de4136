"""``init`` makes a store and its keys; ``verify`` checks one against what was remembered of it."""

from __future__ import annotations

import contextlib
from base64 import b64encode
from pathlib import Path
from typing import Final

import click

from provkeep.cli.keys import SUITES, suite_option
from provkeep.cli.output import (
    as_json,
    complain,
    database,
    opened,
    progress,
    say,
    say_json,
)
from provkeep.cli.pages import command
from provkeep.errors import KeyFileError

LOG_SUITES: Final = ("ed25519", "hybrid")
CANNOT_READ: Final = frozenset({"newer", "unreadable"})  # findings that say nothing of the record
PROTECTS_WRITE_ONLY: Final = (
    "whoever gets this machine reads nothing that was recorded before, and can record falsely from"
    " then on; the private keys are with whoever made the file"
)
PROTECTS: Final = (
    "whoever gets the database alone reads nothing; whoever gets this user account reads everything"
)


@command(
    "Make a new database with its keys.",
    "provkeep init audit.db",
    "PROVKEEP_HOME=/mnt/usb/keys provkeep init audit.db",
    "provkeep init audit.db --recipients recipients.json",
    "provkeep init audit.db --log-suite hybrid",
)
@database
@click.option(
    "--recipients",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Seal to the public keys in this file, which an admin signed (`provkeep keys recipients`):"
    " this machine records and cannot read.",
)
@suite_option
@click.option(
    "--log-suite",
    type=click.Choice(LOG_SUITES),
    default=LOG_SUITES[0],
    show_default=True,
    help="hybrid: the log signs each checkpoint with ML-DSA-44 beside Ed25519, against whoever"
    " forges with a quantum computer.",
)
@as_json
def init(database: Path, recipients: Path | None, suite: str, log_suite: str, as_json: bool) -> int:
    """Make a new DATABASE with its keys.

    Recording makes it on first use as well; this does it ahead and says where the keys are.
    Private keys and the pin (the remembered state of the log) go into your configuration
    directory with mode 0600, or into $PROVKEEP_HOME; never beside the database. Running it again
    changes nothing.
    """
    from provkeep.recording.opening import open_for_recording
    from provkeep.sealing.recipients import read_recipients

    named = None if recipients is None else read_recipients(recipients)
    if named is not None and suite != "x25519":
        raise click.UsageError(
            "--suite is for keys that are made here; --recipients brings its own"
        )
    store = open_for_recording(database, recipients=named, suite=SUITES[suite], log_suite=log_suite)
    signed = store.config.signed
    admin = None if signed is None else b64encode(signed.admin).decode()
    protects = PROTECTS if named is None else PROTECTS_WRITE_ONLY
    created, problem = store.created, store.pin_problem
    keys, origin, key = store.pin.parent, store.config.origin, store.log_key.public.vkey()
    second = None if store.log_key.second is None else store.log_key.second.public.vkey()
    store.close()
    if as_json:
        say_json(
            {
                "database": str(database.absolute()),
                "created": created,
                "keys": str(keys),
                "pin": str(store.pin),
                "origin": origin,
                "log_key": key,
                "second_key": second,
                "problem": problem,
                "admin": admin,
                "protects": protects,
            }
        )
    else:
        say(f"made {database}" if created else f"{database} is there already; nothing was changed")
        say(f"keys and pin (mode 0600): {keys}")
        if second is not None:
            say("its checkpoints bear two signatures, Ed25519 and ML-DSA-44: log.pub has both keys")
        if named is not None:
            say(f"it seals to keys that this admin signed: {admin}")
        say(f"{protects}; lose the keys and nobody reads it: back them up apart from it")
    if problem is not None:
        complain(f"{database}: {problem}")
        return 1
    return 0


@command(
    "Check that nothing was changed since.",
    "provkeep verify audit.db",
    "provkeep verify copy.db --pin /media/safe/pin.json --key /media/safe/log.pub",
    "provkeep verify audit.db --since yesterday.json --strict",
    "provkeep verify audit.db --deep --json | jq .findings",
)
@database
@click.option(
    "--pin",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Check against this pin instead of the one in your configuration.",
)
@click.option(
    "--key",
    metavar="KEY",
    help="The log's public key, or a file that holds it (log.pub); by default from there too.",
)
@click.option(
    "--since",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PIN",
    help="Look only at what came after this pin; what came before is taken as it was then.",
)
@click.option("--strict", is_flag=True, help="A warning is a failure too: unpinned, not signed.")
@click.option(
    "--deep",
    is_flag=True,
    help="Also open every payload with your keys. Nothing is shown, so no access is recorded.",
)
@click.option(
    "--anchors",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Check against these anchors (anchors.json) instead of those in your configuration.",
)
@as_json
def verify(
    database: Path,
    pin: Path | None,
    key: str | None,
    since: Path | None,
    strict: bool,
    deep: bool,
    anchors: Path | None,
    as_json: bool,
) -> int:
    """Check that DATABASE still holds what was recorded, and name what does not.

    Every record is hashed again, the tree, the signed checkpoints, the pin, the schema and the
    index are compared, and what anchors hold of the log; no private key is needed. The exit code
    is 0 when all is well and 1 when anything was found. Without a pin or an anchor, a log that was
    replaced as a whole cannot be told from the true one: "unpinned" says so.
    """
    from provkeep.reading.verify import verify as check

    if pin is not None and since is not None:
        raise click.UsageError("--since names a pin already; leave out --pin")
    public = public_key(key)
    if pin is None and public is None:
        pin, public = _remembered(database)
    anchors = anchors or remembered_anchors(database)
    with progress("verifying") as step:
        if public is not None and not deep:
            # Not opened as a trail: what was put in the place of a log may be no log at all.
            report = check(
                database,
                pin=since or pin,
                public=public,
                anchors=anchors,
                since=since is not None,
                strict=strict,
                progress=step,
            )
        else:
            with opened(database) as trail:
                report = trail.verify(
                    pin=pin,
                    key=public,
                    anchors=anchors,
                    since=since,
                    strict=strict,
                    deep=deep,
                    progress=step,
                )
    if as_json:
        say_json(report.to_dict())
    else:
        say(f"{database}: {repr(report).partition(chr(10))[0].strip('<>').removeprefix('Report ')}")
        if report.findings:
            say(report.table())
    if report:
        return 0
    return 3 if report.codes & CANNOT_READ else 1


def _remembered(database: Path) -> tuple[Path | None, str | None]:
    """Pin and public key of the log that was last seen at this path, whatever is there now."""
    from provkeep.sealing.home import find_by_path, log_public, pin_path

    store_id = find_by_path(database)
    if store_id is None:
        return None, None
    pin = pin_path(store_id)
    with contextlib.suppress(KeyFileError):
        return (pin if pin.exists() else None), log_public(store_id)
    return None, None


def remembered_anchors(database: Path) -> Path | None:
    """The file that names the anchors of the log that was last seen at this path."""
    from provkeep.sealing.home import anchors_path, find_by_path

    store_id = find_by_path(database)
    return None if store_id is None else anchors_path(store_id)


def public_key(wanted: str | None) -> str | None:
    """A public key given as itself or as a file."""
    if wanted is None or ("+" in wanted and not Path(wanted).is_file()):
        return wanted
    try:
        return Path(wanted).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(
            f"{wanted} is neither a public key (origin+id+base64) nor a file that can be read",
            param_hint="--key",
        ) from error
