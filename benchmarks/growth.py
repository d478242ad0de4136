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
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from setting import machine, private_home, stored_bytes
from workloads import Shelf, Workload, agent, chat, graph_chat

SIZES: Final = (10, 20, 40, 80, 160)
QUICK: Final = (4, 8)
FOUND: Final = (4, 24)  # documents of a search
SEARCHES: Final = 500
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


def found_again(folder: Path, searches: int) -> dict[int, float]:
    """Bytes of a search that finds so many documents of 1 KB, all stored before."""
    from provkeep.langchain import ProvenanceHandler

    out = {}
    for many in FOUND:
        path = folder / f"found-{many}.db"
        shelf = Shelf(documents=many)
        with ProvenanceHandler(path) as handler:
            config = RunnableConfig(callbacks=[handler])
            for call in range(2 * searches):
                if call == searches:
                    handler.flush()
                    before = stored_bytes(path)
                shelf.invoke(f"question {call:06}", config)
            handler.flush()
            out[many] = (stored_bytes(path) - before) / searches
    return out


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
        again = found_again(Path(folder), 5 if given.quick else SEARCHES)
    few, many = FOUND
    each = (again[many] - again[few]) / (many - few)
    slopes = {name: slope(sizes, values) for name, values in found.items()}
    if given.json:
        document: dict[str, Any] = {
            "machine": machine(),
            "sizes": sizes,
            "bytes": found,
            "slopes": slopes,
        }
        document |= {"bytes_of_a_search": again, "bytes_of_a_document_found_again": each}
        print(json.dumps(document, indent=2))
        return 0
    print(f"{machine()}\n\nBytes on disk after so many turns or steps.\n")
    print("| what grows | " + " | ".join(map(str, sizes)) + " | slope |")
    print("|---" * (len(sizes) + 2) + "|")
    for name, values in found.items():
        cells = " | ".join(f"{b:,}" for b in values)
        print(f"| {name} | {cells} | {slopes[name]:.2f} |")
    print(
        f"\nA search that finds {few} documents stored before takes {again[few]:.0f} bytes, one"
        f" that finds {many} takes {again[many]:.0f}: a document found again is {each:.0f} bytes."
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
