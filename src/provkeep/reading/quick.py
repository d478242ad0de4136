"""Is the index of a store what its records say? A quick answer of yes or no, as they go by.

Rows of ``trace`` and ``trec`` stand in the order in which their records come, so they are read
beside the records and compared at once; the other tables are derived into the scratch index and
compared in order at the end. A "no" is only a reason to look: ``store.index`` then derives all of
it again, and what it says counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final

from provkeep.reading.frozen import FrozenStore, Row
from provkeep.reading.molds import Fit, gathered, trace_rows
from provkeep.store import schema
from provkeep.store.index import Gathered, gather

MAX_AHEAD: Final = 200_000  # rows kept because their records come later; beyond, the answer is no
STREAMED: Final = ("trace", "trec")
_RUNS, _ERRORS, _END, _STATUS, _ANSWER = 10, 11, 3, 4, 12  # columns of ``trace``


class QuickIndex:
    """Takes in records in order; says at the end whether all index rows are theirs."""

    def __init__(self, store: FrozenStore) -> None:
        self.same = True
        self._store = store
        self._traces = store.ahead("SELECT * FROM store.trace ORDER BY id")
        self._trecs = store.ahead("SELECT * FROM store.trec ORDER BY trace, seq")
        self._last = 0  # trace id
        self._ahead: dict[int, Any] = {}  # rows of trec by seq, of records that come later
        self._open: dict[bytes, tuple[list[Any], Row | None]] = {}  # traces that must go on
        self._sources: list[Row] = []  # payloads with a source, as the store says

    def trace(self, seq: int, fields: dict[str, Any], sources: list[Row]) -> None:
        """Compare what a trace's record makes of the index.

        Args:
            seq: number of the record.
            fields: its body, of a shape that is known.
            sources: number and source of its payloads for which the store names a source.

        Raises:
            KeyError, ValueError, TypeError, IndexError: no index follows from this body.
        """
        found = gather(fields)
        number = self._last + 1 if fields["n"] == 0 else self._known(found)
        if number > self._last:
            self._last = number
            mine, theirs = (number, *found.row()), self._traces.first
            self._traces.take()
            if mine != theirs:
                self._open[found.tid] = list(mine), theirs
                self.same &= len(self._open) <= MAX_AHEAD
        elif found.tid in self._open:
            self._add(found)
        elif found.runs or found.errors or found.status or found.end_us is not None:
            self.same = False  # it was taken as complete
        elif found.answer is not None:  # again, with further documents that reached it
            said = self._store.one("SELECT answer FROM store.trace WHERE id=?", (number,))
            self.same &= said == (found.answer,)
        self._trec_of(number, seq)
        if found.crosses:
            self._store.cross([(found, number)])
        self._store.see(sources)

    def follow(self, seq: int, fits: Sequence[Fit], sources: list[Row]) -> bool:
        """The same for records that fit molds; False, and nothing done, when one is not so."""
        count, first = len(fits), self._last + 1
        if self._traces.look(count) != trace_rows(fits, first):
            return False
        numbers = range(first, first + count)
        if self._trecs.look(count) != list(zip(numbers, range(seq, seq + count), strict=True)):
            return False
        across = gathered(fits, first)
        if across:
            self._store.cross(across)
        self._store.see(sources)
        self._traces.take(count)
        self._trecs.take(count)
        self._last += count
        return True

    def _known(self, found: Gathered) -> int:
        """The id of the trace to which a later record belongs; the next one if there is none."""
        if found.tid in self._open:
            return int(self._open[found.tid][0][0])
        row = self._store.one("SELECT id, tid FROM store.trace WHERE tid=?", (found.tid,))
        if row is None or row[1] != found.tid or not 0 < row[0] <= self._last:
            return self._last + 1
        return int(row[0])

    def _add(self, found: Gathered) -> None:
        mine, theirs = self._open[found.tid]
        mine[_RUNS] += found.runs
        mine[_ERRORS] += found.errors
        mine[_END] = mine[_END] if found.end_us is None else found.end_us
        mine[_STATUS] = mine[_STATUS] if found.status is None else found.status
        mine[_ANSWER] = mine[_ANSWER] if found.answer is None else found.answer
        if tuple(mine) == theirs:
            del self._open[found.tid]

    def _trec_of(self, trace: int, seq: int) -> None:
        row = self._trecs.first
        if row == (trace, seq):
            self._trecs.take()
            return
        while row is not None and len(self._ahead) <= MAX_AHEAD:
            if type(row[0]) is not int or row[0] > self._last:
                break
            self._ahead[row[1]] = row[0]
            self._trecs.take()
            row = self._trecs.first
        if self._ahead.pop(seq, None) != trace:
            self.same = False

    def other(self) -> bool:
        """Do all tables but those that were compared on the way, and all ends, fit?"""
        ended = self._traces.first is None and self._trecs.first is None
        if not (self.same and ended) or self._open or self._ahead:
            return False
        sql = "SELECT id, source FROM main.{} WHERE source IS NOT NULL ORDER BY id"
        mine, seen = self._store.rows(sql.format("payload")), self._store.rows(sql.format("seen"))
        if not all(one == other for one, other in zip_longest(mine, seen)):
            return False
        tables = (table for table in schema.INDEX_TABLES if table not in STREAMED)
        return all(self._store.same(table) for table in tables)
