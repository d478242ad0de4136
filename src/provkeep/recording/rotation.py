"""Changing keys of a store: each change is a record, signed by whoever may make it.

The key that signs the log: the old key signs a record that names the new one. The new seed is kept
beside the configuration before the log is told, so that a crash at any step leaves a host that can
go on: whichever key the log's newest checkpoint bears is on its disk. Other recorders on this host
notice at their next signature and take the new key.

Whom payloads are sealed to: the admin signs the new public keys, and a record says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from provkeep.errors import LogKeyError
from provkeep.recording.opening import (
    advance_pin,
    name_recipients,
    open_for_recording,
    settle_key,
    signing_keys,
)
from provkeep.sealing import rotating
from provkeep.sealing.home import install_recipients, load_recorder_config
from provkeep.sealing.logkeys import begin_log_key
from provkeep.sealing.recipients import SignedRecipients
from provkeep.tlog.checkpoint import LogKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """A log's change of keys, as it was committed."""

    record: int  # number of the record that says so
    old: str  # verifier key, one line
    new: str


def rotate_log_key(path: str | os.PathLike[str]) -> Rotated:
    """Let the log at ``path`` sign with a new key from now on, and forget the old one.

    Args:
        path: the database; it must exist, and its keys must be on this machine.

    Raises:
        LogKeyError: the log is not the one that the pin remembers, or its newest checkpoint is
            signed by a key that is not here.
        StoreError, KeyFileError: it cannot be opened or written.
    """
    opened = open_for_recording(path)
    try:
        if opened.pin_problem is not None:
            raise LogKeyError(opened.config.origin, opened.pin_problem)
        new = LogKey.generate(opened.config.origin, opened.log_key.second)
        begin_log_key(opened.store.store_id, new.seed(), new.public.vkey())
        at = time.time_ns() // 1000
        others = signing_keys(opened)
        old, head = opened.log.rotate(opened.log_key, new, at=at, others=lambda: others)
        settle_key(opened)
        problem = advance_pin(opened, head)
        if problem is not None:
            raise LogKeyError(opened.config.origin, problem)
        return Rotated(record=head.size - 1, old=old.vkey(), new=new.public.vkey())
    finally:
        opened.close()


def rotate_compartments(
    path: str | os.PathLike[str],
    names: Iterable[str],
    *,
    suite: str | None = None,
    admin: Path | None = None,
) -> tuple[int, int | None]:
    """Make new key pairs for compartments, seal their epoch keys to them, and record that.

    Args:
        path: the database; its private and its admin's keys must be on this machine.
        names: of compartments.
        suite: of the new key pairs; by default as the old ones.
        admin: the admin's key file; by default the one in this user's configuration.

    Returns:
        How many epoch keys were sealed anew, and the number of the record.

    Raises:
        StoreError, KeyFileError, UnsealError: see ``sealing.rotating``; nothing was lost.
    """
    opened = open_for_recording(path)
    try:
        store_id = opened.store.store_id
        count = rotating.rotate_compartments(store_id, opened.keys, names, suite=suite, admin=admin)
        opened.keys.ask_new_epoch()
        opened.config = load_recorder_config(store_id)
        return count, name_recipients(opened)
    finally:
        opened.close()


def install(path: str | os.PathLike[str], signed: SignedRecipients) -> int | None:
    """Seal to other public keys from now on, which the pinned admin signed, and record that.

    What was sealed before stays sealed to the old keys: whoever reads keeps those.

    Returns:
        The number of the record; None when these keys are in use already.

    Raises:
        RecipientsError: another admin signed them, or they are older than those in use.
        StoreError, KeyFileError: the store or its configuration cannot be read or written.
    """
    opened = open_for_recording(path)
    try:
        opened.config = install_recipients(opened.store.store_id, signed)
        opened.keys.ask_new_epoch()
        return name_recipients(opened)
    finally:
        opened.close()
