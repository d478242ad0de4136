"""What cannot be written now is kept, counted and told; only ``strict`` stops a chain for it."""

import contextlib
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator

import pytest
from langchain_core.runnables import RunnableLambda

import provkeep
from provkeep.errors import (
    ProvkeepError,
    RecordingError,
    StoreFullError,
    StoreLockedError,
    StoreReplacedError,
)
from provkeep.langchain import ProvenanceHandler
from provkeep.recording import outbox as outbox_module
from provkeep.recording import recorder as recorder_module
from provkeep.recording import writer as writer_module
from provkeep.recording.recorder import Recorder, Scope, _recorders, recorder_for
from tests.scenarios.recording_kit import (
    bodies,
    checked,
    end,
    opens,
    say,
    start,
    traces,
    verified,
)


@pytest.fixture(autouse=True)
def no_recorder_goes_on_trying() -> Iterator[None]:
    """What these tests leave unwritten on purpose is thrown away with them."""
    yield
    let_go()


def let_go() -> None:
    """Throw away what waits, and close every recorder."""
    for recorder in _recorders.values():
        outbox = recorder._writer._outbox
        if outbox is not None:
            outbox._records.clear()
            outbox._unsealed.clear()
            recorder._writer.opened.clear()
            with contextlib.suppress(RecordingError):
                recorder.close()
    _recorders.clear()


LARGE = "a long text that needs pages of its own " * 2_000


def _connection(recorder: Recorder, file: str) -> sqlite3.Connection:
    opened = recorder._writer._outbox.opened
    return opened.store._writer.get() if file == "store" else opened.keys._link.get()


def _fill(recorder: Recorder, file: str) -> None:
    """From now on the file may not grow."""
    connection = _connection(recorder, file)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")


def _free(recorder: Recorder, file: str) -> None:
    _connection(recorder, file).execute("PRAGMA max_page_count = 1073741823")


def _use_up_keys(recorder: Recorder) -> None:
    """Take the data keys that were made ahead, so that the next trace needs the key file."""
    sealer = recorder._writer._outbox._sealer
    for ready in sealer._ready.values():
        while ready:
            ready.popleft()
    sealer._batch = dict.fromkeys(sealer._ready, 256)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MB in memory, if this process may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except OSError:
        pytest.skip("needs mount")
    if done.returncode:
        pytest.skip("this process may not mount a file system")
    yield folder
    let_go()
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_stops_no_chain_and_loses_nothing(small_disk):
    path = small_disk / "audit.db"
    recorder, scope = recorder_for(path), Scope("trace")
    said = [say(recorder, scope, f"{i} {LARGE}") for i in range(3)]
    recorder.flush()
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    said += [say(recorder, scope, f"{i} {LARGE}") for i in range(20)]
    with pytest.raises(RecordingError, match="free space") as caught:
        recorder.flush()
    assert caught.value.lost == 0
    assert caught.value.pending > 0
    ballast.unlink()
    recorder.flush()
    found = traces(path)
    assert found.keys() == {*said}
    assert not [record for record in checked(path) if record["k"] == "gap"]
    recorder.close()
    verified(path)
    assert opens(path, said[-1])


@pytest.mark.parametrize("step_back_ns", [3_600 * 10**9, 10**18])
def test_a_clock_that_steps_back_changes_the_times_and_nothing_else(
    tmp_path, monkeypatch, step_back_ns
):
    path = tmp_path / "audit.db"
    real = time.time_ns
    recorder, scope = recorder_for(path), Scope("trace")
    said = [say(recorder, scope)]
    half = start(recorder, scope)
    monkeypatch.setattr(time, "time_ns", lambda: real() - step_back_ns)
    end(recorder, scope, half)
    said += [f"{half:032x}", say(recorder, scope)]
    recorder.close()
    found = traces(path)
    assert found == dict.fromkeys(said, "ok")
    checked(path)
    verified(path)
    with provkeep.open(path) as trail:
        assert {t.id for t in trail.runs()} == {*said}
        for tid in said:
            assert trail.run(tid).to_svg() and opens(path, tid)


