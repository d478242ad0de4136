"""Where a log says whom it is sealed to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from provkeep.model.records import RECIPIENTS


class Asked(Protocol):
    """A store, or one change of it."""

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a question."""


def naming_bodies(store: Asked) -> list[bytes]:
    """Bodies of record 0 and of every change of recipients, in order."""
    rows = store.query(
        "SELECT body FROM record WHERE seq = 0 OR seq IN (SELECT seq FROM keychange WHERE kind = ?)"
        " ORDER BY seq",
        (RECIPIENTS,),
    )
    return [bytes(row[0]) for row in rows]
