"""A killed writer loses nothing that was acknowledged, and the next one goes on from there."""

import os
import random
import signal
import time

import pytest

from provkeep.recording import opening
from provkeep.recording.recorder import Scope, recorder_for
from tests.scenarios.recording_kit import (
    checked,
    finish,
    forked,
    needs_fork,
    opens,
    say,
    spawn,
    traces,
    verified,
)

ROUNDS = int(os.environ.get("PROVKEEP_CRASH_ROUNDS", "10"))  # 40 in .ci/run

WRITES = """
scope = Scope("trace", {"actor": "writer"})
recorder = recorder_for(sys.argv[1])
os.write(1, b"ready\\n")
for i in range(100_000):
    tid = say(recorder, scope, f"round {i}", children=i % 4)
    os.write(1, tid.encode() + b"\\n")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal nobody can catch")
def test_what_was_acknowledged_before_a_kill_is_there_and_opens(tmp_path):
    path = tmp_path / "audit.db"
    chance = random.Random(20)
    acknowledged: set[str] = set()
    for number in range(ROUNDS):
        writers = [spawn(WRITES, path) for _ in range(2)]
        if number % 4:  # the others are killed while they start, the very first ones included
            for writer in writers:
                assert writer.stdout.readline() == "ready\n"
        time.sleep(chance.random() * 0.3)
        for writer in writers:
            writer.kill()
        for writer in writers:
            lines = writer.communicate()[0].split()
            acknowledged.update(line for line in lines if len(line) == 32)
    assert len(acknowledged) > ROUNDS
    [last] = finish(spawn("print(say(recorder_for(sys.argv[1]), Scope()))", path))
    found = traces(path)
    assert acknowledged <= found.keys()
    assert {found[tid] for tid in acknowledged} == {"ok"}
    checked(path)
    verified(path)
    for tid in [*chance.sample(sorted(acknowledged), 5), last]:
        assert opens(path, tid)


@needs_fork
@pytest.mark.parametrize(
    "step", ["create_store_home", "load_recorder_config", "_begin", "_check_pin", "_move_pin"]
)
def test_a_store_whose_making_was_cut_off_is_usable(tmp_path, monkeypatch, step):
    """Every step of making a store is a place to die."""
    path = tmp_path / "audit.db"

    def die() -> None:
        monkeypatch.setattr(opening, step, lambda *_, **__: os._exit(9))
        recorder_for(path)

    assert forked(die) == 9
    assert forked(lambda: say(recorder_for(path), Scope())) == 0
    assert len(checked(path)) == 2
    verified(path)


def test_a_terminated_process_keeps_what_was_acknowledged(tmp_path):
    path = tmp_path / "audit.db"
    code = WRITES.replace('"trace"', '"strict"')
    writer = spawn(code, path)
    lines = [writer.stdout.readline().strip() for _ in range(5)]
    writer.terminate()
    lines += writer.communicate()[0].split()
    assert {line for line in lines if len(line) == 32} <= traces(path).keys()
    checked(path)


def test_an_interpreter_that_exits_with_a_full_queue_writes_it(tmp_path):
    """``batch`` acknowledges nothing, but an orderly exit loses nothing either."""
    path = tmp_path / "audit.db"
    code = """
    recorder, scope = recorder_for(sys.argv[1]), Scope("batch")
    for i in range(300):
        print(say(recorder, scope, f"number {i}"))
    """
    said = finish(spawn(code, path))
    assert len(said) == 300
    assert set(said) == traces(path).keys()
    checked(path)
    verified(path)


def test_a_daemon_thread_that_records_to_the_end_does_not_hold_up_the_exit(tmp_path):
    path = tmp_path / "audit.db"
    code = """
    recorder, scope = recorder_for(sys.argv[1]), Scope("trace")
    def forever():
        while True:
            tid = say(recorder, scope)
            try:
                os.write(1, tid.encode() + b"\\n")
            except OSError:
                return
    for _ in range(4):
        threading.Thread(target=forever, daemon=True).start()
    time.sleep(0.4)
    """
    said = [line for line in finish(spawn(code, path)) if len(line) == 32]
    assert said
    assert set(said) <= traces(path).keys()
    checked(path)
