"""Files that are not what they should be: each is named, with what to do, and pins hold."""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import provkeep
from provkeep.errors import (
    AccessNotRecordedError,
    KeyFileError,
    NotAProvkeepFileError,
    ProvkeepError,
    RecordingError,
    StoreError,
    StoreNewerError,
    StoreReadOnlyError,
    UnsealError,
)
from provkeep.langchain import ProvenanceHandler
from provkeep.recording.opening import advance_pin, open_for_recording
from provkeep.recording.recorder import Scope, _recorders, recorder_for
from provkeep.sealing.home import find_by_path, pin_path
from provkeep.tlog.pin import read_pin
from tests.scenarios.recording_kit import bodies, forked, needs_fork, say, traces, verified


def _text(path: Path) -> None:
    path.write_text("dear diary, this is no database " * 100)


def _short(path: Path) -> None:
    path.write_bytes(b"SQLi")


def _folder(path: Path) -> None:
    path.mkdir()


def _under_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("a file where a folder should be")


def _leads_in_a_circle(path: Path) -> None:
    path.symlink_to(path)


def _another_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE recipes(name)")
    connection.close()


def _marked_database(path: Path) -> None:
    _another_database(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 77")
    connection.close()


def _key_file(path: Path) -> None:
    open_for_recording(path).close()
    path.unlink()
    path.with_name(path.name + "-keys").rename(path)


def _newer(path: Path) -> None:
    open_for_recording(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def _newer_keys(path: Path) -> None:
    open_for_recording(path).close()
    connection = sqlite3.connect(f"{path}-keys")
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def _odd_identity(path: Path) -> None:
    open_for_recording(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value = 'not hexadecimal'")
    connection.commit()
    connection.close()


def _damaged(path: Path) -> None:
    open_for_recording(path).close()
    with path.open("r+b") as file:
        file.seek(120)
        file.write(os.urandom(3000))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (_text, NotAProvkeepFileError, "not a database; check the path"),
        (_short, NotAProvkeepFileError, "check the path"),
        (_folder, NotAProvkeepFileError, "it is a folder; check the path"),
        (_under_a_file, NotAProvkeepFileError, "check the path"),
        (_leads_in_a_circle, ProvkeepError, "audit.db"),
        (_another_database, NotAProvkeepFileError, "another application; check the path"),
        (_marked_database, NotAProvkeepFileError, "another application; check the path"),
        (_key_file, NotAProvkeepFileError, "another application; check the path"),
        (_newer, StoreNewerError, "schema 99.*upgrade provkeep"),
        (_odd_identity, NotAProvkeepFileError, "store id is malformed; check the path"),
        (_damaged, StoreError, "damaged.*restore it"),
    ],
)
@pytest.mark.parametrize("use", [ProvenanceHandler, provkeep.open], ids=["record", "read"])
def test_what_is_not_a_store_of_ours_is_named_and_left_as_it_is(tmp_path, make, error, says, use):
    path = tmp_path / "folder" / "audit.db"
    path.parent.mkdir()
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(error, match=says) as caught:
        use(path).close()
    assert "audit.db" in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_key_file_from_a_newer_version_is_named(tmp_path):
    path = tmp_path / "audit.db"
    _newer_keys(path)
    with pytest.raises(StoreNewerError, match=r"audit\.db-keys.*upgrade"):
        ProvenanceHandler(path)


def test_an_empty_file_becomes_a_store_but_is_not_read_as_one(tmp_path):
    path = tmp_path / "audit.db"
    path.touch(mode=0o644)
    with pytest.raises(NotAProvkeepFileError, match="it is empty; check the path"):
        provkeep.open(path)
    recorder = recorder_for(path)
    assert recorder.created
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
    recorder.close()


def test_a_missing_file_is_not_made_by_reading(tmp_path):
    path = tmp_path / "audit.db"
    with pytest.raises(NotAProvkeepFileError, match=r"no such file; check the path.*init"):
        provkeep.open(path)
    assert not list(tmp_path.glob("audit*"))


# -- keys ----------------------------------------------------------------------------------------


def _home(path: Path) -> Path:
    store_id = find_by_path(path)
    assert store_id is not None
    return pin_path(store_id).parent


def _open_to_others(file: Path) -> None:
    file.chmod(0o644)


def _altered(file: Path) -> None:
    fields = json.loads(file.read_text())
    fields["store_id"] = "00" * 16
    file.write_text(json.dumps(fields))


def _not_json(file: Path) -> None:
    file.write_text("s3cret key material")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (Path.unlink, "is missing; run 'provkeep init', or set PROVKEEP_HOME"),
        (_open_to_others, "open to other users.*chmod 600"),
        (_altered, "belongs to another store; restore it"),
        (_not_json, "is malformed.*restore it"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="permissions of another kind")
def test_keys_that_are_missing_wrong_or_open_to_others_are_named(tmp_path, harm, says):
    path = tmp_path / "audit.db"
    open_for_recording(path).close()
    harm(_home(path) / "recorder.json")
    with pytest.raises(KeyFileError, match=says) as caught:
        ProvenanceHandler(path)
    assert "s3cret" not in str(caught.value)
    with provkeep.open(path) as trail:
        assert trail.runs() == []  # structure needs no key


def test_a_log_key_that_is_not_the_pinned_one_is_told_and_does_not_move_the_pin(tmp_path):
    path = tmp_path / "audit.db"
    recorder = recorder_for(path)
    recorder.close()
    home = _home(path)
    pinned = (home / "pin.json").read_text()
    fields = json.loads((home / "recorder.json").read_text())
    fields["log_seed"] = "A" * 43 + "="
    (home / "recorder.json").write_text(json.dumps(fields))
    _recorders.clear()
    recorder = recorder_for(path)
    say(recorder, Scope())
    with pytest.raises(RecordingError, match="is not signed with"):
        recorder.close()
    assert (home / "pin.json").read_text() == pinned


# -- what may not be written, as a user who is not root ---------------------------------------


@pytest.fixture
def open_folder():
    """A folder that any user may enter; pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for file in folder.rglob("*"):
        file.chmod(0o700)
    shutil.rmtree(folder)


def _as_nobody(work: Callable[[], str]) -> str:
    """Do something without root's powers, in a fork; returns what it says."""
    read, write = os.pipe()

    def child() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        os.write(write, work().encode())

    assert forked(child) == 0
    os.close(write)
    with os.fdopen(read) as said:
        return said.read()


def _recording(path: Path) -> Callable[[], str]:
    def work() -> str:
        try:
            recorder_for(path)
        except ProvkeepError as error:
            return f"{type(error).__name__}: {error}"
        return "it was opened"

    return work


@needs_fork
def test_a_store_that_may_not_be_written_says_so_and_can_still_be_read(open_folder, monkeypatch):
    path = open_folder / "audit.db"
    _recorded(path, 1)
    for file in open_folder.iterdir():
        file.chmod(0o444)
    open_folder.chmod(0o555)
    said = _as_nobody(_recording(path))
    assert said.startswith("StoreReadOnlyError")
    assert "audit.db may not be written; allow" in said

    def reading() -> str:
        with provkeep.open(path) as trail:
            return f"{len(trail.runs())} {trail.verify().size}"

    monkeypatch.setenv("PROVKEEP_HOME", str(open_folder / "none"))
    assert _as_nobody(reading) == "1 2"


@needs_fork
def test_a_folder_that_may_not_be_written_says_so(open_folder):
    open_folder.chmod(0o555)
    assert _as_nobody(_recording(open_folder / "audit.db")).startswith("StoreReadOnlyError")
    assert _as_nobody(_recording(open_folder / "a" / "audit.db")).startswith("StoreReadOnlyError")


@needs_fork
def test_a_configuration_folder_that_may_not_be_written_says_so(open_folder, monkeypatch):
    import sqlite_utils  # noqa: F401  # from a place that the other user may not read

    for name, mode in (("data", 0o777), ("home", 0o555)):
        (open_folder / name).mkdir()
        (open_folder / name).chmod(mode)
    monkeypatch.setenv("PROVKEEP_HOME", str(open_folder / "home"))
    said = _as_nobody(_recording(open_folder / "data" / "audit.db"))
    assert said.startswith("KeyFileError")
    assert "set PROVKEEP_HOME to a folder that is" in said


def test_a_store_without_write_permission_refuses_a_transaction(tmp_path):
    path = tmp_path / "audit.db"
    open_for_recording(path).close()
    with provkeep.open(path) as trail, pytest.raises(StoreReadOnlyError):  # noqa: SIM117
        with trail._store.transaction():
            pass


# -- pins ------------------------------------------------------------------------------------------


def _recorded(path: Path, count: int) -> None:
    recorder = recorder_for(path)
    for i in range(count):
        say(recorder, Scope(), f"{i}")
    recorder.close()
    _recorders.clear()


def _copy(path: Path, where: Path) -> None:
    where.mkdir(exist_ok=True)
    for suffix in ("", "-keys"):
        shutil.copyfile(f"{path}{suffix}", where / f"{path.name}{suffix}")


def test_an_older_copy_is_told_at_every_flush_and_found_by_verify_and_the_pin_stays(tmp_path):
    path, saved = tmp_path / "audit.db", tmp_path / "saved"
    _recorded(path, 2)
    _copy(path, saved)
    _recorded(path, 3)
    pin = _home(path) / "pin.json"
    pinned = pin.read_text()
    for suffix in ("", "-keys"):
        (saved / f"audit.db{suffix}").replace(f"{path}{suffix}")
    recorder = recorder_for(path)
    with pytest.raises(RecordingError, match="older copy, or was cut; run `provkeep verify`"):
        recorder.flush()
    said = [say(recorder, Scope(), f"{i}") for i in range(5)]  # now it is longer than the pin
    for _ in range(2):
        with pytest.raises(RecordingError, match="does not begin with what the pin remembers"):
            recorder.flush()
    with pytest.raises(RecordingError):
        recorder.close()
    assert set(said) <= traces(path).keys()  # recording goes on
    assert pin.read_text() == pinned
    with provkeep.open(path) as trail:
        assert not trail.verify()


def test_a_store_that_is_gone_is_not_begun_anew_in_silence(tmp_path, caplog):
    path = tmp_path / "audit.db"
    _recorded(path, 2)
    old = _home(path)
    pinned = read_pin(old / "pin.json")
    path.unlink()
    _recorded(path, 1)
    [warning] = [r.getMessage() for r in caplog.records if "is gone" in r.getMessage()]
    assert "3 records" in warning
    assert str(old) in warning
    assert read_pin(old / "pin.json") == pinned  # for whoever finds the file again
    assert _home(path) != old
    first = bodies(path)[0]
    assert (first["k"], first["after"]["size"]) == ("init", 3)
    assert first["after"]["origin"] == pinned.origin
    verified(path)


def test_a_lost_pin_is_made_again_but_not_in_silence(tmp_path, caplog):
    path = tmp_path / "audit.db"
    _recorded(path, 2)
    (_home(path) / "pin.json").unlink()
    _recorded(path, 1)
    assert any("had no pin; its 3 records" in r.getMessage() for r in caplog.records)
    assert read_pin(_home(path) / "pin.json").size == 4


def test_a_malformed_pin_is_told_and_never_overwritten(tmp_path):
    path = tmp_path / "audit.db"
    _recorded(path, 1)
    pin = _home(path) / "pin.json"
    pin.write_text("{}")
    recorder = recorder_for(path)
    say(recorder, Scope())
    with pytest.raises(RecordingError, match=r"pin\.json"):
        recorder.close()
    assert pin.read_text() == "{}"


def test_the_pin_moves_forward_only(tmp_path):
    """Two processes sign in turn; the slower one does not take the pin back."""
    path = tmp_path / "audit.db"
    one, two = open_for_recording(path), open_for_recording(path)
    early = one.log.checkpoint(one.log_key)
    say(recorder_for(path), Scope())
    recorder_for(path).settle()
    late = two.log.checkpoint(two.log_key)
    assert early.size < late.size
    assert advance_pin(two, late) is None
    assert advance_pin(one, early) is None  # another process is ahead, and that is fine
    assert read_pin(one.pin) == late
    one.close()
    two.close()
    recorder_for(path).close()
    verified(path)


def test_a_pin_ahead_of_this_process_must_still_agree_with_the_log(tmp_path):
    path = tmp_path / "audit.db"
    opened = open_for_recording(path)
    head = opened.log.checkpoint(opened.log_key)
    forged = json.loads(opened.pin.read_text())
    forged["size"] = 1_000
    opened.pin.write_text(json.dumps(forged))
    assert "1 records, the pin remembers 1000" in str(advance_pin(opened, head))
    assert json.loads(opened.pin.read_text())["size"] == 1_000
    opened.close()


# -- reading ---------------------------------------------------------------------------------------


def _write_to(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE payload SET seq = 0", "malformed; run `provkeep verify`"),
        ("UPDATE payload SET seq = 2 WHERE seq = 1", "filed under another record"),
        ("UPDATE payload SET seq = 99", "not in the store"),
        ("UPDATE payload SET data = NULL", "not in the store"),
        ("UPDATE payload SET data = zeroblob(200)", "differ from what the log recorded"),
        ("UPDATE record SET body = x'5b5d' WHERE seq = 2", "malformed; run `provkeep verify`"),
        ("UPDATE record SET body = x'00' WHERE seq = 2", "malformed; run `provkeep verify`"),
    ],
)
def test_a_payload_that_was_tampered_with_is_refused_with_an_error_of_ours(
    tmp_path, statement, says
):
    path = tmp_path / "audit.db"
    _recorded(path, 2)
    with provkeep.open(path) as trail:
        opener = trail._open()
        numbers = [number for (number,) in trail._store.query("SELECT id FROM payload")]
        _write_to(path, statement)
        with pytest.raises(UnsealError, match=says):
            for number in numbers:
                opener.payload(number)


