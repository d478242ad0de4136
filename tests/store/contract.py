"""What every store must do, whichever database it is. A store's own tests inherit from this."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from provkeep.errors import StoreError, StoreReadOnlyError
from provkeep.store.base import Store

NO_INDEX = {"k": "gap"}  # the fields of a record that no index row follows from


class StoreContract:
    """Subclasses give a fixture ``opened``: opens the same store again, closed after the test."""

    @pytest.fixture
    def opened(self) -> Iterator[Callable[..., Store]]:
        raise NotImplementedError

    @pytest.fixture
    def store(self, opened: Callable[..., Store]) -> Store:
        return opened()

    def test_a_new_store_is_empty(self, store):
        assert list(store.records()) == []
        assert store.payloads([1, 2]) == {}
        with store.transaction() as tx:
            assert tx.head() == (0, b"")
            assert tx.next_payload() == 1
            assert tx.bodies(0, 10) == []
            assert tx.tile(0, 0) is None

    def test_what_was_committed_is_there_for_every_connection_and_later(self, opened, store):
        other = opened()
        with store.transaction(durable=True) as tx:
            tx.add(0, b"first", {**NO_INDEX, "p0": 1}, [b"one", b"two"])
            tx.add(1, b"second", NO_INDEX, [])
            tx.set_head(2, b"f" * 32)
            tx.set_tile(0, 3, b"t" * 64)
            tx.add_checkpoint(2, "note")
        for each in (store, other, opened()):
            assert list(each.records()) == [(0, b"first"), (1, b"second")]
            assert each.payloads([2, 1, 1, 7]) == {1: (0, b"one"), 2: (0, b"two")}
            with each.transaction() as tx:
                assert tx.head() == (2, b"f" * 32)
                assert tx.next_payload() == 3
                assert tx.bodies(1, 9) == [b"second"]
                assert tx.tile(0, 3) == b"t" * 64
                assert tx.tile(3, 0) is None

    def test_a_change_that_fails_leaves_nothing(self, store):
        with pytest.raises(ZeroDivisionError), store.transaction() as tx:
            tx.add(0, b"first", {**NO_INDEX, "p0": 1}, [b"one"])
            tx.set_head(1, b"f" * 32)
            tx.set_tile(0, 0, b"t" * 32)
            tx.add_checkpoint(1, "note")
            raise ZeroDivisionError
        assert list(store.records()) == []
        assert store.payloads([1]) == {}
        assert store.query("SELECT count(*) FROM checkpoint") == [(0,)]
        with store.transaction() as tx:
            assert tx.head() == (0, b"")
            assert tx.tile(0, 0) is None

    def test_nobody_sees_a_change_before_it_is_whole(self, opened, store):
        other = opened()
        with store.transaction() as tx:
            tx.add(0, b"first", NO_INDEX, [])
            assert tx.bodies(0, 1) == [b"first"], "but for the change itself"
            assert list(other.records()) == []
            assert list(store.records()) == []
        assert list(other.records()) == [(0, b"first")]

    def test_a_record_number_is_given_once(self, store):
        with store.transaction() as tx:
            tx.add(0, b"first", NO_INDEX, [])
        with pytest.raises(StoreError), store.transaction() as tx:
            tx.add(0, b"again", NO_INDEX, [])
        assert list(store.records()) == [(0, b"first")]

    def test_head_tile_and_checkpoint_are_replaced_by_the_newer_one(self, store):
        for n in (1, 2):
            with store.transaction() as tx:
                tx.set_head(n, b"%d" % n * 32)
                tx.set_tile(1, 0, b"%d" % n * 32 * n)
                tx.add_checkpoint(7, f"note {n}")
        with store.transaction() as tx:
            assert tx.head() == (2, b"2" * 32)
            assert tx.tile(1, 0) == b"2" * 64
        assert store.query("SELECT size, note FROM checkpoint") == [(7, "note 2")]

    def test_records_come_in_order_in_any_range_and_however_many(self, store):
        bodies = [b"%d" % n for n in range(1_300)]
        with store.transaction() as tx:
            for n, body in enumerate(bodies):
                tx.add(n, body, NO_INDEX, [])
        everything = list(enumerate(bodies))
        assert list(store.records()) == everything
        assert list(store.records(1_299)) == everything[1_299:]
        assert list(store.records(500, 1_100)) == everything[500:1_100]
        assert list(store.records(5, 5)) == []
        assert list(store.records(2_000)) == []

    def test_payloads_are_numbered_on_from_the_largest(self, store):
        for n in range(3):
            with store.transaction() as tx:
                first = tx.next_payload()
                assert first == 1 + 700 * n
                some = [b"%d" % (first + i) for i in range(700)]
                tx.add(n, b"body", {**NO_INDEX, "p0": first}, some)
        found = store.payloads(range(2_200))
        assert found == {n: ((n - 1) // 700, b"%d" % n) for n in range(1, 2_101)}

    def test_the_index_is_derived_with_the_record(self, store):
        run = ["s", 0, "chain", "RunnableSequence", -1, 0, "A" * 22, {}]
        fields: dict[str, Any] = {
            "k": "trace",
            "v": 1,
            "t": "0" * 31 + "7",
            "n": 0,
            "t0": "1700000000000000000",
            "e": [run, ["x", 0, 5_000, "error", {"o": 1}]],
        }
        with store.transaction() as tx:
            tx.add(0, b"body", fields, [])
        row = (bytes(15) + b"\x07", "RunnableSequence", "error", 1, 1)
        assert store.query("SELECT tid, name, status, runs, errors FROM trace") == [row]
        assert store.query("SELECT seq FROM trec") == [(0,)]

    def test_a_question_cannot_change_anything(self, store):
        with pytest.raises(StoreError):
            store.query("DELETE FROM record")

    def test_a_store_opened_to_read_refuses_to_write(self, opened, store):
        with store.transaction() as tx:
            tx.add(0, b"first", NO_INDEX, [])
        reader = opened(read_only=True)
        assert list(reader.records()) == [(0, b"first")]
        with pytest.raises(StoreReadOnlyError), reader.transaction():
            pass

    def test_closing_twice_is_closing_once(self, store):
        store.close()
        store.close()
