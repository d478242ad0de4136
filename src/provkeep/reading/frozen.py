"""One committed state of a store, held still while it is checked, and a scratch index beside it.

The store is attached read-only to a database in a temporary folder, so that nothing is ever
written to the store or beside it, and so that ``store.index`` can fill tables of the same names
to be compared with the store's. Everything is read inside one transaction: a recorder may go on
writing meanwhile. Values are read as they lie there: a text that is not UTF-8 is no error here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from provkeep.errors import NotAProvkeepFileError, StoreError
from provkeep.store import index, schema
from provkeep.store.connection import clear_errors, connect

BUSY_MS: Final = 10_000
KEY_COLUMNS: Final = {  # how many leading columns name a row
    "trace": 1,
    "trec": 2,
    "source": 1,
    "doc": 1,
    "xref": 2,
    "link": 3,
    "access": 1,
    "access_source": 2,
    "erasure": 1,
    "gone": 2,
    "hold": 2,
    "access_trace": 2,
    "grants": 1,
    "keychange": 1,
}
MAX_ROWS: Final = 1_000  # differing rows of one table that are looked at
CACHE_KIB: Final = 32_768  # indexes are looked into everywhere at once when they are checked
FETCH: Final = 256  # rows that are read at a time

MAX_TEXTS: Final = 1_000  # short texts that are remembered
SHORT: Final = 64  # bytes

Row = tuple[Any, ...]
Reshape = Callable[[list[Row]], list[Row]]


class _Texts(dict[bytes, str]):
    """Texts as they lie there; what comes again and again, as states and names do, is kept."""

    def __missing__(self, raw: bytes) -> str:
        text = raw.decode("utf-8", "surrogateescape")
        if len(raw) <= SHORT and len(self) < MAX_TEXTS:
            self[raw] = text
        return text


class Ahead:
    """Rows of a query, read some at a time; what was only looked at stays.

    When SQLite fails on the way, what it gave before is handed out first.
    """

    def __init__(self, rows: Iterator[Row], path: Path, reshape: Reshape | None = None) -> None:
        self._rows, self._path, self._reshape = rows, path, reshape
        self._kept: list[Row] = []
        self._at = 0  # where in ``_kept`` the next row is
        self._error: StoreError | None = None

    def look(self, count: int) -> list[Row]:
        """The next ``count`` rows, fewer at the end. Raises when it fails before the first."""
        at = self._at
        if at + count > len(self._kept):
            self._read(count)
            at = 0
        found = self._kept[at : at + count]
        if not found and self._error is not None:
            raise self._error
        return found

    def _read(self, count: int) -> None:
        kept = self._kept = self._kept[self._at :]
        self._at = 0
        if self._error is None:
            new = kept if self._reshape is None else []
            try:
                with clear_errors(self._path):
                    new += islice(self._rows, max(count - len(kept), FETCH))
            except StoreError as error:
                self._error = error
            if self._reshape is not None:
                kept += self._reshape(new)

    def take(self, count: int = 1) -> None:
        """Go on behind so many rows that were looked at."""
        self._at += count

    @property
    def first(self) -> Row | None:
        """The next row; None at the end."""
        found = self.look(1)
        return found[0] if found else None


class FrozenStore:
    """A store as it was at one moment. Use as a context manager.

    Args:
        path: the database.
        scratch: a folder of its own, removed by the caller.
        still: nobody writes and the write-ahead log is empty, so that no lock is needed. Works
            on media that cannot be written; the caller checks afterwards that it stayed so.

    Raises:
        StoreError: it is not a database, or cannot be read.
    """

    def __init__(self, path: Path, scratch: Path, *, still: bool) -> None:
        self.path = path
        uri = f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if still else ''}"
        conn = self._conn = connect(scratch / "index", read_only=False, busy_ms=BUSY_MS)
        conn.text_factory = _Texts().__getitem__
        usual = LookupError, ValueError, TypeError, AttributeError, OverflowError
        self.underivable = (*usual, conn.Error)  # what deriving from a strange body may raise
        try:
            with clear_errors(path):
                conn.execute("PRAGMA journal_mode = OFF")
                conn.execute("PRAGMA synchronous = OFF")
                conn.execute("PRAGMA temp_store = FILE")
                conn.execute("PRAGMA cell_size_check = ON")
                conn.execute("ATTACH ? AS store", (uri,))
                conn.execute(f"PRAGMA store.cache_size = -{CACHE_KIB}")
                conn.execute("BEGIN")
                conn.execute("SELECT count(*) FROM store.sqlite_schema").fetchone()
                for version in sorted(schema.MIGRATIONS):
                    for statement in schema.MIGRATIONS[version].split(";\n"):
                        # an index would only cost here: rows are found by their keys
                        if statement.strip() and not statement.strip().startswith("CREATE INDEX"):
                            conn.execute(statement)
                conn.execute("CREATE TABLE seen(id INTEGER PRIMARY KEY, source)")
        except BaseException:
            conn.close()
            raise

    def __enter__(self) -> FrozenStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._conn.close()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Row]:
        """Rows one by one; tables of the store are called ``store.<name>``."""
        with clear_errors(self.path):
            # A delegated cursor is closed with its generator, which may be after the database.
            for row in self._conn.execute(sql, parameters):  # noqa: UP028  # for that reason
                yield row

    def ahead(
        self, sql: str, parameters: Sequence[Any] = (), reshape: Reshape | None = None
    ) -> Ahead:
        """Rows some at a time; ``reshape`` is given those that are read together."""
        with clear_errors(self.path):
            return Ahead(self._conn.execute(sql, parameters), self.path, reshape)

    def one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """The first row, if there is one."""
        return next(self.rows(sql, parameters), None)

    def tile(self, level: int, index: int) -> bytes | None:
        """See ``tlog.log.Tiles``; nothing that is there is taken to be right."""
        sql = "SELECT hashes FROM store.tile WHERE level=? AND idx=?"
        found = self.one(sql, (level, index))
        return found[0] if found and isinstance(found[0], bytes) else None

    def bodies(self, start: int, stop: int) -> list[bytes]:
        """See ``tlog.log.Tiles``; what is not bytes is passed over."""
        sql = "SELECT body FROM store.record WHERE seq>=? AND seq<? ORDER BY seq"
        return [body for (body,) in self.rows(sql, (start, stop)) if isinstance(body, bytes)]

    def write(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Change a table of the scratch index."""
        with clear_errors(self.path):
            self._conn.execute(sql, parameters)

    def see(self, sources: Sequence[Row]) -> None:
        """Remember payloads, by number, for which the store names a source."""
        if sources:
            with clear_errors(self.path):
                sql = "INSERT OR REPLACE INTO main.seen VALUES(?,?)"
                self._conn.executemany(sql, sources)

    def cross(self, found: Sequence[tuple[index.Gathered, int]]) -> None:
        """Derive what records of traces, with their ids, add to the tables that cross traces."""
        docs = chain.from_iterable([each.docs for each, _ in found])
        new = [(number,) for number, source, _ in docs if source is not None]
        if new:
            statement = "INSERT OR IGNORE INTO main.payload(id,seq) VALUES(?,0)"
            self._conn.executemany(statement, new)
        index.cross(self._conn, found)

    def clear(self) -> None:
        """Empty the scratch index, to derive it anew."""
        for table in (*schema.INDEX_TABLES, "payload", "seen"):
            self.write(f"DELETE FROM main.{table}")  # noqa: S608  # our own names

    def same(self, table: str) -> bool:
        """Are the rows of an index table those of the scratch index, one for one?"""
        keys = ",".join(map(str, range(1, KEY_COLUMNS[table] + 1)))
        sql = f"SELECT * FROM {{}}.{table} ORDER BY {keys}"  # noqa: S608  # our own names
        ours, theirs = self.ahead(sql.format("main")), self.ahead(sql.format("store"))
        while mine := ours.look(FETCH):
            if mine != theirs.look(FETCH):
                return False
            ours.take(FETCH)
            theirs.take(FETCH)
        return theirs.first is None

    def lacking(self, table: str) -> Iterator[Row]:
        """Rows of the scratch index that the store does not have just so."""
        columns = [str(row[1]) for row in self.rows(f"PRAGMA main.table_info({table})")]
        keys, rest = columns[: KEY_COLUMNS[table]], columns[KEY_COLUMNS[table] :]
        equal = [f"s.{c} = o.{c}" for c in keys] + [f"s.{c} IS o.{c}" for c in rest]
        yield from self.rows(
            f"SELECT * FROM main.{table} o WHERE NOT EXISTS"  # noqa: S608  # our own names
            f" (SELECT 1 FROM store.{table} s WHERE {' AND '.join(equal)}) LIMIT {MAX_ROWS}"
        )

    def damage(self) -> Iterator[str]:
        """What SQLite's own check of pages, rows and indexes complains of."""
        for (line,) in self.rows("PRAGMA store.integrity_check(20)"):
            if line != "ok":
                yield str(line)

    def derive(self, seq: int, fields: dict[str, Any], payloads: range) -> bool:
        """Derive the index rows of one record again; False when it is not one that can be."""
        conn = self._conn
        try:
            conn.executemany(
                "INSERT OR REPLACE INTO main.payload(id,seq) VALUES(?,?)",
                ((number, seq) for number in payloads),
            )
            index.apply(conn, seq, fields)
        except self.underivable:
            return False
        return True

    def differences(self, table: str) -> Iterator[tuple[Row, str]]:
        """Rows of an index table that are not what the records say: key, and what is wrong."""
        keys = KEY_COLUMNS[table]
        ours, theirs = f"SELECT * FROM main.{table}", f"SELECT * FROM store.{table}"  # noqa: S608  # our own names
        yield from self._differences(ours, theirs, keys)

    def source_differences(self) -> Iterator[tuple[Row, str]]:
        """Payloads whose source is not what the records say."""
        sql = "SELECT id, source FROM {}.payload WHERE source IS NOT NULL"
        yield from self._differences(sql.format("main"), sql.format("store"), 1)

    def _differences(self, ours: str, theirs: str, keys: int) -> Iterator[tuple[Row, str]]:
        limit = f" LIMIT {MAX_ROWS}"
        missing = {row[:keys]: row for row in self.rows(f"{ours} EXCEPT {theirs}{limit}")}
        extra = {row[:keys]: row for row in self.rows(f"{theirs} EXCEPT {ours}{limit}")}
        for key in missing.keys() | extra.keys():
            if key in missing and key in extra:
                yield key, "differs from what the records say"
            elif key in missing:
                yield key, "is missing, or has another key than the records say"
            else:
                yield key, "follows from no record"


def is_still(path: Path) -> tuple[int, ...] | None:
    """What the file looks like when no write-ahead log waits beside it; else None."""
    with contextlib.suppress(OSError, RuntimeError):  # a loop of links
        path = path.resolve()  # SQLite's side files stand beside the file, not beside a link to it
        for suffix in ("-wal", "-journal"):
            side = path.with_name(path.name + suffix)
            if side.exists() and side.stat().st_size:
                return None
        found = path.stat()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return None


def require_file(path: Path) -> None:
    """Raise when there is nothing to open."""
    try:
        if not path.is_file():
            raise NotAProvkeepFileError(path, "there is no such file")
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be looked at ({type(error).__name__})") from error
