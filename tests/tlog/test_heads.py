"""A pin moves forward along one log, and along no other."""

from contextlib import closing
from pathlib import Path

import pytest

from provkeep.errors import CheckpointError, PinMismatchError
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.checkpoint import LogKey
from provkeep.tlog.heads import View, check_head, fresh_pin
from provkeep.tlog.merkle import check_consistency
from provkeep.tlog.pin import Pin
from tests.reading.forging import KEY, edit, make, trace, traces

THIEF = LogKey.from_seed(KEY.public.origin, bytes([1]) * 32)


def refreshed(path: Path, *older: Pin, key: LogKey = KEY) -> Pin:
    with closing(SqliteStore(path, read_only=True)) as store:
        return fresh_pin(View(store.query), key.public, *older)


def test_a_pin_moves_to_the_newest_checkpoint(tmp_path):
    old = make(tmp_path / "a.db", traces(20))
    new = make(tmp_path / "b.db", traces(300))
    assert refreshed(tmp_path / "b.db", old) == new
    assert refreshed(tmp_path / "b.db", old, new) == new
    assert refreshed(tmp_path / "b.db") == new


def test_a_pin_does_not_move_onto_another_history(tmp_path):
    old = make(tmp_path / "a.db", traces(20))
    make(tmp_path / "b.db", [trace(900), *traces(300)])
    with pytest.raises(PinMismatchError, match="rewritten"):
        refreshed(tmp_path / "b.db", old)


def test_a_pin_does_not_move_back(tmp_path):
    old = make(tmp_path / "a.db", traces(300))
    make(tmp_path / "b.db", traces(20))
    with pytest.raises(PinMismatchError, match="remembers 301 records, the log has 21"):
        refreshed(tmp_path / "b.db", old)


def test_a_pin_does_not_move_to_another_key(tmp_path):
    old = make(tmp_path / "a.db", traces(20))
    make(tmp_path / "b.db", traces(30), key=THIEF)
    with pytest.raises(PinMismatchError, match="another log key"):
        refreshed(tmp_path / "b.db", old, key=THIEF)
    with pytest.raises(CheckpointError, match="no signature by its key"):
        refreshed(tmp_path / "b.db")


def test_a_pin_does_not_move_to_a_head_that_the_records_do_not_lead_to(tmp_path):
    make(tmp_path / "a.db", traces(20))
    other = make(tmp_path / "b.db", [trace(900), *traces(19)])
    with edit(tmp_path / "a.db") as conn:
        note = KEY.sign_checkpoint(other.size, other.root)
        conn.execute("UPDATE checkpoint SET note=? WHERE size=?", (note, other.size))
    with pytest.raises(PinMismatchError, match="do not lead to the root"):
        refreshed(tmp_path / "a.db")
    with edit(tmp_path / "a.db") as conn:
        conn.execute("DELETE FROM checkpoint")
    with pytest.raises(CheckpointError, match="holds none"):
        refreshed(tmp_path / "a.db")


def test_consistency_proofs_are_those_of_the_tree(tmp_path):
    path = tmp_path / "audit.db"
    make(path, traces(520))
    with closing(SqliteStore(path, read_only=True)) as store:
        view = View(store.query)
        for old, new in ((1, 521), (256, 521), (257, 512), (300, 301), (521, 521), (0, 5)):
            root = view.root(old) if old else view.root(0)
            check_consistency(old, root, new, view.root(new), view.consistency(old, new))


def test_a_hostile_store_leads_to_no_root_and_no_traceback(tmp_path):
    path = tmp_path / "audit.db"
    make(path, traces(520))
    for damage in (
        "UPDATE tile SET hashes='text' WHERE level=0",
        "UPDATE tile SET hashes=zeroblob(31) WHERE level=0",
        "UPDATE tile SET hashes=zeroblob(1048576) WHERE level=0",
        "DELETE FROM tile",
        "UPDATE record SET body='text' WHERE seq=7",
        "UPDATE checkpoint SET note=7",
    ):
        with edit(path) as conn:
            conn.execute(damage)
    with closing(SqliteStore(path, read_only=True)) as store:
        view = View(store.query)
        assert len(view.root(521)) == 32
        with pytest.raises(CheckpointError):
            view.newest_head(KEY.public)


def test_tiles_that_are_no_tiles_are_computed_from_the_records(tmp_path):
    path = tmp_path / "audit.db"
    pin = make(path, traces(520))
    with edit(path) as conn:
        conn.execute("UPDATE tile SET hashes=zeroblob(31) WHERE level=0")
    with closing(SqliteStore(path, read_only=True)) as store:
        assert View(store.query).root(pin.size) == pin.root
        head = View(store.query).newest_head(KEY.public)
        check_head(View(store.query), head)
