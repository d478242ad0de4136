"""provkeep beside every other recorder: same programs, same machine, one table.

Each recorder has an environment of its own, with pinned versions, under ``--cache``; each cell
(a recorder and a workload) is a process of its own with a time limit. Within a cell the same calls
are made without and with the recorder in turn. What does not install or run is said, not dropped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from peers import ENVIRONMENTS, FRAMEWORKS, LLAMAINDEX, PEERS, Peer
from reportcompare import report
from setting import machine, quartiles
from sink import running

HERE: Final = Path(__file__).resolve().parent
CACHE: Final = HERE.parent / ".venv-peers"  # ignored by git, as every .venv*
QUERY: Final = "query"
WORKLOADS: Final = ("rag", "agent", "stream", "chat", "concurrent", QUERY)
QUICK: Final = ("provkeep",)
INSTALL_S: Final = 900
RUNS: Final = 9  # of one RAG chain


class Failed(Exception):
    """A recorder did not install or run; the text says how."""


def environment(peer: Peer, cache: Path) -> Path:
    """The interpreter of a recorder's environment, made when it is not there.

    Raises:
        Failed: it could not be made.
    """
    wanted = (*FRAMEWORKS, *ENVIRONMENTS[peer.environment])
    folder = cache / peer.environment
    python = folder / "bin" / "python"
    stamp = folder / "pins"
    digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()
    failed = folder / "failed"
    if stamp.exists() and stamp.read_text() == digest:
        return python
    if failed.exists() and failed.read_text().startswith(digest):
        raise Failed(failed.read_text()[len(digest) :].strip())
    print(f"installing {peer.environment} into {folder}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=INSTALL_S)
        command = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", *wanted]
        done = subprocess.run(
            list(map(str, command)), check=False, capture_output=True, text=True, timeout=INSTALL_S
        )
        problem = "" if done.returncode == 0 else _last(done.stderr)
    except (OSError, subprocess.SubprocessError) as error:
        problem = type(error).__name__
    if problem:
        failed.write_text(f"{digest}\ndid not install: {problem}")
        raise Failed(f"did not install: {problem}")
    stamp.write_text(digest)
    return python


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(("ERROR", "error"))]
    return (said or lines or ["no output"])[-1][:200]


class Bench:
    """Runs cells."""

    def __init__(self, given: argparse.Namespace, scratch: Path) -> None:
        self.given, self._scratch = given, scratch
        self._number = 0

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        self._number += 1
        folder = self._scratch / f"cell{self._number}"
        folder.mkdir()
        yield folder

    def cell(
        self, name: str, workload: str, mode: str, *, folder: Path | None = None, sink: str = ""
    ) -> dict[str, Any]:
        """What one process printed.

        Raises:
            Failed: it printed nothing, or took too long.
        """
        peer, given = PEERS[name], self.given
        # In a smoke run the recorders are those of this environment.
        python = Path(sys.executable) if given.quick else environment(peer, given.cache)
        with self._folder() as own:
            command = [python, HERE / "cell.py", name, workload, "--mode", mode]
            command += ["--folder", folder or own / "data", "--rounds", str(given.rounds)]
            command += ["--seconds", str(given.seconds), "--sink", sink]
            command += ["--quick"] if given.quick else []
            variables = {
                **os.environ,
                "PROVKEEP_HOME": str(own / "home"),
                "HOME": str(own),  # a recorder's own configuration is not the user's
                "PYTHONWARNINGS": "ignore",
            }
            try:
                done = subprocess.run(
                    list(map(str, command)),
                    check=False,
                    capture_output=True,
                    text=True,
                    timeout=given.timeout,
                    env=variables,
                )
            except subprocess.TimeoutExpired:
                raise Failed(f"took more than {given.timeout:.0f} s") from None
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if not lines or (done.returncode and mode != "killed"):
            raise Failed(f"did not run: {_last(done.stderr)}")
        return dict(json.loads(lines[-1]))

    def costs(self, name: str, workload: str) -> dict[str, Any]:
        """One row of a workload's table."""
        with running() as sink:
            return self.cell(name, workload, "costs", sink=sink)

    def survives(self, name: str) -> float | None:
        """Share of the last call that is kept when the process is killed as the call returns."""
        peer = PEERS[name]
        if peer.keeps in ("nothing", "memory"):
            return None
        from cell import kept

        shares: list[float] = []
        for mode in ("whole", "killed")[self.given.quick :]:
            with running() as sink, self._folder() as folder:
                data = folder / "data"
                found = self.cell(name, "rag", mode, folder=data, sink=sink)
                time.sleep(0.3)  # the sink reads what was sent before the end
                after = kept(data, peer, sink)[1]
                shares.append(after - found["before"])
        after_kill = shares.pop()
        whole = shares.pop() if shares else float(RUNS)
        if whole <= 0:
            raise Failed("nothing that could be counted was kept")
        return min(1.0, after_kill / whole)

    def imports(self, name: str, workload: str) -> dict[str, Any]:
        """CPU seconds and memory of importing and starting a recorder."""
        with running() as sink:
            found = [
                self.cell(name, workload, "import", sink=sink) for _ in range(self.given.imports)
            ]
        return {
            "import_s": quartiles(f["import_s"] for f in found),
            "import_mb": quartiles(f["import_mb"] for f in found),
        }


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for."""
    cells: dict[str, dict[str, Any]] = {w: {} for w in given.workloads}
    about: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=given.dir) as scratch:
        bench = Bench(given, Path(scratch))
        for name in given.peers:
            about[name] = {} if given.quick and name != "provkeep" else _about(bench, name)
            for workload in given.workloads:
                if (LLAMAINDEX if workload == QUERY else "langchain") not in PEERS[name].frameworks:
                    continue
                try:
                    if "failed" in about[name]:
                        raise Failed(about[name]["failed"])
                    cells[workload][name] = bench.costs(name, workload)
                except Failed as error:
                    cells[workload][name] = {"failed": str(error)}
                said = cells[workload][name].get("failed", "measured")
                print(f"{name}, {workload}: {said}", file=sys.stderr)
    return {"machine": machine(), "pins": list(FRAMEWORKS), "about": about, "cells": cells}


def _about(bench: Bench, name: str) -> dict[str, Any]:
    """Versions, survival and import cost of one recorder."""
    if bench.given.quick:
        return {"survives": bench.survives(name)}
    try:
        out = bench.cell(name, "rag", "versions")
    except Failed as error:
        return {"failed": str(error)}
    try:
        out["survives"] = bench.survives(name)
    except Failed as error:
        out["survives_failed"] = str(error)
    try:
        out |= bench.imports(name, "rag")
    except Failed as error:
        out["import_failed"] = str(error)
    return out


def _merged(files: list[Path]) -> dict[str, Any]:
    """Several outputs of ``--json`` as one; of what stands in two, the later."""
    out: dict[str, Any] = {}
    for file in files:
        found = json.loads(file.read_text())
        if not out:
            out = found
            continue
        out["about"] |= found["about"]
        for workload, cells in found["cells"].items():
            out["cells"].setdefault(workload, {}).update(cells)
    return out


def _names(text: str, known: Any) -> list[str]:
    names = text.split(",")
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise argparse.ArgumentTypeError(f"no such: {', '.join(unknown)}")
    return names


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peers", type=lambda t: _names(t, PEERS), default=list(PEERS))
    parser.add_argument("--workloads", type=lambda t: _names(t, WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--cache", type=Path, default=CACHE, help="where environments are made")
    parser.add_argument("--dir", type=Path, help="where recorders write, for the time being")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a recorder in one cell")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds for one cell")
    parser.add_argument("--imports", type=int, default=3, help="processes that import, each")
    parser.add_argument("--quick", action="store_true", help="provkeep alone, to see that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--merge", nargs="+", type=Path, help="print what --json said before")
    given = parser.parse_args(arguments)
    if given.quick:
        given.peers = list(QUICK)
        given.workloads = ["rag"]
        given.rounds, given.seconds = 2, 0.2
    found = _merged(given.merge) if given.merge else measure(given)
    print(json.dumps(found, indent=1) if given.json else report(found))
    ours = [c for cells in found["cells"].values() for n, c in cells.items() if "provkeep" in n]
    return 1 if any("failed" in c for c in ours) else 0


if __name__ == "__main__":
    raise SystemExit(main())
