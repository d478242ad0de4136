"""One recorder and one workload, in a process of its own; prints what it measured as JSON.

``compare.py`` starts it, in that recorder's environment. The last line of standard output is the
result; a process that ends without one has failed, and the end of its standard error says why.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from peers import LLAMAINDEX, PEERS, Live, Peer
from setting import quartiles
from sink import received

QUERY: Final = "query"
EVENTS: Final = 1_500  # events in one half of a round, at most
SHOWN: Final = ("langchain", "langgraph", "llama", "opentelemetry", "openinference", "traceloop")
SHOWN_TOO: Final = ("langfuse", "langsmith", "opik", "mlflow", "arize", "provkeep", "cryptography")


def _prepare(workload: str, *, small: bool) -> tuple[Callable[[list[Any]], Any], int, int]:
    """The call, its runs and its events."""
    if workload == QUERY:
        import queries

        query = queries.query(new=False)
        return lambda _: query(), *queries.counted(query)
    import workloads

    chosen = workloads.workloads(small=small)[workload]
    return chosen.call, *workloads.counted(chosen)


def kept(folder: Path, peer: Peer, sink: str) -> tuple[int, int]:
    """Bytes kept so far, and how many runs (or spans, or bytes sent) they say something of."""
    if peer.keeps == "wire":
        found = received(sink)["bytes"]
        return found, found
    size = units = 0
    for file in folder.rglob("*"):
        if not file.is_file() or file.name.endswith(("-wal", "-shm")):
            continue
        if file.suffix == ".jsonl":
            units += sum(1 for line in file.open("rb") if line.endswith(b"}\n"))
        elif file.suffix == ".db" or file.name.endswith("-keys"):
            conn = sqlite3.connect(file)
            conn.execute("PRAGMA busy_timeout = 20000")
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            tables = {row[0] for row in conn.execute("SELECT name FROM sqlite_schema")}
            for table, what in (
                ("trace", "coalesce(sum(runs),0)"),
                ("spans", "count(*)"),
            ):
                if table in tables:
                    units += conn.execute(f"SELECT {what} FROM {table}").fetchone()[0]
            conn.close()
        size += file.stat().st_size
    return size, units


def _half(call: Callable[[list[Any]], Any], live: Live | None, calls: int) -> dict[str, float]:
    """One half of a round: with the recorder, or without."""
    handlers = [] if live is None else live.handlers
    began = time.perf_counter()
    process, caller = time.process_time(), time.thread_time()
    for _ in range(calls):
        call(handlers)
    wall = time.perf_counter() - began
    caller = time.thread_time() - caller
    if live is not None:
        live.flush()
    return {
        "caller": caller,
        "process": time.process_time() - process,
        "wall": wall,
        "flushed": time.perf_counter() - began,
    }


def _alone(
    call: Callable[[list[Any]], Any], events: int, given: argparse.Namespace
) -> list[dict[str, float]]:
    """Halves without, a call each, made before a recorder that cannot be switched off."""
    calls = 2 if given.quick else max(1, EVENTS // events)
    _half(call, None, calls)
    halves = [_half(call, None, calls) for _ in range(given.rounds)]
    return [{clock: took / calls for clock, took in half.items()} for half in halves]


def costs(given: argparse.Namespace, peer: Peer) -> dict[str, Any]:
    """Rounds of A B, and what they cost."""
    call, runs, events = _prepare(given.workload, small=given.quick)
    framework = LLAMAINDEX if given.workload == QUERY else "langchain"
    call([])
    bare = _alone(call, events, given) if peer.stays else []
    live = peer.begin(framework, given.folder, given.sink)

    def recorded(calls: int) -> dict[str, float]:
        live.on()
        try:
            return _half(call, live, calls)
        finally:
            live.flush()
            live.off()

    recorded(1)
    nothing = kept(given.folder, peer, given.sink)[1]
    once = recorded(2)
    one = (kept(given.folder, peer, given.sink)[1] - nothing) / 2
    slow = max(once["flushed"] / 2, 1e-5)
    calls = int(min(max(EVENTS / events, 1), given.seconds / given.rounds / slow))
    calls = max(1, calls if not given.quick else min(calls, 2))
    recorded(calls) if peer.stays else (_half(call, None, calls), recorded(calls))
    size, units = kept(given.folder, peer, given.sink)
    pairs = []
    for _ in range(given.rounds):
        pairs.append((bare.pop(0) if bare else _half(call, None, calls), recorded(calls)))
    after, known = kept(given.folder, peer, given.sink)
    total = calls * events
    if peer.stays:
        pairs = [({clock: took * calls for clock, took in a.items()}, b) for a, b in pairs]
    out: dict[str, Any] = {"runs": runs, "events": events, "calls": calls, "rounds": given.rounds}
    for clock in ("caller", "process", "wall"):
        out[f"{clock}_us"] = quartiles((b[clock] - a[clock]) / total * 1e6 for a, b in pairs)
    out["without_per_s"] = quartiles(total / a["flushed"] for a, _ in pairs)
    out["events_per_s"] = quartiles(total / b["flushed"] for _, b in pairs)
    out["rate"] = quartiles(a["flushed"] / b["flushed"] for a, b in pairs)
    out["bytes"] = (after - size) / (given.rounds * total)
    if peer.keeps in ("file", "sqlite") and one:  # a full queue drops what comes next
        out["lost"] = max(0.0, 1 - (known - units) / (given.rounds * calls) / one)
    out["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    out["threads"] = threading.active_count()
    return out


def killed(given: argparse.Namespace, peer: Peer) -> dict[str, Any]:
    """One call after a warm one, and then the end; ``--mode whole`` flushes instead."""
    call, *_ = _prepare(given.workload, small=given.quick)
    framework = LLAMAINDEX if given.workload == QUERY else "langchain"
    live = peer.begin(framework, given.folder, given.sink)
    live.on()
    call(live.handlers)
    live.flush()
    units = kept(given.folder, peer, given.sink)[1]
    print(json.dumps({"before": units}), flush=True)
    call(live.handlers)
    if given.mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    live.flush()
    return {"before": units, "after": kept(given.folder, peer, given.sink)[1]}


def imports(given: argparse.Namespace, peer: Peer) -> dict[str, Any]:
    """CPU seconds from a loaded framework to a recorder that is ready."""
    framework = LLAMAINDEX if given.workload == QUERY else "langchain"
    if framework == LLAMAINDEX:
        import queries  # noqa: F401
    else:
        import workloads  # noqa: F401
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    live = peer.begin(framework, given.folder, given.sink)
    live.on()
    took = time.process_time() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"import_s": took, "import_mb": grown / 1024}


def versions(given: argparse.Namespace, peer: Peer) -> dict[str, Any]:
    """What is installed here, as far as it matters."""
    known = {d.metadata["Name"].lower(): d.version for d in distributions()}
    shown = {k: v for k, v in sorted(known.items()) if k.startswith(SHOWN + SHOWN_TOO)}
    return {"versions": shown}


def main() -> int:
    """Measure one thing and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("workload")
    modes = {"costs": costs, "killed": killed, "whole": killed, "import": imports}
    modes["versions"] = versions
    parser.add_argument("--mode", choices=modes, default="costs")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sink", default="http://127.0.0.1:9")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(given.folder)
    found = modes[given.mode](given, PEERS[given.peer])
    print(json.dumps(found), flush=True)
    sys.stderr.flush()
    os._exit(0)  # what a recorder does at exit is not measured, and may take its time


if __name__ == "__main__":
    raise SystemExit(main())
