"""What ties traces to each other: fingerprints, looked up in the index and remembered.

A recorder knows documents, sources, messages and conversations again by keyed digests alone; it
never reads back what it stored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from provkeep.model.records import GIVES
from provkeep.sealing.keyring import fingerprint
from provkeep.store.base import Store

REMEMBERED: Final = 16_384  # fingerprints kept in memory, of each kind; about 4 MB each
LOOKED_UP: Final = 400  # prefixes of one list that are looked up in the store

Items = Sequence[tuple[Any, str]]  # content key of a message; its id where it is an answer
_ANSWERS: Final = frozenset({"ai", "tool"})


class Remembered(OrderedDict[Any, Any]):
    """A dictionary that forgets what it was given first."""

    def keep(self, key: Any, value: Any) -> None:
        """Remember, and forget the oldest beyond the limit."""
        self[key] = value
        if len(self) > REMEMBERED:
            self.popitem(last=False)


class Ties:
    """Fingerprints of one store; used by its writer thread only."""

    def __init__(self, key: bytes, store: Store) -> None:
        self._key, self._store = key, store
        self._documents = Remembered()
        self._sources = Remembered()
        self._given = Remembered()
        self._items = Remembered()
        self._slots = Remembered()
        self.fresh = False  # a document was met that is not committed yet

    def tag(self, domain: str, text: str) -> bytes:
        """Keyed digest of a name, 12 bytes."""
        return fingerprint(self._key, domain, text.encode("utf-8", "surrogatepass"))

    def slot(self, name: str) -> bytes:
        """Keyed digest of a place in a chain; there are few, and they come again."""
        mark = self._slots.get(name)
        if mark is None:
            mark = self.tag("slot", name)
            self._slots.keep(name, mark)
        return bytes(mark)

    def document(self, data: bytes) -> int | bytes:
        """The payload number of a document stored before, else its fingerprint."""
        mark = fingerprint(self._key, "document", data)
        found = self._documents.get(mark)
        if found is None:
            rows = self._store.query("SELECT payload FROM doc WHERE tag=?", (mark,))
            if not rows:
                self.fresh = True
                return mark
            found = int(rows[0][0])
            self._documents.keep(mark, found)
        return int(found)

    def learn_document(self, mark: bytes, payload: int) -> None:
        """A document has been committed under this number."""
        self._documents.keep(mark, payload)

    def source_is_new(self, source: bytes) -> bool:
        """Has no committed record named this source yet? Asking marks it as named."""
        if source in self._sources:
            return False
        self._sources.keep(source, True)
        rows = self._store.query("SELECT payload FROM source WHERE tag=?", (source,))
        return not rows or rows[0][0] is None

    def forget(self) -> None:
        """A commit failed: what was taken as stored may not be."""
        self._documents.clear()
        self._sources.clear()
        self._given.clear()

    def given(self, tag: bytes) -> bool:
        """Has a trace given something under this tag?"""
        if tag in self._given:
            return True
        found = self._store.query("SELECT 1 FROM link WHERE tag=? AND role=? LIMIT 1", (tag, GIVES))
        if found:
            self._given.keep(tag, True)
        return bool(found)

    def give(self, tag: bytes) -> bytes:
        """Remember that a trace gives something under this tag."""
        self._given.keep(tag, True)
        return tag

    def list_tags(self, items: Items, session: str) -> list[bytes]:
        """Keyed digests of a list of messages: by their ids where they have any, and by content."""
        by_id = [self._chain(items, b"id")[-1]] if has_ids(items) else []
        return [*by_id, self._chain(items, _seed(session))[-1]]

    def longest_list(self, items: Items, session: str) -> tuple[bytes, int, bool] | None:
        """The longest beginning (two items or more) that an earlier trace gave.

        Returns:
            Its tag, its length, and whether the ids of its messages say so. Content alone says so
            where an answer is part of it, or the session is the same.
        """
        if has_ids(items):
            first = next(i for i, (_, name) in enumerate(items) if name)
            found = self._longest(self._chain(items, b"id"), max(2, first + 1))
            if found is not None:
                return *found, True
        answers = [i for i, (key, _) in enumerate(items) if key[1] in _ANSWERS]
        if not answers and not session:
            return None
        least = 2 if session else max(2, answers[0] + 1)
        found = self._longest(self._chain(items, _seed(session)), least)
        return None if found is None else (*found, False)

    def _longest(self, chain: list[bytes], least: int) -> tuple[bytes, int] | None:
        for length in range(len(chain), least - 1, -1):
            if chain[length - 1] in self._given:
                return chain[length - 1], length
        some = chain[least - 1 :][-LOOKED_UP:]
        marks = ",".join("?" * len(some))
        rows = self._store.query(
            f"SELECT DISTINCT tag FROM link WHERE role={GIVES} AND tag IN ({marks})",  # noqa: S608  # marks only
            some,
        )
        given = {bytes(row[0]) for row in rows}
        for length in range(len(chain), least - 1, -1):
            if chain[length - 1] in given:
                return chain[length - 1], length
        return None

    def _chain(self, items: Items, seed: bytes) -> list[bytes]:
        """Keyed digests of every beginning of a list, shortest first."""
        by_id = seed == b"id"
        out: list[bytes] = []
        last = seed
        for item in items:
            key, name = item if by_id else (item[0], "")
            known = (hash(key), name)  # the words themselves are not kept in memory
            mark = self._items.get(known)
            if mark is None:
                mark = self.tag("item", repr((key, name)))
                self._items.keep(known, mark)
            last = fingerprint(self._key, "list", last + mark)
            out.append(last)
        return out


def has_ids(items: Items) -> bool:
    """Does an answer in this list say which call made it?"""
    return any(name for _, name in items)


def _seed(session: str) -> bytes:
    return b"content\0" + session.encode("utf-8", "surrogatepass")
