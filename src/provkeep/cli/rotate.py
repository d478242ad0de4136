"""``keys rotate``: newer keys from now on; what was sealed before is sealed to them anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from provkeep.cli.output import as_json, database, say, say_json
from provkeep.cli.pages import command
from provkeep.errors import NotAProvkeepFileError

COMPARTMENTS = ("prompt", "output", "document", "tool", "meta")
SUITES = {"x25519": "x25519", "hybrid": "mlkem768-x25519"}


@command(
    "Exchange keys for newer ones.",
    "provkeep keys rotate audit.db --compartment prompt --compartment output",
    "provkeep keys rotate audit.db --all --suite hybrid --json",
    "provkeep keys rotate audit.db --log --yes",
    "provkeep keys rotate audit.db --epoch",
    "provkeep keys rotate audit.db --finish",
)
@database
@click.option(
    "--compartment",
    "names",
    multiple=True,
    type=click.Choice(COMPARTMENTS),
    help="Make a new key pair for it; may be given several times.",
)
@click.option("--all", "everything", is_flag=True, help="All compartments.")
@click.option(
    "--suite",
    type=click.Choice(tuple(SUITES)),
    help="Of the new key pairs; by default as the old ones.",
)
@click.option(
    "--admin",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The admin's key file, who signs new public keys; by default the one of this database.",
)
@click.option("--log", "log", is_flag=True, help="The key that signs the log.")
@click.option("--epoch", is_flag=True, help="Have recorders begin a new epoch key.")
@click.option("--fingerprint", is_flag=True, help="Make a new fingerprint key.")
@click.option(
    "--finish",
    is_flag=True,
    help="A day later: seal anew what running recorders left, and destroy retired private keys.",
)
@click.option(
    "--forget-fingerprints",
    is_flag=True,
    help="With --finish: destroy retired fingerprint keys, too; old names are not found any more.",
)
@click.option("--yes", is_flag=True, help="Do not ask before keys are destroyed.")
@as_json
def rotate(
    database: Path,
    names: tuple[str, ...],
    everything: bool,
    suite: str | None,
    admin: Path | None,
    log: bool,
    epoch: bool,
    fingerprint: bool,
    finish: bool,
    forget_fingerprints: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Exchange keys of DATABASE for newer ones. No payload and no proof changes.

    A new key pair of a compartment: the epoch keys that were sealed to the old one are sealed to
    the new one; recorders that are running follow with their next epoch, within a day. The old
    private half is kept as retired until --finish. Backups from before stay readable to whoever
    holds the old private half, so a rotation takes nothing back from somebody who copied both.

    With --log: the old key signs a record that names the new one, and is then removed from this
    machine. What it signed stays verifiable, and nobody can sign it anew, not even with the new
    key. Give whoever verifies the new log.pub; it lists all keys, the oldest first.
    """
    wanted = COMPARTMENTS if everything else names
    if not (wanted or log or epoch or fingerprint or finish):
        raise click.UsageError(
            "say what: --compartment, --all, --log, --epoch, --fingerprint or --finish"
        )
    if not database.exists():
        raise NotAProvkeepFileError(database, "there is no such file")
    if log and not yes:
        click.confirm("The old key of the log is destroyed. Go on?", abort=True, err=True)
    if finish and not yes:
        click.confirm(
            "Destroy retired keys? Backups of the key file from before the rotation open no more.",
            abort=True,
            err=True,
        )
    answer: dict[str, Any] = {"database": str(database.absolute())}
    if log:
        answer |= _rotate_log(database)
    if wanted:
        from provkeep.recording.rotation import rotate_compartments

        made = SUITES[suite] if suite is not None else None
        count, record = rotate_compartments(database, wanted, suite=made, admin=admin)
        answer |= {"compartments": list(wanted), "epochs": count, "recipients": record}
    if epoch or fingerprint or finish:
        from provkeep.sealing import rotating
        from provkeep.store.keyfile import KeyFile, keys_path
        from provkeep.store.sqlite import SqliteStore

        store = SqliteStore(database, read_only=True)
        store_id = store.store_id
        store.close()
        keys = KeyFile(keys_path(database))
        try:
            if fingerprint:
                rotating.rotate_fingerprint_key(store_id)
                answer["fingerprint"] = True
            if epoch:
                keys.ask_new_epoch()
                answer["new_epoch"] = True
            if finish:
                answer["finished"] = rotating.forget_retired(
                    store_id, keys, fingerprints=forget_fingerprints
                )
        finally:
            keys.close()
    if as_json:
        say_json(answer)
    else:
        _tell(answer)
    return 1 if answer.get("finished") is False else 0


def _rotate_log(database: Path) -> dict[str, Any]:
    from provkeep.recording.rotation import rotate_log_key
    from provkeep.sealing.home import find_by_path, pin_path

    done = rotate_log_key(database)
    store_id = find_by_path(database)
    public = str(pin_path(store_id).with_name("log.pub")) if store_id is not None else None
    return {"record": done.record, "old": done.old, "new": done.new, "log_pub": public}


def _tell(answer: dict[str, Any]) -> None:
    if "record" in answer:
        say(f"record {answer['record']} names the new key of the log: {answer['new']}")
        say(f"all its keys, the oldest first, for whoever verifies: {answer['log_pub']}")
    if "compartments" in answer:
        names = ", ".join(answer["compartments"])
        say(f"new key pairs: {names}; {answer['epochs']} epoch keys were sealed to them anew")
        say(f"record {answer['recipients']} names them; recorders take them with their next keys")
    if "fingerprint" in answer:
        say("new fingerprint key: recorders take it when they open the database again")
    if "new_epoch" in answer:
        say("recorders begin a new epoch with their next data keys")
    if answer.get("finished") is True:
        say("retired keys are destroyed")
    elif answer.get("finished") is False:
        say("a recorder still used retired keys; what it left is sealed anew: ask again in a day")
