"""The log over a store: one sequence, whose stored tree is that of its stored bytes."""

import tempfile
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provkeep.errors import PinError, StoreReplacedError
from provkeep.model.canonical import MAX_BODY, canonical
from provkeep.model.records import Pending
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.checkpoint import LogKey, verify_checkpoint
from provkeep.tlog.log import TILE, Log, StoredTree, root_at
from provkeep.tlog.merkle import (
    EMPTY_ROOT,
    Frontier,
    check_consistency,
    consistency_proof_from_ranges,
    inclusion_proof_from_ranges,
    leaf_hash,
    root_from_inclusion_proof,
    root_of,
)

KEY = LogKey.from_seed("example.org/log", bytes(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(path)) as made:
        yield made


def gap(number: int, *envelopes: bytes) -> Pending:
    """The smallest record there is."""
    return Pending({"k": "gap", "v": 1, "at": number, "events": 1}, list(envelopes))


def gaps(count: int, start: int = 0) -> list[Pending]:
    return [gap(n) for n in range(start, start + count)]


def leaves(store: SqliteStore) -> list[bytes]:
    return [leaf_hash(body) for _, body in store.records()]


def test_what_is_hashed_is_what_is_stored(store):
    log = Log(store)
    log.append(gaps(3))
    assert [body for _, body in store.records()] == [canonical(g.body) for g in gaps(3)]
    pin = log.checkpoint(KEY)
    assert pin.root == root_of(leaves(store))
    assert (pin.origin, pin.size, pin.vkey) == ("example.org/log", 3, KEY.public.vkey())


def test_each_record_is_told_its_number_and_where_its_payloads_begin(store):
    log = Log(store)
    first, second, third = gap(1, b"a", b"b"), gap(2), gap(3, b"c")
    log.append([first, second])
    log.append([third])
    assert [(p.seq, p.p0) for p in (first, second, third)] == [(0, 1), (1, 3), (2, 3)]
    assert first.body["p0"] == 1
    assert "p0" not in second.body
    assert store.payloads(range(9)) == {1: (0, b"a"), 2: (0, b"b"), 3: (2, b"c")}


def test_a_checkpoint_is_kept_and_is_signed_by_the_key(store):
    log = Log(store)
    log.append(gaps(5))
    pin = log.checkpoint(KEY)
    [(size, note)] = store.query("SELECT size, note FROM checkpoint")
    stated = verify_checkpoint(note, KEY.public)
    assert (size, stated.size, stated.root) == (5, 5, pin.root)


def test_the_checkpoint_of_nothing_is_the_empty_root(store):
    assert Log(store).checkpoint(KEY).root == EMPTY_ROOT


def test_a_batch_is_appended_whole_or_not_at_all(store):
    log = Log(store)
    log.append(gaps(2))
    for bad in ({"k": "gap", "x": 2**53}, {"k": "gap", "x": b"bytes"}, {"k": "x" * MAX_BODY}):
        with pytest.raises(ValueError):
            log.append([gap(7), Pending(bad, [])])
    assert len(leaves(store)) == 2
    log.append([gap(8)])
    assert log.checkpoint(KEY).root == root_of(leaves(store))


def test_the_largest_body_fits_and_one_byte_more_does_not(store):
    log = Log(store)
    room = MAX_BODY - len(canonical({"k": "gap", "z": ""}))
    log.append([Pending({"k": "gap", "z": "x" * room}, [])])
    with pytest.raises(ValueError, match="at most 65535"):
        log.append([Pending({"k": "gap", "z": "x" * (room + 1)}, [])])


def test_a_first_record_is_written_once(store):
    log = Log(store)
    log.append([gap(1)], only_first=True)
    late = gap(2)
    log.append([late], only_first=True)
    assert late.seq == -1
    assert [body for _, body in store.records()] == [canonical(gap(1).body)]


def test_two_processes_make_one_sequence(path):
    """Each has its own idea of the right edge; the store has the one that counts."""
    with closing(SqliteStore(path)) as a, closing(SqliteStore(path)) as b:
        logs = [Log(a), Log(b)]
        for n in range(40):
            logs[n % 3 % 2].append(gaps(1 + n % 17, start=1_000 * n))
        assert [seq for seq, _ in a.records()] == list(range(len(leaves(b))))
        assert logs[0].checkpoint(KEY).root == logs[1].checkpoint(KEY).root == root_of(leaves(a))


@pytest.mark.parametrize("attack", ["rolled back", "exchanged", "exchanged and longer"])
def test_a_log_that_is_not_the_one_seen_before_is_refused(store, attack):
    """A running recorder must not sign what it did not see grow."""
    log = Log(store)
    log.append(gaps(6))
    with store.transaction() as tx:
        if attack == "rolled back":
            tx.set_head(4, b"".join([root_of(leaves(store)[:4])]))
        else:
            frontier = Frontier()
            conn = tx._conn
            conn.execute("DELETE FROM record")
            for n in range(9 if "longer" in attack else 6):
                body = canonical(gap(500 + n).body)
                conn.execute("INSERT INTO record VALUES(?,?)", (n, body))
                frontier.append(leaf_hash(body))
            tx.set_head(frontier.size, frontier.to_bytes())
    with pytest.raises(StoreReplacedError):
        log.append([gap(9)])
    with pytest.raises(StoreReplacedError):
        log.checkpoint(KEY)


def test_the_root_at_any_earlier_size_is_found_again(store):
    log = Log(store)
    log.append(gaps(2 * TILE + 9))
    hashes = leaves(store)
    with store.transaction() as tx:
        for size in (0, 1, 2, TILE - 1, TILE, TILE + 1, 2 * TILE, 2 * TILE + 9):
            assert root_at(tx, size) == root_of(hashes[:size]), size
        with pytest.raises(PinError, match="521 records, the pin remembers 522"):
            root_at(tx, 2 * TILE + 10)


def test_full_tiles_hold_the_leaf_hashes_and_the_tier_above_their_roots(store):
    Log(store).append(gaps(3 * TILE - 1))
    hashes = leaves(store)
    tiles = {(tier, n): blob for tier, n, blob in store.query("SELECT * FROM tile")}
    first, second = hashes[:TILE], hashes[TILE : 2 * TILE]
    assert tiles == {
        (0, 0): b"".join(first),
        (0, 1): b"".join(second),
        (1, 0): root_of(first) + root_of(second),
    }


def test_tiles_do_not_depend_on_how_records_were_batched(tmp_path):
    found = []
    for size in (1, 100, 256, 700):
        with closing(SqliteStore(tmp_path / f"{size}.db")) as store:
            log = Log(store)
            waiting = gaps(700)
            for at in range(0, 700, size):
                log.append(waiting[at : at + size])
            found.append((store.query("SELECT * FROM tile"), log.checkpoint(KEY).root))
    assert all(each == found[0] for each in found)


@given(st.lists(st.integers(0, 9), max_size=12), st.data())
def test_roots_and_proofs_follow_from_stored_tiles_of_any_tier(batches, data):
    """With tiles of four hashes, so that several tiers fill up."""
    with pytest.MonkeyPatch.context() as patch, SmallStore() as store:
        patch.setattr("provkeep.tlog.log.TILE", 4)
        patch.setattr("provkeep.tlog.log.TILE_HEIGHT", 2)
        log = Log(store)
        for number, count in enumerate(batches):
            log.append(gaps(count, start=100 * number))
        hashes = leaves(store)
        size = len(hashes)
        pin = log.checkpoint(KEY)
        assert pin.root == root_of(hashes)
        with store.transaction() as tx:
            tree = StoredTree(tx)
            old = data.draw(st.integers(0, size))
            assert root_at(tx, old) == root_of(hashes[:old])
            proof = consistency_proof_from_ranges(tree.hash, old, size)
            check_consistency(old, root_of(hashes[:old]), size, pin.root, proof)
            if size:
                index = data.draw(st.integers(0, size - 1))
                path = inclusion_proof_from_ranges(tree.hash, index, size)
                assert root_from_inclusion_proof(hashes[index], index, size, path) == pin.root


def test_a_published_checkpoint_is_three_lines_and_a_signature(store):
    log = Log(store)
    log.append(gaps(1))
    pin = log.checkpoint(KEY)
    note = store.query("SELECT note FROM checkpoint")[0][0]
    lines = note.split("\n")
    assert lines[:2] == ["example.org/log", "1"]
    assert b64decode(lines[2]) == pin.root
    assert lines[3] == ""
    assert lines[4].startswith("— example.org/log ")


class SmallStore:
    """A store in a folder of its own, for a property that needs many."""

    def __enter__(self) -> SqliteStore:
        self._folder = tempfile.TemporaryDirectory()
        self._store = SqliteStore(Path(self._folder.name) / "audit.db")
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()
        self._folder.cleanup()
