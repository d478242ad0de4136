"""What ties traces to each other: fingerprints, looked up in the index and remembered.

A recorder knows documents, sources, messages and conversations again by keyed digests alone; it
never reads back what it stored.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from provkeep.model.records import GIVES
from provkeep.sealing.keyring import fingerprint
from provkeep.store.base import Store

REMEMBERED: Final = 65_536  # fingerprints kept in memory, of each kind
LOOKED_UP: Final = 400  # prefixes of one list that are looked up in the store


class Remembered(OrderedDict[Any, Any]):
    """A dictionary that forgets what it was given first."""

    def keep(self, key: Any, value: Any) -> None:
        self[key] = value
        if len(self) > REMEMBERED:
            self.popitem(last=False)


class Ties:
    """Fingerprints of one store; used by its writer thread only."""

    def __init__(self, key: bytes, store: Store) -> None:
        self._key, self._store = key, store
        self._documents = Remembered()
        self._sources = Remembered()
        self._lists = Remembered()
        self._items = Remembered()

    def tag(self, domain: str, text: str) -> bytes:
        """Keyed digest of a name, 12 bytes."""
        return fingerprint(self._key, domain, text.encode("utf-8", "surrogatepass"))

    def document(self, data: bytes) -> int | bytes:
        """The payload number of a document stored before, else its fingerprint."""
        mark = fingerprint(self._key, "document", data)
        found = self._documents.get(mark)
        if found is None:
            rows = self._store.query("SELECT payload FROM doc WHERE tag=?", (mark,))
            if not rows:
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
        self._lists.clear()

    def value_tag(self, session: str, text: str) -> bytes:
        """Keyed digest of a value within one session."""
        return self.tag("value", f"{session}\x00{text}")

    def _chain(self, keys: tuple[Any, ...]) -> list[bytes]:
        """Keyed digests of every beginning of a list, shortest first."""
        out: list[bytes] = []
        last = b""
        for key in keys:
            item = self._items.get(key)
            if item is None:
                item = self.tag("item", repr(key))
                self._items.keep(key, item)
            last = fingerprint(self._key, "list", last + item)
            out.append(last)
        return out

    def list_tag(self, keys: tuple[Any, ...]) -> bytes:
        """Keyed digest of a list of messages."""
        tag = self._chain(keys)[-1]
        self._lists.keep(tag, True)
        return tag

    def longest_list(self, keys: tuple[Any, ...]) -> tuple[bytes, int] | None:
        """The longest beginning (two items or more) that an earlier trace gave, and its length."""
        chain = self._chain(keys)
        for length in range(len(chain), 1, -1):
            if chain[length - 1] in self._lists:
                return chain[length - 1], length
        some = chain[1:][-LOOKED_UP:]
        marks = ",".join("?" * len(some))
        rows = self._store.query(
            f"SELECT DISTINCT tag FROM link WHERE role={GIVES} AND tag IN ({marks})",  # noqa: S608  # marks only
            some,
        )
        given = {bytes(row[0]) for row in rows}
        for length in range(len(chain), 1, -1):
            if chain[length - 1] in given:
                return chain[length - 1], length
        return None
