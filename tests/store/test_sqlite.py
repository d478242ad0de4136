"""The SQLite store keeps the contract of every store, and what is SQLite's own."""

import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from provkeep.errors import (
    NotAProvkeepFileError,
    StoreFullError,
    StoreLockedError,
    StoreNewerError,
    StoreReplacedError,
)
from provkeep.store import schema
from provkeep.store.sqlite import SqliteStore
from tests.store.contract import NO_INDEX, StoreContract


class TestSqliteStore(StoreContract):
    """The contract."""

    @pytest.fixture
    def opened(self, tmp_path: Path) -> Iterator[Callable[..., SqliteStore]]:
        made: list[SqliteStore] = []

        def again(**options: bool) -> SqliteStore:
            made.append(SqliteStore(tmp_path / "audit.db", **options))
            return made[-1]

        yield again
        for store in made:
            store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


def write(store: SqliteStore, seq: int, data: bytes = b"") -> None:
    with store.transaction() as tx:
        tx.add(seq, b"body %d" % seq, {**NO_INDEX, "p0": tx.next_payload()}, [data])


def test_a_new_file_is_the_owners_alone_and_carries_our_mark(path):
    with closing(SqliteStore(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with closing(sqlite3.connect(path)) as conn:
        mark = conn.execute("PRAGMA application_id").fetchone()[0]
        assert mark.to_bytes(4, "big") == b"prKp"
        assert conn.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        assert conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_new_file_has_the_schema_that_verification_expects(path):
    """Also when an older file was brought up to date: `verify` compares text for text."""
    SqliteStore(path).close()
    SqliteStore(path).close()
    with closing(sqlite3.connect(path)) as conn:
        found = {(n, s or "") for n, s in conn.execute("SELECT name, sql FROM sqlite_schema")}
    assert found == schema.expected_schema(schema.MIGRATIONS, schema.APPLICATION_ID)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "content", [b"hello, world\n" * 99, b"SQLite format 3\x00" + b"\xff" * 999]
)
def test_a_file_that_is_none_of_ours_is_refused_and_not_touched(path, content, read_only):
    path.write_bytes(content)
    with pytest.raises(NotAProvkeepFileError, match=r"audit\.db is not a provkeep file"):
        SqliteStore(path, read_only=read_only)
    assert path.read_bytes() == content


@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_of_another_application_is_refused_and_not_touched(path, read_only):
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE theirs(x)")
    before = path.read_bytes()
    with pytest.raises(NotAProvkeepFileError):
        SqliteStore(path, read_only=read_only)
    assert path.read_bytes() == before


def test_a_file_of_a_newer_schema_is_refused(path):
    SqliteStore(path).close()
    with closing(sqlite3.connect(path)) as conn:
        conn.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    with pytest.raises(StoreNewerError, match="upgrade provkeep"):
        SqliteStore(path)


def test_reading_needs_a_file_that_is_there(path):
    with pytest.raises(NotAProvkeepFileError, match="no such file"):
        SqliteStore(path, read_only=True)
    assert not path.exists()


def test_the_first_to_claim_a_store_names_it(path):
    with closing(SqliteStore(path)) as one, closing(SqliteStore(path)) as two:
        assert one.store_id == two.store_id == b""
        assert one.claim(b"1" * 16) == b"1" * 16
        assert two.claim(b"2" * 16) == b"1" * 16
        assert two.store_id == b"1" * 16
    with closing(SqliteStore(path, read_only=True)) as three:
        assert three.store_id == b"1" * 16


def test_two_writers_take_turns_and_lose_nothing(path):
    """A transaction that reads the head and then writes must hold the lock from its beginning."""
    SqliteStore(path).close()

    def append() -> None:
        with closing(SqliteStore(path)) as store:
            for _ in range(60):
                with store.transaction() as tx:
                    size, _ = tx.head()
                    tx.add(size, b"x", NO_INDEX, [])
                    tx.set_head(size + 1, b"")

    threads = [threading.Thread(target=append) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with closing(SqliteStore(path, read_only=True)) as store:
        assert [seq for seq, _ in store.records()] == list(range(180))


def test_a_lock_that_is_never_released_is_reported(path):
    with closing(SqliteStore(path, busy_ms=50)) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreLockedError), store.transaction():
                pass
        write(store, 0)


def test_a_file_that_was_deleted_is_noticed_before_the_next_record(path):
    """SQLite itself would go on committing to a file that nobody can find."""
    with closing(SqliteStore(path)) as store:
        write(store, 0)
        path.rename(path.with_name("moved.db"))
        with pytest.raises(StoreReplacedError), store.transaction():
            pass


def test_a_file_that_was_exchanged_is_noticed_before_the_next_record(path):
    with closing(SqliteStore(path)) as store:
        write(store, 0)
        other = Path(shutil.copy(path, path.with_name("other.db")))
        other.replace(path)
        with pytest.raises(StoreReplacedError), store.transaction():
            pass


def test_a_full_disk_is_reported_and_recording_resumes_when_there_is_room(path):
    with closing(SqliteStore(path)) as store:
        conn = store._writer.get()
        pages = conn.execute("PRAGMA page_count").fetchone()[0]
        conn.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreFullError, match="disk is full"):
            write(store, 0, bytes(200_000))
        assert list(store.records()) == []
        conn.execute("PRAGMA max_page_count = 100000")
        write(store, 0, bytes(200_000))
        assert [seq for seq, _ in store.records()] == [0]


def test_a_forked_child_uses_connections_of_its_own(path):
    """SQLite's locks do not survive a fork, so neither may a connection."""
    with closing(SqliteStore(path)) as store:
        write(store, 0)
        child = os.fork() if hasattr(os, "fork") else pytest.skip("no fork here")
        if child == 0:
            status = 1
            try:
                write(store, 1)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        write(store, 2)
        assert [seq for seq, _ in store.records()] == [0, 1, 2]
