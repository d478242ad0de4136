"""What the layers above need of a store, whichever database it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Transaction(Protocol):
    """One atomic change of a log; nothing of it is seen before it is whole."""

    untouched: bool
    """Has nobody else written since the last change by this store object?"""

    def head(self) -> tuple[int, bytes]:
        """Size of the log and its frontier (the hashes that ``tlog.merkle.Frontier`` keeps)."""

    def next_payload(self) -> int:
        """The number that the next payload will have."""

    def add(
        self, seq: int, body: bytes, fields: dict[str, Any], envelopes: Sequence[bytes]
    ) -> None:
        """Append a record with its payloads and derive its index rows."""

    def set_head(self, size: int, frontier: bytes) -> None:
        """Write the new tree head."""

    def tile(self, level: int, index: int) -> bytes | None:
        """Concatenated hashes of one tile, or None."""

    def set_tile(self, level: int, index: int, hashes: bytes) -> None:
        """Write one tile."""

    def add_checkpoint(self, size: int, note: str) -> None:
        """Keep a signed checkpoint."""

    def newest_checkpoint(self) -> str | None:
        """The checkpoint of the largest size, or None."""

    def bodies(self, start: int, stop: int) -> list[bytes]:
        """Stored bodies of records ``start <= seq < stop``, in order."""

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a question, as this change sees them."""


class Store(Protocol):
    """A log, its payloads and its index."""

    store_id: bytes

    def transaction(self, *, durable: bool = False) -> AbstractContextManager[Transaction]:
        """Begin an exclusive change; ``durable`` waits until the disk has it."""

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a read-only question, from a committed state."""

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Records in order, read in pages."""

    def payloads(self, ids: Iterable[int]) -> dict[int, tuple[int, bytes | None]]:
        """Record and envelope by payload number."""

    def close(self) -> None:
        """Release the database; idempotent."""
