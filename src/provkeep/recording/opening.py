"""Opening a store to record into it, making a new one with its keys, and keeping its pin.

The pin is what the log is compared with, so it moves one way: forward, along a log that still
begins with what it remembers. Where the two disagree it stays as it is, and that is told.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provkeep.errors import (
    CheckpointError,
    KeyFileError,
    LogKeyError,
    PinError,
    RecipientsError,
    StoreError,
)
from provkeep.model.records import FORMAT, RECIPIENTS, Pending, b64
from provkeep.sealing.home import (
    RecorderConfig,
    create_store_home,
    default_origin,
    find_by_path,
    load_recorder_config,
    log_public,
    pin_path,
)
from provkeep.sealing.logkeys import finish_log_key, log_seeds, next_log_key
from provkeep.sealing.recipients import SignedRecipients, newest
from provkeep.sealing.suites import SUITE
from provkeep.store.base import Transaction
from provkeep.store.connection import PATIENT_MS
from provkeep.store.erasing import carry_out
from provkeep.store.keyfile import KeyFile, keys_path
from provkeep.store.naming import naming_bodies
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.checkpoint import LogKey, verify_checkpoint
from provkeep.tlog.log import Log, root_at
from provkeep.tlog.mldsa import ED25519, HYBRID, LOG_SUITES, SecondKey, log_key, second_lines
from provkeep.tlog.pin import Pin, read_pin, write_pin

log = logging.getLogger("provkeep")


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
    trusted: Pin | None = None  # a pin that was found to agree, so that it is not computed again

    def close(self) -> None:
        """Release both files."""
        self.store.close()
        self.keys.close()


def open_for_recording(
    path: str | os.PathLike[str],
    *,
    busy_ms: int = PATIENT_MS,
    recipients: SignedRecipients | None = None,
    suite: str = SUITE,
    log_suite: str = ED25519,
) -> Opened:
    """Open the store at ``path``, making it and its keys if there is none.

    Args:
        path: the database.
        busy_ms: how long a write waits for another process's lock, in milliseconds.
        recipients: seal to these public keys; of a store that is there, they must be its own.
        suite: of the keys, where they are made here.
        log_suite: ``hybrid`` lets a new log sign its checkpoints with ML-DSA-44 as well. A log that
            is there keeps what it has.

    Raises:
        LogKeyError: ``hybrid`` was asked for, and the log that is there has no second key, or the
            installed cryptography has no ML-DSA.
        RecipientsError: the public keys are not those that the pinned admin signed.
        StoreError: the file is not ours, newer, read-only or locked.
        KeyFileError: the keys of this store are missing, unreadable or open to others.
    """
    if log_suite not in LOG_SUITES:
        raise ValueError(f"a log's suites are {', '.join(LOG_SUITES)}; got {log_suite!r}")
    where = Path(path).absolute()
    lost = _lost(where) if _is_gone(where) else None
    # Making a store waits as long as it takes: several processes may begin at once.
    store = SqliteStore(where, busy_ms=PATIENT_MS)
    keys: KeyFile | None = None
    try:
        created = not store.store_id and _claim(store, where, recipients, suite, log_suite)
        config = load_recorder_config(store.store_id)
        if recipients is not None and config.recipients != recipients.recipients:
            raise RecipientsError("this store was made for others; it keeps sealing to those")
        keys = KeyFile(keys_path(where), busy_ms=PATIENT_MS)
        opened = Opened(
            store=store,
            keys=keys,
            log=Log(store),
            log_key=log_key(config.origin, config.log_seed, config.log_second_seed),
            config=config,
            pin=pin_path(store.store_id),
            created=created,
        )
        if log_suite == HYBRID and opened.log_key.second is None:
            problem = "it began without a second key and goes on so; begin a new database for one"
            raise LogKeyError(config.origin, problem)
        settle_key(opened)
        if not opened.pin.exists():
            _begin(opened, lost)
        _check_recipients(opened)
        opened.pin_problem = _check_pin(opened)
        name_recipients(opened)
        carry_out(store, keys)  # erasures that a reader held back, or that an old file undid
        store.wait_for_locks(busy_ms)
        keys.wait_for_locks(busy_ms)
        return opened
    except BaseException:
        store.close()
        if keys is not None:
            keys.close()
        raise


def signing_keys(opened: Opened) -> list[LogKey]:
    """The keys of this log on this host: after a change of keys by another process, the new one."""
    seeds = log_seeds(opened.store.store_id)
    return [_key(opened, seed) for seed in seeds]


def _key(opened: Opened, seed: bytes) -> LogKey:
    """A key of this log; its second key is the same beside all of them."""
    return LogKey.from_seed(opened.config.origin, seed, opened.log_key.second)


def sign(opened: Opened) -> Pin:
    """Sign the head of the log with the key in force.

    Raises:
        StoreError: the store refused, or the log is not the one that was seen before.
        LogKeyError: the log was signed with a key that this host does not have.
    """
    head = opened.log.checkpoint(opened.log_key, lambda: signing_keys(opened))
    if head.vkey != opened.log_key.public.vkey():
        settle_key(opened)
    return head


def settle_key(opened: Opened) -> None:
    """Complete a change of the log's key that was committed, and take the key in force."""
    found = next_log_key(opened.store.store_id)
    if found is not None:
        with opened.store.transaction() as tx:
            note = tx.newest_checkpoint()
        key = _key(opened, found[0])
        with contextlib.suppress(CheckpointError):
            verify_checkpoint(note or "", key.public)
            finish_log_key(opened.store.store_id)
    opened.config = load_recorder_config(opened.store.store_id)
    opened.log_key = _key(opened, opened.config.log_seed)


