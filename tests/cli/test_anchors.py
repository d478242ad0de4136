"""``anchor`` as it is typed."""

import json

from provkeep.cli import anchors
from provkeep.sealing.home import anchors_path, find_by_path, log_public
from tests.anchor_kit import Witness


def codes(done):
    return {each["code"] for each in done.json["findings"]}


def test_an_anchor_is_added_run_listed_and_verified(audit, typed, tmp_path):
    filed = tmp_path / "elsewhere.log"
    done = typed("anchor", "add", audit, "shelf", "--file", filed, "--json")
    assert (done.code, done.json["type"]) == (0, "file")
    assert typed("verify", audit).code == 1  # it holds nothing of this log yet
    done = typed("anchor", "run", audit, "--json")
    assert (done.code, done.json["recorded"]) == (0, True)
    assert done.json["anchors"][0]["outcome"] == "anchored"
    assert len(filed.read_text().splitlines()) == 1
    (row,) = typed("anchor", "list", audit, "--json").json["anchors"]
    assert (row["anchor"], row["recorded"], row["failures"]) == ("shelf", True, 0)
    assert row["size"] == done.json["anchors"][0]["size"]
    done = typed("verify", audit, "--json", "--strict")
    assert (done.code, codes(done)) == (0, {"anchored"})
    assert "shelf" in typed("anchor", "list", audit).out
    again = typed("anchor", "run", audit)  # the record of the proof is new, and signed
    assert (again.code, again.err) == (0, "")
    assert "anchored" in again.out


def test_an_anchor_that_lost_what_it_held_is_a_finding(audit, typed, tmp_path):
    filed = tmp_path / "elsewhere.log"
    typed("anchor", "add", audit, "shelf", "--file", filed)
    typed("anchor", "run", audit)
    filed.write_text("")
    done = typed("verify", audit, "--json")
    assert (done.code, codes(done)) == (1, {"anchor-missing"})
    book = anchors_path(find_by_path(audit))
    empty = tmp_path / "other.json"
    empty.write_text(json.dumps({**json.loads(book.read_text()), "anchors": []}))
    done = typed("verify", audit, "--anchors", empty, "--json")
    assert (done.code, codes(done)) == (0, {"anchor-unknown"})


def test_an_anchor_that_cannot_be_reached_is_told_and_fails_the_command(
    audit, typed, tmp_path, monkeypatch
):
    monkeypatch.setattr(anchors, "_pause", lambda _: True)
    witness = Witness()
    words = ("--witness", "http://127.0.0.1:1/", "--witness-key", witness.vkey)
    assert typed("anchor", "add", audit, "w", *words).code == 0
    done = typed("anchor", "run", audit, "--json")
    assert done.code == 1
    assert "cannot be reached" in done.json["anchors"][0]["outcome"]
    done = typed("verify", audit, "--json")
    assert (done.code, codes(done)) == (1, {"anchor-quorum", "anchor-failing"})
    assert "must have seen" in typed("anchor", "list", audit).out
    assert typed("anchor", "set", audit, "--quorum", "0", "--every", "300", "--json").json == {
        "quorum": 0,
        "every_s": 300,
    }
    assert typed("verify", audit).code == 0
    assert typed("verify", audit, "--strict").code == 1


def test_an_anchor_is_forgotten_when_asked_twice(audit, typed, tmp_path):
    typed("anchor", "add", audit, "usb", "--pin", tmp_path / "pin.json")
    assert typed("anchor", "run", audit).code == 0
    assert typed("anchor", "remove", audit, "usb").code != 0
    assert typed("anchor", "list", audit, "--json").json["anchors"]
    assert typed("anchor", "remove", audit, "usb", "--yes").code == 0
    assert typed("anchor", "list", audit).out.startswith("no anchors")
    assert (tmp_path / "pin.json").exists()
    assert typed("anchor", "remove", audit, "usb", "--yes").code == 2


def test_wrong_use_changes_nothing(audit, typed, tmp_path):
    (tmp_path / "no.pem").write_text("no PEM")
    key = Witness().vkey
    for words in (
        (),
        ("--file", "a", "--pin", "b"),
        ("--witness", "http://127.0.0.1:1"),
        ("--witness", "ftp://127.0.0.1", "--witness-key", key),
        ("--witness", "http://user:secret@127.0.0.1", "--witness-key", key),
        ("--witness", "http://127.0.0.1:1", "--witness-key", log_public(find_by_path(audit))),
        ("--timestamp", "http://127.0.0.1:1"),
        ("--timestamp", "http://127.0.0.1:1", "--certificate", tmp_path / "no.pem"),
        ("--timestamp", "http://127.0.0.1:1", "--certificate", tmp_path / "none.pem"),
    ):
        assert typed("anchor", "add", audit, "x", *words).code == 2, words
    assert typed("anchor", "run", audit).code == 2
    assert not anchors_path(find_by_path(audit)).exists()
    typed("anchor", "add", audit, "x", "--file", tmp_path / "f")
    assert typed("anchor", "add", audit, "x", "--file", tmp_path / "g").code == 2


def test_anchors_go_on_after_a_change_of_the_log_s_key(audit, typed, tmp_path):
    typed("anchor", "add", audit, "usb", "--pin", tmp_path / "pin.json")
    typed("anchor", "add", audit, "shelf", "--file", tmp_path / "filed")
    assert typed("anchor", "run", audit).code == 0
    assert typed("keys", "rotate", audit, "--log", "--yes").code == 0
    assert typed("anchor", "run", audit).code == 0
    assert typed("pin", audit, "--pin", tmp_path / "another.json").code == 0
    assert typed("pin", audit, "--pin", tmp_path / "pin.json").code == 0
    assert typed("tiles", audit, "-o", tmp_path / "log").code == 0
    done = typed("verify", audit, "--json")
    assert (done.code, codes(done)) == (0, {"anchored", "key-rotation"})
