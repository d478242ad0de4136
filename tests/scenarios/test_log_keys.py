"""A log changes its key: what was signed before stays as it was, for the new key's holder too."""

import itertools
import json
import os
import shutil
from base64 import b64encode
from contextlib import closing
from pathlib import Path

import pytest

from provkeep.cli.main import main
from provkeep.errors import LogKeyError
from provkeep.model.canonical import canonical
from provkeep.model.records import Pending
from provkeep.reading.verify import verify
from provkeep.recording import opening, rotation
from provkeep.recording.recorder import Scope, recorder_for
from provkeep.recording.rotation import rotate_log_key
from provkeep.sealing.home import find_by_path, load_recorder_config, log_public, pin_path
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.checkpoint import LogKey, LogPublicKey
from provkeep.tlog.keychain import rotation_body
from provkeep.tlog.log import Log
from provkeep.tlog.merkle import Frontier, leaf_hash
from provkeep.tlog.pin import Pin, read_pin
from tests.reading.forging import STORE_ID, edit, init_body, make, trace
from tests.reading.test_verify import errors
from tests.scenarios.recording_kit import (
    checked,
    finish,
    forked,
    needs_fork,
    say,
    spawn,
    traces,
    verified,
)

ORIGIN = f"provkeep/{STORE_ID.hex()}"
FIRST, SECOND, THIRD = (LogKey.from_seed(ORIGIN, bytes([n]) * 32) for n in (1, 2, 3))
KEYS = f"{FIRST.public.vkey()}\n{SECOND.public.vkey()}"


def rotated(path: Path, *keys: LogKey, changed: int | None = None) -> Pin:
    """A store signed by one key after the other; five traces each. ``changed``: a forged one."""
    number = 0

    def some() -> list[Pending]:
        nonlocal number
        number += 5
        made = [trace(n) for n in range(number - 4, number + 1)]
        for each in made:
            if changed is not None and each.body["t"] == f"{changed:032x}":
                each.body["e"][0][3] = "SomethingElse"
        return made

    make(path, some(), key=keys[0])
    with closing(SqliteStore(path)) as store:
        log = Log(store)
        for old, new in itertools.pairwise(keys):
            log.rotate(old, new, at=1_700_000_000_000_000)
            log.append(some())
            pin = log.checkpoint(new)
    return pin


@pytest.fixture
def store(tmp_path) -> tuple[Path, Pin]:
    path = tmp_path / "audit.db"
    return path, rotated(path, FIRST, SECOND)


def test_history_before_and_after_a_change_of_keys_verifies(store):
    path, pin = store
    report = verify(path, pin=pin, public=FIRST.public)
    assert report, report
    assert report.codes == {"key-rotation"}
    assert report.keys == 2
    assert report.signed_size == report.size == pin.size
    assert verify(path, pin=pin, public=KEYS)
    assert verify(path, pin=pin, public=None), "a pin with the new key vouches for all before it"


def test_a_pin_holds_the_key_of_its_time(store, tmp_path):
    path, _ = store
    with closing(SqliteStore(path)) as opened:
        [(note,)] = opened.query("SELECT note FROM checkpoint WHERE size=6")
    early = make(tmp_path / "same.db", [trace(n) for n in range(1, 6)], key=FIRST)
    assert early.size == 6
    assert note.split("\n")[1] == "6"
    assert verify(path, pin=early, public=None), "from the old key the chain leads to the new one"
    assert verify(path, pin=early, public=None, since=True)
    wrong = Pin(early.origin, early.size, early.root, SECOND.public.vkey())
    assert "pin-mismatch" in errors(verify(path, pin=wrong, public=FIRST.public))


def test_several_changes_are_followed(tmp_path):
    pin = rotated(tmp_path / "audit.db", FIRST, SECOND, THIRD)
    report = verify(tmp_path / "audit.db", pin=pin, public=FIRST.public)
    assert report, report
    assert report.keys == 3


def test_only_a_later_key_is_not_enough_without_a_pin(store):
    path, pin = store
    report = verify(path, pin=None, public=SECOND.public)
    assert report.codes == {"key-rotation", "key-not-first", "unpinned"}
    assert not verify(path, pin=None, public=SECOND.public, strict=True)
    assert "key-not-first" not in verify(path, pin=pin, public=SECOND.public).codes


# --- what a thief of one key can and cannot do --------------------------------------------------


