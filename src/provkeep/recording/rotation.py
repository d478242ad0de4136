"""Changing the key that signs a log: a record by the old key that names the new one.

The new seed is kept beside the configuration before the log is told, so that a crash at any step
leaves a host that can go on: whichever key the log's newest checkpoint bears is on its disk. Other
recorders on this host notice at their next signature and take the new key.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from provkeep.errors import LogKeyError
from provkeep.recording.opening import advance_pin, open_for_recording, settle_key, signing_keys
from provkeep.sealing.logkeys import begin_log_key
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
        new = LogKey.generate(opened.config.origin)
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
