"""How a conversation and an agent loop grow on disk: bytes against turns or steps.

A recorder that stores what it is told each time stores a history once per turn and grows with the
square of the turns: a slope of 2 on doubly logarithmic paper. A slope of 1 is what they add.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from math import log
from pathlib import Path
from statistics import linear_regression
from typing import Final

from setting import machine, private_home, stored_bytes
from workloads import Workload, agent, chat, graph_chat

SIZES: Final = (10, 20, 40, 80, 160)
QUICK: Final = (4, 8)
GROWING: Final[dict[str, Callable[[int], Workload]]] = {
    "chat, history as messages": chat,
    "chat, MemorySaver": graph_chat,
    "agent loop": agent,
}


def stored(workload: Workload, path: Path) -> int:
    """Bytes that one call adds to a new store, once it is closed."""
    from provkeep.langchain import ProvenanceHandler

    with ProvenanceHandler(path) as handler:
        handler.flush()
        empty = stored_bytes(path)
        workload.call([handler])
    return stored_bytes(path) - empty


def slope(sizes: tuple[int, ...], found: list[int]) -> float:
    """Exponent of the power law through the points."""
    return linear_regression([log(n) for n in sizes], [log(b) for b in found]).slope


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    sizes = QUICK if given.quick else SIZES
    found: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as folder, private_home():
        for name, make in GROWING.items():
            path = Path(folder) / name.replace(" ", "-").replace(",", "")
            found[name] = [stored(make(n), path.with_name(f"{path.name}-{n}.db")) for n in sizes]
    slopes = {name: slope(sizes, values) for name, values in found.items()}
    if given.json:
        document = {"machine": machine(), "sizes": sizes, "bytes": found, "slopes": slopes}
        print(json.dumps(document, indent=2))
        return 0
    print(f"{machine()}\n\nBytes on disk after so many turns or steps.\n")
    print("| what grows | " + " | ".join(map(str, sizes)) + " | slope |")
    print("|---" * (len(sizes) + 2) + "|")
    for name, values in found.items():
        cells = " | ".join(f"{b:,}" for b in values)
        print(f"| {name} | {cells} | {slopes[name]:.2f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