def _claim(
    store: SqliteStore, where: Path, recipients: SignedRecipients | None, suite: str, log_suite: str
) -> bool:
    """Make keys and give the file its identity, unless another process is first."""
    proposed = secrets.token_bytes(16)
    origin = default_origin(proposed)
    second = SecondKey.generate(origin) if log_suite == HYBRID else None
    key = LogKey.generate(origin, second)
    create_store_home(
        proposed,
        key.public.origin,
        where,
        log_seed=key.seed(),
        log_vkey=key.public.vkey(),
        recipients=recipients,
        suite=suite,
        log_second=None if second is None else (second.seed(), second.public.vkey()),
    )
    if store.claim(proposed) == proposed:
        return True
    _remove_home(proposed)
    return False


def _begin(opened: Opened, lost: Pin | None) -> None:
    """Record 0 says what this log is; then the first checkpoint and the pin."""
    body: dict[str, Any] = {
        "k": "init",
        "v": FORMAT,
        "store": opened.store.store_id.hex(),
        "origin": opened.config.origin,
        "vkey": opened.log_key.public.vkey(),
        "recipients": opened.config.recipients.to_json(),
        "at": time.time_ns() // 1000,
    }
    if opened.log_key.second is not None:  # for information: what is believed is in log.pub
        body["second"] = opened.log_key.second.public.vkey()
    if opened.config.signed is not None:
        body |= opened.config.signed.fields()
    if lost is not None:  # a log that began where another one was says so for good
        body["after"] = {"origin": lost.origin, "size": lost.size, "root": b64(lost.root)}
    opened.log.append([Pending(body, [])], durable=True, only_first=True)
    _move_pin(opened, sign(opened))


def _check_recipients(opened: Opened) -> None:
    """The log must name the pinned admin, and no newer keys than the recorder's configuration."""
    signed = opened.config.signed
    with opened.store.transaction() as tx:
        bodies = naming_bodies(tx)
    if signed is None or not bodies:
        return
    try:
        named = newest(bodies)
        named.check(signed.admin)
        if signed.at_us < named.at_us:
            raise RecipientsError(
                "it names newer keys than recorder.json does, which was put back or not copied"
                " after the keys were rotated"
            )
    except RecipientsError as error:
        raise RecipientsError(error.problem, f"the log of {opened.store.path.name}") from error