def test_a_data_key_that_another_record_claims_with_another_commitment_is_refused(tmp_path):
    """Also after the key has been opened for the record that it belongs to."""
    path = tmp_path / "audit.db"
    _recorded(path, 2)
    with provkeep.open(path) as trail:
        opener = trail._open()
        for (number,) in trail._store.query("SELECT id FROM payload WHERE seq = 1"):
            opener.payload(number)
        first, second = (
            json.loads(body)
            for (body,) in trail._store.query("SELECT body FROM record WHERE seq IN (1, 2)")
        )
        for mine, theirs in zip(second["keys"], first["keys"], strict=True):
            mine[1] = theirs[1]  # the number of a key that is open already
        forged = json.dumps(second, sort_keys=True, separators=(",", ":"))
        _write_to(path, f"UPDATE record SET body = x'{forged.encode().hex()}' WHERE seq = 2")
        with pytest.raises(UnsealError, match="exchanged"):
            opener.payload(second["p0"])


def test_nothing_is_opened_and_no_file_is_made_when_the_access_cannot_be_recorded(tmp_path):
    path = tmp_path / "audit.db"
    _recorded(path, 1)
    for suffix in ("-keys", ""):
        with provkeep.open(path) as trail:
            answer = trail.output()
            gone = Path(f"{path}{suffix}").rename(tmp_path / "elsewhere")
            with pytest.raises(AccessNotRecordedError, match=r"no such file|was deleted"):
                trail.text(answer, purpose="a test")
            assert not Path(f"{path}{suffix}").exists()
            gone.rename(f"{path}{suffix}")
    with provkeep.open(path) as trail:
        answer = trail.output()
        _recorded(tmp_path / "other.db", 1)
        path.rename(tmp_path / "elsewhere")
        (tmp_path / "other.db").rename(path)
        with pytest.raises(AccessNotRecordedError, match="replaced"):
            trail.text(answer, purpose="a test")
