"""Eight processes that record into one file at once: whether anything is lost, and how fast it is.

Each makes the same number of RAG chains; afterwards the file is counted and verified, and its
events a second, everything committed, are set beside those of the same work in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from setting import machine, private_home

PROCESSES: Final = 8
CHAINS: Final = 250  # of each process
RUNS, EVENTS = 9, 18  # of one chain


def one(path: Path, chains: int) -> None:
    """Record when the parent says so."""
    from workloads import rag

    from provkeep.langchain import ProvenanceHandler

    program = rag()
    with ProvenanceHandler(path, actor="alice@example.com") as handler:
        program.call([handler])
        handler.flush()
        print("ready", flush=True)
        sys.stdin.readline()
        used, began = time.process_time(), time.time()
        for _ in range(chains):
            program.call([handler])
        handler.flush()
        print(json.dumps([time.process_time() - used, began, time.time()]), flush=True)


def measure(folder: Path, processes: int, chains: int) -> dict[str, Any]:
    """Start them, let them go together, count what is there."""
    import provkeep

    path = folder / f"{processes}.db"
    command = [sys.executable, __file__, "--one", str(path), "--chains", str(chains)]
    started = []
    for _ in range(processes):
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
        )
        assert child.stdin and child.stdout
        if child.stdout.readline() != "ready\n":
            raise RuntimeError("a process did not start")
        started.append(child)
    for child in started:
        assert child.stdin
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [json.loads(child.communicate()[0].splitlines()[-1]) for child in started]
    if any(child.returncode for child in started):
        raise RuntimeError("a process failed")
    with provkeep.open(path) as trail:
        traces, runs = trail._store.query("SELECT count(*), sum(runs) FROM trace")[0]
        whole = bool(trail.verify())
    events = processes * chains * EVENTS
    return {
        "traces": traces,
        "asked": processes * (chains + 1),
        "lost_runs": processes * (chains + 1) * RUNS - runs,
        "whole": whole,
        "events_per_s": events / (max(end for *_, end in said) - min(s for _, s, _ in said)),
        "events_per_cpu_s": events / sum(used for used, *_ in said),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--chains", type=int, default=CHAINS)
    parser.add_argument("--quick", action="store_true", help="few chains, to see that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        one(given.one, given.chains)
        return 0
    chains, several = (5, 2) if given.quick else (given.chains, PROCESSES)
    with tempfile.TemporaryDirectory() as folder, private_home():
        found = {
            n: measure(Path(folder), n, chains)
            for n in ((several,) if given.quick else (1, several))
        }
    bad = any(f["lost_runs"] or not f["whole"] for f in found.values())
    if given.json:
        print(json.dumps({"machine": machine(), "processes": found}, indent=2))
        return int(bad)
    print(f"{machine()}\n\nThe program's own work is part of both rates.\n")
    print("| processes | traces | runs lost | verifies | events/s | events per CPU second |")
    print("|---|---|---|---|---|---|")
    for n, f in found.items():
        said = "yes" if f["whole"] else "**no**"
        rates = f"{f['events_per_s']:,.0f} | {f['events_per_cpu_s']:,.0f}"
        print(f"| {n} | {f['traces']:,} | {f['lost_runs']} | {said} | {rates} |")
    return int(bad)


if __name__ == "__main__":
    raise SystemExit(main())
