"""Small questions to the index that several parts of the reader ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from provkeep.errors import AmbiguousIdError, NothingRecordedError, UnknownIdError
from provkeep.model import records as r
from provkeep.store.base import Store

AT_ONCE: Final = 256  # values in one question
HEX_ID: Final = 32  # hex digits of a trace id


def query_in(store: Store, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Ask about many values: ``{marks}`` in ``sql`` stands for some of them at a time.

    The last value is repeated up to a power of two, so that there are few different statements
    and SQLite has them prepared.
    """
    out: list[tuple[Any, ...]] = []
    for at in range(0, len(values), AT_ONCE):
        some = list(values[at : at + AT_ONCE])
        some += some[-1:] * ((1 << (len(some) - 1).bit_length()) - len(some))
        out += store.query(sql.replace("{marks}", ",".join("?" * len(some))), some)
    return out


def newest_trace(store: Store) -> str:
    """The id of the trace that began last.

    Raises:
        NothingRecordedError: there is none.
    """
    rows = store.query("SELECT tid FROM trace ORDER BY t0_us DESC LIMIT 1")
    if not rows:
        raise NothingRecordedError
    return bytes(rows[0][0]).hex()


def find_trace(store: Store, wanted: str) -> str:
    """The id of the trace that an id, the beginning of one, or a run's UUID names.

    Raises:
        UnknownIdError, AmbiguousIdError: nothing, or several traces, are called so.
    """
    text = wanted.partition(".")[0].replace("-", "").lower()
    if not text or len(text) > HEX_ID or any(c not in "0123456789abcdef" for c in text):
        raise UnknownIdError("trace", wanted)
    low, high = bytes.fromhex(text.ljust(HEX_ID, "0")), bytes.fromhex(text.ljust(HEX_ID, "f"))
    rows = store.query("SELECT tid FROM trace WHERE tid BETWEEN ? AND ? LIMIT 6", (low, high))
    if len(rows) > 1:
        raise AmbiguousIdError(wanted, [bytes(row[0]).hex()[:16] for row in rows])
    if not rows and len(text) == HEX_ID:
        rows = store.query(  # runs are not indexed, so this is a scan
            "SELECT t.tid FROM record r JOIN trec x ON x.seq = r.seq JOIN trace t ON t.id = x.trace"
            " WHERE instr(r.body, ?) LIMIT 1",
            (r.b64(bytes.fromhex(text)).encode(),),
        )
    if not rows:
        raise UnknownIdError("trace or run", wanted)
    return bytes(rows[0][0]).hex()
