"""What processes that died had acknowledged and not committed: taken up from their journals."""

from __future__ import annotations

import secrets
from pathlib import Path

from provkeep.recording.buffer import Buffer, Scope
from provkeep.recording.frames import Said, decode
from provkeep.recording.journal import Journal, left_behind, take_up
from provkeep.recording.telling import Tally
from provkeep.store.base import Store


def recovered(database: Path, store: Store, own: Journal | None, tally: Tally) -> list[Buffer]:
    """The traces in journals that nobody holds, as they were said, oldest first.

    Args:
        database: beside which the journals are.
        store: the store in it; what it holds already is passed over.
        own: this process's journal.
        tally: told of frames that say nothing.
    """
    found: list[tuple[Said, Journal]] = []
    for path in left_behind(database):
        if own is not None and path == own.path:
            continue
        journal = take_up(path, database, store.store_id)
        if journal is None:
            continue
        for data in journal.frames():
            try:
                said = decode(data)
            except Exception as error:  # noqa: BLE001  # sealed by another version: told at flush
                tally.add(error, 1)
                continue
            if said.events and not _is_recorded(store, said):
                journal.kept += 1
                found.append((said, journal))
        if not journal.kept:
            journal.close()
    found.sort(key=lambda one: one[0].events[0].at_ns)
    return [_buffer(store, said, journal) for said, journal in found]


def _is_recorded(store: Store, said: Said) -> bool:
    """Was it committed whole before its process died?"""
    rows = _row(store, said.tid)
    began = said.events[0].at_ns // 1000
    return any(t0 == began and status is not None for t0, status in rows)


def _row(store: Store, tid: int) -> list[tuple[object, ...]]:
    return store.query("SELECT t0_us, status FROM trace WHERE tid=?", (tid.to_bytes(16, "big"),))


def _buffer(store: Store, said: Said, journal: Journal) -> Buffer:
    tid = said.tid
    if _row(store, tid):  # another trace of this name, or a part of it: it is told again, whole
        tid = secrets.randbits(128)
    buffer = Buffer(tid, said.root, Scope("batch", said.names), said.names)
    buffer.events.extend(said.events)
    buffer.ended, buffer.journal = True, journal
    return buffer
