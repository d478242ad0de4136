"""What recording costs: no handler, a handler that does nothing, and provkeep, in turn.

Each round makes the same number of calls under each of the three, one after the other, so that a
busy minute of the machine falls on all of them; a cost is a difference within a round, and what is
printed is the median of the rounds with its quartiles. CPU is counted, not waited for, except where
a column says *wall*.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any, Final

from langchain_core.callbacks import BaseCallbackHandler
from setting import machine, private_home, quartiles, stored_bytes
from workloads import CALLBACKS, Workload, counted, workloads

EVENTS_PER_ROUND: Final = 1_500  # events under one handler in one round
ROUNDS: Final = 15
GROWTH_EVENTS: Final = 6_000  # events over which the file's growth is measured
SUSTAINED_EVENTS: Final = 6_000
SUSTAINED_TIMES: Final = 5


class Noop(BaseCallbackHandler):
    """What any handler costs the framework: it is called, and returns."""

    def __init__(self) -> None:
        for name in CALLBACKS:
            setattr(self, name, self._nothing)

    def _nothing(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(slots=True)
class Clocks:
    """Seconds that passed: on the calling thread, in the process, on the writer thread, outside."""

    caller: float
    process: float
    writer: float
    wall: float


@dataclass(slots=True, kw_only=True)
class Measured:
    """One workload's figures; microseconds and bytes are per event."""

    workload: str
    made_of: str
    runs: int
    events: int
    rounds: int
    caller_cpu_us: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    process_cpu_us: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    wall_us: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    writer_cpu_us: tuple[float, float, float] = (0.0, 0.0, 0.0)
    callback_cpu_us: tuple[float, float] = (0.0, 0.0)
    bytes_per_event: float = 0.0
    events_per_s: dict[str, float] = field(default_factory=dict)


def writer_seconds() -> float:
    """CPU that provkeep's writer threads have used; 0 where the platform does not tell."""
    used = 0.0
    for thread in threading.enumerate():
        if thread.name.startswith("provkeep-") and thread.ident is not None:
            try:
                used += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
            except (AttributeError, OSError):
                return 0.0
    return used


def _run(workload: Workload, handler: BaseCallbackHandler | None, calls: int) -> Clocks:
    """Make ``calls`` calls; wall ends with the last return, CPU when everything is stored."""
    handlers = [] if handler is None else [handler]
    flush = getattr(handler, "flush", None)
    writer = writer_seconds() if flush else 0.0
    process, caller, wall = time.process_time(), time.thread_time(), time.perf_counter()
    for _ in range(calls):
        workload.call(handlers)
    wall = time.perf_counter() - wall
    caller = time.thread_time() - caller
    if flush:
        flush()
        writer = writer_seconds() - writer
    return Clocks(caller, time.process_time() - process, writer, wall)


