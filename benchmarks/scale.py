"""Questions to a store of a million runs: lineage, impact of a hub, first pages, verification.

Builds the store first (``corpus.py``: about a quarter of an hour and 1.5 GB for a million runs) and
asks then. ``--keep`` keeps the store and its keys, ``--use`` asks one that was kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from corpus import HUB, SEED, Builder, Made, add_accesses
from setting import HOME, machine, stored_bytes

RUNS: Final = 1_000_000
QUICK_RUNS: Final = 3_000
ASKED: Final = 400  # answers whose lineage is asked for
TIMES: Final = 7  # of each question about the whole store


def _tell(done: int, of: int) -> None:
    print(f"\r  {done:,} of {of:,}  ", end="", file=sys.stderr, flush=True)


class Clock:
    """CPU and wall milliseconds of a call."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def time(self, call: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        out = call()
        self.cpu.append((time.thread_time_ns() - cpu) / 1e6)
        self.wall.append((time.perf_counter_ns() - wall) / 1e6)
        return out

    def row(self) -> dict[str, float]:
        out = {}
        for name, values in (("cpu", self.cpu), ("wall", self.wall)):
            known = sorted(values)
            out[f"{name}_p50_ms"] = round(known[len(known) // 2], 3)
            out[f"{name}_p99_ms"] = round(known[min(len(known) - 1, len(known) * 99 // 100)], 3)
        return out


def _every_path(trail: Any, outputs: tuple[str, ...]) -> int:
    """The artifacts in the lineages of all outputs that the hub reached, each with its path."""
    found = 0
    for done, output in enumerate(outputs):
        found += len(trail.lineage(output))
        if not done % 1_000:
            _tell(done, len(outputs))
    return found


def ask(path: Path, *, asked: int, times: int, verify: bool) -> dict[str, Any]:
    """Ask everything, warm, and say what it took."""
    import provkeep

    out: dict[str, Any] = {"bytes": stored_bytes(path)}
    with provkeep.open(path, actor="auditor@example.com") as trail:
        store = trail._store
        count = "SELECT (SELECT count(*) FROM {}), (SELECT count(*) FROM {})"
        out["traces"], out["records"] = store.query(count.format("trace", "record"))[0]
        out["runs"], out["edges_across"] = store.query(
            "SELECT (SELECT sum(runs) FROM trace), (SELECT count(*) FROM xref)"
        )[0]
        chance = Random(SEED + 1)
        some = [(chance.randint(1, out["traces"]),) for _ in range(asked)]
        tids = [
            bytes(row[0]).hex()
            for number in some
            for row in store.query("SELECT tid FROM trace WHERE id = ?", number)
        ]
        answers = [trail.output(tid).id for tid in tids]  # this warms the file, too
        lineages, sources = Clock(), Clock()
        sizes = []
        for answer in answers:
            found = lineages.time(partial(trail.lineage, answer))
            sources.time(found.sources)
            sizes.append(len(found))
        out["lineage_nodes_p50_max"] = [sorted(sizes)[len(sizes) // 2], max(sizes)]
        out["lineage"], out["sources"] = lineages.row(), sources.row()
        pages, reads, hits, paths = Clock(), Clock(), Clock(), Clock()
        trail.runs(), trail.accesses(source=HUB, limit=50)
        for _ in range(times):
            pages.time(trail.runs)
            reads.time(lambda: trail.accesses(source=HUB, limit=50))
        thousand = Clock()
        thousand.time(lambda: trail.accesses(source=HUB))
        impact = hits.time(partial(trail.impact, HUB))  # once: it takes seconds
        out["hub_reached"] = len(impact)
        lines = paths.time(partial(_every_path, trail, impact.outputs))
        out["hub_artifacts"], out["hub_paths"] = lines, paths.row()
        out["runs_page"], out["accesses_page"] = pages.row(), reads.row()
        out["accesses_1000"], out["impact"] = thousand.row(), hits.row()
        if verify:
            cpu, wall = time.process_time(), time.perf_counter()
            report = trail.verify(progress=_tell)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            out["verify"] = {
                "whole": bool(report),
                "cpu_s": round(cpu, 2),
                "wall_s": round(wall, 2),
                "cpu_us_per_record": round(cpu / report.records * 1e6, 1),
                "cpu_us_per_run": round(cpu / out["runs"] * 1e6, 1),
            }
    return out


def table(found: dict[str, Any]) -> str:
    """The answers as a Markdown table."""
    rows: list[tuple[str, ...]] = [
        ("question", "CPU ms, p50 / p99", "wall ms, p50 / p99", "target, ms"),
        ("---",) * 4,
    ]
    targets = {
        "lineage": ("lineage of an output", "1 / 10"),
        "sources": ("its sources, with spans", ""),
        "impact": ("impact of the hub: outputs reached", "300"),
        "hub_paths": ("impact of the hub: the lineage of each output it reached", "8,000"),
        "runs_page": ("runs(), first page", "20"),
        "accesses_page": ("accesses(source), first 50", "20"),
        "accesses_1000": ("accesses(source), first 1,000", ""),
    }
    for key, (name, target) in targets.items():
        if key in found:
            r = found[key]
            cells = [f"{r[f'{c}_p50_ms']:.2f} / {r[f'{c}_p99_ms']:.2f}" for c in ("cpu", "wall")]
            rows.append((name, *cells, target))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    per_run = found["bytes"] / found["runs"]
    lines += [
        "",
        f"{found['runs']:,} runs in {found['traces']:,} traces, {found['records']:,} records,"
        f" {found['bytes'] / 1e6:,.0f} MB with keys ({per_run:,.0f} bytes a run); the hub"
        f" reached {found['hub_reached']:,} answers, whose lineages hold"
        f" {found['hub_artifacts']:,} artifacts.",
    ]
    if "verify" in found:
        v = found["verify"]
        lines.append(
            f"verify: {v['cpu_s']} s of CPU, {v['cpu_us_per_record']} us a record,"
            f" {v['cpu_us_per_run']} us a run; {'whole' if v['whole'] else 'NOT whole'}."
        )
    if "built" in found:
        b = found["built"]
        lines.append(f"Built in {b['seconds']:,.0f} s ({b['cpu_s']:,.0f} s of CPU).")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Build, ask, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="build here and leave it there")
    parser.add_argument("--use", type=Path, metavar="FOLDER", help="ask a store that was kept")
    parser.add_argument("--no-verify", action="store_true")
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a small store, to see that it runs")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    runs = QUICK_RUNS if given.quick else given.runs
    before = os.environ.get(HOME)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.use or given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[HOME] = str(folder / "home")
        try:
            built: Made | None = None
            path = folder / "scale.db"
            if given.use is None:
                builder = Builder(path, runs)
                built = builder.build(_tell)
                add_accesses(path, runs // 20, built)
                print(f"\nbuilt: {built}", file=sys.stderr)
            if given.build_only:
                return 0
            asked, times = (20, 2) if given.quick else (ASKED, TIMES)
            found = ask(path, asked=asked, times=times, verify=not given.no_verify)
        finally:
            if before is None:
                del os.environ[HOME]
            else:
                os.environ[HOME] = before
    if built is not None:
        found["built"] = {"seconds": built.seconds, "cpu_s": built.cpu_s}
    print(json.dumps({"machine": machine(), **found}, indent=2) if given.json else f"{machine()}\n")
    if not given.json:
        print(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
