"""Rotation: newer keys for what is sealed from now on, old epoch keys sealed to them anew.

Only epoch keys are touched, a few for each process and day, whatever the number of traces: data
keys stay wrapped as they are, and no payload, leaf or tag changes. The order of the steps is such
that a process that dies between two of them leaves everything readable, and that doing it again
finishes it: first the old private half is kept as retired, then the new one is written, then the
recorder is told, then the epoch keys are sealed anew.
"""

from __future__ import annotations

import os
import time
from base64 import b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from provkeep.errors import KeyFileError, UnsealError
from provkeep.sealing import keyfiles, suites
from provkeep.sealing.config import FINGERPRINT_KEY_BYTES
from provkeep.sealing.home import (
    install_recipients,
    load_admin_seed,
    load_reader_keys,
    load_recorder_config,
    reader_path,
    recorder_path,
)
from provkeep.sealing.keyring import (
    COMPARTMENTS,
    CompartmentKeys,
    RecipientSet,
    open_epoch,
    seal_epoch,
)
from provkeep.sealing.recipients import sign_recipients
from provkeep.sealing.retired import Retired, load_retired, save_retired

Epoch = tuple[int, bytes, str, bytes]  # number, id, compartment, sealed


class EpochStore(Protocol):
    """Where sealed epoch keys are; ``store.keyfile.KeyFile`` is one."""

    def epochs(self) -> list[Epoch]:
        """All sealed epoch keys."""

    def reseal(self, changed: Sequence[tuple[int, bytes, str]]) -> None:
        """Replace sealed epoch keys, all or none: number, sealed, suite."""


def rotate_compartments(
    store_id: bytes,
    keys: EpochStore,
    names: Iterable[str],
    *,
    suite: str | None = None,
    admin: Path | None = None,
) -> int:
    """Make new key pairs for compartments and seal their epoch keys to them; returns how many.

    Args:
        store_id: 16 bytes.
        keys: the key file, open for writing.
        names: of compartments; their private halves must be held on this machine.
        suite: of the new key pairs, of ``suites.SUITES``; by default as the old ones.
        admin: the admin's key file, who signs the new public keys; by default this store's.

    Raises:
        KeyFileError: keys are missing or cannot be written.
        UnsealError: an epoch key opens with no key that is held; none was changed.
    """
    wanted = sorted(set(names))
    held = load_reader_keys(store_id)
    missing = [name for name in wanted if name not in held.private]
    if missing or not wanted:
        raise KeyFileError(
            str(reader_path(store_id)),
            f"holds no private half of {', '.join(missing) or 'any compartment'}",
            f"rotate where it is; compartments are {', '.join(COMPARTMENTS)}",
        )
    seed = load_admin_seed(store_id, admin)  # before anything is changed
    before = load_retired(store_id)
    kept = {name: list(halves) for name, halves in before.private.items()}
    for name in wanted:
        kept.setdefault(name, []).insert(0, held.private[name])
    save_retired(store_id, Retired(kept, before.fingerprints))
    fresh = {n: suites.generate(suite or suites.suite_of(held.private[n])) for n in wanted}
    now = CompartmentKeys({**held.private, **fresh})
    keyfiles.change_fields(reader_path(store_id), {"private": now.to_json()})
    config = load_recorder_config(store_id)
    public = {**config.recipients.recipients, **CompartmentKeys(fresh).public().recipients}
    at = time.time_ns() // 1000
    if config.signed is not None:  # recipients never go back in time, whatever a clock says
        at = max(at, config.signed.at_us + 1)
    install_recipients(store_id, sign_recipients(RecipientSet(public), seed, at_us=at))
    return seal_anew(store_id, keys)


def seal_anew(store_id: bytes, keys: EpochStore) -> int:
    """Seal to the keys in use every epoch key that is still sealed to a retired one.

    A recorder that was running during a rotation seals to the old public half until its next
    epoch, at most a day; this picks up what it left. Returns how many.

    Raises:
        UnsealError: an epoch key opens with no key that is held; none was changed.
    """
    held, retired = load_reader_keys(store_id), load_retired(store_id)
    public = held.public().recipients
    changed = []
    for number, eid, name, sealed in keys.epochs():
        old = retired.private.get(name)
        if not old or name not in held.private:
            continue
        place: dict[str, Any] = {"store_id": store_id, "compartment": name, "epoch_id": eid}
        try:
            open_epoch(sealed, held.private[name], **place)
            continue  # sealed to the key in use
        except UnsealError:
            key = _open_with_any(sealed, old, place)
        fresh = seal_epoch(public[name], key, **place)
        changed.append((number, fresh, public[name].suite))
    if changed:
        keys.reseal(changed)
    return len(changed)


def forget_retired(store_id: bytes, keys: EpochStore, *, fingerprints: bool = False) -> bool:
    """Destroy retired private halves, unless an epoch key was still sealed to one of them.

    Args:
        store_id: 16 bytes.
        keys: the key file, open for writing.
        fingerprints: destroy retired fingerprint keys, too: nobody can find old tags by name then,
            nor confirm a guess.

    Returns:
        False when something still had to be sealed anew: a recorder may go on with the old keys
        until its next epoch; ask again in a day.
    """
    if seal_anew(store_id, keys):
        return False
    save_retired(store_id, Retired({}, [] if fingerprints else load_retired(store_id).fingerprints))
    return True


def rotate_fingerprint_key(store_id: bytes) -> None:
    """Make a new fingerprint key; tags from now on differ from those before, which are still found.

    Recorders that are running go on with the old one until they open the store again. What is known
    again by its tag is not across the change: a conversation begins anew, a document is stored
    once more.
    """
    config, before = load_recorder_config(store_id), load_retired(store_id)
    old = [config.fingerprint_key, *before.fingerprints]
    save_retired(store_id, Retired(before.private, old))
    fresh = b64encode(os.urandom(FINGERPRINT_KEY_BYTES)).decode()
    keyfiles.change_fields(recorder_path(store_id), {"fingerprint_key": fresh})


def _open_with_any(sealed: bytes, halves: Sequence[bytes], place: dict[str, Any]) -> bytes:
    last: UnsealError | None = None
    for half in halves:
        try:
            return open_epoch(sealed, half, **place)
        except UnsealError as error:
            last = error
    assert last is not None  # noqa: S101  # halves is not empty
    raise last
