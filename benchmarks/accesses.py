"""How long it takes to say who saw what, among a million accesses.

    python benchmarks/accesses.py [--accesses 1000000]

Writes the index rows of synthetic accesses (100 a trace, 1,000 people, 2,000 readers and as many
sources) as a recorder would have derived them, with the body of an access for each, and asks for
the newest thousand by run, source, person and reader. Bodies are not sealed: opening the names of
those that are shown comes on top.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from provkeep.model.canonical import canonical
from provkeep.model.records import b64
from provkeep.reading.accesses import find
from provkeep.store import index
from provkeep.store.sqlite import SqliteStore

PEOPLE, READERS, SOURCES, PER_TRACE = 1_000, 2_000, 2_000, 100


def tag(kind: int, number: int) -> bytes:
    return bytes([kind]) + number.to_bytes(11, "big")


def fill(store: SqliteStore, count: int) -> None:
    rng = random.Random(1)
    traces = max(1, count // PER_TRACE)
    with store.transaction() as tx:
        conn = tx._conn
        conn.executemany(
            "INSERT INTO trace(tid,t0_us,runs,errors,actor,subject) VALUES(?,?,1,0,?,?)",
            (
                (n.to_bytes(16, "big"), n, tag(1, n % PEOPLE), tag(2, n % PEOPLE))
                for n in range(traces)
            ),
        )
    for start in range(0, count, 50_000):
        with store.transaction() as tx:
            for seq in range(start, min(start + 50_000, count)):
                tid = rng.randrange(traces).to_bytes(16, "big").hex()
                body = {
                    "k": "access",
                    "v": 1,
                    "at": 1_700_000_000_000_000 + seq,
                    "by": b64(tag(3, rng.randrange(READERS))),
                    "key": b64(bytes(32)),
                    "what": "payload",
                    "t": tid,
                    "a": [f"{tid}.a7"],
                    "src": [[b64(tag(4, rng.randrange(SOURCES))), 1]],
                    "sig": b64(bytes(64)),
                }
                tx._conn.execute("INSERT INTO record VALUES(?,?)", (seq, canonical(body)))
                index.apply(tx._conn, seq, body)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--accesses", type=int, default=1_000_000)
    count = parser.parse_args().accesses
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.db"
        with closing(SqliteStore(path)) as store:
            store.claim(os.urandom(16))
            began = time.perf_counter()
            fill(store, count)
            print(f"{count:,} accesses written in {time.perf_counter() - began:.0f} s")
            print(f"{path.stat().st_size / count:.0f} bytes each, with their index")
            questions = {
                "run": {"trace": (7).to_bytes(16, "big")},
                "source": {"source": tag(4, 7)},
                "person": {"person": (tag(2, 7), tag(1, 7))},
                "reader": {"readers": [tag(3, 7)]},
                "all, newest": {},
            }
            print(f"{'by':12} {'found':>6} {'median ms':>10} {'worst ms':>9}")
            for name, words in questions.items():
                times = []
                for _ in range(9):
                    began = time.perf_counter()
                    found = find(store, lambda _: {}, **words)  # type: ignore[arg-type]
                    times.append((time.perf_counter() - began) * 1e3)
                print(
                    f"{name:12} {len(found):6} {statistics.median(times):10.1f} {max(times):9.1f}"
                )


if __name__ == "__main__":
    main()