def test_the_current_key_alone_cannot_rewrite_what_came_before_it(store, tmp_path):
    """He names a first key of his own making; whoever knows the true one sees it, pin or no pin."""
    path = tmp_path / "forged.db"
    own = LogKey.generate(ORIGIN)
    rotated(path, own, SECOND, changed=3)
    found = errors(verify(path, pin=None, public=FIRST.public))
    assert {"origin-mismatch", "key-rotation", "checkpoint-unknown-signer"} <= found
    assert "pin-mismatch" in errors(verify(path, pin=store[1], public=None))
    limit = verify(path, pin=None, public=SECOND.public)
    assert limit
    assert "key-not-first" in limit.codes, "who knows only the stolen key is told so"


def test_the_current_key_cannot_change_one_old_record_and_keep_the_old_signatures(store):
    path, _ = store
    with edit(path) as conn:
        conn.execute("UPDATE record SET body=CAST(replace(body,'ok','no') AS BLOB) WHERE seq=2")
        conn.execute("UPDATE trace SET status='no' WHERE id=2")
        frontier = Frontier()
        for (body,) in conn.execute("SELECT body FROM record ORDER BY seq"):
            frontier.append(leaf_hash(body))
        conn.execute("UPDATE head SET frontier=?", (frontier.to_bytes(),))
        note = SECOND.sign_checkpoint(frontier.size, frontier.root())
        conn.execute("UPDATE checkpoint SET note=? WHERE size=?", (note, frontier.size))
        conn.execute("DELETE FROM checkpoint WHERE size<?", (frontier.size,))
    found = errors(verify(path, pin=None, public=FIRST.public))
    assert {"record-altered", "key-rotation"} <= found, "the old key signed the tree at the change"


def test_a_replaced_key_signs_nothing_any_more(store):
    path, pin = store
    with edit(path) as conn:
        note = FIRST.sign_checkpoint(pin.size, pin.root)
        conn.execute("UPDATE checkpoint SET note=? WHERE size=?", (note, pin.size))
    report = verify(path, pin=pin, public=FIRST.public)
    assert "checkpoint-unknown-signer" in errors(report)
    assert any("which record 6 had replaced" in f.sentence for f in report.findings)


def test_a_thief_of_the_replaced_key_cannot_name_another(store, tmp_path):
    path = tmp_path / "forged.db"
    rotated(path, FIRST, THIRD)
    assert errors(verify(path, pin=None, public=KEYS)) == {"key-rotation"}, "the list of keys tells"
    assert "pin-mismatch" in errors(verify(path, pin=store[1], public=FIRST.public))


def test_going_back_before_a_change_of_keys_shows_without_a_pin(tmp_path):
    make(tmp_path / "old.db", [trace(n) for n in range(1, 6)], key=FIRST)
    assert errors(verify(tmp_path / "old.db", pin=None, public=KEYS)) == {"key-rotation"}


def test_a_replaced_key_cannot_be_named_again(tmp_path):
    rotated(tmp_path / "audit.db", FIRST, SECOND, FIRST)
    assert "key-rotation" in errors(verify(tmp_path / "audit.db", pin=None, public=FIRST.public))


