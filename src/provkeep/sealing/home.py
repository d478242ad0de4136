"""Where keys live: the user's configuration folder, never beside the database.

For a store with id ``<id>`` (16 bytes, written in hex) there is one folder, mode 0700:

    stores/<id>/recorder.json   0600  log seed, fingerprint key, public halves: what recording needs
    stores/<id>/reader.json     0600  private halves: what reading needs; may be moved elsewhere
    stores/<id>/log.pub         0644  the log's public keys, one a line, the oldest first
    stores/<id>/next-key.json   0600  while the log changes its key: the new one
    stores/<id>/pin.json        0600  the tree head remembered outside the store
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
import stat
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from provkeep.errors import KeyFileError, SealingError
from provkeep.model.files import PRIVATE, sync_folder, write_whole
from provkeep.sealing.keyring import (
    COMPARTMENTS,
    STORE_ID_BYTES,
    SUITE,
    CompartmentKeys,
    RecipientSet,
)

HOME_VARIABLE = "PROVKEEP_HOME"
HOME_FORMAT = 1
LOG_SEED_BYTES = 32
FINGERPRINT_KEY_BYTES = 32
MAX_FILE_BYTES = 1_000_000

_RECORDER, _READER, _LOG_PUBLIC = "recorder.json", "reader.json", "log.pub"
_PIN, _LOCATION = "pin.json", "location.json"
_PUBLIC_MODE, _FOLDER_MODE = 0o644, 0o700
_RESTORE = "restore it from a copy; without one, what it protects is lost"
_POSIX = os.name == "posix"  # Windows keeps other users out by the profile folder's access list


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderConfig:
    """What a recorder needs; it cannot read what it records."""

    store_id: bytes  # 16 bytes
    origin: str
    log_seed: bytes = field(repr=False)  # Ed25519 seed, 32 bytes
    fingerprint_key: bytes = field(repr=False)  # 32 bytes
    recipients: RecipientSet

    def __post_init__(self) -> None:
        _check_store_id(self.store_id)
        if len(self.log_seed) != LOG_SEED_BYTES:
            raise ValueError(f"a log seed has {LOG_SEED_BYTES} bytes")
        if len(self.fingerprint_key) != FINGERPRINT_KEY_BYTES:
            raise ValueError(f"a fingerprint key has {FINGERPRINT_KEY_BYTES} bytes")
        if set(self.recipients.recipients) != set(COMPARTMENTS):
            raise ValueError(f"a recorder needs a public key for each of {', '.join(COMPARTMENTS)}")


def home_dir() -> Path:
    """Return $PROVKEEP_HOME, or the user's configuration folder for provkeep."""
    override = os.environ.get(HOME_VARIABLE)
    if override:
        return Path(override).absolute()
    return platformdirs.user_config_path("provkeep", appauthor=False)


def default_origin(store_id: bytes) -> str:
    """Return the origin of a store's log, ``provkeep/<store id in hex>``."""
    _check_store_id(store_id)
    return f"provkeep/{store_id.hex()}"


def create_store_home(
    store_id: bytes,
    origin: str,
    db_path: str | os.PathLike[str],
    *,
    log_seed: bytes,
    log_vkey: str,
) -> RecorderConfig:
    """Make the keys of a new store and write them, all files or none.

    Args:
        store_id: 16 random bytes that the database holds too.
        origin: the log's name, such as ``default_origin(store_id)``.
        db_path: the database, for ``find_by_path``.
        log_seed: the seed of the log's signing key, 32 bytes.
        log_vkey: the log's public key as one line; it begins with ``origin``.

    Raises:
        KeyFileError: this store has keys already, or the folder cannot be written.
    """
    keys = CompartmentKeys.generate()
    config = RecorderConfig(
        store_id=store_id,
        origin=origin,
        log_seed=log_seed,
        fingerprint_key=os.urandom(FINGERPRINT_KEY_BYTES),
        recipients=keys.public(),
    )
    if not log_vkey.startswith(f"{origin}+"):
        raise ValueError(f"the log's public key does not begin with its origin {origin!r}")
    folder = _folder(store_id)
    building = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    private = {
        name: {"suite": SUITE, "key": b64encode(key).decode()} for name, key in keys.private.items()
    }
    recorder = {
        "origin": origin,
        "log_seed": b64encode(log_seed).decode(),
        "fingerprint_key": b64encode(config.fingerprint_key).decode(),
        "recipients": config.recipients.to_json(),
    }
    try:
        building.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        building.mkdir(mode=_FOLDER_MODE)
        write_whole(building / _RECORDER, _json(store_id, recorder))
        write_whole(building / _READER, _json(store_id, {"private": private}))
        write_whole(building / _LOG_PUBLIC, log_vkey + "\n", _PUBLIC_MODE)
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
    fields = _read_json(path, store_id, {"origin", "log_seed", "fingerprint_key", "recipients"})
    try:
        return RecorderConfig(
            store_id=store_id,
            origin=_text(fields["origin"]),
            log_seed=_key(fields["log_seed"]),
            fingerprint_key=_key(fields["fingerprint_key"]),
            recipients=RecipientSet.from_json(fields["recipients"]),
        )
    except (ValueError, SealingError) as error:
        raise KeyFileError(str(path), f"is malformed ({error})", _RESTORE) from error


