"""Events without a framework, child processes and a checked log, for scenarios about recording.

The log is checked here from the stored bytes and ``tlog.merkle`` alone, so that a mistake that
``reading.verify`` shared with the recorder would still show.
"""

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import textwrap
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import provkeep
from provkeep.model.events import RunEnded, RunStarted
from provkeep.model.records import unb64
from provkeep.recording.recorder import Recorder, Scope, settle
from provkeep.tlog.merkle import leaf_hash, root_of

SRC = Path(provkeep.__file__).parents[1]
ROOT = Path(__file__).parents[2]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PRELUDE = """
import os, sys, threading, time
from tests.scenarios.recording_kit import *
from provkeep.recording.recorder import Scope, recorder_for
"""


def start(recorder: Recorder, scope: Scope, text: str = "hello", parent: int | None = None) -> int:
    """Begin a run and return its id."""
    rid = uuid.uuid4().int
    recorder.record(
        RunStarted(
            run_id=rid,
            parent_id=parent,
            at_ns=time.time_ns(),
            kind="chain",
            name="step",
            inputs={"question": f"what about {text}, and what follows from it?"},
        ),
        scope,
    )
    return rid


def end(recorder: Recorder, scope: Scope, rid: int, text: str = "hello") -> None:
    """End a run."""
    answer = f"about {text} this and that can be said"
    recorder.record(RunEnded(run_id=rid, at_ns=time.time_ns(), outputs=answer), scope)


def say(recorder: Recorder, scope: Scope, text: str = "hello", *, children: int = 1) -> str:
    """Record one small trace and return its id."""
    root = start(recorder, scope, text)
    for _ in range(children):
        end(recorder, scope, start(recorder, scope, text, root), text)
    end(recorder, scope, root, text)
    return f"{root:032x}"


def spawn(code: str, *args: object, **options: object) -> subprocess.Popen[str]:
    """Run code in a new interpreter, with this kit's names at hand."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{SRC}{os.pathsep}{ROOT}"},
        **options,
    )


def finish(process: subprocess.Popen[str], timeout: float = 60) -> list[str]:
    """Wait for a process that must succeed; what it printed, by lines."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return out.split()


def forked(work: Callable[[], object]) -> int:
    """Do something in a forked child; its exit status, 0 when it returned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: what is tested
        child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001  # it must not run pytest's own ending
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_once(works: Sequence[Callable[[], object]]) -> list[int]:
    """Do things in as many forked processes, which begin together; their exit statuses."""
    wait, go = os.pipe()
    there, ready = os.pipe()

    def begin(work: Callable[[], object]) -> None:
        os.close(go)
        os.write(ready, b"1")
        os.read(wait, 1)  # answered with "end of file" when the parent lets go
        work()

    with ThreadPoolExecutor(len(works)) as pool:
        answers = [pool.submit(forked, lambda work=work: begin(work)) for work in works]
        for _ in works:
            os.read(there, 1)
        os.close(go)
        statuses = [answer.result() for answer in answers]
    for descriptor in (wait, there, ready):
        os.close(descriptor)
    return statuses


def bodies(path: Path) -> list[dict]:
    """The records as stored; what is in journals is committed first."""
    settle(path)
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT body FROM record ORDER BY seq").fetchall()
    finally:
        connection.close()
    return [json.loads(row[0]) for row in rows]


def traces(path: Path) -> dict[str, str]:
    """Status by trace id, as the index has them; what is in journals is committed first."""
    settle(path)
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return {tid.hex(): s for tid, s in connection.execute("SELECT tid, status FROM trace")}
    finally:
        connection.close()


def checked(path: Path) -> list[dict]:
    """Check leaves, tree, payload hashes, numbering and keys; return the records."""
    settle(path)
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.execute("BEGIN")
    rows = connection.execute("SELECT seq, body FROM record ORDER BY seq").fetchall()
    size, frontier = connection.execute("SELECT size, frontier FROM head").fetchone()
    envelopes = dict(connection.execute("SELECT id, data FROM payload"))
    connection.close()
    assert [seq for seq, _ in rows] == list(range(size))
    hashes = [leaf_hash(body) for _, body in rows]
    edge = [bytes(frontier[i : i + 32]) for i in range(0, len(frontier), 32)]
    tree = b""
    for node in reversed(edge):  # the right edge, joined from the right
        tree = hashlib.sha256(b"\x01" + node + tree).digest() if tree else node
    assert root_of(hashes) == tree
    records = [json.loads(body) for _, body in rows]
    assert records[0]["k"] == "init"
    assert all(record["k"] != "init" for record in records[1:])
    numbers: dict[str, int] = {}
    for record in records:
        for i, (digest, _) in enumerate(record.get("p", ())):
            assert hashlib.sha256(envelopes.pop(record["p0"] + i)).digest() == unb64(digest)
        if record["k"] == "trace":
            assert record["n"] == numbers.get(record["t"], 0), "a record of a trace is missing"
            numbers[record["t"]] = record["n"] + 1
    assert not envelopes
    keys = sqlite3.connect(f"file:{path}-keys?mode=ro", uri=True)
    held = {number for (number,) in keys.execute("SELECT id FROM datakey")}
    keys.close()
    assert {key[1] for record in records for key in record.get("keys", ())} <= held
    return records


def opens(path: Path, tid: str) -> bool:
    """Can a reader open the trace's answer?"""
    with provkeep.open(path) as trail:
        return "can be said" in str(trail.text(trail.output(tid), purpose="a test"))


def verified(path: Path) -> None:
    """The package's own verdict."""
    with provkeep.open(path) as trail:
        report = trail.verify()
    assert report, report
