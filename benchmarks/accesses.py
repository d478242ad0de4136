"""How long it takes to say who saw what, among a million accesses.

Writes the index rows of synthetic accesses (100 a trace, 1,000 people, 2,000 readers and as many
sources) as a recorder would have derived them, with the body of an access for each, and asks for
the newest thousand by run, source, person and reader. Bodies are not sealed: opening the names of
those that are shown comes on top.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from setting import machine

from provkeep.model.canonical import canonical
from provkeep.model.records import b64
from provkeep.reading.accesses import find
from provkeep.store import index
from provkeep.store.sqlite import SqliteStore

ACCESSES: Final = 1_000_000
QUICK: Final = 2_000
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


def ask(store: SqliteStore) -> dict[str, tuple[int, float, float]]:
    """Of each question: how many are found, and the median and the worst CPU milliseconds."""
    questions: dict[str, dict[str, Any]] = {
        "run": {"trace": (7).to_bytes(16, "big")},
        "source": {"source": tag(4, 7)},
        "person": {"people": ([tag(2, 7)], [tag(1, 7)])},
        "reader": {"readers": [tag(3, 7)]},
        "all, newest": {},
    }
    out = {}
    for name, words in questions.items():
        times = []
        for _ in range(9):
            began = time.thread_time()
            found = find(store, lambda _: {}, **words)
            times.append((time.thread_time() - began) * 1e3)
        out[name] = (len(found), statistics.median(times), max(times))
    return out


def main(arguments: list[str] | None = None) -> int:
    """Write, ask, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--accesses", type=int, default=ACCESSES)
    parser.add_argument("--quick", action="store_true", help="few accesses, to see that it runs")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    count = QUICK if given.quick else given.accesses
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.db"
        with closing(SqliteStore(path)) as store:
            store.claim(os.urandom(16))
            fill(store, count)
            each = path.stat().st_size / count
            found = ask(store)
    if given.json:
        figures = {"accesses": count, "bytes_each": each, "found_p50_ms_worst_ms": found}
        print(json.dumps({"machine": machine(), **figures}, indent=2))
        return 0
    print(f"{machine()}\n\n{count:,} accesses, {each:.0f} bytes each with their index.\n")
    print("| by | found | CPU ms, median | worst |\n|---|---|---|---|")
    for name, (many, middle, worst) in found.items():
        print(f"| {name} | {many:,} | {middle:.1f} | {worst:.1f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