@pytest.mark.parametrize("durability", ["trace", "batch"])
@pytest.mark.parametrize("file", ["store", "keys"])
def test_on_a_full_disk_chains_go_on_and_everything_is_written_when_there_is_room(
    tmp_path, file, durability
):
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope(durability)
    said = [say(recorder, scope)]
    recorder.flush()
    half = start(recorder, scope, LARGE)
    if file == "keys":
        _use_up_keys(recorder)
    _fill(recorder, file)
    for i in range(12):
        said.append(say(recorder, scope, f"{i} {LARGE}"))
    for _ in range(2):  # it says so every time, not once
        with pytest.raises(RecordingError, match=r"full.*free space") as caught:
            recorder.flush()
        assert caught.value.lost == 0
        assert caught.value.pending >= 12
        assert isinstance(caught.value.__cause__, StoreFullError)
    end(recorder, scope, half, LARGE)
    with pytest.raises(RecordingError, match="free space"):
        recorder.close()  # what is kept is not thrown away
    _free(recorder, file)
    recorder.flush()  # nothing is missing, so there is nothing to tell
    found = traces(path)
    assert {*said, f"{half:032x}"} == found.keys()
    assert set(found.values()) == {"ok"}
    records = checked(path)
    assert not [record for record in records if record["k"] == "gap"]
    recorder.close()
    verified(path)
    assert opens(path, said[-1])


def test_beyond_the_bound_the_loss_is_counted_told_and_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox_module, "MAX_BACKLOG", 5)
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope("trace")
    say(recorder, scope)
    recorder.flush()
    _fill(recorder, "store")
    said = [say(recorder, scope, f"{i} {LARGE}", children=0) for i in range(9)]
    with pytest.raises(RecordingError, match=r"8 events lost, 5 traces still waiting"):
        recorder.flush()
    _free(recorder, "store")
    recorder.flush()
    assert len(set(said) & traces(path).keys()) == 5
    assert [record["events"] for record in bodies(path) if record["k"] == "gap"] == [8]
    after = say(recorder, scope, LARGE)
    recorder.close()
    assert after in traces(path)
    verified(path)


def _lock(path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


@pytest.mark.parametrize("suffix", ["", "-keys"])
def test_a_lock_that_stays_lets_chains_go_on_and_loses_nothing(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(writer_module, "BUSY_MS", 50)
    monkeypatch.setattr(writer_module, "LOCKED_S", 0.2)
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope("trace")
    said = [say(recorder, scope)]
    recorder.settle()
    if suffix:
        _use_up_keys(recorder)
    lock = _lock(f"{path}{suffix}")
    said += [say(recorder, scope, f"{i}") for i in range(5)]
    with pytest.raises(RecordingError, match="stayed locked") as caught:
        recorder.flush()
    assert (caught.value.lost, caught.value.pending) == (0, 5)
    assert isinstance(caught.value.__cause__, StoreLockedError)
    lock.rollback()
    lock.close()
    recorder.close()
    assert set(said) == traces(path).keys()
    checked(path)
    verified(path)


def test_a_lock_that_passes_is_waited_for(tmp_path, monkeypatch):
    """A chain that has been let go was committed, also when others write."""
    monkeypatch.setattr(writer_module, "BUSY_MS", 20)
    path = tmp_path / "audit.db"
    recorder = recorder_for(path)
    refused = []
    kept = outbox_module.Outbox._refuse

    def refuse(outbox, error):
        kept(outbox, error)
        if outbox is not recorder._writer._outbox:
            return  # a recorder of another test that still waits for its file
        refused.append(error)
        if lock.in_transaction:
            lock.rollback()

    monkeypatch.setattr(outbox_module.Outbox, "_refuse", refuse)
    lock = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN IMMEDIATE")
    tid = say(recorder, Scope("strict"))
    assert len(refused) == 1
    assert tid in traces(path)
    lock.close()
    recorder.close()


def _delete(path):
    path.unlink()


def _delete_log(path):
    path.with_name(path.name + "-wal").unlink()


def _delete_keys(path):
    path.with_name(path.name + "-keys").unlink()


def _replace(path):
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)
    copy.replace(path)


def _by_a_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("missing"))


