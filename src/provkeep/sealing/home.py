"""Where keys live: the user's configuration folder, never beside the database.

For a store with id ``<id>`` (16 bytes, written in hex) there is one folder, mode 0700:

    stores/<id>/recorder.json   0600  log seed, fingerprint key, public halves: what recording needs
    stores/<id>/reader.json     0600  private halves: what reading needs; may be moved elsewhere
    stores/<id>/admin.json      0600  the admin's seed, who names recipients and grants; likewise
    stores/<id>/log.pub         0644  the log's public keys, one a line, the oldest first; a second
                                      key, of another type, where there is one
    stores/<id>/next-key.json   0600  while the log changes its key: the new one
    stores/<id>/retired.json    0600  after a rotation: keys that old epochs and tags still need
    stores/<id>/pin.json        0600  the tree head remembered outside the store
    stores/<id>/anchors.json    0600  which anchors there are, and their keys; ``tlog`` writes it
    stores/<id>/anchored.json   0600  what each gave last
    stores/<id>/location.json   0600  where the database was last seen

This module knows files and modes. The log seed is 32 bytes to it and the log's public key one
line; ``tlog`` gives them meaning and writes the pin. A key stands in no message and no repr.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from base64 import b64encode
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs

from provkeep.errors import KeyFileError, RecipientsError, SealingError
from provkeep.model.files import sync_folder, write_whole
from provkeep.sealing import keyfiles, signing, suites
from provkeep.sealing.config import (
    FINGERPRINT_KEY_BYTES,
    check_store_id,
    key_of,
    recorder_fields,
    signed_of,
    text_of,
)
from provkeep.sealing.config import RecorderConfig as RecorderConfig
from provkeep.sealing.keyfiles import RESTORE
from provkeep.sealing.keyring import CompartmentKeys, RecipientSet
from provkeep.sealing.recipients import SignedRecipients, sign_recipients

HOME_VARIABLE = "PROVKEEP_HOME"

_RECORDER, _READER, _ADMIN, LOG_PUBLIC = "recorder.json", "reader.json", "admin.json", "log.pub"
_PIN, _LOCATION, _ANCHORS = "pin.json", "location.json", "anchors.json"
PUBLIC_MODE, _FOLDER_MODE = 0o644, 0o700


def home_dir() -> Path:
    """Return $PROVKEEP_HOME, or the user's configuration folder for provkeep."""
    override = os.environ.get(HOME_VARIABLE)
    if override:
        return Path(override).absolute()
    return platformdirs.user_config_path("provkeep", appauthor=False)


def default_origin(store_id: bytes) -> str:
    """Return the origin of a store's log, ``provkeep/<store id in hex>``."""
    check_store_id(store_id)
    return f"provkeep/{store_id.hex()}"


