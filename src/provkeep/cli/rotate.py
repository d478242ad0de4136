"""``keys rotate``: newer keys from now on; what was sealed before is sealed to them anew."""

from __future__ import annotations

from pathlib import Path

import click

from provkeep.cli.output import as_json, database, say, say_json
from provkeep.cli.pages import command

COMPARTMENTS = ("prompt", "output", "document", "tool", "meta")


@command(
    "Exchange keys for newer ones; no payload changes.",
    "provkeep rotate audit.db --compartment prompt --compartment output",
    "provkeep rotate audit.db --all --json",
    "provkeep rotate audit.db --epoch",
    "provkeep rotate audit.db --finish",
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
    epoch: bool,
    fingerprint: bool,
    finish: bool,
    forget_fingerprints: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Exchange keys of DATABASE for newer ones. No payload, record or proof changes.

    A new key pair of a compartment: the epoch keys that were sealed to the old one are sealed to
    the new one; recorders that are running follow with their next epoch, within a day. The old
    private half is kept as retired until --finish. Backups from before stay readable to whoever
    holds the old private half, so a rotation takes nothing back from somebody who copied both.
    """
    from provkeep.sealing import rotating
    from provkeep.store.keyfile import KeyFile, keys_path
    from provkeep.store.sqlite import SqliteStore

    wanted = COMPARTMENTS if everything else names
    if not (wanted or epoch or fingerprint or finish):
        raise click.UsageError("say what: --compartment, --all, --epoch, --fingerprint or --finish")
    if finish and not yes:
        click.confirm(
            "Destroy retired keys? Backups of the key file from before the rotation open no more.",
            abort=True,
            err=True,
        )
    store = SqliteStore(database, read_only=True)
    store_id = store.store_id
    store.close()
    keys = KeyFile(keys_path(database))
    answer: dict[str, object] = {}
    try:
        if wanted:
            answer["compartments"] = list(wanted)
            answer["epochs"] = rotating.rotate_compartments(store_id, keys, wanted)
        if fingerprint:
            rotating.rotate_fingerprint_key(store_id)
            answer["fingerprint"] = True
        if epoch or wanted:
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
        for key, value in answer.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            say(f"{key.replace('_', ' ')}: {shown}")
    return 1 if answer.get("finished") is False else 0