class _Timer:
    """CPU of single callbacks, on whichever thread makes them."""

    def __init__(self) -> None:
        self.took: list[int] = []
        nothing = [self._once(lambda: None) for _ in range(2_000)]
        self._own = int(median(nothing))  # what reading the clock twice costs

    @staticmethod
    def _once(callback: Any) -> int:
        began = time.thread_time_ns()
        callback()
        return time.thread_time_ns() - began

    def wrap(self, callback: Any) -> Any:
        """The callback, timed."""

        @wraps(callback)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time_ns()
            try:
                return callback(*args, **kwargs)
            finally:
                self.took.append(time.thread_time_ns() - began - self._own)

        return timed

    def percentiles(self) -> tuple[float, float]:
        """The median and the 99th percentile, microseconds."""
        took = sorted(self.took)
        return took[len(took) // 2] / 1_000, took[len(took) * 99 // 100] / 1_000


def _one_callback(workload: Workload, path: Path, calls: int) -> tuple[float, float]:
    """CPU of one callback, p50 and p99."""
    from provkeep.langchain import ProvenanceHandler

    timer = _Timer()
    with ProvenanceHandler(path, **workload.options) as handler:
        for _ in range(3):
            workload.call([handler])
        for name in CALLBACKS:
            setattr(handler, name, timer.wrap(getattr(handler, name)))
        for _ in range(calls):
            workload.call([handler])
    return timer.percentiles()


def _growth(workload: Workload, path: Path, events: int, calls: int) -> float:
    """Bytes that one event adds to the database and its key file, journals folded in."""
    from provkeep.langchain import ProvenanceHandler

    with ProvenanceHandler(path, actor="alice@example.com", **workload.options) as handler:
        for _ in range(max(3, calls // 10)):
            workload.call([handler])
        handler.flush()
        before = stored_bytes(path)
        for _ in range(calls):
            workload.call([handler])
        handler.flush()
        return (stored_bytes(path) - before) / (calls * events)


def _sustained(
    workload: Workload, handler: BaseCallbackHandler | None, events: int, calls: int, times: int
) -> float:
    """Events per second of wall time, until all of them are committed and signed."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        _run(workload, handler, calls)
        took.append(time.perf_counter() - began)
    return calls * events / median(took)


def measure(workload: Workload, folder: Path, *, rounds: int, share: float) -> Measured:
    """Measure one workload; ``share`` scales the number of calls."""
    from provkeep.langchain import ProvenanceHandler

    runs, events = counted(workload)
    result = Measured(
        workload=workload.name,
        made_of=workload.made_of,
        runs=runs,
        events=events,
        rounds=rounds,
    )
    calls = max(1, round(share * EVENTS_PER_ROUND / events))
    name = workload.name.replace(" ", "-").replace(",", "")
    noop = Noop()
    seen: dict[str, list[Clocks]] = {"none": [], "no-op": [], "provkeep": []}
    path = folder / f"{name}.db"
    with ProvenanceHandler(path, actor="alice@example.com", **workload.options) as ours:
        handlers: dict[str, BaseCallbackHandler | None] = {
            "none": None,
            "no-op": noop,
            "provkeep": ours,
        }
        for handler in handlers.values():
            _run(workload, handler, max(1, calls // 4))
        for _ in range(rounds):
            for kind, handler in handlers.items():
                seen[kind].append(_run(workload, handler, calls))
    per_event = 1e6 / (calls * events)
    for kind in ("no-op", "provkeep"):
        pairs = list(zip(seen[kind], seen["none"], strict=True))
        result.caller_cpu_us[kind] = quartiles((a.caller - b.caller) * per_event for a, b in pairs)
        result.process_cpu_us[kind] = quartiles(
            (a.process - b.process) * per_event for a, b in pairs
        )
        result.wall_us[kind] = quartiles((a.wall - b.wall) * per_event for a, b in pairs)
    result.writer_cpu_us = quartiles(a.writer * per_event for a in seen["provkeep"])
    result.callback_cpu_us = _one_callback(workload, folder / f"{name}-one.db", 2 * calls)
    growth = max(2, round(share * GROWTH_EVENTS / events))
    result.bytes_per_event = _growth(workload, folder / f"{name}-size.db", events, growth)
    many, times = max(2, round(share * SUSTAINED_EVENTS / events)), min(rounds, SUSTAINED_TIMES)
    result.events_per_s["none"] = _sustained(workload, None, events, many, times)
    for durability in ("trace", "batch", "strict"):
        path = folder / f"{name}-{durability}.db"
        with ProvenanceHandler(path, durability=durability, **workload.options) as handler:
            result.events_per_s[durability] = _sustained(workload, handler, events, many, times)
    return result


def _three(values: tuple[float, float, float]) -> str:
    low, middle, high = values
    return f"{middle:.0f} ({low:.0f}-{high:.0f})"


def table(results: list[Measured]) -> str:
    """The figures as a Markdown table."""
    head = (
        "workload",
        "runs / events",
        "calling thread, CPU us",
        "one callback, CPU us p50 / p99",
        "added wall us",
        "whole process, CPU us",
        "of it the writer",
        "bytes",
        "events/s: no handler / trace / batch / strict",
    )
    rows = [head, tuple("---" for _ in head)]
    for m in results:
        rate = m.events_per_s
        rows.append(
            (
                m.workload,
                f"{m.runs} / {m.events}",
                _three(m.caller_cpu_us["provkeep"]),
                f"{m.callback_cpu_us[0]:.0f} / {m.callback_cpu_us[1]:.0f}",
                _three(m.wall_us["provkeep"]),
                _three(m.process_cpu_us["provkeep"]),
                _three(m.writer_cpu_us),
                f"{m.bytes_per_event:.0f}",
                " / ".join(f"{rate[k]:,.0f}" for k in ("none", "trace", "batch", "strict")),
            )
        )
        rows.append(
            (
                "*no-op handler*",
                "",
                _three(m.caller_cpu_us["no-op"]),
                "",
                _three(m.wall_us["no-op"]),
                _three(m.process_cpu_us["no-op"]),
                *("", "", ""),
            )
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(workloads()))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="a few calls, to see that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dir", type=Path, help="where the databases are made, for the time being")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.workloads) - set(workloads()))
    if unknown:
        parser.error(f"no such workload: {', '.join(unknown)}")
    results = []
    with tempfile.TemporaryDirectory(dir=given.dir) as folder, private_home():
        for name in given.workloads or workloads():
            rounds, share = (2, 0.01) if given.quick else (given.rounds, 1.0)
            workload = workloads(small=given.quick)[name]
            results.append(measure(workload, Path(folder), rounds=rounds, share=share))
            print(f"measured: {name}", file=sys.stderr)
    if given.json:
        document = {"machine": machine(), "results": [asdict(m) for m in results]}
        print(json.dumps(document, indent=2))
    else:
        print(f"{machine()}\n\nAll figures per event; median (quartiles).\n\n{table(results)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