def _execute(path, *statements):
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def _cut(path):
    """Whoever can write the file takes the last record away."""
    _execute(path, "DELETE FROM record WHERE seq = 1", "DELETE FROM payload", "DELETE FROM head")


def _rewrite(path):
    """The same number of records, and another last one."""
    _execute(path, "UPDATE head SET frontier = zeroblob(32)")


def _regrow(path):
    """More records than before, not ending in ours."""
    _execute(
        path,
        "UPDATE record SET body = x'7b7d' WHERE seq = 1",
        "INSERT INTO record VALUES (2, x'7b7d')",
        "UPDATE head SET size = 3, frontier = zeroblob(64)",
    )


@pytest.mark.parametrize(
    "harm",
    [_delete, _delete_log, _delete_keys, _replace, _by_a_link, _cut, _rewrite, _regrow],
)
def test_a_file_that_is_no_longer_ours_is_noticed_before_the_next_acknowledgement(tmp_path, harm):
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope("trace")
    say(recorder, scope)
    recorder.flush()
    harm(path)
    say(recorder, scope)  # the chain goes on
    with pytest.raises(RecordingError, match="deleted, replaced or rolled back") as caught:
        recorder.flush()
    assert (caught.value.lost, caught.value.pending) == (0, 1)
    with pytest.raises(StoreReplacedError):
        say(recorder, Scope("strict"))
    with pytest.raises(RecordingError, match="2 traces still waiting"):
        recorder.close()


def test_a_file_that_is_put_back_is_written_again(tmp_path):
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope("trace")
    said = [say(recorder, scope)]
    path.rename(tmp_path / "elsewhere")
    said.append(say(recorder, scope))
    with pytest.raises(RecordingError, match="put the original back"):
        recorder.flush()
    (tmp_path / "elsewhere").rename(path)
    recorder.close()
    assert set(said) == traces(path).keys()
    checked(path)
    verified(path)


