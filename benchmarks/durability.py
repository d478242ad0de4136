"""What each durability mode costs: how long a chain waits, and how many traces a second there are.

A trace is one small run with an input and an output. Waiting is what a chain sees: until ``invoke``
returns. The disk decides ``strict``, so its own fsync is measured beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Final

from langchain_core.runnables import RunnableLambda
from setting import machine, private_home

MODES: Final = ("strict", "trace", "batch")
TRACES: Final = 400
QUICK: Final = 20
THREADS: Final = 16


def fsync_ms(folder: Path) -> float:
    """The median of 4 KB written and synced."""
    took = []
    with (folder / "probe").open("wb") as file:
        for _ in range(50):
            file.write(bytes(4096))
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return median(took) * 1000


def measure(folder: Path, mode: str, count: int) -> dict[str, float]:
    """One mode: waiting in one thread, then traces a second of many threads."""
    from provkeep.langchain import ProvenanceHandler

    step, waits = RunnableLambda(lambda x: f"{x} can be said"), []
    with ProvenanceHandler(folder / f"{mode}.db", durability=mode) as handler:
        config = {"callbacks": [handler]}
        step.invoke("first", config)
        cpu = time.process_time()
        for n in range(count):
            began = time.perf_counter()
            step.invoke(f"number {n}", config)
            waits.append(time.perf_counter() - began)
        handler.flush()
        cpu = time.process_time() - cpu
        began = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda n: step.invoke(f"n {n}", config), range(2 * count)))
        handler.flush()
        rate = 2 * count / (time.perf_counter() - began)
    waits.sort()
    return {
        "p50_ms": median(waits) * 1000,
        "p99_ms": waits[int(len(waits) * 0.99)] * 1000,
        "cpu_ms": cpu / count * 1000,
        "traces_per_s": rate,
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few traces, to see that it runs")
    parser.add_argument("--dir", type=Path, help="the disk to measure; by default a temporary one")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    count = QUICK if given.quick else TRACES
    with tempfile.TemporaryDirectory(dir=given.dir) as folder, private_home():
        disk = fsync_ms(Path(folder))
        found = {mode: measure(Path(folder), mode, count) for mode in MODES}
    if given.json:
        print(json.dumps({"machine": machine(), "fsync_ms": disk, "figures": found}, indent=2))
        return 0
    print(f"{machine()}\n\nfsync of 4 KB on this disk: {disk:.1f} ms\n")
    print("| durability | a chain waits, p50 ms | p99 ms | CPU ms a trace | traces/s, 16 threads |")
    print("|---|---|---|---|---|")
    for mode, v in found.items():
        cells = f"{v['p50_ms']:.1f} | {v['p99_ms']:.1f} | {v['cpu_ms']:.1f}"
        print(f"| `{mode}` | {cells} | {v['traces_per_s']:,.0f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