def name_recipients(opened: Opened) -> int | None:
    """Append the record that names the recipients in use, if the log does not name them yet.

    Returns:
        The number of the record, or None.

    Raises:
        StoreError, LogKeyError: it could not be appended or signed.
    """
    signed = opened.config.signed
    if signed is None or opened.pin_problem is not None:
        return None
    pending: list[Pending] = []

    def decide(tx: Transaction) -> None:
        if newest(naming_bodies(tx)).at_us < signed.at_us:
            at = time.time_ns() // 1000
            body = {"k": RECIPIENTS, "v": FORMAT, "at": at, **signed.fields()}
            pending.append(Pending(body, []))

    with opened.store.transaction() as tx:
        if newest(naming_bodies(tx)).at_us >= signed.at_us:
            return None
    opened.log.append(pending, durable=True, check=decide)
    opened.pin_problem = advance_pin(opened, sign(opened))
    return pending[0].seq if pending else None


def _check_pin(opened: Opened) -> str | None:
    with opened.store.transaction() as tx:
        try:
            return _disagreement(opened, tx, read_pin(opened.pin))
        except PinError as error:
            return str(error)


def _disagreement(opened: Opened, tx: Transaction, pin: Pin) -> str | None:
    """What keeps this log from being a continuation of what is pinned, or None."""
    if pin == opened.trusted:
        return None  # the log itself notices when what it has seen is exchanged
    public, second = log_public(opened.store.store_id), opened.log_key.second
    if pin.vkey not in public.split("\n"):
        return "the pin remembers another log key than the recorder has; run `provkeep verify`"
    if second_lines(public) != ([] if second is None else [second.public.vkey()]):
        return (
            "recorder.json does not hold the second key that log.pub names, or log.pub does not"
            " name it; restore them from a copy"
        )
    try:
        if root_at(tx, pin.size) != pin.root:
            return "the log does not begin with what the pin remembers; run `provkeep verify`"
    except PinError as error:
        return f"{error.problem}: it is an older copy, or was cut; run `provkeep verify`"
    opened.trusted = pin
    return None


def advance_pin(opened: Opened, head: Pin) -> str | None:
    """Move the pin forward, never back, and never over a log that disagrees with it.

    Returns:
        what is wrong with pin or log, for whoever flushes; None when they agree.

    Raises:
        StoreError: the store is locked.
        OSError: the pin cannot be written.
    """
    opened.pin_problem = _move_pin(opened, head)
    return opened.pin_problem


def _move_pin(opened: Opened, head: Pin) -> str | None:
    # The store's write lock makes one process at a time read and replace the pin.
    with opened.store.transaction() as tx:
        try:
            pin = read_pin(opened.pin)
        except PinError as error:
            if opened.pin.exists():
                return str(error)
            if head.size > 1 and opened.trusted is None:
                log.warning(
                    "provkeep: %s had no pin; its %d records are pinned as they are now, and"
                    " nothing says what they were before",
                    opened.store.path,
                    head.size,
                )
        else:
            problem = _disagreement(opened, tx, pin)
            if problem is not None or pin.size >= head.size:
                return problem
        write_pin(opened.pin, head)
        opened.trusted = head
    return None


def _is_gone(where: Path) -> bool:
    try:
        where.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # it may be there; opening it will say why it cannot be seen
    return False


def _lost(where: Path) -> Pin | None:
    """The pin of a store that was here and is gone; its keys stay in their folder, set aside."""
    remembered = find_by_path(where)
    if remembered is None:
        return None
    try:
        pin = read_pin(pin_path(remembered))
    except PinError:
        return None
    location = pin_path(remembered).with_name("location.json")
    try:
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            location.rename(location.with_name("location.json.gone"))
    except OSError as error:
        raise KeyFileError(str(location), "cannot be moved", "make its folder writable") from error
    log.warning(
        "provkeep: %s is gone, with the %d records that its pin remembers; a new log begins there."
        " The old keys and pin are kept in %s",
        where,
        pin.size,
        location.parent,
    )
    return pin


def _remove_home(store_id: bytes) -> None:
    """Another process named this store first: our unused keys go."""
    folder = pin_path(store_id).parent
    try:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    except OSError as error:
        raise StoreError(f"{folder}: unused keys could not be removed ({error})") from error
