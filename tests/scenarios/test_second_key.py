"""A log signs with two keys: whoever has one of them forges nothing for those who know both."""

import json
import shutil
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import provkeep
from provkeep.cli.main import main
from provkeep.errors import LogKeyError
from provkeep.reading.verify import verify
from provkeep.recording.opening import open_for_recording
from provkeep.recording.recorder import Scope, recorder_for
from provkeep.recording.rotation import rotate_log_key
from provkeep.sealing.home import (
    find_by_path,
    load_recorder_config,
    log_public,
    pin_path,
    recorder_path,
)
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog import mldsa
from provkeep.tlog.anchorbook import AnchorBook
from provkeep.tlog.checkpoint import LogKey
from provkeep.tlog.log import Log
from provkeep.tlog.mldsa import SecondKey, log_key, read_keys, verify_second
from provkeep.tlog.pin import Pin
from tests import independent_bundle_reader as other
from tests.anchor_kit import Witness, anchor_and_record, served
from tests.reading.forging import KEY, edit, make, trace, traces
from tests.reading.test_verify import errors
from tests.scenarios.recording_kit import bodies, checked, opens, say, verified

ORIGIN = KEY.public.origin
BOTH = log_key(ORIGIN, bytes(32), bytes([9]) * 32)  # the first is forging.KEY
assert BOTH.second is not None
KEYS = f"{KEY.public.vkey()}\n{BOTH.second.public.vkey()}"


def notes(path: Path) -> list[tuple[int, str]]:
    with edit(path) as conn:
        return conn.execute("SELECT size, note FROM checkpoint ORDER BY size").fetchall()


def second_line(note: str) -> str:
    return note[:-1].rpartition("\n")[2]


def lines_of(note: str) -> int:
    return len(note.partition("\n\n")[2].splitlines())


# --- a recorder with two keys -------------------------------------------------------------------


@pytest.fixture
def hybrid(tmp_path: Path) -> Path:
    path = tmp_path / "audit.db"
    assert main(["init", str(path), "--log-suite", "hybrid"]) == 0
    return path


def keys_of(path: Path) -> str:
    store_id = find_by_path(path)
    assert store_id is not None
    return log_public(store_id)


def all_signed_twice(path: Path) -> int:
    """How many checkpoints there are."""
    second = read_keys(keys_of(path)).second
    assert second is not None
    found = notes(path)
    for _, note in found:
        assert lines_of(note) == 2
        verify_second(note, second)
    return len(found)


def test_recording_reading_erasing_anchoring_and_a_new_key_all_sign_with_both(hybrid, capsys):
    recorder = recorder_for(hybrid)
    said = [say(recorder, Scope()), say(recorder, Scope())]
    recorder.close()
    count = all_signed_twice(hybrid)

    def went_on() -> None:
        nonlocal count
        before, count = count, all_signed_twice(hybrid)
        assert count > before
        verified(hybrid)

    assert opens(hybrid, said[0])
    went_on()
    with provkeep.open(hybrid) as trail:
        trail.erase(trail.plan_erasure(trace=said[0]), reason="request 17")
    went_on()
    rotate_log_key(hybrid)
    went_on()
    shelf = ["--file", str(hybrid.parent / "shelf.log")]
    assert main(["anchor", "add", str(hybrid), "shelf", *shelf]) == 0
    assert main(["anchor", "run", str(hybrid)]) == 0
    recorder = recorder_for(hybrid)
    say(recorder, Scope())
    recorder.close()
    went_on()
    assert opens(hybrid, said[1])
    went_on()
    records = bodies(hybrid)
    assert {"access", "erase", "logkey", "anchor"} <= {each["k"] for each in records}
    known = read_keys(keys_of(hybrid))
    assert known.second is not None
    assert len(known.ed25519) == 2
    assert records[0]["second"] == known.second.vkey()
    for command in ("verify", "pin"):
        assert main([command, str(hybrid)]) == 0
    assert main(["tiles", str(hybrid), "-o", str(hybrid.parent / "tiles")]) == 0
    published = (hybrid.parent / "tiles" / "checkpoint").read_text()
    verify_second(published, known.second)