def test_an_older_copy_written_over_the_running_store_does_not_verify(tmp_path):
    """The file is the same and SQLite reads from memory: only the log itself can show it."""
    path, copy = tmp_path / "audit.db", tmp_path / "copy"
    recorder, scope = recorder_for(path), Scope("trace")
    recorder.flush()
    _execute(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copyfile(path, copy)
    for i in range(5):
        say(recorder, scope, f"{i}")
    recorder.flush()
    _execute(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copyfile(copy, path)
    with provkeep.open(path) as trail:
        assert not trail.verify()
    say(recorder, scope)
    with pytest.raises(RecordingError):
        for _ in range(3):
            recorder.close()
            say(recorder, scope)


def _chain():
    return RunnableLambda(lambda x: x + " can be said", name="step")


def test_strict_stops_the_chain_with_an_error_that_says_why(tmp_path):
    path = tmp_path / "audit.db"
    handler = ProvenanceHandler(path, durability="strict")
    config = {"callbacks": [handler]}
    _chain().invoke("much", config)
    _fill(handler._recorder, "store")
    with pytest.raises(ProvkeepError, match="free space"):
        _chain().invoke(LARGE, config)
    _free(handler._recorder, "store")
    assert _chain().invoke("more", config) == "more can be said"
    handler.close()
    verified(path)


@pytest.mark.parametrize("durability", ["trace", "batch"])
def test_other_modes_never_raise_into_the_chain(tmp_path, durability):
    path = tmp_path / "audit.db"
    handler = ProvenanceHandler(path, durability=durability)
    config = {"callbacks": [handler]}
    _chain().invoke("much", config)
    path.rename(tmp_path / "elsewhere")
    assert _chain().invoke("more", config) == "more can be said"
    with pytest.raises(RecordingError):
        handler.flush()
    (tmp_path / "elsewhere").rename(path)
    handler.close()


def test_strict_commits_reach_the_disk_and_so_does_every_checkpoint(tmp_path, monkeypatch):
    """FULL makes SQLite sync the write-ahead log before a commit returns; NORMAL does not."""
    path = tmp_path / "audit.db"
    recorder = recorder_for(path)
    connection = _connection(recorder, "store")
    log = recorder._writer._outbox.opened.log
    levels = []
    append = log.append

    def spy(records, **options):
        append(records, **options)
        levels.append(connection.execute("PRAGMA synchronous").fetchone()[0])

    monkeypatch.setattr(log, "append", spy)
    say(recorder, Scope("trace"))
    recorder.settle()
    say(recorder, Scope("strict"))
    say(recorder, Scope("trace"))
    recorder.settle()
    assert levels == [1, 2, 1]  # NORMAL, FULL, NORMAL
    said: list[str] = []
    connection.set_trace_callback(said.append)
    recorder.flush()
    connection.set_trace_callback(None)
    [signed] = [i for i, text in enumerate(said) if "INTO checkpoint" in text]
    assert [text for text in said[:signed] if "synchronous" in text][-1].endswith("FULL")
    keys = _connection(recorder, "keys")
    assert keys.execute("PRAGMA synchronous").fetchone()[0] == 2
    recorder.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_dies_is_replaced_and_nobody_waits_for_the_dead_one(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "POLL_S", 0.05)
    monkeypatch.setattr(writer_module, "POLL_S", 0.05)
    path = tmp_path / "audit.db"
    recorder = recorder_for(path)
    turn = writer_module.Writer._turn
    deaths = []

    def die(writer, *args, **options):
        if len(deaths) < 3:
            deaths.append(time.monotonic())
            raise SystemExit
        turn(writer, *args, **options)

    monkeypatch.setattr(writer_module.Writer, "_turn", die)
    said = [say(recorder, Scope("strict")), say(recorder, Scope("trace"))]
    recorder.close()
    assert len(deaths) == 3
    assert set(said) == traces(path).keys()
    checked(path)


def test_in_batch_mode_a_queue_that_is_too_long_makes_chains_wait(tmp_path, monkeypatch):
    """Nothing is dropped and memory stays bounded: the queue blocks."""
    monkeypatch.setattr(writer_module, "MAX_QUEUED", 4)
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope("batch")
    longest = 0
    for i in range(100):
        say(recorder, scope, f"{i}")
        longest = max(longest, recorder._writer._queue.qsize())
    recorder.close()
    assert longest <= 5
    assert len(traces(path)) == 100


@pytest.mark.parametrize("durability", ["trace", "batch"])
def test_a_store_that_cannot_be_opened_again_keeps_what_is_said_until_it_can(tmp_path, durability):
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope(durability)
    said = [say(recorder, scope)]
    recorder.close()
    path.rename(tmp_path / "elsewhere")
    path.write_text("no database")
    said += [say(recorder, scope) for _ in range(3)]
    for _ in range(2):
        with pytest.raises(RecordingError, match=r"not a database.*0 events lost, 3 traces"):
            recorder.flush()
    (tmp_path / "elsewhere").replace(path)
    recorder.close()
    assert set(said) == traces(path).keys()
    checked(path)
    verified(path)


def test_a_store_that_stays_closed_to_us_loses_the_oldest_and_counts_them(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "MAX_OPEN", 3)
    path = tmp_path / "audit.db"
    recorder, scope = recorder_for(path), Scope("trace")
    say(recorder, scope)
    recorder.close()
    path.rename(tmp_path / "elsewhere")
    path.write_text("no database")
    said = [say(recorder, scope) for _ in range(5)]
    with pytest.raises(RecordingError, match=r"8 events lost, 3 traces"):
        recorder.flush()
    (tmp_path / "elsewhere").replace(path)
    recorder.close()
    assert said[2:] == list(traces(path))[1:]
    assert [record["events"] for record in bodies(path) if record["k"] == "gap"] == [8]


def test_strict_fails_when_the_store_cannot_be_opened_again(tmp_path):
    path = tmp_path / "audit.db"
    handler = ProvenanceHandler(path, durability="strict")
    handler.close()
    path.rename(tmp_path / "elsewhere")
    path.mkdir()
    with pytest.raises(ProvkeepError, match="it is a folder"):
        _chain().invoke("much", {"callbacks": [handler]})
    path.rmdir()
    (tmp_path / "elsewhere").rename(path)
    handler.flush()
