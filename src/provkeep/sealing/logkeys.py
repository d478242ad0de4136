"""The seed of a log that changes its key: kept before the log is told, put in place afterwards.

Between the two there are two seeds on this host, and the log's newest checkpoint says which of
them is in force. This module knows files; ``tlog`` gives the seeds meaning.
"""

from __future__ import annotations

import json
from base64 import b64encode

from provkeep.errors import KeyFileError
from provkeep.model.files import PRIVATE, write_whole
from provkeep.sealing.home import (
    _LOG_PUBLIC,
    _PUBLIC_MODE,
    _RECORDER,
    _RESTORE,
    _json,
    _key,
    _read,
    _read_json,
    _text,
    _unwritable,
    load_recorder_config,
    log_public,
    pin_path,
)

_NEXT = "next-key.json"


def begin_log_key(store_id: bytes, log_seed: bytes, log_vkey: str) -> None:
    """Keep the seed that the log is about to change to, before the log is told.

    Raises:
        KeyFileError: it cannot be written.
    """
    path = pin_path(store_id).parent / _NEXT
    fields = {"log_seed": b64encode(log_seed).decode(), "log_vkey": log_vkey}
    try:
        write_whole(path, _json(store_id, fields))
    except OSError as error:
        raise _unwritable(path, error) from error


def next_log_key(store_id: bytes) -> tuple[bytes, str] | None:
    """Seed and public key of a change of keys that may not be complete; None when there is none.

    Raises:
        KeyFileError: malformed, or open to other users.
    """
    path = pin_path(store_id).parent / _NEXT
    if not path.exists():
        return None
    fields = _read_json(path, store_id, {"log_seed", "log_vkey"})
    try:
        return _key(fields["log_seed"]), _text(fields["log_vkey"])
    except ValueError as error:
        raise KeyFileError(str(path), f"is malformed ({error})", _RESTORE) from error


def finish_log_key(store_id: bytes) -> None:
    """Make the seed that ``begin_log_key`` kept the log's, and let go of the old one.

    Raises:
        KeyFileError: a file cannot be read or written.
    """
    found = next_log_key(store_id)
    if found is None:
        return
    seed, vkey = found
    folder = pin_path(store_id).parent
    public = log_public(store_id)
    path = folder / _RECORDER
    try:
        if vkey not in public.split("\n"):
            write_whole(folder / _LOG_PUBLIC, f"{public}\n{vkey}\n", _PUBLIC_MODE)
        fields = json.loads(_read(path, allowed=PRIVATE))
        fields["log_seed"] = b64encode(seed).decode()
        write_whole(path, json.dumps(fields, indent=2, sort_keys=True) + "\n")
        (folder / _NEXT).unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    except (ValueError, TypeError):
        raise KeyFileError(str(path), "is malformed", _RESTORE) from None


def log_seeds(store_id: bytes) -> list[bytes]:
    """Seeds of this log on this host: the one in use, and the one it may be changing to.

    Raises:
        KeyFileError: as for ``load_recorder_config``.
    """
    found = next_log_key(store_id)  # first: it moves into the other file
    seeds = [load_recorder_config(store_id).log_seed]
    return seeds if found is None else [*seeds, found[0]]
