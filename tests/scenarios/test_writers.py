"""Processes, threads and forks write one file: one log, no lost event, no lock error."""

import asyncio
import gc
import multiprocessing
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from langchain_core.runnables import RunnableLambda

from provkeep.langchain import ProvenanceHandler
from provkeep.model import records as r
from provkeep.recording.recorder import Recorder, Scope, close_all, recorder_for
from provkeep.store.connection import create_private
from tests.scenarios.recording_kit import (
    at_once,
    bodies,
    checked,
    end,
    forked,
    needs_fork,
    opens,
    say,
    start,
    traces,
    verified,
)


def _writer(path: Path, durability: str, threads: int, each: int, said: Path) -> None:
    recorder, scope = recorder_for(path), Scope(durability)

    def work(name: int) -> list[str]:
        return [say(recorder, scope, f"{name} {i}") for i in range(each)]

    with ThreadPoolExecutor(threads) as pool:
        lines = [tid for tids in pool.map(work, range(threads)) for tid in tids]
    recorder.close()
    said.write_text(" ".join(lines))


@needs_fork
@pytest.mark.parametrize("made", [True, False], ids=["", "new"])
@pytest.mark.parametrize(
    ("processes", "durability", "threads", "each"),
    [(2, "trace", 4, 25), (4, "batch", 3, 25), (2, "strict", 2, 10)],
)
def test_processes_and_threads_on_one_file_lose_nothing(
    tmp_path, processes, durability, threads, each, made
):
    path = tmp_path / "audit.db"
    if made:
        recorder_for(path).close()
    files = [tmp_path / f"said {n}" for n in range(processes)]
    works = [partial(_writer, path, durability, threads, each, file) for file in files]
    assert at_once(works) == [0] * processes
    said = [tid for file in files for tid in file.read_text().split()]
    assert len(said) == processes * threads * each
    found = traces(path)
    assert set(said) == found.keys()
    assert set(found.values()) == {"ok"}
    records = checked(path)
    assert not [record for record in records if record["k"] == "gap"]
    verified(path)
    assert all(opens(path, tid) for tid in said[:: len(said) // 4])


@needs_fork
@pytest.mark.parametrize("again", range(4))
def test_processes_that_make_the_same_store_at_once_make_one(tmp_path, home, again):
    path = tmp_path / "new" / "audit.db"

    def make(number: int) -> None:
        recorder = recorder_for(path)
        text = f"{int(recorder.created)} {say(recorder, Scope())}"
        (tmp_path / f"said {number}").write_text(text)

    assert at_once([partial(make, number) for number in range(4)]) == [0] * 4
    answers = [(tmp_path / f"said {number}").read_text().split() for number in range(4)]
    assert sorted(int(created) for created, _ in answers) == [0, 0, 0, 1]
    assert {tid for _, tid in answers} == traces(path).keys()
    checked(path)
    verified(path)
    assert all(opens(path, tid) for _, tid in answers)
    assert len(list((home / "stores").iterdir())) == 1


@needs_fork
def test_a_child_forked_with_an_open_trace_records_its_own_and_leaves_the_parents(tmp_path):
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope()
    before = say(recorder, scope)
    root = start(recorder, scope)
    child = start(recorder, scope, parent=root)
    said = tmp_path / "said"

    def work() -> None:
        inherited = recorder_for(path)
        assert inherited is recorder
        said.write_text(say(inherited, scope))
        end(inherited, scope, child, "said by the child")  # begun in the parent
        end(inherited, scope, root, "said by the child")
        inherited.close()

    assert forked(work) == 0
    end(recorder, scope, child)
    end(recorder, scope, root)
    after = say(recorder, scope)
    recorder.flush()
    found = traces(path)
    assert {before, f"{root:032x}", said.read_text(), after} <= found.keys()
    assert found[f"{root:032x}"] == "ok"
    assert len(found) == 6  # the two ends without a beginning are kept as traces of their own
    checked(path)
    verified(path)
    assert opens(path, f"{root:032x}")
    recorder.close()


@needs_fork
def test_the_parent_may_close_before_the_child_has_written(tmp_path):
    """A last close deletes the write-ahead log; it must not be the one the child writes to."""
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope()
    say(recorder, scope)
    read, write = os.pipe()
    go, signal = os.pipe()

    def work() -> None:
        first = say(recorder, scope)
        os.write(write, b"1")
        os.read(go, 1)
        (tmp_path / "said").write_text(f"{first} {say(recorder, scope)}")

    forker = threading.Thread(target=lambda: forked(work))
    forker.start()
    os.read(read, 1)
    recorder.close()
    os.write(signal, b"1")
    forker.join()
    assert set((tmp_path / "said").read_text().split()) <= traces(path).keys()
    checked(path)
    for descriptor in (read, write, go, signal):
        os.close(descriptor)


@needs_fork
def test_forks_amid_recording_neither_hang_nor_lose(tmp_path):
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope()
    stop, said = threading.Event(), []

    def work() -> None:
        while not stop.is_set():
            said.append(say(recorder, scope))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    statuses = [forked(lambda: say(recorder, scope)) for _ in range(8)]
    stop.set()
    for thread in threads:
        thread.join()
    recorder.close()
    assert statuses == [0] * 8
    found = traces(path)
    assert set(said) <= found.keys()
    assert len([s for s in found.values() if s == "ok"]) == len(said) + 8
    checked(path)
    verified(path)


def _in_pool(path: str) -> str:
    return say(recorder_for(path), Scope("batch"))


@needs_fork
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_forked_multiprocessing_child_writes_its_queue_before_it_leaves(tmp_path):
    """Such children leave without running atexit."""
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope()
    first = say(recorder, scope)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_in_pool, args=(str(path),)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    recorder.flush()
    found = traces(path)
    assert first in found
    assert len(found) == 4
    checked(path)


def _chain():
    return RunnableLambda(lambda x: f"{x} can be said", name="one") | RunnableLambda(
        lambda x: f"{x}, and more", name="two"
    )


def test_one_handler_serves_fifty_threads(tmp_path):
    path = tmp_path / "audit.db"
    chain = _chain()
    with ProvenanceHandler(path) as handler, ThreadPoolExecutor(50) as pool:
        answers = list(
            pool.map(lambda n: chain.invoke(f"n{n}", {"callbacks": [handler]}), range(200))
        )
    assert answers == [f"n{n} can be said, and more" for n in range(200)]
    found = traces(path)
    assert len(found) == 200
    assert set(found.values()) == {"ok"}
    assert all(record.get("n", 0) == 0 for record in bodies(path))  # one record a trace
    checked(path)


async def test_a_hundred_chains_of_one_event_loop_are_a_hundred_traces(tmp_path):
    path = tmp_path / "audit.db"

    async def later(x: str) -> str:
        await asyncio.sleep(0)
        return f"{x} can be said"

    chain = RunnableLambda(later) | RunnableLambda(later)
    with ProvenanceHandler(path) as handler:
        config = {"callbacks": [handler]}
        await asyncio.gather(*(chain.ainvoke(f"n{n}", config) for n in range(100)))
    found = traces(path)
    assert len(found) == 100
    assert set(found.values()) == {"ok"}
    checked(path)


def test_many_may_flush_at_once_and_what_comes_after_close_is_recorded(tmp_path):
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope("batch")
    said: list[str] = []

    def work() -> None:
        for _ in range(10):
            said.append(say(recorder, scope))
            recorder.flush()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()
    recorder.close()
    recorder.flush()
    said.append(say(recorder, scope))
    recorder.close()
    assert set(said) == traces(path).keys()
    checked(path)
    verified(path)


def test_traces_that_go_on_across_a_close_keep_all_they_say(tmp_path):
    """What was open is closed as unfinished; its ends come as traces of their own."""
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope()
    root = start(recorder, scope)
    recorder.close()
    assert traces(path) == {f"{root:032x}": "unfinished"}
    end(recorder, scope, root, "late but not lost")
    recorder.close()
    found = traces(path)
    assert sorted(found.values()) == ["ok", "unfinished"]
    checked(path)
    verified(path)
    [late] = [tid for tid, status in found.items() if status == "ok"]
    assert opens(path, late)


def test_closing_while_others_record_loses_nothing(tmp_path):
    """Whoever comes while the store is being closed opens it again."""
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope()
    said: list[str] = []

    def work() -> None:
        said.extend(say(recorder, scope) for _ in range(60))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        recorder.close()
    recorder.close()
    assert set(said) <= traces(path).keys()
    records = checked(path)
    # A trace cut off by a close is two traces, and its answer is in one of them.
    entries = [entry for record in records for entry in record.get("e", ())]
    assert sum(entry[0] == r.END and entry[1] == 0 for entry in entries) >= len(said)
    verified(path)


def test_a_finalizer_that_ends_a_run_on_the_writers_own_thread_does_not_wait_for_itself(tmp_path):
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope()

    class Abandoned:
        def __del__(self) -> None:
            said.append(say(recorder, scope, "from a finalizer"))

    said: list[str] = []
    root = start(recorder, scope)
    recorder.memo(root)["held"] = (Abandoned(), None)
    end(recorder, scope, root)
    gc.collect()
    recorder.flush()
    recorder.flush()
    assert len(said) == 1
    assert {f"{root:032x}", said[0]} == traces(path).keys()
    recorder.close()


def test_two_recorders_of_one_process_on_one_file_write_one_log(tmp_path):
    """Not meant to happen; a link to the same file is enough for it to."""
    path = tmp_path / "audit.db"
    scope = Scope()
    one, two = Recorder(path), Recorder(path)
    said = [say(recorder, scope) for _ in range(20) for recorder in (one, two)]
    one.close()
    two.close()
    close_all()
    assert set(said) == traces(path).keys()
    checked(path)
    verified(path)


@needs_fork
def test_opening_a_file_again_takes_no_lock_of_this_process_away(tmp_path):
    """Else a child's last close deletes the write-ahead log that the parent goes on writing."""
    path = tmp_path / "audit.db"
    recorder = recorder_for(path)
    say(recorder, Scope("batch"))
    recorder.flush()
    connection = sqlite3.connect(path)
    connection.execute("SELECT count(*) FROM record").fetchone()
    create_private(path)

    def come_and_go():
        other = sqlite3.connect(path)
        other.execute("SELECT count(*) FROM record").fetchone()
        other.close()

    log = path.with_name(path.name + "-wal")
    before = log.stat().st_ino
    assert forked(come_and_go) == 0
    assert log.stat().st_ino == before
    connection.close()
    say(recorder, Scope())
    recorder.close()
    verified(path)
