"""What verification costs: CPU a record, projected to a million, memory, and single proofs.

The store is made by the recorder, once, and grown by the log: further traces repeat the recorded
ones under new ids, times, lengths, data keys, actors and random ciphertexts, appended and signed
like any others. CPU is that of the whole process; nothing is spread over other processes.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final

from setting import machine, private_home

RECORDS: Final = 100_000
QUICK: Final = 2_000
BATCH: Final = 1_000  # records in one commit
SIGN: Final = 20_000  # records between two checkpoints
PROOFS: Final = 300
TAIL: Final = 1_000  # records after the pin, for --since
ACTORS: Final = 1_000
KEYS_MADE: Final = 16  # data keys of one compartment, at a time
UNLIKE: Final = "rag, unlike"  # traces that differ in the number of their entries
SHAPES: Final = ("one run", "rag", UNLIKE)


def template(path: Path, shape: str) -> None:
    """Record a first trace, as a program would."""
    from langchain_core.runnables import RunnableLambda

    from provkeep.langchain import ProvenanceHandler

    with ProvenanceHandler(path, actor="alice@example.com") as handler:
        if shape == "one run":
            step = RunnableLambda(lambda x: f"{x} can be said")
            step.invoke("much", {"callbacks": [handler]})
        else:
            from workloads import workloads

            found = workloads()["rag"]
            for _ in range(2):  # the second finds its documents stored
                found.call([handler])


def grow(path: Path, count: int, shape: str) -> None:
    """Append traces like the last one until the log has ``count`` records; no two are equal."""
    import orjson

    from provkeep.model.records import Pending, b64
    from provkeep.sealing.home import load_recorder_config
    from provkeep.store.keyfile import keys_path
    from provkeep.store.sqlite import SqliteStore
    from provkeep.tlog.checkpoint import LogKey
    from provkeep.tlog.log import Log

    chance = Random(count)
    with closing(SqliteStore(path)) as store, closing(sqlite3.connect(keys_path(path))) as keys:
        config = load_recorder_config(store.store_id)
        key, log = LogKey.from_seed(config.origin, config.log_seed), Log(store)
        [(size,)] = store.query("SELECT size FROM head")
        *_, (_, body) = store.records(size - 1)
        model: dict[str, Any] = orjson.loads(body)
        first = model.get("p0", 0)
        numbers = range(first, first + len(model.get("p", ())))
        lengths = [len(data or b"") for _, data in store.payloads(numbers).values()]
        t0 = int(model["t0"])
        [(old,)] = keys.execute("SELECT max(id) FROM datakey")
        newest = old
        fresh: dict[int, list[int]] = defaultdict(list)  # data keys by compartment
        actors = [b64(chance.randbytes(12)) for _ in range(ACTORS)]
        while size < count:
            batch = []
            for _ in range(min(BATCH, count - size)):
                fields = orjson.loads(body)
                envelopes = [chance.randbytes(n) for n in lengths]
                fields["t0"] = str(t0 := t0 + 1_000_003)
                fields["h"]["actor"] = chance.choice(actors)
                for each in fields["keys"]:  # of the trace's own, made some at a time
                    if not fresh[each[0]]:
                        fresh[each[0]] = [*range(newest + KEYS_MADE, newest, -1)]
                        newest += KEYS_MADE
                    each[1:] = fresh[each[0]].pop(), b64(chance.randbytes(32))
                for each, envelope in zip(fields["p"], envelopes, strict=True):
                    each[0] = b64(sha256(envelope).digest())
                fields["t"] = vary(fields, chance, unlike=shape == UNLIKE).hex()
                batch.append(Pending(fields, envelopes))
            log.append(batch)
            size += len(batch)
            if size % SIGN < BATCH or size == count:
                log.checkpoint(key)
        made = ((number, bytes(40)) for number in range(old + 1, newest + 1))
        keys.executemany("INSERT INTO datakey(id, epoch, wrapped) VALUES(?, 1, ?)", made)
        keys.commit()


def vary(fields: dict[str, Any], chance: Random, *, unlike: bool) -> bytes:
    """Give the runs of a trace other ids and times, its texts other lengths; its id is returned.

    ``unlike`` varies the number of entries, too, so that next to no two traces are of one shape.
    """
    from provkeep.model import records as r

    tid, kept = chance.randbytes(16), []
    for entry in fields["e"]:
        if entry[0] == r.RUN:
            entry[5] += chance.randrange(1_000_000)
            entry[6] = r.b64(chance.randbytes(16) if entry[1] else tid)
        elif entry[0] == r.END:
            entry[2] += chance.randrange(1_000_000_000)
        elif entry[0] == r.ARTIFACT and entry[5] > 0:
            entry[5] += chance.randrange(1_000)
        elif entry[0] == r.DERIVED and len(entry) > 5:
            entry[4] = chance.randrange(1_001)
            spans = chance.randrange(1, 5) if unlike else 1
            entry[5] = [chance.randrange(5_000) for _ in range(4 * spans)]
        elif entry[0] == r.LINK:
            entry[1] = r.b64(chance.randbytes(r.TAG_BYTES))
        if not unlike or entry[0] != r.DERIVED or chance.random() < 0.8:
            kept.append(entry)
    fields["e"] = kept
    return tid


def head(path: Path) -> Any:
    """A pin of the log as it is, and its key."""
    from provkeep.sealing.home import load_recorder_config
    from provkeep.store.sqlite import SqliteStore
    from provkeep.tlog.checkpoint import LogKey
    from provkeep.tlog.log import Log

    with closing(SqliteStore(path)) as store:
        config = load_recorder_config(store.store_id)
        return Log(store).checkpoint(LogKey.from_seed(config.origin, config.log_seed))


CHILD: Final = """
import json, re, sys, time
from pathlib import Path
from provkeep.reading.verify import verify
from provkeep.tlog.pin import Pin
pin = Pin.from_json(sys.argv[2])
before, began = time.process_time(), time.perf_counter()
report = verify(sys.argv[1], pin=pin, public=pin.vkey, **json.loads(sys.argv[3]))
cpu, wall = time.process_time() - before, time.perf_counter() - began
assert report, report
try:  # not getrusage, which counts the parent's memory before exec
    peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
