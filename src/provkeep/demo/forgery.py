"""A forgery: one byte of one sealed document, changed in a copy of the database."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provkeep.model.graph import Node
from provkeep.reading.traces import load_trace
from provkeep.store.sqlite import SqliteStore

_RECOGNISED: Final = 64  # bytes of a ciphertext by which it is found in the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgery:
    """What was changed, and where."""

    path: Path
    offset: int  # in the file
    before: int
    after: int
    record: int  # that holds the hash of what was changed


def forge(database: Path, document: Node, folder: Path) -> Forgery:
    """Copy ``database`` into ``folder`` and change one byte of ``document`` there.

    Raises:
        ValueError: the document has no bytes of its own in this database.
    """
    store = SqliteStore(database, read_only=True)
    try:
        trace = load_trace(store, bytes.fromhex(document.trace or ""))
        number = trace.items[document.order].payload
        record, sealed = store.payloads([number]).get(number, (-1, None)) if number else (-1, None)
    finally:
        store.close()
    if sealed is None:
        raise ValueError(f"{document.id} has no bytes of its own in {database}")
    folder.mkdir()
    for file in database.parent.glob(f"{database.name}*"):
        shutil.copy2(file, folder)
    copy = folder / database.name
    SqliteStore(copy).close()  # folds the write-ahead log in: what is changed is what is read
    whole = bytearray(copy.read_bytes())
    offset = whole.index(sealed[:_RECOGNISED]) + _RECOGNISED // 2
    before, after = whole[offset], whole[offset] ^ 1
    whole[offset] = after
    copy.write_bytes(whole)
    return Forgery(path=copy, offset=offset, before=before, after=after, record=record)
