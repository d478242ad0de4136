"""The index of a whole store, compared with what its records say; and every row that differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import orjson

from provkeep.reading.findings import Findings
from provkeep.reading.frozen import FrozenStore, Row
from provkeep.reading.molds import Fit
from provkeep.reading.quick import QuickIndex
from provkeep.store import schema


class Index(Protocol):
    """Compares index rows with records as they go by."""

    def add(self, seq: int, fields: dict[str, Any], numbers: range, sources: list[Row]) -> bool:
        """Take in a record; False when no index can be derived from it.

        Args:
            seq: number of the record.
            fields: its body, of a shape that is known.
            numbers: of its payloads.
            sources: number and source of those for which the store names a source.
        """

    def follow(self, seq: int, fits: Sequence[Fit], sources: list[Row]) -> bool:
        """Take in records that fit molds, if all of their index rows are seen to be right.

        Args:
            seq: number of the first.
            fits: of their bodies.
            sources: number and source of those payloads for which the store names a source.

        Returns:
            False when it was not seen, and nothing was taken in: ``add`` them.
        """

    def finish(self) -> None:
        """Compare what can be compared at the end only, and say what differs."""


class WholeIndex:
    """Every row of every table: quickly while all is well, thoroughly when it is not."""

    def __init__(self, store: FrozenStore, out: Findings) -> None:
        self._store, self._out = store, out
        self._quick = QuickIndex(store)

    def add(self, seq: int, fields: dict[str, Any], numbers: range, sources: list[Row]) -> bool:
        """See ``Index``."""
        if not self._quick.same:
            return self._store.derive(seq, fields, numbers)  # only whether it can be derived
        if fields["k"] != "trace":
            return self._store.derive(seq, fields, numbers)
        try:
            self._quick.trace(seq, fields, sources)
        except self._store.underivable:
            return False
        return True

    def follow(self, seq: int, fits: Sequence[Fit], sources: list[Row]) -> bool:
        """See ``Index``."""
        try:
            return self._quick.same and self._quick.follow(seq, fits, sources)
        except self._store.underivable:
            return False

    def finish(self) -> None:
        """See ``Index``."""
        store = self._store
        if self._quick.other():
            return
        store.clear()
        for seq, body in store.rows("SELECT seq, body FROM store.record ORDER BY seq"):
            fields = orjson.loads(body)
            first = fields.get("p0", 0)
            store.derive(seq, fields, range(first, first + len(fields.get("p", ()))))
        for table in schema.INDEX_TABLES:
            for key, what in store.differences(table):
                self._out.error("index-row", f"table {table}, {row_name(key)}", what)
        for key, _ in store.source_differences():
            sentence = "its source is not the one that its record says"
            self._out.error("index-row", f"table payload, {row_name(key)}", sentence)


def row_name(key: Row) -> str:
    """Words for a row, by its key."""
    parts = [part.hex() if isinstance(part, bytes) else ascii(part) for part in key]
    return f"row {', '.join(part[:40] for part in parts)}"
