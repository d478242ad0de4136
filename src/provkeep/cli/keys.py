"""``keys``: make the keys of a store apart from it, those of a reader; protect key files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import click

from provkeep.cli.output import as_json, database, note, say, say_json
from provkeep.cli.pages import Topic, command
from provkeep.cli.rotate import rotate
from provkeep.errors import NotAProvkeepFileError

SUITES: Final = {"x25519": "x25519", "hybrid": "mlkem768-x25519"}
PLACES: Final = ("file", "env", "passphrase", "keyring", "aws", "vault", "plain")

suite_option = click.option(
    "--suite",
    type=click.Choice(tuple(SUITES)),
    default="x25519",
    show_default=True,
    help="hybrid: ML-KEM-768 beside X25519, against whoever keeps ciphertexts for a quantum"
    " computer.",
)


@command(
    "Make the keys of a store, apart from where it will be.",
    "provkeep keys recipients --out ceremony",
    "provkeep keys recipients --out ceremony --suite hybrid --json",
    "provkeep keys recipients --out next --admin ceremony/admin.json",
)
@click.option(
    "--admin",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Sign with this admin's key instead of a new one, for a store that pins it already.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="FOLDER",
    help="Write the files here; the folder is made, and must be empty.",
)
@suite_option
@as_json
def recipients(out: Path, suite: str, admin: Path | None, as_json: bool) -> None:
    """Make a key pair for each compartment, and an admin key that signs their public halves.

    FOLDER then holds three files. Only recipients.json goes to the host that records, for
    `provkeep init --recipients`; it is public. reader.json opens payloads and admin.json signs
    recipients and grants: keep them elsewhere, and apart from each other if two people shall have
    to agree.
    """
    from provkeep.sealing.ceremony import make_recipients

    made = make_recipients(out, SUITES[suite], admin=admin)
    files = {name: str(out / name) for name in made}
    if as_json:
        say_json({"files": files, "admin": made["recipients.json"], "suite": SUITES[suite]})
        return
    say(f"{files['recipients.json']}: public; give it to the host that records")
    say(f"{files['reader.json']}: opens what will be recorded (mode 0600)")
    if "admin.json" in files:
        say(f"{files['admin.json']}: signs recipients and grants (mode 0600)")
    say(f"the admin's public key is {made['recipients.json']}: compare it at `provkeep init`")


@command(
    "Seal to other public keys from now on.",
    "provkeep keys install audit.db recipients.json",
    "provkeep keys install audit.db recipients.json --json",
)
@database
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@as_json
def install(database: Path, file: Path, as_json: bool) -> None:
    """Have DATABASE seal to the public keys in FILE, which its admin signed.

    For a host that records and cannot read, whose keys were exchanged elsewhere. What was sealed
    before stays sealed to the old keys; whoever reads keeps those. A record names the new keys.
    """
    from provkeep.recording.rotation import install as put
    from provkeep.sealing.recipients import read_recipients

    if not database.exists():
        raise NotAProvkeepFileError(database, "there is no such file")
    seq = put(database, read_recipients(file))
    if as_json:
        say_json(
            {"database": str(database.absolute()), "record": seq, "installed": seq is not None}
        )
    elif seq is None:
        say(f"{database} seals to these keys already; nothing was changed")
    else:
        say(f"record {seq} names the new keys; recorders take them with their next data keys")


@command(
    "Make the key pair of a reader.",
    "provkeep keys new --name alice@example.com --out alice.key",
    "provkeep keys new --name audit-office --out office.key --suite hybrid",
)
@click.option("--name", required=True, metavar="NAME", help="Who it is; stands sealed in accesses.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The key file (mode 0600); FILE.pub beside it is what grants are made out to.",
)
@suite_option
@as_json
def new(name: str, out: Path, suite: str, as_json: bool) -> None:
    """Make the key pair of a reader: one key to receive grants, one to sign accesses.

    The reader makes it and hands on the one line in FILE.pub; the private keys stay where they
    were made.
    """
    from provkeep.sealing.principals import new_principal, write_principal

    try:
        principal = new_principal(name, SUITES[suite])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--name") from error
    public = write_principal(principal, out)
    line = principal.public.line()
    if as_json:
        said = {"name": name, "id": principal.public.id.hex(), "public": line}
        say_json({**said, "file": str(out), "public_file": str(public)})
        return
    say(f"{out}: private (mode 0600)")
    say(f"{public}: public; an admin grants to it")


@command(
    "Encrypt a key file under a passphrase, a keyring, a KMS or a vault.",
    "provkeep keys protect alice.key --with passphrase",
    "provkeep keys protect admin.json --with aws --set key=alias/provkeep --set region=eu-west-1",
    "provkeep keys protect reader.json --with vault --set address=https://vault:8200 --set key=pk",
    "provkeep keys protect alice.key --with plain",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@click.option("--with", "place", type=click.Choice(PLACES), required=True, help="What wraps it.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of the provider; it stands in the clear in the file.",
)
@as_json
def protect(file: Path, place: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Encrypt the secrets of a key FILE under a key provider.

    FILE is recorder.json, reader.json, admin.json or a reader's key file. Settings: file: path.
    env: variable. passphrase: variable (else it is asked for). keyring: account. aws: key, region,
    endpoint. vault: address, key, mount. All: patience_s, how long it may take. "plain" takes the
    protection off.
    """
    from provkeep.sealing import providers
    from provkeep.sealing.keyfiles import protect as change

    if not all("=" in each for each in settings):
        raise click.BadParameter("say NAME=VALUE", param_hint="--set")
    said: dict[str, Any] = dict(each.split("=", 1) for each in settings)
    variable = said.get("variable", "PROVKEEP_PASSPHRASE")
    if place == "passphrase" and variable not in os.environ:
        os.environ[variable] = click.prompt(
            "passphrase", hide_input=True, confirmation_prompt=True, err=True
        )
    provider = None if place == "plain" else providers.make(place, said)
    secret = change(file, provider)
    if as_json:
        kept = {} if provider is None else dict(provider.settings)
        say_json({"file": str(file), "with": place, "settings": kept, "protected": list(secret)})
        return
    if provider is None:
        say(f"{file}: {', '.join(secret)} now stand in the file itself (mode 0600)")
    else:
        say(f"{file}: {', '.join(secret)} are encrypted; {place} holds the key")
        note("copies and backups made before hold them still: remove those")


@click.group(
    cls=Topic,
    short_help="Make, protect and exchange keys.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def keys() -> None:
    """Make, protect and exchange keys."""


for _command in (recipients, new, protect, install, rotate):
    keys.add_command(_command)
