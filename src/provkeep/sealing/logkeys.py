"""The seed of a log that changes its key: kept before the log is told, put in place afterwards.

Between the two there are two seeds on this host, and the log's newest checkpoint says which of
them is in force. This module knows files; ``tlog`` gives the seeds meaning.
"""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Final

from provkeep.errors import KeyFileError
from provkeep.model.files import write_whole
from provkeep.sealing import keyfiles
from provkeep.sealing.config import key_of, text_of
from provkeep.sealing.home import (
    LOG_PUBLIC,
    PUBLIC_MODE,
    load_recorder_config,
    log_public,
    pin_path,
    recorder_path,
)

_NEXT: Final = "next-key.json"


def begin_log_key(store_id: bytes, log_seed: bytes, log_vkey: str) -> None:
    """Keep the seed that the log is about to change to, before the log is told.

    It is protected as the recorder's configuration is.

    Raises:
        KeyFileError: it cannot be written.
        ProviderError: the provider that protects the configuration is absent, slow, or refuses.
    """
    fields = {
        "store_id": store_id.hex(),
        "log_seed": b64encode(log_seed).decode(),
        "log_vkey": log_vkey,
    }
    keyfiles.write_fields(_next(store_id), fields, like=recorder_path(store_id))


def next_log_key(store_id: bytes) -> tuple[bytes, str] | None:
    """Seed and public key of a change of keys that may not be complete; None when there is none.

    Raises:
        KeyFileError: malformed, or open to other users.
    """
    path = _next(store_id)
    if not path.exists():
        return None
    fields = keyfiles.read_fields(path, {"store_id", "log_seed", "log_vkey"})
    try:
        if fields["store_id"] != store_id.hex():
            raise ValueError("it belongs to another store")
        return key_of(fields["log_seed"]), text_of(fields["log_vkey"])
    except ValueError as error:
        raise KeyFileError(str(path), f"is malformed ({error})", keyfiles.RESTORE) from error


def finish_log_key(store_id: bytes) -> None:
    """Make the seed that ``begin_log_key`` kept the log's, and let go of the old one.

    Raises:
        KeyFileError: a file cannot be read or written.
    """
    found = next_log_key(store_id)
    if found is None:
        return
    seed, vkey = found
    public = log_public(store_id)
    where = pin_path(store_id).with_name(LOG_PUBLIC)
    try:
        if vkey not in public.split("\n"):
            write_whole(where, f"{public}\n{vkey}\n", PUBLIC_MODE)
        path = recorder_path(store_id)
        keyfiles.change_fields(path, {"log_seed": b64encode(seed).decode()})
        _next(store_id).unlink(missing_ok=True)
    except OSError as error:
        raise KeyFileError(
            str(where), f"cannot be written ({error.strerror})", "make its folder writable"
        ) from error


def log_seeds(store_id: bytes) -> list[bytes]:
    """Seeds of this log on this host: the one in use, and the one it may be changing to.

    Raises:
        KeyFileError: as for ``load_recorder_config``.
    """
    found = next_log_key(store_id)  # first: it moves into the other file
    seeds = [load_recorder_config(store_id).log_seed]
    return seeds if found is None else [*seeds, found[0]]


def _next(store_id: bytes) -> Path:
    return pin_path(store_id).with_name(_NEXT)
