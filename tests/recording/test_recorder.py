"""The recorder takes events from any thread, once each, whatever order they come in."""

import gc
import threading
import time
import tracemalloc

import pytest

import provkeep
from provkeep.errors import NotAProvkeepFileError
from provkeep.model import records as r
from provkeep.model.events import NOTHING, Noted, RunEnded, RunFailed, RunStarted
from provkeep.recording import recorder as recorder_module
from provkeep.recording import writer as writer_module
from provkeep.recording.recorder import Recorder, Scope, recorder_for
from tests.scenarios.recording_kit import bodies, checked, end, say, start, traces, verified


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.db"


def _fail(recorder, scope, rid, status="error", outputs=NOTHING):
    recorder.record(
        RunFailed(run_id=rid, at_ns=time.time_ns(), status=status, outputs=outputs), scope
    )


def _runs(path, tid):
    with provkeep.open(path) as trail:
        return [(node.attrs.get("parent"), node.attrs["status"]) for node in trail.run(tid).runs]


def _entries(path, kind, tid=None):
    return [
        entry
        for body in bodies(path)
        if body["k"] == "trace" and (tid is None or body["t"] == tid)
        for entry in body["e"]
        if entry[0] == kind
    ]


def test_handlers_on_one_path_share_a_recorder_however_the_path_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to(tmp_path / "audit.db")
    assert recorder_for("audit.db") is recorder_for(tmp_path / "." / "audit.db")
    assert recorder_for("audit.db") is recorder_for("link.db")
    assert recorder_for("audit.db") is not recorder_for("other.db")


def test_a_store_that_cannot_be_opened_is_told_to_the_caller_and_may_be_tried_again(path):
    path.write_text("no database")
    with pytest.raises(NotAProvkeepFileError):
        recorder_for(path)
    path.unlink()
    assert say(recorder_for(path), Scope()) in traces(path)


def test_a_durability_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="batch, trace, strict"):
        Scope("eventually")


def test_what_is_said_twice_is_recorded_once(path):
    recorder, scope = recorder_for(path), Scope()
    started = RunStarted(run_id=7, parent_id=None, at_ns=1, kind="chain", name="step", inputs="in")
    ended = RunEnded(run_id=7, at_ns=2, outputs="out")
    for event in (started, started, ended, ended, started, ended):
        recorder.record(event, scope)
    recorder.close()
    assert len(_entries(path, r.RUN)) == len(_entries(path, r.END)) == 1


def test_an_end_whose_beginning_was_not_heard_is_kept(path):
    recorder, scope = recorder_for(path), Scope()
    end(recorder, scope, 4711)
    recorder.record(Noted(run_id=4712, at_ns=1, name="stray"), scope)
    recorder.close()
    assert traces(path) == {f"{4711:032x}": "ok"}
    checked(path)
    verified(path)


def test_a_run_begun_under_a_parent_that_goes_on_after_the_root_belongs_to_its_trace(path):
    """A stream that is drained after the root returned, a thread that nobody waited for."""
    recorder, scope = recorder_for(path), Scope()
    root = start(recorder, scope)
    child = start(recorder, scope, parent=root)
    end(recorder, scope, root)
    grandchild = start(recorder, scope, parent=child)
    end(recorder, scope, grandchild)
    end(recorder, scope, child)
    recorder.close()
    assert list(traces(path)) == [f"{root:032x}"]
    assert len(_entries(path, r.RUN)) == 3
    assert {entry[3] for entry in _entries(path, r.END)} == {"ok"}
    checked(path)
    verified(path)


def test_a_flush_leaves_running_traces_open(path):
    recorder, scope = recorder_for(path), Scope()
    root = start(recorder, scope)
    child = start(recorder, scope, parent=root)
    recorder.flush()
    assert traces(path) == {f"{root:032x}": None}  # what it said so far is written
    end(recorder, scope, child)
    recorder.flush()
    end(recorder, scope, root)
    recorder.close()
    assert traces(path) == {f"{root:032x}": "ok"}
    assert [entry[3] for entry in _entries(path, r.END)] == ["ok", "ok"]
    checked(path)
    verified(path)


