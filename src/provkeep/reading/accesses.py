"""Who opened what: questions to the access records, by run, source, person and reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from provkeep.model import records as r
from provkeep.reading.answers import Access
from provkeep.sealing.grants import ACCESS_PURPOSE, is_signed_body
from provkeep.store.base import Store

Said = Callable[[int], dict[str, Any]]
_PERSON = (
    "SELECT x.seq FROM trace t JOIN access_trace x ON x.tid = t.tid WHERE t.subject IN ({})"
    " UNION SELECT x.seq FROM trace t JOIN access_trace x ON x.tid = t.tid WHERE t.actor IN ({})"
)


def find(
    store: Store,
    said: Said,
    *,
    source: bytes | None = None,
    trace: bytes | None = None,
    readers: Sequence[bytes] | None = None,
    people: tuple[Sequence[bytes], Sequence[bytes]] | None = None,
    what: Sequence[str] | None = None,
    limit: int = 1000,
) -> list[Access]:
    """Accesses that fit all that is named, newest first.

    Args:
        store: the store.
        said: opens a small sealed block by payload number, or gives nothing.
        source: tag of a source whose text, or something derived from it, was opened.
        trace: id of a trace of which something was opened.
        readers: tags and principal ids of one reader.
        people: tags, as subjects and as actors, of whom the opened traces are about or belong to.
        what: only those that opened this, of ``records.OPENED``.
        limit: at most so many.

    Raises:
        ValueError: there is no such word.
    """
    joins, where, values = "", [], []
    reach, order = "NULL", "a.seq"
    if trace is not None:
        joins += " JOIN access_trace y ON y.seq = a.seq"
        where.append("y.tid = ?")
        values.append(trace)
        order = "y.seq"
    if source is not None:
        joins += " JOIN access_source x ON x.seq = a.seq"
        where.append("x.source = (SELECT id FROM source WHERE tag = ?)")
        values.append(source)
        reach, order = "x.reach", "x.seq"
    if readers is not None:
        where.append(f"a.actor IN ({','.join('?' * len(readers))})")
        values += readers
    if people is not None:
        marks = (",".join("?" * len(tags)) for tags in people)
        where.append(f"a.seq IN ({_PERSON.format(*marks)})")
        values += [tag for tags in people for tag in tags]
    if what is not None:
        if unknown := sorted(set(what) - set(r.OPENED)):
            raise ValueError(f"what is of {', '.join(r.OPENED)}; got {', '.join(unknown)}")
        # Bodies are canonical, so a quotation mark within a string is escaped.
        where.append("(" + " OR ".join(["instr(r.body, ?)"] * len(what) or ["0"]) + ")")
        values += [f'"what":"{word}"'.encode() for word in what]
    condition = " WHERE " + " AND ".join(where) if where else ""
    rows = store.query(
        f"SELECT a.seq, r.body, {reach} FROM access a JOIN record r ON r.seq = a.seq"  # noqa: S608  # our own words
        f"{joins}{condition} ORDER BY {order} DESC LIMIT ?",
        (*values, limit),
    )
    return [_access(store.store_id, seq, orjson.loads(body), hit, said) for seq, body, hit in rows]


def _access(
    store_id: bytes, seq: int, body: dict[str, Any], reach: int | None, said: Said
) -> Access:
    names = said(body["p0"]) if "p0" in body else {}
    key = body.get("key")
    return Access(
        record=seq,
        at_us=body["at"],
        actor=names.get("actor") or f"actor {body['by'][:8]}",
        purpose=names.get("purpose"),
        what=body["what"],
        trace=body.get("t"),
        artifacts=tuple(body.get("a", ())),
        reach=None if reach is None else ("direct" if reach else "derived"),
        why=body.get("why"),
        grants=tuple(body.get("g", ())),
        key=key,
        signed=key is not None and is_signed_body(body, store_id, r.unb64(key), ACCESS_PURPOSE),
    )
