"""Opening a store to record into it, and making a new one with its keys."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from provkeep.errors import KeyFileError, PinError, StoreError
from provkeep.model.records import FORMAT, Pending
from provkeep.sealing.home import (
    RecorderConfig,
    create_store_home,
    default_origin,
    find_by_path,
    load_recorder_config,
    pin_path,
)
from provkeep.store.keyfile import KeyFile, keys_path
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.checkpoint import LogKey
from provkeep.tlog.log import Log
from provkeep.tlog.pin import Pin, read_pin, write_pin


@dataclass(slots=True, kw_only=True)
class Opened:
    """Everything a writer needs of a store."""

    store: SqliteStore
    keys: KeyFile
    log: Log
    log_key: LogKey
    config: RecorderConfig
    pin: Path
    created: bool
    pin_problem: str | None = None

    def close(self) -> None:
        """Release both files."""
        self.store.close()
        self.keys.close()


def open_for_recording(path: str | os.PathLike[str]) -> Opened:
    """Open the store at ``path``, making it and its keys if there is none.

    Raises:
        StoreError: the file is not ours, newer, read-only or locked.
        KeyFileError: the keys of this store are missing, unreadable or open to others.
    """
    where = Path(path).absolute()
    remembered = find_by_path(where)
    if remembered is not None and not where.exists() and _pinned_size(remembered):
        # A store that had records is gone: starting a new one in its place is a decision.
        _forget(remembered)
    store = SqliteStore(where)
    created = False
    try:
        if not store.store_id:
            proposed = secrets.token_bytes(16)
            key = LogKey.generate(default_origin(proposed))
            vkey = key.public.vkey()
            create_store_home(
                proposed, key.public.origin, where, log_seed=key.seed(), log_vkey=vkey
            )
            claimed = store.claim(proposed)
            created = claimed == proposed
            if not created:
                _remove_home(proposed)
        config = load_recorder_config(store.store_id)
        log_key = LogKey.from_seed(config.origin, config.log_seed)
        opened = Opened(
            store=store,
            keys=KeyFile(keys_path(where)),
            log=Log(store),
            log_key=log_key,
            config=config,
            pin=pin_path(store.store_id),
            created=created,
        )
        if not opened.pin.exists():
            _begin(opened)
        opened.pin_problem = _check_pin(opened)
        return opened
    except BaseException:
        store.close()
        raise


def _begin(opened: Opened) -> None:
    """Record 0 says what this log is; then the first checkpoint and the pin."""
    body = {
        "k": "init",
        "v": FORMAT,
        "store": opened.store.store_id.hex(),
        "origin": opened.config.origin,
        "vkey": opened.log_key.public.vkey(),
        "recipients": opened.config.recipients.to_json(),
        "at": time.time_ns() // 1000,
    }
    opened.log.append([Pending(body, [])], durable=True, only_first=True)
    if not opened.pin.exists():
        write_pin(opened.pin, opened.log.checkpoint(opened.log_key))


def _check_pin(opened: Opened) -> str | None:
    """Does the log still begin with what is pinned? A pin that disagrees is never overwritten."""
    try:
        pin = read_pin(opened.pin)
        if opened.log.root_at(pin.size) != pin.root:
            return "the log does not begin with what the pin remembers; run `provkeep verify`"
    except FileNotFoundError:
        return None
    except PinError as error:
        return None if not opened.pin.exists() else str(error)
    return None


def advance_pin(opened: Opened, pin: Pin) -> None:
    """Move the pin forward, never back, and never over a log that disagrees with it."""
    if opened.pin_problem is not None:
        return
    try:
        if read_pin(opened.pin).size >= pin.size:
            return
    except (PinError, OSError):
        if opened.pin.exists():
            return
    write_pin(opened.pin, pin)


def _pinned_size(store_id: bytes) -> int:
    try:
        return read_pin(pin_path(store_id)).size
    except (PinError, OSError):
        return 0


def _forget(store_id: bytes) -> None:
    """The database is gone; its keys stay in their folder, under another location."""
    location = pin_path(store_id).with_name("location.json")
    try:
        location.rename(location.with_name("location.json.gone"))
    except OSError as error:
        raise KeyFileError(str(location), "cannot be moved", "make its folder writable") from error


def _remove_home(store_id: bytes) -> None:
    """Another process named this store first: our unused keys go."""
    folder = pin_path(store_id).parent
    try:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    except OSError as error:
        raise StoreError(f"{folder}: unused keys could not be removed ({error})") from error
