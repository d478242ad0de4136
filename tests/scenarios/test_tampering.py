"""Whoever can write the database cannot change what it says without being seen.

A store is recorded through the public API, once. Each test takes a copy, applies one attack with
plain SQLite or file I/O, and verifies with trust material that was held outside. docs/THREATS.md
has these attacks in a table, and the few that do not show, which are tested here too.
"""

import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel, RunnablePassthrough

import provkeep
from provkeep.langchain import ProvenanceHandler
from provkeep.model.canonical import canonical
from provkeep.model.records import Pending
from provkeep.reading.findings import CODES
from provkeep.reading.granting import Office
from provkeep.reading.verify import Report, verify
from provkeep.recording.recorder import settle
from provkeep.recording.rotation import rotate_compartments
from provkeep.sealing.home import find_by_path, load_recorder_config, log_public, pin_path
from provkeep.sealing.principals import new_principal
from provkeep.store import schema
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.checkpoint import LogKey
from provkeep.tlog.log import Log
from provkeep.tlog.pin import Pin, read_pin
from tests.reading.forging import dump, edit, make, noise, settle_head
from tests.scenarios.lineage_kit import model, retriever

ROOT = Path(__file__).parents[2]


def rag() -> Runnable[str, str]:
    """A chain that retrieves, prompts, answers."""
    joined = RunnableLambda(lambda found: "\n\n".join(d.page_content for d in found))
    prompt = ChatPromptTemplate.from_messages([("system", "{context}"), ("human", "{question}")])
    given = RunnableParallel(
        context=retriever("a.txt", "b.txt", "c.txt") | joined, question=RunnablePassthrough()
    )
    return given | prompt | model("It is as the handbook says.") | StrOutputParser()


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A recorded store, and what its owner holds outside it."""

    path: Path
    pin: Pin
    public: str
    key: LogKey  # as a thief would have it
    older: Path  # the same store some records earlier


def outside(path: Path) -> tuple[Pin, str, LogKey]:
    """What the user's configuration directory holds of a store."""
    store_id = find_by_path(path)
    assert store_id is not None
    config = load_recorder_config(store_id)
    key = LogKey.from_seed(config.origin, config.log_seed)
    return read_pin(pin_path(store_id)), log_public(store_id), key


def record(path: Path, *questions: str, **names: str) -> None:
    with ProvenanceHandler(path, actor="alice@example.com", **names) as handler:
        for question in questions:
            rag().invoke(question, config={"callbacks": [handler]})
            handler.flush()


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    folder = tmp_path_factory.mktemp("evidence")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROVKEEP_HOME", str(folder / "home"))
        path = folder / "audit.db"
        record(path, "What is the policy?", "And for branch two?", session="s1", subject="bob")
        older = Path(shutil.copy(path, folder / "older.db"))
        record(path, "What else is there to know?")
        with provkeep.open(path) as trail:
            trail.text(trail.output(), purpose="complaint 4711")
            trail.hold(source="a.txt", reason="case 4711")
            trail.erase(trail.plan_erasure(trace=trail.runs()[-1].id), reason="request 17")
        for name in ("prompt", "output"):
            rotate_compartments(path, [name])
        with Office(path, actor="the admin") as office:
            for until_us in (10**15 * 4, 10**15 * 5):
                reader = new_principal("carol@example.com").public
                made = office.grant("reviewer", reader, purpose="complaint", until_us=until_us)
            office.revoke(made["id"], reason="closed")
        record(path, "Is that so?", "Is it really so?")
        pin, public, key = outside(path)
    yield Evidence(path=path, pin=pin, public=public, key=key, older=older)


@pytest.fixture
def copy(evidence: Evidence, tmp_path: Path) -> Path:
    return Path(shutil.copy(evidence.path, tmp_path / "audit.db"))


def judge(path: Path, evidence: Evidence) -> Report:
    return verify(path, pin=evidence.pin, public=evidence.public)


def errors(report: Report) -> set[str]:
    found = {f.code for f in report.findings if f.severity == "error"}
    assert bool(report) == (not found)
    assert found <= CODES.keys()
    return found