except OSError:
    peak = None
print(json.dumps({
    "cpu_s": cpu, "wall_s": wall, "records": report.records, "payloads": report.payloads,
    "rss_mb": int(peak[1]) / 1024 if peak else float("nan"),
}))
"""


def verified(path: Path, pin: Any, **options: Any) -> dict[str, float]:
    """Verify in a process of its own, so that its memory is its own."""
    arguments = [sys.executable, "-c", CHILD, str(path), pin.to_json(), json.dumps(options)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def proofs(path: Path, pin: Any) -> dict[str, float]:
    """Milliseconds of CPU to build and to check one inclusion proof, and a consistency proof."""
    from provkeep.store.sqlite import SqliteStore
    from provkeep.tlog.log import prove_consistency, prove_inclusion, root_at
    from provkeep.tlog.merkle import check_consistency, leaf_hash, root_from_inclusion_proof

    chance, took = Random(1), dict.fromkeys(("build", "check", "consistency"), 0.0)
    with closing(SqliteStore(path)) as store, store.transaction() as tx:
        for _ in range(PROOFS):
            index = chance.randrange(pin.size)
            began = time.process_time()
            proof = prove_inclusion(tx, index, pin.size)
            took["build"] += time.process_time() - began
            leaf = leaf_hash(tx.bodies(index, index + 1)[0])
            began = time.process_time()
            root = root_from_inclusion_proof(leaf, index, pin.size, proof)
            took["check"] += time.process_time() - began
            assert root == pin.root
            old = root_at(tx, max(1, index))
            began = time.process_time()
            proof = prove_consistency(tx, max(1, index), pin.size)
            check_consistency(max(1, index), old, pin.size, root, proof)
            took["consistency"] += time.process_time() - began
    return {name: seconds / PROOFS * 1000 for name, seconds in took.items()}


FLOOR: Final = """
import sqlite3, sys, time
from hashlib import sha256
import orjson
conn = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
began = time.process_time()
conn.execute("PRAGMA integrity_check").fetchall()
count, level = 0, []
for _, body in conn.execute("SELECT seq, body FROM record ORDER BY seq"):
    orjson.loads(body)
    level.append(sha256(b"\\0" + body).digest())
    count += 1
    if len(level) == 256:
        while len(level) > 1:
            level = [
                sha256(b"\\1" + left + right).digest()
                for left, right in zip(level[::2], level[1::2], strict=True)
            ]
        level = []
