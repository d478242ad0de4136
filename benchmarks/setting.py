"""Where the benchmarks run: a home of their own, the machine, and sizes of files."""

from __future__ import annotations

import datetime as dt
import os
import platform
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import quantiles
from typing import Final

HOME: Final = "PROVKEEP_HOME"
PACKAGES: Final = (
    *("provkeep", "langchain-core", "langchain", "langgraph"),
    *("llama-index-core", "llama-index-workflows", "cryptography", "orjson"),
)


@contextmanager
def private_home() -> Iterator[None]:
    """Keys go to a folder of their own, never to the user's configuration."""
    before = os.environ.get(HOME)
    with tempfile.TemporaryDirectory() as home:
        os.environ[HOME] = home
        try:
            yield
        finally:
            if before is None:
                del os.environ[HOME]
            else:
                os.environ[HOME] = before


def machine() -> str:
    """The processor, the versions and the day, in one line."""
    found = [
        _processor(),
        f"{os.cpu_count()} cores",
        platform.system(),
        f"Python {platform.python_version()}",
        f"SQLite {sqlite3.sqlite_version}",
    ]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # run from the source tree
            continue
    return f"{dt.datetime.now(dt.UTC):%Y-%m-%d}: " + ", ".join(found)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def stored_bytes(path: Path) -> int:
    """Bytes of the database and its key file, with their write-ahead logs folded in and cut."""
    total = 0
    for file in (path, path.with_name(path.name + "-keys")):
        conn = sqlite3.connect(file)
        try:
            busy = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            conn.close()
        if busy:
            raise RuntimeError(f"{file.name} could not be checkpointed: somebody is reading it")
        total += file.stat().st_size
    return total


def quartiles(values: Iterable[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    known = list(values)
    if len(known) < 2:
        return known[0], known[0], known[0]
    low, middle, high = quantiles(known, n=4, method="inclusive")
    return low, middle, high
