"""What was acknowledged survives the process in a sealed journal, and is told once."""

import gc
import os
import pickle
import signal
import stat
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import provkeep
from provkeep.model.events import NOTHING, Noted, RunEnded, RunFailed, RunStarted, TokensStreamed
from provkeep.model.snapshot import snapshot
from provkeep.model.values import Part, Typed, encode_json
from provkeep.recording import journal as journals
from provkeep.recording import writer as writers
from provkeep.recording.buffer import GROW_EVERY
from provkeep.recording.frames import Frame, decode, encode
from provkeep.recording.keeping import AT_ONCE, Keeping
from provkeep.recording.parts import Artifact, Run
from provkeep.recording.recorder import Scope, recorder_for, settle
from provkeep.recording.trace import Trace
from tests.scenarios.recording_kit import (
    checked,
    end,
    finish,
    forked,
    needs_fork,
    say,
    spawn,
    start,
    traces,
    verified,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there chains wait")

KILLED = """
recorder, scope = recorder_for(sys.argv[1]), Scope("trace", {"session": "secret-session"})
for i in range(int(sys.argv[2])):
    print(say(recorder, scope, f"matter-{i}", children=12), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.db"


def journals_of(path):
    return sorted(path.parent.glob("*.journal"))


def keys_of(home):
    return sorted(home.glob("stores/*/journal-*"))


def killed(path, count=3):
    """Record, die; what was acknowledged."""
    recorder_for(path).close()
    child = spawn(KILLED, path, count)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    return out.split()


def raw(path):
    """Trace ids as the database alone has them, journals aside."""
    import sqlite3

    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return {tid.hex() for (tid,) in connection.execute("SELECT tid FROM trace")}
    finally:
        connection.close()


def runs_of(path):
    """How many runs each trace has, journals included."""
    with provkeep.open(path) as trail:
        return {run.id: run.runs for run in trail.runs()}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.builds(Typed, st.text(), inner)
        | st.builds(Part, st.text(), st.text(), st.dictionaries(st.text(), inner, max_size=3))
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(value=st.just(NOTHING) | VALUES.map(snapshot), text=st.text())
def test_a_frame_says_what_was_said(value, text):
    events = [
        RunStarted(run_id=2**127 + 5, parent_id=None, at_ns=7, kind="chain", name=text),
        RunStarted(
            run_id=6, parent_id=5, at_ns=8, kind="tool", name="t", inputs=value, tools=("a", text)
        ),
        Noted(run_id=6, at_ns=9, name="retry", data=None),
        TokensStreamed(run_id=6, at_ns=9, chunks=((0, 3), (5, 2))),
        RunFailed(run_id=6, at_ns=10, status="error", error=value),
        RunEnded(run_id=2**127 + 5, at_ns=11, outputs=value, usage=(1, None, 3)),
    ]
    said = decode(encode(9, 2**127 + 5, {"actor": text}, events))
    assert (said.tid, said.root, said.names) == (9, 2**127 + 5, {"actor": text})
    assert [type(event) for event in said.events] == [type(event) for event in events]
    for mine, theirs in zip(said.events, events, strict=True):
        for name in type(mine).__slots__:
            one, other = getattr(mine, name), getattr(theirs, name)
            if other is NOTHING:
                assert one is NOTHING
            else:
                assert encode_json(one) == encode_json(other)


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_part_that_was_said_twice_is_one_part_again(at_once):
    part = Part("document", "Document", {"page_content": "text"})
    begun = RunStarted(run_id=1, parent_id=None, at_ns=1, kind="chain", name="x", inputs=[part])
    events = [begun, RunEnded(run_id=1, at_ns=2, outputs=[part])]
    frame = Frame(1, 1, {})
    for i in range(0, 2, at_once):
        frame.add(events[i : i + at_once])
    said = decode(frame.data())
    assert said.events[0].inputs[0] is said.events[1].outputs[0]


def test_a_frame_grows_while_its_trace_goes_on_and_holds_all_of_it(path, monkeypatch):
    monkeypatch.setattr(writers, "QUIET_S", 60)
    recorder, scope = recorder_for(path), Scope()
    root = start(recorder, scope)
    buffer = recorder._runs[root]
    for i in range(GROW_EVERY):
        end(recorder, scope, start(recorder, scope, f"child {i}", root))
    assert buffer.frame.count == 2 * GROW_EVERY
    end(recorder, scope, root)
    events = decode(buffer.said).events
    assert len(events) == buffer.framed == 2 * GROW_EVERY + 2
    assert [type(event) for event in events[-2:]] == [RunEnded, RunEnded]
    assert runs_of(path) == {f"{root:032x}": GROW_EVERY + 1}


def test_a_chain_waits_when_another_thread_is_at_its_frame(path):
    recorder, scope = recorder_for(path), Scope()
    root = start(recorder, scope)
    buffer = recorder._runs[root]
    for _ in range(GROW_EVERY):
        end(recorder, scope, start(recorder, scope, "child", root))
    with buffer.frame.held:
        for _ in range(GROW_EVERY):
            end(recorder, scope, start(recorder, scope, "child", root))
        end(recorder, scope, root)
    assert f"{root:032x}" in raw(path)
    assert runs_of(path) == {f"{root:032x}": 2 * GROW_EVERY + 1}


@pytest.mark.parametrize("bad", [os.system, print, Scope])
def test_a_frame_makes_nothing_but_values(bad):
    class Attack:
        def __reduce__(self):
            return bad, ("echo harm",)

    with pytest.raises(pickle.UnpicklingError):
        decode(pickle.dumps((1, 1, {}, [Attack()])))


def test_a_frame_takes_no_value_that_would_come_back_as_another():
    class Name(str):
        __slots__ = ()

    begun = RunStarted(run_id=1, parent_id=None, at_ns=1, kind="chain", name=Name("x"))
    with pytest.raises(pickle.PicklingError):
        encode(1, 1, {}, [begun])


@pytest.mark.parametrize("children", [0, GROW_EVERY])
def test_what_no_frame_takes_is_committed_while_its_chain_waits(path, children):
    class Name(str):
        __slots__ = ()

    recorder, scope = recorder_for(path), Scope()
    recorder.record(
        RunStarted(run_id=7, parent_id=None, at_ns=1, kind="chain", name=Name("odd")), scope
    )
    for _ in range(children):
        end(recorder, scope, start(recorder, scope, "child", 7))
    end(recorder, scope, 7)
    assert raw(path) == {f"{7:032x}"}
    assert runs_of(path) == {f"{7:032x}": children + 1}


def test_what_waits_is_bytes_to_pythons_collector(path, monkeypatch):
    monkeypatch.setattr(writers, "QUIET_S", 60)
    recorder, scope = recorder_for(path), Scope()
    root = start(recorder, scope)
    buffer = recorder._runs[root]
    end(recorder, scope, root)
    assert not buffer.events and not buffer.memo
    assert b"what about" in buffer.said and not gc.is_tracked(buffer.said)
    assert traces(path) == {f"{root:032x}": "ok"}


def test_a_recorded_trace_leaves_nothing_to_pythons_collector(path):
    def alive():
        kinds = (Trace, Run, Artifact)
        return {id(o): o for o in gc.get_objects() if type(o) in kinds}

    recorder = recorder_for(path)
    say(recorder, Scope())
    recorder.flush()
    gc.collect()
    before = alive()  # of other recorders
    gc.disable()
    try:
        for durability in ("trace", "batch"):
            say(recorder, Scope(durability), children=3)
        recorder.flush()
        assert not alive().keys() - before.keys()
    finally:
        gc.enable()


def test_what_was_acknowledged_before_kill_9_is_there_when_somebody_asks(path, home):
    said = killed(path)
    assert len(said) == 3
    missing = set(said) - raw(path)
    assert missing, "the process died before it committed"
    assert journals_of(path), "so it stands in the journal"
    with provkeep.open(path) as trail:
        assert {run.id for run in trail.runs()} == set(said)
        found = [trail.text(trail.output(tid).id) for tid in said]
        assert found == [f"about matter-{i} this and that can be said" for i in range(3)]
        assert {run.session for run in trail.runs()} == {"secret-session"}
    assert not journals_of(path)
    assert not keys_of(home)
    checked(path)
    verified(path)


def test_the_next_recorder_takes_up_what_was_left(path, home):
    said = killed(path)
    finish(spawn("recorder_for(sys.argv[1]).close()", path))
    assert raw(path) == set(said)
    assert not journals_of(path)
    assert not keys_of(home)


def test_what_was_committed_already_is_not_told_twice(path, home):
    """It died between the commit and letting go of the journal."""
    said = killed(path)
    [journal], [key] = journals_of(path), keys_of(home)
    copies = journal.read_bytes(), key.read_bytes()
    settle(path)
    assert traces(path).keys() == set(said)
    before = len(checked(path))
    journal.write_bytes(copies[0])
    key.write_bytes(copies[1])
    key.chmod(0o600)
    settle(path)
    assert traces(path).keys() == set(said)
    assert len(checked(path)) == before
    assert not journals_of(path)
    verified(path)


@pytest.mark.parametrize("where", [0.5, 0.99])
def test_a_changed_frame_is_refused_and_those_before_it_are_kept(path, home, where):
    said = killed(path)
    [journal] = journals_of(path)
    blob = bytearray(journal.read_bytes())
    blob[int(len(blob) * where)] ^= 1
    journal.write_bytes(blob)
    settle(path)
    kept = raw(path)
    assert kept == set(said[: len(kept)])
    assert len(kept) < len(said)
    verified(path)


def test_a_torn_end_is_passed_over(path, home):
    said = killed(path)
    [journal] = journals_of(path)
    journal.write_bytes(journal.read_bytes()[:-7])
    settle(path)
    assert raw(path) == set(said[:-1])
    verified(path)


def test_frames_of_another_journal_are_refused(path, tmp_path, home):
    other = tmp_path / "other.db"
    killed(path)
    killed(other)
    [mine], [theirs] = (
        [p for p in journals_of(path) if p.name.startswith(f"{name}.db.")]
        for name in ("audit", "other")
    )
    mine.write_bytes(theirs.read_bytes())
    settle(path)
    assert raw(path) == set()


def test_a_journal_without_its_key_is_kept_and_told(path, home, caplog):
    killed(path)
    [key] = keys_of(home)
    key.unlink()
    settle(path)
    assert raw(path) == set()
    assert len(journals_of(path)) == 1
    assert "cannot be opened" in caplog.text


def test_nothing_stands_in_a_journal_in_the_clear_and_nothing_at_all_when_it_is_committed(
    path, home
):
    recorder = recorder_for(path)
    root = start(recorder, Scope("trace", {"actor": "planted-actor"}), "planted-secret")
    end(recorder, Scope(), root, "planted-secret")
    [journal], [key] = journals_of(path), keys_of(home)
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.parent != journal.parent
    assert b"planted" not in journal.read_bytes()
    recorder.settle()
    assert journal.stat().st_size == 0
    assert raw(path) == {f"{root:032x}"}
    recorder.close()
    assert not journals_of(path)
    assert not keys_of(home)


@pytest.mark.parametrize("scope", [Scope(mask=str.upper), Scope(payloads=False), Scope("strict")])
def test_what_is_not_stored_as_it_was_said_enters_no_journal(path, scope, monkeypatch):
    recorder = recorder_for(path)
    kept = []
    monkeypatch.setattr(journals.Journal, "keep", lambda _, data: kept.append(data))
    tid = say(recorder, scope)
    assert not kept
    assert tid in raw(path), "its chain waited for the commit"


def test_a_chain_waits_where_the_journal_cannot_be_written(path, monkeypatch):
    recorder = recorder_for(path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journals.os, "write", full)
    tid = say(recorder, Scope())
    assert tid in raw(path)
    monkeypatch.undo()
    checked(path)


def test_half_a_frame_is_cut_off_again(path, monkeypatch):
    recorder = recorder_for(path)
    write = os.write
    monkeypatch.setattr(journals.os, "write", lambda descriptor, data: write(descriptor, data[:9]))
    tid = say(recorder, Scope())
    assert tid in raw(path)
    [journal] = journals_of(path)
    assert journal.stat().st_size == 0


def test_a_chain_waits_when_too_many_traces_do(path, monkeypatch):
    from provkeep.recording import keeping

    monkeypatch.setattr(keeping, "MAX_KEPT", 0)
    assert say(recorder_for(path), Scope()) in raw(path)


def test_the_journal_of_a_process_that_lives_is_left_alone(path):
    recorder = recorder_for(path)
    tid = say(recorder, Scope())
    [journal] = journals_of(path)
    code = """
    from provkeep.recording.recorder import settle
    from pathlib import Path
    settle(Path(sys.argv[1]))
    """
    finish(spawn(code, path))
    assert journals_of(path) == [journal]
    recorder.close()
    assert raw(path) == {tid}


def test_who_looks_for_journals_at_the_wrong_moment_costs_a_process_its_own(path, monkeypatch):
    def busy(*_):
        raise BlockingIOError

    monkeypatch.setattr(journals.fcntl, "flock", busy)
    recorder = recorder_for(path)
    assert say(recorder, Scope()) in raw(path), "its chains wait"
    assert not journals_of(path)
    recorder.close()


def test_an_empty_journal_without_its_key_goes(path, home):
    recorder_for(path).close()
    empty = path.with_name(f"{path.name}.{'0' * 16}.journal")
    empty.touch(0o600)
    settle(path)
    assert not journals_of(path)


@needs_fork
def test_a_forked_child_does_not_let_go_of_its_parents_journal(path):
    recorder = recorder_for(path)
    say(recorder, Scope())
    assert forked(lambda: (say(recorder, Scope()), recorder.close())) == 0
    say(recorder, Scope())
    recorder.close()
    assert len(traces(path)) == 3
    assert not journals_of(path)
    checked(path)


def test_who_asks_in_the_same_process_finds_what_was_just_said(path):
    recorder = recorder_for(path)
    say(recorder, Scope())
    with provkeep.open(path) as trail:
        assert len(trail.runs()) == 1
        tid = say(recorder, Scope())
        assert tid in {run.id for run in trail.runs()}


@pytest.mark.parametrize("durability", ["trace", "batch"])
def test_a_document_is_stored_once_however_many_traces_wait(path, durability):
    import sqlite3

    recorder = recorder_for(path)
    scope = Scope(durability)
    for _ in range(20):
        root = start(recorder, scope)
        document = Part("document", "Document", {"page_content": "told " * 99, "metadata": {}})
        recorder.record(RunEnded(run_id=root, at_ns=2**60, outputs=[document]), scope)
    recorder.close()
    connection = sqlite3.connect(path)
    [(size,)] = connection.execute("SELECT sum(length(data)) FROM payload")
    [(count,)] = connection.execute("SELECT count(*) FROM doc")
    bodies = [body for (body,) in connection.execute("SELECT body FROM record")]
    connection.close()
    assert count == 1
    assert sum(b'"fp":' in body for body in bodies) == 1
    assert size < 20 * 495


def test_a_large_trace_is_committed_while_its_chain_waits(path, monkeypatch):
    monkeypatch.setattr(journals, "MAX_FRAME", 100)
    assert say(recorder_for(path), Scope()) in raw(path)


def test_a_run_that_ends_while_another_is_being_kept_has_a_frame_of_its_own(path, monkeypatch):
    """A finalizer may end a run anywhere, also while its thread holds the journal."""
    recorder = recorder_for(path)
    say(recorder, Scope())
    journal = recorder._writer._keeping._journal
    seal, numbers, inner = type(journal._key).seal, [], []

    def interrupted(key, number, data):
        numbers.append(number)
        if not inner:
            inner.append(None)
            inner[0] = say(recorder, Scope(), "inner")
        return seal(key, number, data)

    monkeypatch.setattr(type(journal._key), "seal", interrupted)
    outer = say(recorder, Scope(), "outer")
    assert len(set(numbers)) == len(numbers) == 2, "no number is used twice"
    monkeypatch.undo()
    recorder.close()
    assert {outer, *inner} < traces(path).keys()


def test_what_comes_while_others_are_read_waits_for_its_turn(path):
    keeping = Keeping(path, None)
    keeping._later.extend(range(AT_ONCE + 8))
    keeping.must_tell()
    taken = []
    for some in keeping.next():
        taken.append(len(some))
        keeping._later.append(AT_ONCE * 10 + len(taken))
    assert taken == [AT_ONCE, 8] and keeping.waiting == 2
    assert keeping.must_tell()


def test_what_was_left_to_the_parent_is_not_removed_by_closing_it(path):
    say(recorder_for(path), Scope("trace"), "the parent's")
    recorder_for(path).flush()
    journal = recorder_for(path)._writer._keeping._journal
    twin = journals.Journal(journal.path, os.dup(journal._descriptor), journal._key)
    twin.leave()
    twin.close()
    assert journals_of(path) == [journal.path] and journal._key.path.exists()
    assert journal.keep(b"goes on")
    journal.let_go()


def test_where_files_cannot_be_locked_a_journal_from_elsewhere_is_left_alone(path, monkeypatch):
    recorder_for(path).close()
    left = path.with_name(f"{path.name}.{'0' * 16}.journal")
    left.write_bytes(b"from another machine")
    monkeypatch.setattr(journals, "fcntl", None)
    assert not journals.is_left(path)
    assert journals.begin(path, bytes(16)) is None
    assert journals.take_up(left, path, bytes(16)) is None
    assert left.read_bytes() == b"from another machine"