def rows_of(path: Path, sql: str) -> list[Any]:
    with edit(path) as conn:
        return conn.execute(sql).fetchall()


# --- the honest store -----------------------------------------------------------------------


def test_the_honest_store_verifies(evidence, copy):
    report = judge(copy, evidence)
    assert report.findings == ()
    assert report.pinned
    assert report.size == evidence.pin.size == report.signed_size


def test_an_older_pin_still_verifies_a_log_that_grew(evidence, copy):
    (size, note) = rows_of(
        copy, "SELECT size, note FROM checkpoint ORDER BY size LIMIT 1 OFFSET 1"
    )[0]
    root = b64decode(note.split("\n")[2])
    assert verify(copy, pin=Pin(evidence.pin.origin, size, root, evidence.public), public=None)


def test_the_store_verifies_beside_a_live_writer(tmp_path):
    """One committed state is looked at, however much is written meanwhile."""
    path = tmp_path / "live.db"
    stop = threading.Event()
    with ProvenanceHandler(path, actor="alice@example.com") as handler:
        rag().invoke("Are we live?", config={"callbacks": [handler]})
        handler.flush()
        store_id = find_by_path(path)
        assert store_id is not None

        def write() -> None:
            while not stop.is_set():
                rag().invoke("Still live?", config={"callbacks": [handler]})
                handler.flush()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            reports = [
                verify(path, pin=pin_path(store_id), public=log_public(store_id)) for _ in range(8)
            ]
        finally:
            stop.set()
            writer.join()
    for report in reports:
        assert report, report
        assert report.pinned
    assert reports[-1].size > reports[0].size


WRITER = """
import sys
from tests.scenarios.test_tampering import rag
from provkeep.langchain import ProvenanceHandler
handler = ProvenanceHandler(sys.argv[1])
for n in range(10_000):
    rag().invoke(f"question {n}", config={"callbacks": [handler]})
    print(n, flush=True)
"""


def test_the_store_verifies_right_after_kill_9(tmp_path):
    path = tmp_path / "killed.db"
    folders = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": folders},
        text=True,
    )
    assert child.stdout is not None
    with child, child.stdout:
        acknowledged = [int(child.stdout.readline()) for _ in range(12)]
        child.send_signal(signal.SIGKILL)
    settle(path)  # as every question does
    pin, public, _ = outside(path)
    report = verify(path, pin=pin, public=public)
    assert report, report
    assert report.pinned
    assert report.records > len(acknowledged), "what was acknowledged is there"
    assert report.codes <= {"unsigned-tail"}


# --- one value ------------------------------------------------------------------------------


def columns() -> list[tuple[str, str]]:
    """Every column of every table of the schema."""
    with closing(sqlite3.connect(":memory:")) as conn:
        conn.executescript(schema.MIGRATIONS[schema.VERSION])
        tables = [n for (n,) in conn.execute("SELECT name FROM sqlite_schema WHERE type='table'")]
        return [(t, row[1]) for t in tables for row in conn.execute(f"PRAGMA table_info({t})")]


COLUMNS = columns()
TABLES = sorted(
    {table for table, _ in COLUMNS} - {"tile"}
)  # tests/reading/test_verify.py has tiles


def changed(value: Any, where: float) -> Any:
    """The smallest change: one bit, or one."""
    if value is None:
        return 1
    if isinstance(value, int):
        return value + 1
    raw = bytearray(value.encode() if isinstance(value, str) else value)
    if not raw:
        return b"\x00"
    raw[int(where * (len(raw) - 1))] ^= 1
    return raw.decode() if isinstance(value, str) else bytes(raw)


