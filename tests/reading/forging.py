"""Stores made by hand, honest and forged, for the tests of verification.

A forger here has everything an attacker with write access has: SQLite, this package's own code, and
sometimes a signing key. Nothing here is used outside tests.
"""

import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from provkeep.model.records import Pending, b64
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.checkpoint import LogKey
from provkeep.tlog.log import Log
from provkeep.tlog.merkle import Frontier, leaf_hash
from provkeep.tlog.pin import Pin

STORE_ID = bytes(range(16))
KEY = LogKey.from_seed(f"provkeep/{STORE_ID.hex()}", bytes(32))


def init_body(key: LogKey = KEY, store_id: bytes = STORE_ID) -> dict[str, Any]:
    """Record 0."""
    return {
        "k": "init",
        "v": 1,
        "store": store_id.hex(),
        "origin": key.public.origin,
        "vkey": key.public.vkey(),
        "recipients": {},
        "at": 1_700_000_000_000_000,
    }


def trace(number: int, *envelopes: bytes, source: int | None = None) -> Pending:
    """A record of one trace: a run that retrieved one document, if there is a payload."""
    entries: list[Any] = [["s", 0, "chain", "RunnableSequence", -1, 0, "A" * 22, {}]]
    for place in range(len(envelopes)):
        more = {} if source is None else {"src": tag(f"s{source}"), "fp": tag(f"d{number}.{place}")}
        entries.append(["a", place, 3, 2, 0, 40, place, more])
    entries += [["x", 0, 5_000, "ok", {}], ["f", 0, 0, [-1] if source is not None else []]]
    body = {
        "k": "trace",
        "v": 1,
        "t": f"{number:032x}",
        "n": 0,
        "t0": str(1_700_000_000_000_000_000 + number),
        "e": entries,
        "h": {"actor": tag("alice")},
    }
    if envelopes:
        body["keys"] = [[2, 1, b64(bytes(32))]]
        body["p"] = [[b64(sha256(each).digest()), 0] for each in envelopes]
    return Pending(body, list(envelopes))


def tag(name: str) -> str:
    """A keyed tag as records hold it."""
    return b64(sha256(name.encode()).digest()[:12])


def make(
    path: Path,
    records: Iterable[Pending],
    *,
    key: LogKey = KEY,
    store_id: bytes = STORE_ID,
    sign_every: int = 50,
) -> Pin:
    """Write a whole store with these records after record 0; returns the last pin."""
    with closing(SqliteStore(path)) as store:
        store.claim(store_id)
        log = Log(store)
        log.append([Pending(init_body(key, store_id), [])])
        waiting = list(records)
        pin = log.checkpoint(key)
        for at in range(0, len(waiting), sign_every):
            log.append(waiting[at : at + sign_every])
            pin = log.checkpoint(key)
    return pin


def traces(count: int) -> list[Pending]:
    """Records of ``count`` traces, each with a payload or two; some share a source."""
    return [
        trace(n, *[b"envelope %d.%d" % (n, i) for i in range(n % 3)], source=n % 5)
        for n in range(1, count + 1)
    ]


def make_raw(path: Path, bodies: Iterable[bytes], *, key: LogKey = KEY) -> Pin:
    """A log of any bytes whatever, with tree and signature as they should be."""
    with closing(SqliteStore(path)) as store:
        store.claim(STORE_ID)
        frontier = Frontier()
        with store.transaction() as tx:
            for seq, body in enumerate(bodies):
                tx.add(seq, body, {"k": "raw"}, ())
                frontier.append(leaf_hash(body))
            tx.set_head(frontier.size, frontier.to_bytes())
        return Log(store).checkpoint(key)


@contextmanager
def edit(path: Path) -> Iterator[sqlite3.Connection]:
    """The store as an attacker has it: SQLite, and no rules."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA ignore_check_constraints = ON")
        yield conn


def dump(path: Path) -> dict[str, list[Any]]:
    """Every row of every table."""
    with edit(path) as conn:
        names = [n for (n,) in conn.execute("SELECT name FROM sqlite_schema WHERE type='table'")]
        return {n: sorted(map(repr, conn.execute(f"SELECT * FROM {n}"))) for n in names}


def settle_head(conn: sqlite3.Connection) -> None:
    """Make the tree head follow from the records that are there."""
    frontier = Frontier()
    for (body,) in conn.execute("SELECT body FROM record ORDER BY seq"):
        frontier.append(leaf_hash(body))
    conn.execute("UPDATE head SET size=?, frontier=?", (frontier.size, frontier.to_bytes()))


def noise(count: int) -> bytes:
    """Random bytes."""
    return secrets.token_bytes(count)