@pytest.mark.parametrize(("status", "left"), [("ok", "unfinished"), ("cancelled", "cancelled")])
def test_runs_that_never_end_are_closed_with_their_root(path, status, left):
    recorder, scope = recorder_for(path), Scope()
    root = start(recorder, scope)
    start(recorder, scope, parent=root)
    if status == "ok":
        end(recorder, scope, root)
    else:
        _fail(recorder, scope, root, status)
    recorder.flush()
    assert [entry[3] for entry in _entries(path, r.END)] == [status, left]
    assert not recorder._runs
    recorder.close()
    verified(path)


def test_a_given_up_run_that_ends_after_all_is_not_lost_nor_mixed_with_what_was_said(path):
    recorder, scope = recorder_for(path), Scope()
    root = start(recorder, scope)
    child = start(recorder, scope, parent=root)
    end(recorder, scope, root)
    recorder.flush()  # gives the child up
    end(recorder, scope, child, "late")
    recorder.close()
    found = traces(path)
    assert len(found) == 2
    assert f"{child:032x}" not in found
    assert set(found.values()) == {"ok"}
    checked(path)
    verified(path)


def test_a_given_up_run_that_says_it_was_cancelled_adds_nothing(path):
    recorder, scope = recorder_for(path), Scope()
    root = start(recorder, scope)
    child = start(recorder, scope, parent=root)
    end(recorder, scope, root)
    recorder.flush()
    _fail(recorder, scope, child, "cancelled")
    recorder.close()
    assert len(traces(path)) == 1


def test_a_run_that_begins_while_its_trace_is_given_up_is_recorded(path, monkeypatch):
    """Its thread has found the open trace and is stopped there until the writer has closed it."""
    recorder, scope = recorder_for(path), Scope()
    root = start(recorder, scope)
    child = start(recorder, scope, parent=root)
    end(recorder, scope, root)
    buffer = recorder._runs[child]
    recorder.flush()
    assert buffer.closed
    recorder._runs[child] = buffer  # as its thread saw it
    late = start(recorder, scope, parent=child)
    end(recorder, scope, late, "late")
    recorder.close()
    assert list(traces(path)) == [f"{root:032x}"]
    assert len(_entries(path, r.RUN)) == 3
    assert sorted(entry[3] for entry in _entries(path, r.END)) == ["ok", "ok", "unfinished"]
    checked(path)
    verified(path)


def test_lingering_runs_are_given_up_without_a_flush(path, monkeypatch):
    monkeypatch.setattr(writer_module, "LINGER_S", 0.0)
    monkeypatch.setattr(writer_module, "PARTIAL_S", 0.0)
    monkeypatch.setattr(writer_module, "TICK_S", 0.01)
    recorder, scope = recorder_for(path), Scope()
    root = start(recorder, scope)
    start(recorder, scope, parent=root)
    end(recorder, scope, root)
    while recorder._runs:
        time.sleep(0.01)
    recorder.close()
    assert [entry[3] for entry in _entries(path, r.END)] == ["ok", "unfinished"]


def test_beyond_a_number_of_open_traces_the_longest_idle_are_closed(path, monkeypatch):
    monkeypatch.setattr(writer_module, "MAX_OPEN", 20)
    recorder, scope = recorder_for(path), Scope()
    roots = [start(recorder, scope) for _ in range(50)]
    recorder.flush()
    assert len(recorder._writer.opened) == 20
    assert len(recorder._runs) == 20
    for root in roots:
        end(recorder, scope, root)
    recorder.close()
    found = traces(path)
    assert sorted(found.values()) == ["ok"] * 50 + ["unfinished"] * 30
    checked(path)
    verified(path)


