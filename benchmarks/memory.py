"""What a recorder keeps in memory: resident size while 100,000 runs are recorded.

The same program runs without a handler first, then with provkeep, in processes of their own; the
difference at each mark is what recording holds on to. A leak is a slope; what is asked is a line.
The store is there before, as it mostly is: making one loads sqlite-utils, which loads pandas where
that is installed, and that is printed by itself.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import linear_regression
from typing import Any, Final

from setting import machine, private_home

RUNS: Final = 100_000
MARKS: Final = 20


def resident_mb() -> float:
    """Resident set of this process; on systems without /proc the largest it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (2**20 if sys.platform == "darwin" else 2**10)


def one(runs: int, folder: Path | None) -> dict[str, list[float]]:
    """Record ``runs`` runs, chains and agents in turn, and note the size now and then."""
    from workloads import agent, rag

    programs = [rag(), rag(fresh=True), agent()]
    each = 9 + 9 + 15
    handlers: list[Any] = []
    if folder is not None:
        from provkeep.langchain import ProvenanceHandler

        handlers = [ProvenanceHandler(folder / "memory.db", actor="alice@example.com")]
    marks = min(MARKS, max(4, runs // 1_000))
    done: list[float] = []
    sizes: list[float] = []
    calls = max(marks, runs // each)
    for i in range(calls):
        for program in programs:
            program.call(handlers)
        if not (i + 1) % (calls // marks):
            gc.collect()
            done.append((i + 1) * each)
            sizes.append(resident_mb())
    for handler in handlers:
        handler.close()
    return {"runs": done, "mb": sizes}


def _apart(runs: int, folder: Path | None) -> dict[str, list[float]]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", "--runs", str(runs)]
    command += ["--folder", str(folder)] if folder is not None else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--quick", action="store_true", help="few runs, to see that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(one(given.runs, given.folder)))
        return 0
    runs = 660 if given.quick else given.runs
    with tempfile.TemporaryDirectory() as folder, private_home():
        # A process of its own imports LangChain anew, which a smoke run need not see.
        run = one if given.quick else _apart
        making = run(4 * 33, Path(folder))["mb"][-1]
        without, recorded = run(runs, None), run(runs, Path(folder))
    above = [b - a for a, b in zip(without["mb"], recorded["mb"], strict=True)]
    later = slice(len(above) // 4, None)  # caches have filled by then
    slope = linear_regression(recorded["runs"][later], above[later]).slope * 1e5
    if given.json:
        found = {"runs": recorded["runs"], "without": without["mb"], "recorded": recorded["mb"]}
        found["making"] = [making]
        print(json.dumps({"machine": machine(), **found, "slope_mb_per_100k": slope}, indent=1))
        return 0
    print(f"{machine()}\n\n| runs | without, MB | recorded, MB | above, MB |\n|---|---|---|---|")
    for n, a, b in zip(recorded["runs"], without["mb"], recorded["mb"], strict=True):
        print(f"| {n:,.0f} | {a:.1f} | {b:.1f} | {b - a:.1f} |")
    print(f"\nA process that makes a store and records 132 runs: {making:.1f} MB.")
    print(f"After the first quarter it grows by {slope:+.1f} MB in 100,000 runs.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
