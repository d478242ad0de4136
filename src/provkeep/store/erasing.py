"""Erasures carried out: keys that an erase record names are destroyed, now or at the next chance.

The record comes first, so a process that dies in between leaves keys that are known to be owed. The
same holds for an old key file that was put back: whoever next opens the store destroys them again.
"""

from __future__ import annotations

from provkeep.store.base import Store
from provkeep.store.keyfile import KeyFile


def newest_erasure(store: Store) -> int:
    """The number of the newest erase record; -1 when nothing was ever erased."""
    found = store.query("SELECT max(seq) FROM erasure")[0][0]
    return -1 if found is None else int(found)


def gone_since(store: Store, seq: int) -> list[tuple[int, int]]:
    """Numbers of the keys that erase records after ``seq`` name, as first and last."""
    rows = store.query("SELECT first, last FROM gone WHERE seq > ? ORDER BY first", (seq,))
    return [(int(first), int(last)) for first, last in rows]


def carry_out(store: Store, keys: KeyFile, *, busy_ms: int = 0) -> bool:
    """Destroy the keys that erase records name and that may still be in a file.

    Args:
        store: says which.
        keys: the store's key file, open for writing.
        busy_ms: how long to wait for readers of the old state, in milliseconds.

    Returns:
        True when nothing is owed; False while a reader holds it back.

    Raises:
        StoreError: a file is locked, full, or not to be written.
    """
    newest = newest_erasure(store)
    if newest < 0:
        return True
    done = keys.erased_through()
    return done >= newest or keys.erase(gone_since(store, done), newest, busy_ms=busy_ms)
