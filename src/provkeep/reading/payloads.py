"""The payloads of a store, read beside its records, and compared with what those committed to."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Sequence
from hashlib import sha256
from itertools import accumulate, chain, repeat
from struct import unpack
from typing import Any, Final, Protocol

from provkeep.reading.findings import Findings
from provkeep.reading.frozen import Ahead, FrozenStore, Row
from provkeep.reading.molds import Fit

_URL_ALPHABET: Final = bytes.maketrans(b"+/", b"-_")
_SPELLED: Final = "43sx"  # a hash, and what the zero byte behind it makes


class Counter(Protocol):
    """Where payloads are counted."""

    payloads: int


class Payloads:
    """Takes in the payloads of each record in turn; those that no record names are orphans.

    Args:
        seen: counts the rows.
        start: payloads of records before this one are passed over.
    """

    def __init__(self, store: FrozenStore, out: Findings, seen: Counter, start: int) -> None:
        self._store, self._out, self._seen, self._start = store, out, seen, start
        self._next = 1  # number that the next payload should have
        self._rows = None if start else self._open(-(2**63))

    def _open(self, first: int) -> Ahead:
        sql = "SELECT id, seq, source, data FROM store.payload WHERE id >= ? ORDER BY id"
        return self._store.ahead(sql, (first,), _hashed)

    # -- many records, of which nothing is wrong ---------------------------------------------------

    def follow(self, seq: int, fits: Sequence[Fit]) -> list[Row] | None:
        """Are the next payloads just those that some records committed to? Nothing is taken.

        Args:
            seq: number of the first record.
            fits: of their bodies.

        Returns:
            number and source of those with a source; None when something is not so.
        """
        if self._rows is None:
            return None
        counts = [mold.payloads for mold, _ in fits]
        firsts = list(accumulate(counts, initial=self._next))
        end = firsts.pop()
        rows = self._rows.look(end - self._next)
        if len(rows) != end - self._next:
            return None
        ids, owners, sources, digests = zip(*rows, strict=True) if rows else ((), (), (), ())
        records = map(repeat, range(seq, seq + len(fits)), counts)
        if ids != tuple(range(self._next, end)) or owners != tuple(chain.from_iterable(records)):
            return None
        if {*map(type, digests)} - {bytes}:
            return None
        if b", ".join([found[-3] for _, found in fits]) != str(firsts)[1:-1].encode():
            return None
        said = b"".join([found[-4] for _, found in fits])
        if said != b"".join([mold.hashes for mold, _ in fits]) % _spelled(digests):
            return None
        named = zip(ids, sources, strict=True)
        return [(number, source) for number, source in named if source is not None]

    def take(self, fits: Sequence[Fit]) -> None:
        """Take the payloads of records that ``follow`` found to be theirs."""
        count = sum(mold.payloads for mold, _ in fits)
        self._next += count
        self._seen.payloads += count
        if self._rows is not None:
            self._rows.take(count)

    # -- one record --------------------------------------------------------------------------------

    def check(self, seq: int, first: int, hashes: list[list[Any]]) -> tuple[range, list[Row]]:
        """Compare the payloads of a record with the hashes it committed to.

        Args:
            seq: number of the record.
            first: number of its first payload.
            hashes: as ``p`` in its body.

        Returns:
            their numbers; and number and source of those for which the store names a source.
        """
        numbers = range(first, first + len(hashes))
        if self._rows is None:
            self._rows = self._begin(seq, first)
        if first != self._next:
            sentence = f"its payloads begin at {first}, the log so far at {self._next}"
            self._out.error("payload-order", f"record {seq}", sentence)
        rows: Sequence[Row | None] = self._rows.look(len(numbers))
        if [row[0] for row in rows if row] == [*numbers]:
            self._rows.take(len(numbers))
            self._seen.payloads += len(numbers)
        else:
            rows = [self._find(self._rows, number) for number in numbers]
        found = [self._digest(seq, n, row) for n, row in zip(numbers, rows, strict=True)]
        self._compare(seq, numbers, found, [wanted.encode() for wanted, _ in hashes])
        self._next = max(self._next, numbers.stop)
        return numbers, [row[0:3:2] for row in rows if row is not None and row[2] is not None]

    def _compare(
        self, seq: int, numbers: range, found: list[bytes | None], wanted: list[bytes]
    ) -> None:
        there = [each for each in found if each is not None]
        if len(there) == len(found) and [*_spelled(there)] == wanted:
            return
        for number, digest, hashed in zip(numbers, found, wanted, strict=True):
            if digest is not None and _spelled([digest]) != (hashed,):
                sentence = f"it is not the one that record {seq} committed to"
                self._out.error("payload-altered", f"payload {number}", sentence)

    def _begin(self, seq: int, first: int) -> Ahead:
        """The payloads of new records begin where those of the pinned ones end."""
        self._next = first
        if first > 1:
            sql = "SELECT seq FROM store.payload WHERE id=?"
            (owner,) = self._store.one(sql, (first - 1,)) or (None,)
            if type(owner) is not int or not 0 <= owner < self._start:
                sentence = f"its payloads begin at {first}, and none of the pinned ones end there"
                self._out.error("payload-order", f"record {seq}", sentence)
        return self._open(first)

    def _digest(self, seq: int, number: int, row: Row | None) -> bytes | None:
        """The hash of a payload; None, and a finding, when there are no such bytes."""
        out, place = self._out, f"payload {number}"
        if row is None or row[3] is None:
            out.error("payload-missing", place, f"record {seq} names it")
            return None
        if row[1] != seq:
            sentence = f"it is filed under another record than {seq}, which names it"
            out.error("payload-order", place, sentence)
        if row[3] is False:
            out.error("payload-altered", place, f"record {seq} committed to bytes")
            return None
        digest: bytes = row[3]
        return digest

    def _find(self, rows: Ahead, number: int) -> Row | None:
        """Take the payload of this number; those before it belong to no record."""
        while (row := rows.first) is not None and row[0] <= number:
            rows.take()
            self._seen.payloads += 1
            if row[0] == number:
                return row
            self._out.error("payload-orphan", f"payload {row[0]}", "no record names it")
        return None

    def finish(self) -> None:
        """Say what is left over."""
        if self._rows is not None:
            self._find(self._rows, 2**63)
            return
        row = self._store.one("SELECT id, seq FROM store.payload ORDER BY id DESC LIMIT 1")
        if row is not None and (type(row[1]) is not int or row[1] >= self._start):
            self._out.error("payload-orphan", f"payload {row[0]}", "no record names it")


def _hashed(rows: list[Row]) -> list[Row]:
    """Rows with the hash of their data in its place; False for what is not bytes."""
    try:
        return [(n, owner, source, sha256(data).digest()) for n, owner, source, data in rows]
    except TypeError:  # of a text, a number or nothing there is no hash
        return [(*row[:3], _digest(row[3])) for row in rows]


def _digest(data: Any) -> bytes | bool | None:
    if type(data) is bytes:
        return sha256(data).digest()
    return None if data is None else False


def _spelled(digests: Sequence[bytes]) -> tuple[bytes, ...]:
    """SHA-256 hashes as records spell them, all at once: each in 44 characters, the last an A."""
    joined = b"\0".join([*digests, b""])
    text = b2a_base64(joined, newline=False).translate(_URL_ALPHABET)
    return unpack(_SPELLED * len(digests), text)
