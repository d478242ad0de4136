"""Keys are exchanged while recorders run; nothing is encrypted anew and nothing is lost."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import provkeep
from provkeep.cli import main
from provkeep.errors import KeyFileError, RecipientsError, UnsealError
from provkeep.langchain import ProvenanceHandler
from provkeep.model.records import Pending
from provkeep.reading.grants import recipients_of
from provkeep.recording.opening import open_for_recording
from provkeep.recording.rotation import rotate_compartments
from provkeep.sealing import rotating
from provkeep.sealing.home import (
    load_reader_keys,
    load_recorder_config,
    reader_path,
    recorder_path,
)
from provkeep.sealing.keyring import COMPARTMENTS, CompartmentKeys
from provkeep.sealing.recipients import sign_recipients
from provkeep.sealing.retired import Retired, load_retired, retired_path, save_retired
from provkeep.sealing.signing import new_seed
from provkeep.store.keyfile import KeyFile, keys_path
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.log import Log
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
    return rotate_compartments(path, names or COMPARTMENTS)[0]


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

    def stop(*args, **named):
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


def test_a_rotation_is_a_record_that_the_admin_signed(path):
    count, seq = rotate_compartments(path, ["output"], suite="mlkem768-x25519")
    assert count == len([r for r in rows(keys_path(path), "epoch") if r[2] == "output"])
    assert seq is not None
    with closing(sqlite3.connect(path)) as db:
        body = json.loads(db.execute("SELECT body FROM record WHERE seq=?", (seq,)).fetchone()[0])
    zero = json.loads(rows(path, "record")[0][1])
    assert body["k"] == "recipients" and body["admin"] == zero["admin"]
    assert body["recipients"]["output"]["suite"] == "mlkem768-x25519"
    assert body["recipients"]["prompt"] == zero["recipients"]["prompt"]
    with provkeep.open(path) as trail:
        report = trail.verify(deep=True)
        assert report and report.codes == set(), report
    record(path, [TURNS[0]])  # the log names these keys already
    assert len(rows(path, "keychange")) == 1


def test_a_configuration_that_is_put_back_after_a_rotation_is_refused(path):
    file = recorder_path(store_id(path))
    old = file.read_bytes()
    rotate(path)
    file.write_bytes(old)
    with pytest.raises(RecipientsError, match=r"newer keys than recorder\.json"):
        open_for_recording(path)


def test_a_record_of_new_recipients_that_another_admin_signed_is_not_followed_and_shows(path):
    known = store_id(path)
    stranger = sign_recipients(CompartmentKeys.generate().public(), new_seed(), at_us=2**52)
    with closing(SqliteStore(path)) as store:
        body = {"k": "recipients", "v": 1, "at": 1_700_000_000_000_000, **stranger.fields()}
        Log(store).append([Pending(body, [])], durable=True)
        named = recipients_of(store)
    assert named.recipients == load_recorder_config(known).recipients
    record(path, [TURNS[0]])
    assert len(answers(path)) == 3
    with provkeep.open(path) as trail:
        assert "statement-signature" in trail.verify().codes


def test_keys_that_were_made_elsewhere_are_installed_for_a_host_that_cannot_read(
    tmp_path, home, capsys
):
    office, later = tmp_path / "office", tmp_path / "later"
    assert main(["keys", "recipients", "--out", str(office)]) == 0
    words = ["keys", "recipients", "--out", str(later), "--admin", str(office / "admin.json")]
    assert main(words) == 0
    assert not (later / "admin.json").exists()
    path = tmp_path / "audit.db"
    assert main(["init", str(path), "--recipients", str(office / "recipients.json")]) == 0
    record(path, [TURNS[0]])
    install = ["keys", "install", str(path), str(later / "recipients.json"), "--json"]
    capsys.readouterr()
    assert main(install) == 0
    assert json.loads(capsys.readouterr().out)["installed"] is True
    assert main(install) == 0
    assert json.loads(capsys.readouterr().out)["installed"] is False
    record(path, [TURNS[1]])
    folder = recorder_path(store_id(path)).parent
    shutil.copy(later / "reader.json", folder / "reader.json")
    first, second = load_reader_keys(store_id(path), office / "reader.json"), store_id(path)
    save_retired(second, Retired({n: [k] for n, k in first.private.items()}, []))
    assert len(answers(path)) == 2
    assert main(["keys", "recipients", "--out", str(tmp_path / "foreign")]) == 0
    words = ["keys", "install", str(path), str(tmp_path / "foreign" / "recipients.json")]
    assert main(words) == 3
    assert "another admin" in capsys.readouterr().err


def test_deep_verification_opens_everything_and_names_what_was_exchanged(path):
    with provkeep.open(path) as trail:
        whole = trail.verify(deep=True)
        plan = trail.plan_erasure(trace=trail.runs()[0].id)
        trail.erase(plan, reason="asked for")
        erased = trail.verify(deep=True)
    assert whole and whole.codes == set()
    assert erased and erased.codes == {"erased"}, erased
    with closing(sqlite3.connect(keys_path(path))) as db, db:
        one, two = db.execute("SELECT id FROM datakey ORDER BY id LIMIT 2").fetchall()
        keys = dict(db.execute("SELECT id, wrapped FROM datakey"))
        db.execute("UPDATE datakey SET wrapped=? WHERE id=?", (keys[two[0]], one[0]))
    with provkeep.open(path) as trail:
        assert trail.verify(), "plain verification opens nothing, and so cannot see it"
        assert "payload-sealed" in trail.verify(deep=True).codes


def test_deep_verification_says_which_keys_are_not_held(path):
    file = reader_path(store_id(path))
    fields = json.loads(file.read_text())
    del fields["private"]["document"]
    file.write_text(json.dumps(fields))
    with provkeep.open(path) as trail:
        report = trail.verify(deep=True)
    assert report and "key-not-held" in report.codes
    assert not trail_strictly(path)


def trail_strictly(path: Path):
    with provkeep.open(path) as trail:
        return trail.verify(deep=True, strict=True)
