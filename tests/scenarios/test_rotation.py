"""Keys are exchanged while recorders run; nothing is encrypted anew and nothing is lost."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import provkeep
from provkeep.errors import KeyFileError, UnsealError
from provkeep.langchain import ProvenanceHandler
from provkeep.sealing import rotating
from provkeep.sealing.home import load_reader_keys
from provkeep.sealing.keyring import COMPARTMENTS
from provkeep.sealing.retired import load_retired, retired_path
from provkeep.store.keyfile import KeyFile, keys_path
from tests.scenarios.erasing_kit import ask, record, wrapped_keys

TURNS = [
    ("handbook.pdf", "Until when may I return what I bought?", "anna"),
    ("prices.pdf", "What does a parcel cost within the country?", "bert"),
]


@pytest.fixture
def path(tmp_path: Path, home: Path) -> Path:
    found = tmp_path / "data" / "audit.db"
    found.parent.mkdir()
    record(found, TURNS)
    return found


def store_id(path: Path) -> bytes:
    with provkeep.open(path) as trail:
        return trail._store.store_id


def answers(path: Path) -> list[str]:
    with provkeep.open(path) as trail:
        return [trail.text(run, purpose="a test") for run in trail.runs()]


def rotate(path: Path, *names: str) -> int:
    with closing(KeyFile(keys_path(path))) as keys:
        return rotating.rotate_compartments(store_id(path), keys, names or COMPARTMENTS)


def rows(path: Path, table: str) -> list[tuple]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT * FROM {table}").fetchall()


def test_a_rotation_seals_epoch_keys_anew_and_changes_nothing_else(path):
    before = answers(path)
    payloads, wrapped = rows(path, "payload"), wrapped_keys(path)
    epochs = {row[0]: row[3] for row in rows(keys_path(path), "epoch")}
    old = load_reader_keys(store_id(path)).private
    assert rotate(path) == len(epochs)
    assert answers(path) == before
    assert rows(path, "payload")[: len(payloads)] == payloads
    assert wrapped.items() <= wrapped_keys(path).items()
    now = {row[0]: row[3] for row in rows(keys_path(path), "epoch")}
    assert all(now[number] != sealed for number, sealed in epochs.items())
    fresh = load_reader_keys(store_id(path)).private
    assert all(fresh[name] != old[name] for name in COMPARTMENTS)
    with provkeep.open(path) as trail:
        assert trail.verify()


def test_only_the_compartment_that_was_named_gets_new_keys(path):
    old = load_reader_keys(store_id(path)).private
    rotate(path, "prompt")
    fresh = load_reader_keys(store_id(path)).private
    assert [name for name in COMPARTMENTS if fresh[name] != old[name]] == ["prompt"]
    assert len(answers(path)) == 2


def test_a_running_recorder_goes_on_and_follows(path):
    with ProvenanceHandler(path) as handler:
        ask(handler, "prices.pdf", "And now, before it?")
        rotate(path)
        ask(handler, "prices.pdf", "And now, after it?")
        handler.flush()
        assert len(answers(path)) == 4
        with closing(KeyFile(keys_path(path))) as keys:
            keys.ask_new_epoch()
        for i in range(12):  # more than its batch of data keys
            ask(handler, "prices.pdf", f"And now, some time after it, {i}?")
    assert len(answers(path)) == 16
    known = store_id(path)
    with closing(KeyFile(keys_path(path))) as keys:
        while not rotating.forget_retired(known, keys):  # ends: the recorder has let go
            pass
    assert not retired_path(known).exists()
    assert len(answers(path)) == 16
    with provkeep.open(path) as trail:
        assert trail.verify()


@pytest.mark.parametrize("step", ["save_retired", "install_recipients", "seal_anew"])
def test_a_rotation_that_is_interrupted_loses_nothing_and_can_be_done_again(
    path, monkeypatch, step
):
    before = answers(path)
    real, calls = getattr(rotating, step), []

    def stop(*args):
        calls.append(args)
        if step == "_replace" and len(calls) == 1:
            return real(*args)  # between the two files
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(rotating, step, stop)
        with pytest.raises(InterruptedError):
            rotate(path)
    assert answers(path) == before
    record(path, [TURNS[0]])
    assert len(answers(path)) == 3
    rotate(path)
    assert len(answers(path)) == 3
    with closing(KeyFile(keys_path(path))) as keys:
        rotating.seal_anew(store_id(path), keys)
        assert rotating.forget_retired(store_id(path), keys)
    assert len(answers(path)) == 3


def test_what_was_copied_before_stays_readable_to_whoever_holds_the_old_keys(path, home, tmp_path):
    known = store_id(path)
    backup = tmp_path / "backup"
    shutil.copytree(path.parent, backup)
    old = load_reader_keys(known)
    rotate(path)
    with closing(KeyFile(keys_path(path))) as keys:
        assert rotating.forget_retired(known, keys)
    fresh = load_reader_keys(known)
    for name, eid, sealed in [(r[2], r[1], r[3]) for r in rows(backup / "audit.db-keys", "epoch")]:
        place = {"store_id": known, "compartment": name, "epoch_id": eid}
        assert rotating.open_epoch(sealed, old.private[name], **place)
        with pytest.raises(UnsealError):
            rotating.open_epoch(sealed, fresh.private[name], **place)


def test_a_new_fingerprint_key_finds_what_the_old_one_filed(path):
    known = store_id(path)
    rotating.rotate_fingerprint_key(known)
    from provkeep.recording.opening import open_for_recording
    from provkeep.recording.recorder import recorder_for

    recorder_for(path).close()
    open_for_recording(path).close()
    record(path, TURNS)
    with provkeep.open(path) as trail:
        assert len(trail.runs(actor="alice@example.com")) == 4
        tags = {row[0] for row in trail._store.query("SELECT DISTINCT actor FROM trace")}
        assert len(tags) == 2
        assert trail.impact("docs/handbook.pdf")
        assert trail.plan_erasure(subject="anna").trace_count == 2
        assert len(trail.plan_erasure(source="docs/handbook.pdf").sources) == 2
        assert trail.verify()
    with closing(KeyFile(keys_path(path))) as keys:
        assert rotating.forget_retired(known, keys, fingerprints=True)
    with provkeep.open(path) as trail:
        assert len(trail.runs(actor="alice@example.com")) == 2


def test_retired_keys_are_for_their_owner_only_and_in_no_repr(path):
    known = store_id(path)
    rotate(path)
    file = retired_path(known)
    assert file.stat().st_mode & 0o777 == 0o600
    retired = load_retired(known)
    assert all(repr(key) not in repr(retired) for keys in retired.private.values() for key in keys)
    file.chmod(0o644)
    with pytest.raises(KeyFileError, match="open to other users"):
        load_retired(known)
    file.chmod(0o600)
    file.write_text("{}")
    with pytest.raises(KeyFileError, match="malformed"):
        load_retired(known)


def test_who_does_not_hold_a_private_half_cannot_rotate_it(path, home):
    known = store_id(path)
    [reader] = home.glob("stores/*/reader.json")
    reader.unlink()
    with pytest.raises(KeyFileError, match="missing"), closing(KeyFile(keys_path(path))) as keys:
        rotating.rotate_compartments(known, keys, ["prompt"])