for row in conn.execute("SELECT id, seq, source, data FROM payload ORDER BY id"):
    sha256(row[3]).digest()
for table in "trace", "trec", "xref", "link":
    for row in conn.execute(f"SELECT * FROM {table}"):
        pass
print((time.process_time() - began) / count * 1e6)
"""


def floor(path: Path) -> float:
    """Microseconds a record that the bare libraries take, with nothing compared.

    SQLite's own check, every row fetched, every body parsed, each record, payload and node hashed.
    """
    arguments = [sys.executable, "-c", FLOOR, str(path)]
    return float(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


def hashing() -> float:
    """Microseconds of CPU for SHA-256 of 512 bytes, to compare machines and busy moments by."""
    data = bytes(512)
    began = time.process_time()
    for _ in range(100_000):
        sha256(data).digest()
    return (time.process_time() - began) * 10


def measure(folder: Path, shape: str, count: int) -> dict[str, float]:
    """Everything about one shape of record."""
    path = folder / f"{shape.replace(',', '').replace(' ', '-')}.db"
    template(path, shape)
    tail = min(TAIL, count // 2)
    grow(path, count - tail, shape)
    pin = head(path)
    grow(path, count, shape)
    new, whole = verified(path, pin, since=True), verified(path, head(path))
    return {
        **whole,
        "body_bytes": body_bytes(path),
        "us_a_record": whole["cpu_s"] / whole["records"] * 1e6,
        "s_a_million": whole["cpu_s"] / whole["records"] * 1e6,
        "floor_us": floor(path),
        "since_us_a_record": new["cpu_s"] / new["records"] * 1e6,
        **{f"{name}_ms": ms for name, ms in proofs(path, head(path)).items()},
        "sha256_us": hashing(),
    }


def body_bytes(path: Path) -> float:
    """Bytes of the newest body."""
    from provkeep.store.sqlite import SqliteStore

    with closing(SqliteStore(path, read_only=True)) as store:
        rows = store.query("SELECT length(body) FROM record ORDER BY seq DESC LIMIT 1")
        return float(rows[0][0])


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--records", type=int, default=RECORDS, help="a million takes 5 minutes")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="by default all")
    parser.add_argument("--quick", action="store_true", help="few records, to see that it runs")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    count = QUICK if given.quick else given.records
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, private_home():
        for shape in given.shape or SHAPES:
            found[shape] = measure(Path(folder), shape, count)
    if given.json:
        print(json.dumps({"machine": machine(), "figures": found}, indent=2))
        return 0
    print(f"{machine()}\n\nVerification of {count:,} records; CPU of all threads, one process.\n")
    names = {
        "body_bytes": "bytes a body",
        "payloads": "payloads",
        "us_a_record": "CPU us a record",
        "floor_us": "bare libraries, us",
        "s_a_million": "CPU s a million",
        "wall_s": "wall s",
        "rss_mb": "peak RSS MB",
        "since_us_a_record": "--since, us a new record",
        "build_ms": "inclusion proof built, ms",
        "check_ms": "checked, ms",
        "consistency_ms": "consistency proof, ms",
        "sha256_us": "SHA-256 of 512 B, us",
    }
    print("| record | " + " | ".join(names.values()) + " |")
    print("|---" * (len(names) + 1) + "|")
    for shape, values in found.items():
        cells = (f"{values[name]:,.{0 if values[name] > 99 else 2}f}" for name in names)
        print(f"| {shape} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