@pytest.mark.parametrize("abandoned", [False, True])
def test_memory_stays_flat(path, monkeypatch, abandoned):
    """Also when every trace leaves a run behind that never ends."""
    monkeypatch.setattr(recorder_module, "REMEMBERED_ENDS", 200)
    recorder, scope = recorder_for(path), Scope("batch")

    def work(times: int) -> None:
        for i in range(times):
            root = start(recorder, scope, f"{i}")
            child = start(recorder, scope, f"{i}", root)
            if not abandoned:
                end(recorder, scope, child)
            end(recorder, scope, root)
        recorder.flush()
        gc.collect()

    tracemalloc.start()
    work(900)  # fills what is remembered across traces, up to its bound
    grown = []
    for _ in range(3):  # a leak shows in each of them, what other tests left running in some
        before = tracemalloc.get_traced_memory()[0]
        work(900)
        grown.append(tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()
    assert not recorder._runs
    assert not recorder._writer.opened
    assert not recorder._writer._touched
    assert not recorder._writer._lingering
    assert min(grown) < 900 * 300, (
        "a trace leaves memory behind"
    )  # bytes; a kept trace has kilobytes
    recorder.close()


def test_a_callback_that_failed_is_counted_and_recorded_as_a_gap(path):
    recorder, scope = recorder_for(path), Scope()
    say(recorder, scope)
    recorder.fail(ValueError("a secret"))
    with pytest.raises(provkeep.errors.RecordingError, match="1 events lost") as caught:
        recorder.flush()
    assert "secret" not in str(caught.value)
    recorder.flush()  # told once
    assert [body["events"] for body in bodies(path) if body["k"] == "gap"] == [1]
    recorder.close()
    verified(path)


def test_failures_of_many_threads_are_all_counted(path):
    recorder = recorder_for(path)

    def work() -> None:
        for _ in range(500):
            recorder.fail(ValueError())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(provkeep.errors.RecordingError, match="2000 events lost"):
        recorder.close()


def test_the_last_handler_closes_and_a_later_one_opens_again(path):
    recorder, scope = recorder_for(path), Scope()
    recorder.acquire()
    recorder.acquire()
    say(recorder, scope)
    recorder.release()
    assert recorder._writer.running
    recorder.release()
    assert not recorder._writer.running
    assert not path.with_name("audit.db-wal").exists()  # no connection is left
    say(recorder, scope)
    recorder.close()
    assert len(traces(path)) == 2


def test_closing_twice_does_not_make_a_deleted_store_again(path):
    recorder = recorder_for(path)
    say(recorder, Scope())
    recorder.close()
    path.unlink()
    recorder.flush()
    recorder.close()
    assert not path.exists()


def test_a_recorder_nobody_recorded_with_starts_no_thread(path):
    before = threading.active_count()
    recorder = Recorder(path)
    recorder.flush()
    assert threading.active_count() == before
    recorder.close()
    checked(path)


def test_a_chain_waits_for_the_end_of_its_trace_though_the_writer_looks_meanwhile(
    path, monkeypatch
):
    """The writer looks at open traces by itself: at the worst moment, just as somebody waits."""

    plain = recorder_module.Buffer

    class Watched(plain):
        __slots__ = ()

        @property
        def done(self):
            return plain.done.__get__(self)

        @done.setter
        def done(self, value):
            plain.done.__set__(self, value)
            if value is not None:
                recorder._writer.flush(30)

    monkeypatch.setattr(recorder_module, "Buffer", Watched)
    recorder, scope = recorder_for(path), Scope(mask=str.upper)  # what is masked is waited for
    tid = say(recorder, scope, "waiting")
    assert [e[1] >= 0 for e in _entries(path, r.FINAL, tid)] == [True]
    recorder.close()
    verified(path)


def test_a_root_that_ends_just_after_the_writer_read_is_not_finished_without_its_output(
    path, monkeypatch
):
    plain = recorder_module.Buffer
    late = []

    class Watched(plain):
        __slots__ = ()

        @property
        def ended(self):
            if late and self.trace is not None:
                self.events.append(late.pop())
                plain.ended.__set__(self, True)
            return plain.ended.__get__(self)

        @ended.setter
        def ended(self, value):
            plain.ended.__set__(self, value)

    monkeypatch.setattr(recorder_module, "Buffer", Watched)
    recorder, scope = recorder_for(path), Scope("batch")
    rid = start(recorder, scope, "the question")
    late.append(RunEnded(run_id=rid, at_ns=time.time_ns(), outputs="an answer, which is late"))
    recorder.flush()
    assert not late
    recorder._writer.submit(recorder._runs[rid])
    recorder.flush()
    (final,) = _entries(path, r.FINAL)
    assert final[1] >= 0 and final[2] >= 0
    recorder._runs.clear()
    recorder.close()
    verified(path)
