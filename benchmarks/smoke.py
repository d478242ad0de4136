"""Every benchmark once, with few calls: says whether they run, and nothing about speed."""

from __future__ import annotations

import contextlib
import io
import sys
import time

import compare
import durability
import growth
import imports
import memory
import queries
import record
import scale
import verify


def main() -> int:
    """Run them all; what one raises ends this."""
    modules = (record, queries, growth, imports, memory, verify, durability, scale, compare)
    for module in modules:
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = module.main(["--quick"])
        if code or not said.getvalue().strip():
            print(f"{module.__name__}: exit {code}, {len(said.getvalue())} characters printed")
            return 1
        print(f"{module.__name__}: ran in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