@pytest.mark.parametrize(("table", "column"), [c for c in COLUMNS if c[0] != "tile"])
def test_changing_any_value_shows(evidence, tmp_path, table, column):
    keys = [c for t, c in COLUMNS if t == table]
    found = rows_of(evidence.path, f"SELECT {column}, {', '.join(keys)} FROM {table}")
    assert found, f"the recorded store has no row in {table}"
    chosen = {0, len(found) // 2, len(found) - 1}
    for number, row in enumerate(found[i] for i in sorted(chosen)):
        path = Path(shutil.copy(evidence.path, tmp_path / f"{number}.db"))
        with edit(path) as conn:
            where = " AND ".join(f"{key} IS ?" for key in keys)
            new = changed(row[0], number / 2)
            statement = f"UPDATE OR REPLACE {table} SET {column}=? WHERE {where}"
            assert conn.execute(statement, (new, *row[1:])).rowcount == 1
        assert errors(judge(path, evidence)), (table, column, row[0], new)


@pytest.mark.parametrize("table", TABLES)
def test_deleting_any_row_shows(evidence, tmp_path, table):
    """Except a checkpoint that nobody pinned: see the test of that."""
    found = rows_of(evidence.path, f"SELECT count(*) FROM {table}")[0][0]
    chosen = {found - 1} if table == "checkpoint" else {0, found // 2, found - 1}
    keys = ", ".join(c for t, c in COLUMNS if t == table)
    for number in sorted(chosen):
        path = Path(shutil.copy(evidence.path, tmp_path / f"{number}.db"))
        with edit(path) as conn:
            some = f"SELECT {keys} FROM {table} LIMIT 1 OFFSET {number}"
            row = conn.execute(some).fetchone()
            where = " AND ".join(f"{key.strip()} IS ?" for key in keys.split(","))
            conn.execute(f"DELETE FROM {table} WHERE {where}", row)
        assert errors(judge(path, evidence)), (table, number)


@pytest.mark.parametrize("table", TABLES)
def test_emptying_any_table_shows(evidence, copy, table):
    with edit(copy) as conn:
        conn.execute(f"DELETE FROM {table}")
    assert errors(judge(copy, evidence))


@pytest.mark.parametrize("table", [t for t in TABLES if t not in ("head", "meta", "checkpoint")])
def test_adding_a_row_shows(evidence, copy, table):
    keys = [c for t, c in COLUMNS if t == table]
    with edit(copy) as conn:
        row = list(conn.execute(f"SELECT {', '.join(keys)} FROM {table}").fetchone())
        row[0] = 4_000 if isinstance(row[0], int) else b"another"
        if "tid" in keys[1:] and table == "trace":
            row[1] = b"another"
        if table == "source":
            row[1] = b"another"
        conn.execute(f"INSERT INTO {table} VALUES({','.join('?' * len(row))})", row)
    found = errors(judge(copy, evidence))
    assert found & {"index-row", "record-missing", "head-mismatch", "payload-orphan"}


# --- whole records --------------------------------------------------------------------------


def renumber(conn: sqlite3.Connection, *, after: int, by: int) -> None:
    """Move all later records; in two steps, because numbers are unique."""
    conn.execute(f"UPDATE record SET seq=-seq WHERE seq>{after}")
    conn.execute(f"UPDATE record SET seq=-seq+({by}) WHERE seq<0")


@pytest.mark.parametrize("mended", [False, True], ids=["as it is", "tree head mended"])
@pytest.mark.parametrize("seq", [0, 2, -1])
def test_removing_a_record_and_closing_the_gap_shows(evidence, copy, seq, mended):
    with edit(copy) as conn:
        seq = seq % evidence.pin.size
        conn.execute(f"DELETE FROM record WHERE seq={seq}")
        renumber(conn, after=seq, by=-1)
        if mended:
            settle_head(conn)
    assert errors(judge(copy, evidence)) & {"record-altered", "pin-ahead"}


@pytest.mark.parametrize("mended", [False, True], ids=["as it is", "tree head mended"])
def test_exchanging_two_records_shows(evidence, copy, mended):
    with edit(copy) as conn:
        conn.execute("UPDATE record SET seq=-seq WHERE seq IN (2, 3)")
        conn.execute("UPDATE record SET seq=5+seq WHERE seq<0")
        if mended:
            settle_head(conn)
    assert "record-altered" in errors(judge(copy, evidence))


@pytest.mark.parametrize("mended", [False, True], ids=["as it is", "tree head mended"])
def test_inserting_a_copy_of_a_record_shows(evidence, copy, mended):
    with edit(copy) as conn:
        body = conn.execute("SELECT body FROM record WHERE seq=2").fetchone()[0]
        renumber(conn, after=2, by=1)
        conn.execute("INSERT INTO record VALUES(3, ?)", (body,))
        if mended:
            settle_head(conn)
    assert {"record-altered", "payload-order"} <= errors(judge(copy, evidence))


def test_a_copy_of_a_record_at_the_end_shows(evidence, copy):
    """Its payloads have been named before, whatever else the forger mends."""
    with edit(copy) as conn:
        body = conn.execute("SELECT body FROM record WHERE seq=2").fetchone()[0]
        conn.execute("INSERT INTO record VALUES(?, ?)", (evidence.pin.size, body))
        settle_head(conn)
    assert "payload-order" in errors(judge(copy, evidence))


@pytest.mark.parametrize("keep", [1, 3, -1])
def test_cutting_off_the_end_shows(evidence, copy, keep):
    """With everything mended that a forger without the key can mend."""
    forged = Forged(copy, evidence.key)
    forged.write(slice(0, keep), resign=False)
    with closing(SqliteStore(evidence.path, read_only=True)) as store:
        notes = store.query("SELECT size, note FROM checkpoint WHERE size<=?", (forged.size,))
    with edit(copy) as conn:
        conn.executemany("INSERT OR REPLACE INTO checkpoint VALUES(?,?)", notes)
    assert errors(judge(copy, evidence)) == {"pin-ahead"}
    unpinned = verify(copy, pin=None, public=evidence.public)
    if notes[-1][0] == forged.size:
        assert unpinned, "without a pin it looks like a shorter log"
        assert "unpinned" in unpinned.codes


def test_a_signed_size_that_the_log_no_longer_reaches_shows(evidence, copy):
    """A checkpoint that was forgotten gives the cut away, even without a pin."""
    with closing(SqliteStore(evidence.path, read_only=True)) as store:
        notes = store.query("SELECT size, note FROM checkpoint")
    Forged(copy, evidence.key).write(slice(0, 3), resign=False)
    with edit(copy) as conn:
        conn.executemany("INSERT INTO checkpoint VALUES(?,?)", notes)
    unpinned = verify(copy, pin=None, public=evidence.public)
    assert errors(unpinned) == {"checkpoint-ahead"}
    assert errors(judge(copy, evidence)) == {"checkpoint-ahead", "pin-ahead"}


def test_rolling_back_to_an_older_copy_shows(evidence):
    assert errors(judge(evidence.older, evidence)) == {"pin-ahead"}
    unpinned = verify(evidence.older, pin=None, public=evidence.public)
    assert unpinned.codes == {"unpinned"}, "the pin is what tells"


class Forged:
    """A store written anew from the records of another, with all that follows from them."""

    def __init__(self, path: Path, key: LogKey) -> None:
        self.path, self.key, self.size = path, key, 0
        self._all: list[Pending] = []
        with closing(SqliteStore(path, read_only=True)) as store:
            self.store_id = store.store_id
            for _, body in store.records():
                fields = json.loads(body)
                numbers = range(fields.get("p0", 0), fields.get("p0", 0) + len(fields.get("p", ())))
                data = store.payloads(numbers)
                self._all.append(Pending(fields, [data[n][1] or b"" for n in numbers]))

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [p.body for p in self._all]

    def write(self, which: slice = slice(None), *, resign: bool) -> None:
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        with closing(SqliteStore(self.path)) as store:
            store.claim(self.store_id)
            log = Log(store)
            log.append(self._all[which])
            self.size = len(self._all[which])
            if resign:
                log.checkpoint(self.key)


def test_rewriting_everything_without_the_key_shows(evidence, copy):
    """Records, payload numbers, tree and index all fit each other; no signature fits them."""
    forged = Forged(copy, evidence.key)
    forged.bodies[2]["e"][0][3] = "SomethingElse"
    forged.write(resign=False)
    assert errors(judge(copy, evidence)) == {"record-altered", "pin-mismatch", "checkpoint-missing"}
    with edit(copy) as conn:
        conn.execute("ATTACH ? AS old", (str(evidence.path),))
        conn.execute("INSERT OR REPLACE INTO checkpoint SELECT * FROM old.checkpoint")
    assert {"record-altered", "checkpoint-root"} <= errors(
        verify(copy, pin=None, public=evidence.public)
    ), "the old signatures tell, even without a pin"


def test_rewriting_everything_and_signing_with_another_key_shows(evidence, copy):
    attacker = LogKey.generate(evidence.key.public.origin)
    forged = Forged(copy, attacker)
    forged.bodies[2]["e"][0][3] = "SomethingElse"
    forged.bodies[0]["vkey"] = attacker.public.vkey()
    forged.write(resign=True)
    wanted = {"checkpoint-unknown-signer", "origin-mismatch"}
    assert wanted <= errors(judge(copy, evidence))
    assert wanted <= errors(verify(copy, pin=None, public=evidence.public))


def test_a_forged_signature_with_the_right_key_id_shows(evidence, copy):
    with edit(copy) as conn:
        size, note = conn.execute("SELECT size, note FROM checkpoint ORDER BY size DESC").fetchone()
        head, _, line = note.rstrip("\n").rpartition(" ")
        other = line[:20] + ("A" if line[20] != "A" else "B") + line[21:]
        conn.execute("UPDATE checkpoint SET note=? WHERE size=?", (f"{head} {other}\n", size))
    assert "checkpoint-signature" in errors(judge(copy, evidence))


def test_rewriting_everything_with_the_stolen_key_shows_against_the_pin(evidence, copy):
    forged = Forged(copy, evidence.key)
    forged.bodies[2]["e"][0][3] = "SomethingElse"
    forged.write(resign=True)
    assert "pin-mismatch" in errors(judge(copy, evidence))


def test_rewriting_everything_with_the_stolen_key_does_not_show_without_a_pin(evidence, copy):
    """The honest limit; the report says that there was no pin."""
    forged = Forged(copy, evidence.key)
    forged.bodies[2]["e"][0][3] = "SomethingElse"
    forged.write(resign=True)
    report = verify(copy, pin=None, public=evidence.public)
    assert report
    assert report.codes == {"unpinned"}


def test_a_forged_record_after_the_last_signature_is_only_a_warning(evidence, copy):
    """The honest limit of records that are not signed yet."""
    with closing(SqliteStore(copy)) as store:
        Log(store).append([Pending({"k": "gap", "v": 1, "at": 1, "events": 5}, [])])
    report = judge(copy, evidence)
    assert report
    assert report.codes == {"gap", "unsigned-tail"}
    assert report.signed_size == evidence.pin.size


# --- signatures -----------------------------------------------------------------------------


def test_stripping_all_checkpoints_shows(evidence, copy):
    with edit(copy) as conn:
        conn.execute("DELETE FROM checkpoint")
    assert errors(judge(copy, evidence)) == {"checkpoint-missing"}
    assert errors(verify(copy, pin=None, public=evidence.public)) == {"checkpoint-missing"}


def test_stripping_the_signature_lines_shows(evidence, copy):
    with edit(copy) as conn:
        for size, note in conn.execute("SELECT size, note FROM checkpoint").fetchall():
            bare = note.partition("\n\n")[0] + "\n"
            conn.execute("UPDATE checkpoint SET note=? WHERE size=?", (bare, size))
    assert "checkpoint-malformed" in errors(judge(copy, evidence))


def test_removing_a_checkpoint_that_nobody_pinned_does_not_show(evidence, copy):
    """It is a weaker statement of what a later one states; nothing that is kept depends on it."""
    with edit(copy) as conn:
        conn.execute("DELETE FROM checkpoint WHERE size<>(SELECT max(size) FROM checkpoint)")
    assert judge(copy, evidence).findings == ()


def test_a_checkpoint_under_another_size_shows(evidence, copy):
    with edit(copy) as conn:
        conn.execute("UPDATE OR REPLACE checkpoint SET size=2 WHERE size=3")
    assert "checkpoint-malformed" in errors(judge(copy, evidence))


def test_a_key_in_the_store_is_never_used(evidence, copy):
    attacker = LogKey.generate(evidence.key.public.origin)
    with edit(copy) as conn:
        for name in ("vkey", "public", "log.pub", "pin"):
            conn.execute("INSERT INTO meta VALUES(?,?)", (name, attacker.public.vkey()))
    assert errors(judge(copy, evidence)) == {"meta-mismatch"}


# --- from another store ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def sibling(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pin]:
    folder = tmp_path_factory.mktemp("sibling")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROVKEEP_HOME", str(folder / "home"))
        record(folder / "audit.db", *["What is the policy?"] * 12)
        return folder / "audit.db", outside(folder / "audit.db")[0]


def test_a_whole_other_store_in_its_place_shows(evidence, sibling):
    found = errors(judge(sibling[0], evidence))
    assert {"checkpoint-unknown-signer", "origin-mismatch"} <= found
    assert found & {"pin-mismatch", "pin-ahead"}, "it may have fewer records than the pin"


@pytest.mark.parametrize("table", ["record", "payload", "checkpoint", "head"])
def test_splicing_in_a_table_of_a_sibling_shows(evidence, sibling, copy, table):
    with edit(copy) as conn:
        conn.execute("ATTACH ? AS other", (str(sibling[0]),))
        conn.execute(f"DELETE FROM main.{table}")
        conn.execute(f"INSERT INTO main.{table} SELECT * FROM other.{table}")
    assert errors(judge(copy, evidence))


def test_splicing_in_a_record_of_a_sibling_with_its_payloads_shows(evidence, sibling, copy):
    with edit(copy) as conn:
        conn.execute("ATTACH ? AS other", (str(sibling[0]),))
        conn.execute(
            "UPDATE record SET body=(SELECT body FROM other.record WHERE seq=1) WHERE seq=1"
        )
        conn.execute("DELETE FROM payload WHERE seq=1")
        conn.execute("INSERT OR REPLACE INTO payload SELECT * FROM other.payload WHERE seq=1")
        settle_head(conn)
    assert "record-altered" in errors(judge(copy, evidence))


# --- the schema -----------------------------------------------------------------------------

LIES = {
    "a view in place of a table": (
        "ALTER TABLE trace RENAME TO hidden;CREATE VIEW trace AS SELECT * FROM hidden WHERE id<>2;"
    ),
    "a view in place of the records": (
        "ALTER TABLE record RENAME TO kept; CREATE VIEW record AS SELECT * FROM kept;"
    ),
    "a trigger": (
        "CREATE TRIGGER quiet AFTER INSERT ON record BEGIN"
        " DELETE FROM trace WHERE id=(SELECT max(id) FROM trace); END;"
    ),
    "a table more": "CREATE TABLE more(x);",
    "an index more": "CREATE INDEX more ON record(body);",
    "an index less": "DROP INDEX trace_t0;",
    "a table less": "DROP TABLE access;",
    "a column more": "ALTER TABLE record ADD COLUMN more;",
    "a constraint less": (
        "CREATE TABLE other(seq INTEGER PRIMARY KEY, body); INSERT INTO other SELECT * FROM record;"
        "DROP TABLE record; ALTER TABLE other RENAME TO record;"
    ),
    "another mark": "PRAGMA application_id = 1;",
    "an older version": "PRAGMA user_version = 0;",
    "a newer version": "PRAGMA user_version = 900;",
    "a schema that does not parse": (
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql='CREATE' WHERE name='trace';"
    ),
    "a table listed twice": (
        "PRAGMA writable_schema = ON;"
        "INSERT INTO sqlite_schema SELECT type, 'record2', 'record2', rootpage,"
        " replace(sql, 'record', 'record2') FROM sqlite_schema WHERE name='record';"
    ),
    "two tables on one root": (
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage="
        "(SELECT rootpage FROM sqlite_schema WHERE name='xref') WHERE name='trec';"
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_schema_that_lies_shows(evidence, copy, name):
    with edit(copy) as conn:
        conn.executescript(LIES[name])
    wanted = {"schema-changed", "newer", "not-a-database", "integrity", "unreadable"}
    assert errors(judge(copy, evidence)) & wanted


def test_statistics_for_the_query_planner_are_no_change(evidence, copy):
    """An operator may run ANALYZE; it states nothing."""
    with edit(copy) as conn:
        conn.execute("ANALYZE")
    assert judge(copy, evidence).findings == ()


def test_vacuum_is_no_change(evidence, copy):
    with edit(copy) as conn:
        conn.execute("VACUUM")
    assert judge(copy, evidence).findings == ()


# --- payloads -------------------------------------------------------------------------------

PAYLOADS = {
    "exchange two": (
        "UPDATE payload SET data=(SELECT p.data FROM payload p WHERE p.id=11-payload.id)"
        " WHERE id IN (5, 6)",
        "payload-altered",
    ),
    "flip the last bit": (
        "UPDATE payload SET data=CAST(substr(data, 1, length(data)-1) || x'00' AS BLOB) WHERE id=4",
        "payload-altered",
    ),
    "cut one short": (
        "UPDATE payload SET data=substr(data, 1, length(data)-1) WHERE id=4",
        "payload-altered",
    ),
    "empty one": ("UPDATE payload SET data=x'' WHERE id=4", "payload-altered"),
    "store one as text": (
        "UPDATE payload SET data=CAST(data AS TEXT) WHERE id=4",
        "payload-altered",
    ),
    "remove the bytes": ("UPDATE payload SET data=NULL WHERE id=4", "payload-missing"),
    "delete one": ("DELETE FROM payload WHERE id=4", "payload-missing"),
    "add one": ("INSERT INTO payload SELECT 9000, seq, NULL, data FROM payload", "payload-orphan"),
    "add one below": ("INSERT INTO payload VALUES(-4, 1, NULL, x'00')", "payload-orphan"),
    "file one elsewhere": ("UPDATE payload SET seq=seq+1 WHERE id=4", "payload-order"),
    "name another source": (
        "UPDATE payload SET source=source+1 WHERE source IS NOT NULL",
        "index-row",
    ),
    "name no source": ("UPDATE payload SET source=NULL", "index-row"),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_touching_a_ciphertext_shows(evidence, copy, name):
    attack, code = PAYLOADS[name]
    with edit(copy) as conn:
        conn.execute(
            attack.replace('FROM payload"', "FROM payload LIMIT 1")
            + (" LIMIT 1" if name == "add one" else "")
        )
    assert code in errors(judge(copy, evidence))


# --- the file -------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9, 0.999])
def test_a_part_of_the_file_is_not_a_store(evidence, copy, share):
    data = copy.read_bytes()
    copy.write_bytes(data[: int(len(data) * share)])
    assert errors(judge(copy, evidence))


def test_what_is_not_a_store_is_said_to_be_none(evidence, tmp_path):
    path = tmp_path / "x.db"
    assert errors(judge(path, evidence)) == {"not-a-database"}
    assert errors(judge(tmp_path, evidence)) == {"not-a-database"}
    for content in (b"", b"hello\n" * 500, b"SQLite format 3\x00", noise(9_000)):
        path.write_bytes(content)
        assert errors(judge(path, evidence)) & {"not-a-database", "integrity"}, content[:20]
    path.unlink()
    with edit(path) as conn:
        conn.execute("CREATE TABLE record(seq, body)")
    assert errors(judge(path, evidence)) == {"not-a-database"}
    path.unlink()
    path.symlink_to(path)
    assert errors(judge(path, evidence))


def test_a_new_empty_store_in_its_place_shows(evidence, tmp_path):
    path = tmp_path / "audit.db"
    SqliteStore(path).close()
    assert {"empty", "pin-ahead", "checkpoint-missing"} <= errors(judge(path, evidence))
    assert "empty" in errors(verify(path, pin=None, public=evidence.public))


def test_an_emptied_store_shows(evidence, copy):
    with edit(copy) as conn:
        for table in TABLES:
            conn.execute(f"DELETE FROM {table}")
    assert {"empty", "pin-ahead", "checkpoint-missing"} <= errors(judge(copy, evidence))


@pytest.mark.parametrize("seed", range(6))
def test_a_page_of_garbage_shows_or_changes_nothing(evidence, copy, seed):
    chance = random.Random(seed)
    data = bytearray(copy.read_bytes())
    at = chance.randrange(len(data) // 4096) * 4096
    data[at : at + 4096] = chance.randbytes(4096)
    copy.write_bytes(data)
    if not errors(judge(copy, evidence)):
        assert dump(copy) == dump(evidence.path)


def test_a_flipped_bit_anywhere_in_the_file_shows_or_changes_nothing(evidence, copy):
    """A bit of free space is nobody's value. Nothing that is not found may differ in any row."""
    chance = random.Random(4711)
    original = copy.read_bytes()
    honest = dump(evidence.path)
    caught = 0
    for _ in range(60):
        data = bytearray(original)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        copy.write_bytes(data)
        if errors(judge(copy, evidence)):
            caught += 1
        else:
            assert dump(copy) == honest
            for side in copy.parent.glob("audit.db-*"):
                side.unlink()
    assert caught


def test_a_planted_write_ahead_log_shows_or_changes_nothing(evidence, copy):
    wal = copy.with_name("audit.db-wal")
    for content in (noise(32), noise(9_000), bytes(4_152), b"\x37\x7f\x06\x82" + noise(4_148)):
        wal.write_bytes(content)
        if not errors(judge(copy, evidence)):
            wal.unlink(missing_ok=True)
            assert dump(copy) == dump(evidence.path)


def test_changes_that_wait_in_the_write_ahead_log_are_seen(evidence, copy):
    """What a reader would see is what is checked, not the main file alone."""
    with edit(copy) as conn:
        conn.execute("UPDATE payload SET data=x'00' WHERE id=4")
        assert copy.with_name("audit.db-wal").stat().st_size
        assert "payload-altered" in errors(judge(copy, evidence))


def test_a_name_that_leads_to_the_store_verifies_it(evidence, copy):
    """A link is followed, to the store and to its write-ahead log."""
    link = copy.with_name("link ?#%.db")
    link.symlink_to(copy)
    assert judge(link, evidence).findings == ()
    with edit(copy) as conn:
        conn.execute("UPDATE payload SET data=x'00' WHERE id=4")
        assert "payload-altered" in errors(judge(link, evidence))


# --- bodies ---------------------------------------------------------------------------------

BODIES = [
    b"",
    b"\x00",
    b"\xff" * 90,
    b'{"k":"trace","k":"gap","v":1}',
    b'{"k":"gap","v":1,"z":"' + b"x" * 10_000_000 + b'"}',
    b"[" * 60_000,
    "text",
    None,
    5,
    5.5,
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body)[:24])
def test_a_hostile_body_shows(evidence, copy, body):
    with edit(copy) as conn:
        conn.execute("PRAGMA writable_schema = ON")
        if body is None:  # the column is NOT NULL
            body = 0
        conn.execute("UPDATE record SET body=? WHERE seq=2", (body,))
    assert errors(judge(copy, evidence)) & {"not-canonical", "record-malformed"}


def test_every_signed_kind_of_hostile_record_is_an_error(evidence, tmp_path):
    """Even from whoever holds the key: a store of records that nobody wrote is no store."""
    path = tmp_path / "made.db"
    hostile = {"k": "trace", "v": 1, "t": "zz", "n": 0, "t0": "x", "e": [["s"]]}
    with closing(SqliteStore(path)) as store, store.transaction() as tx:
        tx.add(0, canonical(hostile), {"k": "raw"}, ())
    with edit(path) as conn:
        conn.execute("INSERT INTO head VALUES(1, 0, x'')")
        settle_head(conn)
    assert "record-malformed" in errors(judge(path, evidence))


# --- the page that says so ------------------------------------------------------------------


def test_every_attack_in_the_threats_page_names_a_test_that_exists():
    text = (ROOT / "docs" / "THREATS.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    there: set[str] = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        source = file.read_text(encoding="utf-8")
        there |= set(re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE))
    assert named <= there, named - there
    assert len(named) > 20


def test_a_store_made_by_hand_is_what_the_forgers_think_it_is(tmp_path):
    """The forging kit's own honest store verifies, or its forgeries would prove nothing."""
    pin = make(tmp_path / "a.db", [])
    assert verify(tmp_path / "a.db", pin=pin, public=None).findings == ()