def create_store_home(
    store_id: bytes,
    origin: str,
    db_path: str | os.PathLike[str],
    *,
    log_seed: bytes,
    log_vkey: str,
    recipients: SignedRecipients | None = None,
    suite: str = suites.SUITE,
    log_second: tuple[bytes, str] | None = None,
) -> RecorderConfig:
    """Make the keys of a new store and write them, all files or none.

    With ``recipients`` no private key of a compartment is made, and none is written: this machine
    can record and cannot read. Their admin's key is pinned.

    Args:
        store_id: 16 random bytes that the database holds too.
        origin: the log's name, such as ``default_origin(store_id)``.
        db_path: the database, for ``find_by_path``.
        log_seed: the seed of the log's signing key, 32 bytes.
        log_vkey: the log's public key as one line; it begins with ``origin``.
        recipients: public keys that an admin signed; without them all keys are made here.
        suite: of the keys made here.
        log_second: seed (32 bytes) and public key (one line) of the log's second key, if it has
            one.

    Raises:
        KeyFileError: this store has keys already, or the folder cannot be written.
    """
    keys, admin = None, signing.new_seed()
    if recipients is None:
        keys = CompartmentKeys.generate(suite)
        recipients = sign_recipients(keys.public(), admin, at_us=time.time_ns() // 1000)
    config = RecorderConfig(
        store_id=store_id,
        origin=origin,
        log_seed=log_seed,
        fingerprint_key=os.urandom(FINGERPRINT_KEY_BYTES),
        recipients=recipients.recipients,
        signed=recipients,
        log_second_seed=None if log_second is None else log_second[0],
    )
    public = [log_vkey] if log_second is None else [log_vkey, log_second[1]]
    if not all(vkey.startswith(f"{origin}+") for vkey in public):
        raise ValueError(f"the log's public key does not begin with its origin {origin!r}")
    folder = _folder(store_id)
    building = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    try:
        building.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        building.mkdir(mode=_FOLDER_MODE)
        write_whole(building / _RECORDER, _json(store_id, recorder_fields(config)))
        if keys is not None:
            private = keys.to_json()
            write_whole(building / _READER, _json(store_id, {"private": private}))
            seed = {"kind": "admin", "seed": b64encode(admin).decode()}
            write_whole(building / _ADMIN, _json(store_id, seed))
        write_whole(building / LOG_PUBLIC, "\n".join(public) + "\n", PUBLIC_MODE)
        write_whole(building / _LOCATION, _location(store_id, db_path))
        building.rename(folder)  # refused if the folder is there and not empty
        sync_folder(folder.parent)
    except OSError as error:
        if folder.exists():
            raise KeyFileError(
                str(folder),
                "holds keys already",
                "use them, or move the folder away; keys are not replaced",
            ) from error
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return config


def load_recorder_config(store_id: bytes) -> RecorderConfig:
    """Read what recording into a store needs.

    Raises:
        KeyFileError: missing, malformed, of another store, or open to other users.
    """
    path = _folder(store_id) / _RECORDER
    names = {"origin", "log_seed", "fingerprint_key", "recipients"}
    fields = _read_json(path, store_id, names, {"admin", "signed", "log_second_seed"})
    second = fields.get("log_second_seed")
    try:
        recipients = RecipientSet.from_json(fields["recipients"])
        config = RecorderConfig(
            store_id=store_id,
            origin=text_of(fields["origin"]),
            log_seed=key_of(fields["log_seed"]),
            fingerprint_key=key_of(fields["fingerprint_key"]),
            recipients=recipients,
            signed=signed_of(fields, recipients),
            log_second_seed=None if second is None else key_of(second),
        )
    except RecipientsError as error:
        raise RecipientsError(error.problem, path) from error
    except (ValueError, SealingError) as error:
        raise KeyFileError(str(path), f"is malformed ({error})", RESTORE) from error
    return config


def install_recipients(store_id: bytes, signed: SignedRecipients) -> RecorderConfig:
    """Seal to other public keys from now on, if the pinned admin signed them, and not earlier.

    Raises:
        RecipientsError: another admin signed them, or they are older than those in use.
        KeyFileError: the recorder's configuration cannot be read or written.
    """
    config = load_recorder_config(store_id)
    if config.signed is not None:
        signed.check(config.signed.admin)
        if signed.at_us < config.signed.at_us:
            raise RecipientsError("they are older than those in use")
    config = replace(config, recipients=signed.recipients, signed=signed)
    path = _folder(store_id) / _RECORDER
    keyfiles.write_fields(path, {"store_id": store_id.hex(), **recorder_fields(config)})
    return config


def load_admin_seed(store_id: bytes, path: Path | None = None) -> bytes:
    """Read the admin's seed, 32 bytes, from this store's folder or from a file.

    Raises:
        KeyFileError: missing, malformed, of another store, or open to other users.
    """
    return read_admin_seed(_folder(store_id) / _ADMIN if path is None else path, store_id)


def read_admin_seed(path: Path, store_id: bytes | None = None) -> bytes:
    """Read an admin's seed, 32 bytes; where it names a store, it must be this one.

    Raises:
        KeyFileError: missing, malformed, of another store, or open to other users.
    """
    remedy = "name the admin's key file with --admin, or ask the admin to do it"
    fields = keyfiles.read_fields(path, {"kind", "seed"}, optional={"store_id"}, remedy=remedy)
    if store_id is not None and fields.get("store_id") not in (None, store_id.hex()):
        raise KeyFileError(str(path), "belongs to another store", RESTORE)
    try:
        seed = key_of(fields["seed"])
        if fields["kind"] != "admin" or len(seed) != signing.SEED_BYTES:
            raise ValueError("it is not an admin's")
    except ValueError as error:
        raise KeyFileError(str(path), f"is malformed ({error})", RESTORE) from error
    return seed


def load_reader_keys(store_id: bytes, path: Path | None = None) -> CompartmentKeys:
    """Read private halves of a store, all compartments or some.

    Args:
        store_id: the store.
        path: a file with them; by default the one in this user's folder of the store.

    Raises:
        KeyFileError: missing, malformed, of another store, or open to other users.
    """
    where = _folder(store_id) / _READER if path is None else path
    fields = keyfiles.read_fields(where, {"private"}, optional={"store_id"})
    if fields.get("store_id") not in (None, store_id.hex()):  # a ceremony knows no store yet
        raise KeyFileError(str(where), "belongs to another store", RESTORE)
    try:
        return CompartmentKeys.from_json(fields["private"])
    except ValueError as error:
        raise KeyFileError(str(where), f"is malformed ({error})", RESTORE) from error


def recorder_path(store_id: bytes) -> Path:
    """Return where the recorder's configuration of a store is."""
    return _folder(store_id) / _RECORDER


def reader_path(store_id: bytes) -> Path:
    """Return where the private halves of a store are, if this user holds them."""
    return _folder(store_id) / _READER


def pin_path(store_id: bytes) -> Path:
    """Return where the pin of a store is kept; ``tlog.pin`` reads and writes it."""
    return _folder(store_id) / _PIN


def anchors_path(store_id: bytes) -> Path:
    """Return where the anchors of a store are named; ``tlog.anchorbook`` reads and writes it."""
    return _folder(store_id) / _ANCHORS


def log_public(store_id: bytes) -> str:
    """Return the log's public keys, one a line, the oldest first: one, if it was never changed.

    A second key (ML-DSA-44) stands among them on a line of its own, told by its type.

    Raises:
        KeyFileError: missing, empty, or writable by other users.
    """
    path = _folder(store_id) / LOG_PUBLIC
    text = keyfiles.read_text(path, allowed=PUBLIC_MODE).rstrip("\n")
    if not all(text.split("\n")):
        raise KeyFileError(str(path), "is malformed (it holds one key a line)", RESTORE)
    return text


def remember_location(store_id: bytes, db_path: str | os.PathLike[str]) -> None:
    """Note where a store's database was last seen.

    Raises:
        KeyFileError: the store has no folder here, or it cannot be written.
    """
    path = _folder(store_id) / _LOCATION
    try:
        write_whole(path, _location(store_id, db_path))
    except OSError as error:
        raise _unwritable(path, error) from error


def find_by_path(db_path: str | os.PathLike[str]) -> bytes | None:
    """Return the id of the store last seen at this path, or None.

    It answers from this folder alone, so it still answers when the database was deleted or
    exchanged. If several stores were seen there, the latest counts.
    """
    wanted = _absolute(db_path)
    found: list[tuple[int, bytes]] = []
    try:
        paths = list((home_dir() / "stores").glob(f"*/{_LOCATION}"))
    except OSError:
        return None  # a folder that may not be looked into remembers nothing for us
    for path in paths:
        # a folder that is being removed, or is not ours, is not the one that was asked for
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            store_id = bytes.fromhex(path.parent.name)
            check_store_id(store_id)
            if json.loads(path.read_bytes())["database"] == wanted:
                found.append((path.stat().st_mtime_ns, store_id))
    return max(found)[1] if found else None


def _folder(store_id: bytes) -> Path:
    check_store_id(store_id)
    return home_dir() / "stores" / store_id.hex()


def _absolute(db_path: str | os.PathLike[str]) -> str:
    return str(Path(db_path).resolve())


def _location(store_id: bytes, db_path: str | os.PathLike[str]) -> str:
    return _json(store_id, {"database": _absolute(db_path)})


def _json(store_id: bytes, fields: dict[str, Any]) -> str:
    return keyfiles.to_text({"store_id": store_id.hex(), **fields})


def _unwritable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(
        str(path),
        f"cannot be written ({error.strerror})",
        f"make it writable, or set {HOME_VARIABLE} to a folder that is",
    )


def _read_json(
    path: Path, store_id: bytes, names: set[str], optional: Collection[str] = ()
) -> dict[str, Any]:
    fields = keyfiles.read_fields(path, {"store_id", *names}, optional=optional)
    if fields["store_id"] != store_id.hex():
        raise KeyFileError(str(path), "belongs to another store", RESTORE)
    return fields
