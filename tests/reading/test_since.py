"""Verification of what came after a pin: everything new is looked at, nothing old is claimed."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from provkeep.reading import quick
from provkeep.reading.verify import verify
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.log import Log
from provkeep.tlog.pin import Pin
from tests.reading.forging import KEY, edit, make, settle_head, trace, traces
from tests.reading.test_verify import errors

PUBLIC = KEY.public
SIZES = (1, 2, 100, 255, 256, 257, 300, 511, 512, 513, 600)
RECORDS = 601


@pytest.fixture(scope="module")
def pins(tmp_path_factory) -> tuple[Path, dict[int, Pin]]:
    """A store, and what would have been pinned at some sizes on the way."""
    path, found = tmp_path_factory.mktemp("since") / "audit.db", {}
    found[1] = make(path, [])
    waiting = traces(RECORDS - 1)
    with closing(SqliteStore(path)) as store:
        log = Log(store)
        for start, stop in zip(SIZES, (*SIZES[1:], RECORDS), strict=True):
            log.append(waiting[start - 1 : stop - 1])
            found[stop] = log.checkpoint(KEY)
    return path, found


@pytest.fixture
def copy(pins, tmp_path) -> Path:
    return Path(shutil.copy(pins[0], tmp_path / "audit.db"))


@pytest.mark.parametrize("size", [*SIZES, RECORDS])
def test_only_what_came_after_the_pin_is_read_and_the_report_says_so(pins, size):
    path, found = pins
    report = verify(path, pin=found[size], public=PUBLIC, since=True)
    assert report, report
    assert (report.since, report.records, report.size) == (size, RECORDS - size, RECORDS)
    assert report.root == verify(path, pin=found[size], public=PUBLIC).root
    assert report.codes == {"not-checked"}
    assert report.pinned
    assert f"first {size} records" in report.findings[0].sentence


ATTACKS = {
    "change a new record": (
        "UPDATE record SET body=CAST(replace(body, 'ok', 'no') AS BLOB) WHERE seq=450",
        "record-altered",
    ),
    "delete a new record": ("DELETE FROM record WHERE seq=450", "record-missing"),
    "cut the end": ("DELETE FROM record WHERE seq>590", "head-mismatch"),
    "change a new payload": (
        "UPDATE payload SET data=x'00' WHERE id=(SELECT max(id) FROM payload)",
        "payload-altered",
    ),
    "delete a new payload": (
        "DELETE FROM payload WHERE id=(SELECT max(id) FROM payload)",
        "payload-missing",
    ),
    "add a payload": (
        "INSERT INTO payload SELECT max(id)+1, 5, NULL, x'00' FROM payload",
        "payload-orphan",
    ),
    "name another source": (
        "UPDATE payload SET source=1+source%5 WHERE id=(SELECT max(id) FROM payload)",
        "index-row",
    ),
    "change a trace's status": ("UPDATE trace SET status='error' WHERE id=500", "index-row"),
    "change a trace's answer": ("UPDATE trace SET answer=answer+1 WHERE id=500", "index-row"),
    "hide a trace's answer": ("UPDATE trace SET answer=NULL WHERE id=500", "index-row"),
    "delete a trace's row": ("DELETE FROM trace WHERE id=500", "index-row"),
    "add a trace's row": (
        "INSERT INTO trace SELECT 900, x'00', t0_us, end_us, status, kind, name, session, actor,"
        " subject, runs, errors, answer FROM trace WHERE id=500",
        "index-row",
    ),
    "delete a record of a trace": ("DELETE FROM trec WHERE trace=500", "index-row"),
    "add a record to a trace": ("INSERT INTO trec VALUES(500, 3)", "index-row"),
    "change a reach": ("UPDATE xref SET reach=1-reach WHERE trace=500", "index-row"),
    "delete a reach": ("DELETE FROM xref WHERE trace=500", "index-row"),
    "delete a document": (
        "DELETE FROM doc WHERE payload=(SELECT max(payload) FROM doc)",
        "index-row",
    ),
    "change a source's tag": ("UPDATE source SET tag=substr(tag,1,11) || x'99'", "index-row"),
    "change a full tile": (
        "UPDATE tile SET hashes=CAST(substr(hashes, 1, 8160) || zeroblob(32) AS BLOB)"
        " WHERE level=0 AND idx=1",
        "tile",
    ),
    "change the tile above": (
        "UPDATE tile SET hashes=zeroblob(length(hashes)) WHERE level=1",
        "pin-mismatch",
    ),
    "change the head": ("UPDATE head SET frontier=zeroblob(length(frontier))", "frontier"),
    "strip signatures": ("DELETE FROM checkpoint WHERE size>300", "unsigned-tail"),
    "a trigger": (
        "CREATE TRIGGER t AFTER INSERT ON record BEGIN DELETE FROM trace; END",
        "schema-changed",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_what_is_new_shows(pins, copy, name):
    statement, code = ATTACKS[name]
    with edit(copy) as conn:
        assert conn.execute(statement).rowcount
    report = verify(copy, pin=pins[1][300], public=PUBLIC, since=True, strict=True)
    assert not report
    assert code in report.codes


def test_records_that_were_rewritten_before_the_pin_do_not_lead_to_its_root(pins, copy):
    """Also when the forger mends every stored hash: the old root is in the pin."""
    forged = traces(RECORDS - 1)
    forged[16].body["e"][-2][3] = "error"
    copy.unlink()
    make(copy, forged)
    assert errors(verify(copy, pin=pins[1][300], public=PUBLIC, since=True)) == {"pin-mismatch"}


def test_an_older_copy_is_shorter_than_the_pin(pins, copy):
    with edit(copy) as conn:
        conn.execute("DELETE FROM record WHERE seq>=200")
        settle_head(conn)
    assert errors(verify(copy, pin=pins[1][300], public=PUBLIC, since=True)) == {"pin-ahead"}


def test_what_came_before_the_pin_is_not_claimed_to_be_well(pins, copy):
    """The honest limit of looking at the new part only: a whole verification finds it."""
    with edit(copy) as conn:
        conn.execute("UPDATE record SET body=x'7b7d' WHERE seq=7")
        conn.execute("UPDATE payload SET data=x'00' WHERE seq=20")
    report = verify(copy, pin=pins[1][512], public=PUBLIC, since=True)
    assert report
    assert "not-checked" in report.codes
    assert not verify(copy, pin=pins[1][512], public=PUBLIC)


def test_a_trace_that_began_before_the_pin_may_go_on_after_it(tmp_path):
    path = tmp_path / "audit.db"
    first, second = trace(1, b"one", source=1), trace(1, b"two", source=2)
    first.body["e"] = [e for e in first.body["e"] if e[0] != "x"]
    second.body["n"] = 1
    second.body["e"] = [e for e in second.body["e"] if e[0] != "s"]
    pin = make(path, [first, trace(2)])
    with closing(SqliteStore(path)) as store:
        log = Log(store)
        log.append([second, trace(3, b"three", source=1)])
        log.checkpoint(KEY)
    assert verify(path, pin=pin, public=PUBLIC, since=True).codes == {"not-checked"}
    with edit(path) as conn:
        conn.execute("UPDATE trace SET status='error' WHERE id=1")
    assert "index-row" in errors(verify(path, pin=pin, public=PUBLIC, since=True))


def test_it_needs_a_pin(pins):
    assert "pin-unreadable" in errors(verify(pins[0], pin=None, public=PUBLIC, since=True))


def test_strict_makes_a_failure_of_every_warning(pins, copy):
    assert verify(copy, pin=None, public=PUBLIC)
    report = verify(copy, pin=None, public=PUBLIC, strict=True)
    assert not report
    assert report.to_dict()["strict"] is True
    assert "FAILED with 1 error:" in repr(report)
    assert verify(copy, pin=pins[1][RECORDS], public=PUBLIC, strict=True)


def test_an_honest_index_is_never_derived_twice(pins, tmp_path, monkeypatch):
    """The quick comparison says yes to every honest store, or its speed would be lost unseen."""
    said = []
    whole = quick.QuickIndex.other
    monkeypatch.setattr(
        quick.QuickIndex, "other", lambda self: said.append(whole(self)) or said[-1]
    )
    assert verify(pins[0], pin=pins[1][300], public=PUBLIC)
    parts = [trace(1, b"one", source=1), trace(2), trace(1, b"two", source=2), trace(3), trace(1)]
    for n, part in enumerate(p for p in parts if p.body["t"] == f"{1:032x}"):
        part.body["n"] = n
    pin = make(tmp_path / "parts.db", parts)
    assert verify(tmp_path / "parts.db", pin=pin, public=PUBLIC)
    assert said == [True, True]