def load_reader_keys(store_id: bytes) -> CompartmentKeys:
    """Read the private halves this user holds of a store, all compartments or some.

    Raises:
        KeyFileError: missing, malformed, of another store, or open to other users.
    """
    path = _folder(store_id) / _READER
    fields = _read_json(path, store_id, {"private"})
    try:
        if not isinstance(fields["private"], dict):
            raise ValueError("private must name compartments")
        return CompartmentKeys(
            {name: _private_key(value) for name, value in fields["private"].items()}
        )
    except ValueError as error:
        raise KeyFileError(str(path), f"is malformed ({error})", _RESTORE) from error


def pin_path(store_id: bytes) -> Path:
    """Return where the pin of a store is kept; ``tlog.pin`` reads and writes it."""
    return _folder(store_id) / _PIN


def log_public(store_id: bytes) -> str:
    """Return the log's public keys, one a line, the oldest first: one, if it was never changed.

    Raises:
        KeyFileError: missing, empty, or writable by other users.
    """
    path = _folder(store_id) / _LOG_PUBLIC
    text = _read(path, allowed=_PUBLIC_MODE).rstrip("\n")
    if not all(text.split("\n")):
        raise KeyFileError(str(path), "is malformed (it holds one key a line)", _RESTORE)
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
            _check_store_id(store_id)
            if json.loads(path.read_bytes())["database"] == wanted:
                found.append((path.stat().st_mtime_ns, store_id))
    return max(found)[1] if found else None


def _folder(store_id: bytes) -> Path:
    _check_store_id(store_id)
    return home_dir() / "stores" / store_id.hex()


def _absolute(db_path: str | os.PathLike[str]) -> str:
    return str(Path(db_path).resolve())


def _location(store_id: bytes, db_path: str | os.PathLike[str]) -> str:
    return _json(store_id, {"database": _absolute(db_path)})


def _json(store_id: bytes, fields: dict[str, Any]) -> str:
    whole = {"format": HOME_FORMAT, "store_id": store_id.hex(), **fields}
    return json.dumps(whole, indent=2, sort_keys=True) + "\n"


def _unwritable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(
        str(path),
        f"cannot be written ({error.strerror})",
        f"make it writable, or set {HOME_VARIABLE} to a folder that is",
    )


def _read(path: Path, *, allowed: int) -> str:
    """Read a small text file, unless its mode lets other users do more than ``allowed``."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if _POSIX and mode & 0o077 & ~allowed:
                raise KeyFileError(
                    str(path),
                    f"is open to other users (mode {mode:04o})",
                    f"run: chmod {allowed:o} '{path}'",
                )
            blob = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise KeyFileError(
            str(path),
            "is missing",
            f"run 'provkeep init', or set {HOME_VARIABLE} to the folder that holds the keys",
        ) from error
    except OSError as error:
        raise KeyFileError(
            str(path),
            f"cannot be read ({error.strerror})",
            "make it readable for this user",
        ) from error
    if len(blob) > MAX_FILE_BYTES:
        raise KeyFileError(str(path), "is malformed (far too large)", _RESTORE)
    return blob.decode(errors="replace")  # an error would carry the file's bytes along


def _read_json(path: Path, store_id: bytes, names: set[str]) -> dict[str, Any]:
    text = _read(path, allowed=PRIVATE)
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None  # a JSONDecodeError carries the whole document: it must not be chained
    names = {"format", "store_id", *names}
    if not isinstance(fields, dict) or fields.keys() != names:
        problem = f"is malformed (it needs exactly the fields {', '.join(sorted(names))})"
        raise KeyFileError(str(path), problem, _RESTORE)
    if fields["format"] != HOME_FORMAT:
        raise KeyFileError(
            str(path),
            f"is not of format {HOME_FORMAT}, which is all that this version reads",
            "use the version of provkeep that wrote it",
        )
    if fields["store_id"] != store_id.hex():
        raise KeyFileError(str(path), "belongs to another store", _RESTORE)
    return fields


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a field is not a text")
    return value


def _key(value: object) -> bytes:
    return b64decode(_text(value), validate=True)


def _private_key(value: object) -> bytes:
    if not isinstance(value, dict) or value.keys() != {"suite", "key"}:
        raise ValueError("a compartment needs exactly suite and key")
    if value["suite"] != SUITE:
        raise ValueError(f"the suite of a compartment is not {SUITE}")
    return _key(value["key"])


def _check_store_id(store_id: bytes) -> None:
    if len(store_id) != STORE_ID_BYTES:
        raise ValueError(f"a store id has {STORE_ID_BYTES} bytes, got {len(store_id)}")