def test_init_says_that_there_are_two_keys_and_keeps_the_seed_to_itself(hybrid, capsys):
    capsys.readouterr()
    assert main(["init", str(hybrid), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert keys_of(hybrid) == f"{said['log_key']}\n{said['second_key']}"
    config = load_recorder_config(bytes.fromhex(Path(said["keys"]).name))
    assert config.log_second_seed is not None
    secret = b64encode(config.log_second_seed).decode()
    assert secret in recorder_path(config.store_id).read_text()
    assert secret not in keys_of(hybrid) + json.dumps(said) + repr(config)


def test_a_protected_configuration_hides_the_second_seed_too(hybrid, tmp_path):
    store_id = find_by_path(hybrid)
    assert store_id is not None
    seed = load_recorder_config(store_id).log_second_seed
    assert seed is not None
    words = ["--with", "file", "--set", f"path={tmp_path / 'kek'}"]
    assert main(["keys", "protect", str(recorder_path(store_id)), *words]) == 0
    assert b64encode(seed).decode() not in recorder_path(store_id).read_text()
    assert load_recorder_config(store_id).log_second_seed == seed
    rotate_log_key(hybrid)
    all_signed_twice(hybrid)
    verified(hybrid)


def test_without_being_asked_for_there_is_no_second_key(tmp_path):
    path = tmp_path / "audit.db"
    recorder = recorder_for(path)
    say(recorder, Scope())
    recorder.close()
    store_id = find_by_path(path)
    assert store_id is not None
    assert log_public(store_id).count("\n") == 0
    assert "log_second_seed" not in recorder_path(store_id).read_text()
    assert all(lines_of(note) == 1 for _, note in notes(path))
    assert "second" not in checked(path)[0]


def test_a_log_that_is_there_gets_no_second_key_by_asking(tmp_path):
    path = tmp_path / "audit.db"
    open_for_recording(path).close()
    with pytest.raises(LogKeyError, match="began without a second key"):
        open_for_recording(path, log_suite="hybrid")
    with pytest.raises(ValueError, match="suites are ed25519, hybrid"):
        open_for_recording(tmp_path / "b.db", log_suite="rsa")
    assert not (tmp_path / "b.db").exists()


def test_a_recorder_without_the_second_key_says_so_and_the_pin_stays(hybrid):
    store_id = find_by_path(hybrid)
    assert store_id is not None
    path, pin = recorder_path(store_id), pin_path(store_id).read_bytes()
    fields = json.loads(path.read_text())
    del fields["log_second_seed"]
    path.write_text(json.dumps(fields))
    opened = open_for_recording(hybrid)
    assert "second key that log.pub names" in (opened.pin_problem or "")
    opened.close()
    with pytest.raises(LogKeyError):
        rotate_log_key(hybrid)
    assert pin_path(store_id).read_bytes() == pin


def test_an_older_library_is_named_before_anything_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.mldsa", None)
    mldsa._supported.cache_clear()
    try:
        assert main(["init", str(tmp_path / "audit.db"), "--log-suite", "hybrid"]) != 0
        assert "pip install --upgrade cryptography" in capsys.readouterr().err
        make(tmp_path / "made.db", traces(3))
        report = verify(tmp_path / "made.db", pin=None, public=KEYS)
        assert errors(report) == {"no-key"}, "a key that cannot be checked is not left out"
        assert main(["init", str(tmp_path / "plain.db")]) == 0
    finally:
        monkeypatch.undo()
        mldsa._supported.cache_clear()


# --- who has one of the two keys ----------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, Pin]:
    path = tmp_path / "audit.db"
    return path, make(path, traces(20), key=BOTH, sign_every=5)


def test_an_honest_store_verifies_with_either_knowledge(store):
    path, pin = store
    for public in (KEYS, KEY.public.vkey(), f"{KEYS.partition(chr(10))[2]}\n{KEY.public.vkey()}"):
        for known in (pin, None):
            assert verify(path, pin=known, public=public), public
    assert verify(path, pin=pin, public=KEYS, since=True)
    second = KEYS.partition("\n")[2]
    assert verify(path, pin=pin, public=second), "the pin names the first key"
    assert "no-key" in errors(verify(path, pin=None, public=second))


def test_a_history_signed_anew_with_the_first_key_alone_shows_pinned_or_not(store, tmp_path):
    _, pin = store
    forged = tmp_path / "forged.db"
    more = make(forged, [trace(n) for n in range(1, 31)], key=KEY, sign_every=5)
    assert more.size > pin.size
    assert verify(forged, pin=None, public=KEY.public.vkey()), "one line alone does not tell"
    for known in (None, pin, more):
        assert "checkpoint-signature" in errors(verify(forged, pin=known, public=KEYS))
    stranger = LogKey.from_seed(ORIGIN, bytes(32), SecondKey.generate(ORIGIN))
    make(tmp_path / "own.db", [trace(n) for n in range(1, 31)], key=stranger)
    assert "checkpoint-signature" in errors(verify(tmp_path / "own.db", pin=None, public=KEYS))


def test_records_appended_with_the_first_key_alone_show_in_what_is_new(store):
    path, pin = store
    with closing(SqliteStore(path)) as opened:
        log = Log(opened)
        log.append([trace(99)])
        log.checkpoint(KEY)
    for since in (True, False):
        report = verify(path, pin=pin, public=KEYS, since=since)
        assert errors(report) == {"checkpoint-signature"}


def _altered(note: str, older: str) -> str:
    head, _, blob = note[:-1].rpartition(" ")
    raw = b64decode(blob)
    return f"{head} {b64encode(raw[:-1] + bytes([raw[-1] ^ 1])).decode()}\n"


STRIPPED: dict[str, Callable[[str, str], str]] = {
    "stripped": lambda note, older: note[: -len(second_line(note)) - 1],
    "altered": _altered,
    "swapped": lambda note, older: note.replace(second_line(note), second_line(older)),
    "cut": lambda note, older: f"{note[:-5]}\n",
    "the second alone": lambda note, older: (
        f"{note.partition(chr(10) * 2)[0]}\n\n{second_line(note)}\n"
    ),
}


@pytest.mark.parametrize("attack", STRIPPED)
@pytest.mark.parametrize("place", [1, -1])
def test_a_second_line_that_is_touched_shows(store, attack, place):
    path, pin = store
    there = notes(path)
    size, note = there[place]
    with edit(path) as conn:
        changed = STRIPPED[attack](note, there[place - 1][1])
        assert changed != note
        conn.execute("UPDATE checkpoint SET note=? WHERE size=?", (changed, size))
    for known in (pin, None):
        report = verify(path, pin=known, public=KEYS)
        found = {(f.code, f.place) for f in report.findings if f.severity == "error"}
        codes = {"checkpoint-signature", "checkpoint-unknown-signer", "checkpoint-malformed"}
        assert found & {(code, f"checkpoint {size}") for code in codes}, report


def test_the_second_key_alone_signs_nothing(store, tmp_path):
    """Who has only the ML-DSA key is a stranger to the first."""
    mine = LogKey.from_seed(ORIGIN, bytes([5]) * 32, BOTH.second)
    make(tmp_path / "forged.db", [trace(1)], key=mine)
    assert "checkpoint-unknown-signer" in errors(
        verify(tmp_path / "forged.db", pin=None, public=KEYS)
    )


def test_pin_and_tiles_do_not_follow_a_head_that_the_second_key_did_not_sign(hybrid, capsys):
    recorder = recorder_for(hybrid)
    say(recorder, Scope())
    recorder.close()
    size, note = notes(hybrid)[-1]
    with edit(hybrid) as conn:
        stripped = STRIPPED["stripped"](note, note)
        conn.execute("UPDATE checkpoint SET note=? WHERE size=?", (stripped, size))
    for words in (["pin"], ["tiles", "-o", str(hybrid.parent / "out")]):
        assert main([words[0], str(hybrid), *words[1:]]) != 0
        assert "no signature by its second key" in capsys.readouterr().err
    assert main(["verify", str(hybrid)]) == 1


def test_a_witness_cosigns_a_head_with_two_signatures(tmp_path):
    path, witness = tmp_path / "audit.db", Witness()
    make(path, traces(20), key=BOTH)
    book = AnchorBook(tmp_path / "anchors.json")
    with served(witness) as server:
        book.add("w1", "witness", url=server.url, key=witness.vkey)
        book.write()
        anchor_and_record(path, book, BOTH)
        report = verify(path, pin=None, public=KEYS, anchors=book.path)
    assert report, report
    with edit(path) as conn:
        [(body,)] = conn.execute("SELECT body FROM record ORDER BY seq DESC LIMIT 1")
    assert lines_of(json.loads(body)["note"]) == 3


# --- evidence bundles ---------------------------------------------------------------------------


def made(path: Path) -> dict[str, Any]:
    recorder = recorder_for(path)
    tid = say(recorder, Scope())
    recorder.close()
    with provkeep.open(path) as trail:
        trail.bundle(path.parent / "case.json", tid)
    document: dict[str, Any] = json.loads((path.parent / "case.json").read_text())
    return document


def test_a_bundle_is_held_against_both_keys(hybrid):
    document, keys = made(hybrid), keys_of(hybrid)
    first, second = keys.split("\n")
    pin = pin_path(bytes.fromhex(first.partition("+")[0].partition("/")[2]))
    for given in (keys, first, f"{second}\n{first}"):
        assert provkeep.verify_bundle(document, key=given)
        assert other.verify(json.dumps(document).encode(), given)
    shutil.copy(pin, hybrid.parent / "pin.json")
    assert provkeep.verify_bundle(document, key=second, pin=hybrid.parent / "pin.json")
    report = provkeep.verify_bundle(document, key=second)
    assert "no-key" in {f.code for f in report.findings if f.severity == "error"}
    (hybrid.parent / "log.pub").write_text(keys + "\n")
    words = [str(hybrid.parent / "case.json"), "--key", str(hybrid.parent / "log.pub")]
    assert main(["verify-bundle", *words]) == 0


@pytest.mark.parametrize("attack", STRIPPED)
def test_a_bundle_without_the_second_signature_shows(hybrid, attack):
    document, keys = made(hybrid), keys_of(hybrid)
    note = document["checkpoint"]
    older = notes(hybrid)[0][1]
    document["checkpoint"] = STRIPPED[attack](note, older)
    assert document["checkpoint"] != note
    report = provkeep.verify_bundle(document, key=keys)
    assert not report
    assert {f.code for f in report.findings if f.severity == "error"} & {
        "checkpoint-signature",
        "checkpoint-malformed",
        "checkpoint-unknown-signer",
    }


def test_a_bundle_whose_changes_of_keys_are_forged_still_needs_the_second_key(hybrid):
    """Who breaks Ed25519 can name a next key, and not sign the head with ML-DSA."""
    rotate_log_key(hybrid)
    document, keys = made(hybrid), keys_of(hybrid)
    assert provkeep.verify_bundle(document, key=keys)
    document["checkpoint"] = STRIPPED["stripped"](document["checkpoint"], "")
    assert not provkeep.verify_bundle(document, key=keys)
    ed25519 = "\n".join(each.vkey() for each in read_keys(keys).ed25519)
    assert provkeep.verify_bundle(document, key=ed25519), "who knows one key alone is not told"
