"""Every benchmark once, with few calls: says whether they run, and nothing about speed."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import accesses
import durability
import growth
import memory
import queries
import record
import scale
import verify

HERE: Final = Path(__file__).resolve().parent
# These start processes of their own, so they run while the others do.
APART: Final = ("compare", "processes", "imports")
MODULES: Final = (record, queries, growth, memory, durability, verify, accesses, scale)


def main() -> int:
    """Run them all; what one raises ends this."""
    began = time.perf_counter()
    apart = {
        name: subprocess.Popen(
            [sys.executable, str(HERE / f"{name}.py"), "--quick"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in APART
    }
    failed = []
    try:
        for module in MODULES:
            with contextlib.redirect_stdout(io.StringIO()) as said:
                code = module.main(["--quick"])
            if code or not said.getvalue().strip():
                failed.append(module.__name__)
    finally:
        for name, child in apart.items():
            printed = child.communicate()[0]
            if child.returncode or not printed.strip():
                failed.append(name)
    ran = len(MODULES) + len(APART)
    print(f"{ran} benchmarks ran in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    for name in failed:
        print(f"{name} failed, or printed nothing")
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main())
