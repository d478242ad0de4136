"""How far a source reached: questions to the index, whatever the number of traces.

No trace is read for those that a source reached itself. Which traces built on them follows from the
tags that one trace gives and another takes: of a few traces they are read from their records, of
many from one pass over the links of the store.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from provkeep.errors import StoreError
from provkeep.model import records as r
from provkeep.reading.lookup import query_in
from provkeep.store.base import Store

FEW: Final = 200  # traces whose links are read from their records

_HITS: Final = (
    "SELECT t.id, t.tid, t.answer, x.reach FROM xref x JOIN trace t ON t.id = x.trace"
    " WHERE x.source = (SELECT id FROM source WHERE tag = ?) ORDER BY t.t0_us, t.id"
)
# Tags are in the order of the table's key, so that what is found together lies together.
_TAKEN: Final = (
    "SELECT l.trace, l.role, l.tag FROM (SELECT DISTINCT tag FROM link WHERE role = 1) k"
    " CROSS JOIN link l ON l.tag = k.tag WHERE l.trace >= ? ORDER BY l.trace, l.role DESC"
)


@dataclass(slots=True)
class Hits:
    """The traces that retrieved a source, in order of time, by number."""

    reached: list[int] = field(default_factory=list)
    retrieved: list[int] = field(default_factory=list)  # and dropped
    outputs: list[str] = field(default_factory=list)  # ids of the answers of ``reached``


def hits(store: Store, tag: bytes) -> Hits:
    """Where the source with this tag came, as the index says.

    Args:
        store: the store.
        tag: of the source, 12 bytes.
    """
    out = Hits()
    for number, tid, answer, reach in store.query(_HITS, (tag,)):
        if not reach:
            out.retrieved.append(number)
            continue
        out.reached.append(number)
        if answer is not None and answer >= 0:
            out.outputs.append(f"{bytes(tid).hex()}.a{answer}")
    return out


def later(store: Store, begin: Collection[int]) -> set[int]:
    """Numbers of the traces that took what these, or those that took it from them, gave.

    Args:
        store: the store.
        begin: numbers of traces. One of them is in the answer if it took from another.

    Raises:
        StoreError: a record is malformed.
    """
    out: set[int] = set()
    waiting = sorted(set(begin))
    known = set(waiting)
    while waiting:
        if len(known) > FEW:
            return _of_many(store, set(begin))
        here = waiting.pop()
        for taker in _takers(store, here):
            out.add(taker)
            if taker not in known:
                known.add(taker)
                waiting.append(taker)
    return out


def _takers(store: Store, trace: int) -> list[int]:
    """Traces that began after this one and took something under a tag that it gave."""
    tags: set[bytes] = set()
    for seq, body in store.query(
        "SELECT r.seq, r.body FROM trec x JOIN record r ON r.seq = x.seq WHERE x.trace = ?",
        (trace,),
    ):
        try:
            entries = orjson.loads(body)["e"]
            tags.update(r.unb64(e[1]) for e in entries if e[0] == r.LINK and e[3] == r.GIVES)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"record {seq} is malformed ({type(error).__name__}); run `provkeep verify`"
            ) from error
    sql = "SELECT DISTINCT trace FROM link WHERE tag IN ({marks}) AND role = 1"
    return [number for (number,) in query_in(store, sql, sorted(tags)) if number > trace]


def _of_many(store: Store, begin: set[int]) -> set[int]:
    """As ``later``: one pass in the order of the traces, each with what it took and then gave."""
    out: set[int] = set()
    given: set[bytes] = set()  # tags, by traces that count
    for trace, role, tag in store.query(_TAKEN, (min(begin),)):
        if role == r.TAKES:
            if tag in given:
                out.add(trace)
        elif trace in begin or trace in out:
            given.add(tag)
    return out


def in_time(store: Store, traces: Sequence[int]) -> list[int]:
    """These numbers of traces in order of time."""
    sql = "SELECT t0_us, id FROM trace WHERE id IN ({marks})"
    rows: list[tuple[Any, ...]] = query_in(store, sql, traces)
    return [number for _, number in sorted(rows)]


def numbers_of(store: Store, tids: Sequence[str]) -> list[int]:
    """Numbers of traces by their ids."""
    sql = "SELECT id FROM trace WHERE tid IN ({marks})"
    return [number for (number,) in query_in(store, sql, [bytes.fromhex(t) for t in tids])]


def ids_of(store: Store, traces: Sequence[int]) -> list[str]:
    """Ids of traces by their numbers, in order of time."""
    rows = query_in(store, "SELECT t0_us, id, tid FROM trace WHERE id IN ({marks})", traces)
    return [bytes(tid).hex() for _, _, tid in sorted(rows)]