ROOT = bytes(32)
CHANGES = {
    "by the new key itself": lambda size, root: rotation_body(SECOND, SECOND.public, size, root, 1),
    "at another place": lambda size, root: rotation_body(FIRST, SECOND.public, size + 1, root, 1),
    "over another tree": lambda size, root: rotation_body(FIRST, SECOND.public, size, ROOT, 1),
    "without a note": lambda size, root: {"k": "logkey", "v": 1, "at": 1},
    "with a number for a note": lambda size, root: {"k": "logkey", "v": 1, "note": 5},
    "with a checkpoint for a note": lambda size, root: {
        "k": "logkey",
        "v": 1,
        "note": FIRST.sign_checkpoint(size, root),
    },
    "with other lines": lambda size, root: {
        "k": "logkey",
        "v": 1,
        "note": FIRST.sign_note(f"provkeep/logkey/1\n{ORIGIN}\nx\ny\nz\n"),
    },
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_keys_that_the_key_in_force_did_not_sign_shows(tmp_path, name):
    path = tmp_path / "audit.db"
    make(path, [trace(1)], key=FIRST)
    frontier = Frontier()
    for body in (init_body(FIRST), trace(1).body):
        frontier.append(leaf_hash(canonical(body)))
    body = CHANGES[name](2, frontier.root())
    with closing(SqliteStore(path)) as store:
        log = Log(store)
        log.append([Pending(body, [])])
        with edit(path) as conn:
            conn.execute("DELETE FROM checkpoint")
        pin = log.checkpoint(SECOND)
    for public in (FIRST.public, KEYS):
        assert errors(verify(path, pin=pin, public=public)) & {"key-rotation", "pin-mismatch"}
        assert errors(verify(path, pin=None, public=public)) & {"key-rotation"}


# --- a recorder changes its key -----------------------------------------------------------------


def keys_of(path: Path) -> list[str]:
    return log_public(find_by_path(path)).split("\n")


def test_a_recorder_changes_its_key_and_goes_on(tmp_path, capsys):
    path = tmp_path / "audit.db"
    recorder = recorder_for(path)
    said = [say(recorder, Scope())]
    recorder.close()
    store_id = find_by_path(path)
    seed = load_recorder_config(store_id).log_seed
    assert main(["keys", "rotate", str(path), "--log", "--yes", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert [done["old"], done["new"]] == keys_of(path)
    assert read_pin(pin_path(store_id)).vkey == done["new"]
    assert read_pin(pin_path(store_id)).size == done["record"] + 1
    said.append(say(recorder, Scope()))
    recorder.close()
    assert set(said) == traces(path).keys()
    verified(path)
    checked(path)
    kept = [file.read_bytes() for file in pin_path(store_id).parent.iterdir()]
    old = LogKey.from_seed(ORIGIN, seed)
    assert not any(b64encode(old.seed()) in text for text in kept), "the old seed is gone"
    assert main(["verify", str(path), "--strict"]) == 0
    assert main(["verify", str(path), "--strict", "--deep", "--json"]) == 0


def test_a_recorder_that_runs_meanwhile_takes_the_new_key(tmp_path):
    path = tmp_path / "audit.db"
    recorder = recorder_for(path)
    say(recorder, Scope())
    recorder.flush()
    code = "from provkeep.recording.rotation import rotate_log_key; rotate_log_key(sys.argv[1])"
    finish(spawn(code, path))
    say(recorder, Scope())
    recorder.flush()
    recorder.close()
    assert len(keys_of(path)) == 2
    verified(path)


@needs_fork
@pytest.mark.parametrize("step", ["begin_log_key", "settle_key", "advance_pin"])
def test_a_change_of_keys_that_was_cut_off_is_completed_or_has_not_happened(
    tmp_path, monkeypatch, step
):
    path = tmp_path / "audit.db"
    recorder = recorder_for(path)
    say(recorder, Scope())
    recorder.close()

    def die() -> None:
        monkeypatch.setattr(rotation, step, lambda *_, **__: os._exit(9))
        rotate_log_key(path)

    assert forked(die) == 9
    assert forked(lambda: say(recorder_for(path), Scope("strict"))) == 0
    recorder.flush()
    assert forked(lambda: rotate_log_key(path)) == 0
    say(recorder, Scope())
    recorder.close()
    verified(path)
    assert len(keys_of(path)) == (2 if step == "begin_log_key" else 3)


def test_a_host_that_lacks_the_new_key_signs_nothing_and_says_so(tmp_path):
    path = tmp_path / "audit.db"
    recorder = recorder_for(path)
    say(recorder, Scope())
    recorder.close()
    folder = pin_path(find_by_path(path)).parent
    kept = Path(shutil.copytree(folder, tmp_path / "kept"))
    rotate_log_key(path)
    shutil.copy(kept / "recorder.json", folder / "recorder.json")
    opened = opening.open_for_recording(path)
    with pytest.raises(LogKeyError, match=r"copy recorder\.json from there"):
        opening.sign(opened)
    opened.close()
    verified(path)


def test_rotation_asks_first_and_says_which_key(tmp_path, capsys):
    path = tmp_path / "audit.db"
    assert main(["init", str(path)]) == 0
    assert main(["keys", "rotate", str(path)]) == 2
    assert main(["keys", "rotate", str(tmp_path / "none.db"), "--log", "--yes"]) == 3
    assert len(keys_of(path)) == 1
    assert not (tmp_path / "none.db").exists()
    capsys.readouterr()


def test_a_new_key_is_of_the_same_log():
    other = LogPublicKey("provkeep/other", SECOND.public.key)
    with pytest.raises(ValueError, match="keeps its origin"):
        rotation_body(FIRST, other, 1, ROOT, 1)
