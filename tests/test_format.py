"""docs/FORMAT.md says what is stored: a reader written from it alone agrees with provkeep."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

import provkeep
from provkeep.langchain import ProvenanceHandler
from provkeep.model import records
from provkeep.sealing.home import load_recorder_config
from provkeep.sealing.keyring import fingerprint
from tests import independent_reader as other

FORMAT = Path(__file__).parent.parent / "docs" / "FORMAT.md"
TEXTS = [
    f"Chapter {i}: a claim is answered within {i + 3} days, in writing, by the office where it was"
    " made; whoever made it may ask for the reasons, and has them within a week."
    for i in range(4)
]
ANSWER = "A claim is answered within 5 days, in writing, by the office where it was made, I think."
ODD = {
    "bytes": b"\x00\xff",
    "set": {3, 1, 2},
    "nan": float("nan"),
    "big": 2**70,
    "surrogate": "\ud800 alone",
    "$ref": 0,
    "nested": {"$rope": ["a"], 7: "seven", "deep": [{"\udfff": None}]},
    "long": "a text of its own, which is stored as an artifact and referred to",
    "del \x7f": "é",
}
SAID = {  # names and texts that must stand in no body in the clear, the odd characters among them
    "actor": "alice \x7f é <alice@example.com>",
    "session": "conversation \U0001f600",
    "subject": "customer 4711",
    "application": "claims",
}


def rag() -> Runnable[str, str]:
    documents = [
        Document(page_content=text, metadata={"source": f"law/{i}.txt", "score": i / 7})
        for i, text in enumerate(TEXTS)
    ]
    retrieve = RunnableLambda(lambda _: [d.model_copy(deep=True) for d in documents])
    join = RunnableLambda(lambda found: "\n\n".join(d.page_content for d in found))
    prompt = ChatPromptTemplate.from_messages([("system", "Answer from:\n{law}"), ("human", "{q}")])
    model = GenericFakeChatModel(messages=iter([AIMessage(ANSWER, id="answer-1")]))
    shown = {"law": retrieve | join, "q": RunnablePassthrough()}
    return shown | prompt | model | StrOutputParser()


def agent() -> list[list[Any]]:
    """Two turns of one conversation, the second with everything the first said."""
    call = {"name": "look_up", "args": {"what": "deadline", "$type": "x"}, "id": "call-1"}
    first = [
        SystemMessage("You answer questions about claims, and look up what you do not know."),
        HumanMessage("How long may they take to answer my claim, at the very most?", id="h-1"),
        AIMessage("", tool_calls=[call], id="a-1"),
        ToolMessage(TEXTS[2], tool_call_id="call-1", id="t-1"),
    ]
    more = HumanMessage("And what if they need longer than that, as they did last time?", id="h-2")
    return [first, [*first, AIMessage(f"0 {ANSWER}", id="m-0"), more, more]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store with most of what entries can say; the database and the folder of its keys."""
    folder = tmp_path_factory.mktemp("format")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROVKEEP_HOME", str(folder / "home"))
        with ProvenanceHandler(folder / "audit.db", tokens=True, **SAID) as handler:
            config: Any = {"callbacks": [handler]}
            for _ in range(2):
                "".join(rag().stream("How long may they take?", config=config))
            for i, messages in enumerate(agent()):
                said = AIMessage(f"{i} {ANSWER}", id=f"m-{i}")
                model = GenericFakeChatModel(messages=iter([said]))
                (RunnableLambda(lambda m: m) | model).invoke(messages, config=config)
            RunnableLambda(lambda odd: [odd, odd]).invoke(ODD, config=config)
            RunnableLambda(lambda n: list(range(n))).invoke(40_000, config=config)
            RunnableLambda(lambda n: [f"{TEXTS[0]} {i}" for i in range(n)]).invoke(
                2_500, config=config
            )
            with pytest.raises(ZeroDivisionError):
                RunnableLambda(lambda n: n / 0).invoke(1, config=config)
        with ProvenanceHandler(folder / "audit.db", durability="batch") as handler:
            small = RunnableLambda(lambda n: n + 1)
            for n in range(260):  # enough for a full tile
                small.invoke(n, config={"callbacks": [handler]})
        with provkeep.open(folder / "audit.db", actor="auditor") as trail:
            trail.text(trail.runs(limit=1)[0], purpose="a record of an access")
    (keys,) = (folder / "home" / "stores").iterdir()
    return folder / "audit.db", keys


@pytest.fixture
def store(recorded: tuple[Path, Path], home: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of it that a test may spoil; provkeep finds its keys."""
    database, keys = recorded
    for file in database.parent.glob("audit.db*"):
        if file.is_file():
            shutil.copy(file, tmp_path)
    shutil.copytree(keys, home / "stores" / keys.name)
    return tmp_path / database.name, home / "stores" / keys.name


def pin_of(keys: Path) -> dict[str, Any]:
    return dict(json.loads((keys / "pin.json").read_text()))


def bodies(database: Path) -> list[dict[str, Any]]:
    with closing(other.connect(database)) as db:
        return [json.loads(body) for (body,) in db.execute("SELECT body FROM record ORDER BY seq")]


def test_the_other_verifier_agrees_with_this_one(store: tuple[Path, Path]) -> None:
    database, keys = store
    assert other.verify(database, pin_of(keys)) == []
    with closing(other.connect(database)) as db:
        leaves = [other.sha256(b"\x00" + b) for (b,) in db.execute("SELECT body FROM record")]
        tiles = db.execute("SELECT count(*) FROM tile").fetchone()
    with provkeep.open(database) as trail:
        report = trail.verify()
    assert report and report.pinned
    assert (report.root, report.size) == (other.root_of(leaves).hex(), len(leaves))
    assert len(leaves) > 256 and tiles == (2,), "else the tiles are not tried"


LIES: dict[str, Callable[[sqlite3.Connection], Any]] = {
    "record": lambda db: db.execute(
        "UPDATE record SET body = CAST(replace(CAST(body AS TEXT), '\"ok\"', '\"ko\"') AS BLOB)"
        " WHERE seq = 1"
    ),
    "payload": lambda db: db.execute(
        "UPDATE payload SET data = CAST(substr(data, 1, 50) || x'00' || substr(data, 52) AS BLOB)"
        " WHERE id = 2"
    ),
    "record removed": lambda db: db.execute("DELETE FROM record WHERE seq = 2"),
    "payload removed": lambda db: db.execute("DELETE FROM payload WHERE id = 3"),
    "payload added": lambda db: db.execute("INSERT INTO payload VALUES(900000, 1, NULL, x'00')"),
    "root": lambda db: db.execute("UPDATE checkpoint SET note = replace(note, char(10), ' ')"),
    "tile": lambda db: db.execute(
        "UPDATE tile SET hashes = CAST(x'00' || substr(hashes, 2) AS BLOB)"
    ),
    "head": lambda db: db.execute(
        "UPDATE head SET frontier = CAST(x'00' || substr(frontier, 2) AS BLOB)"
    ),
    "bytes that became a text": lambda db: db.execute(
        "UPDATE record SET body = CAST(body AS TEXT) WHERE seq = 1"
    ),
    "store id": lambda db: db.execute("UPDATE meta SET value = lower(hex(zeroblob(16)))"),
}


@pytest.mark.parametrize("lie", LIES)
def test_both_verifiers_notice(store: tuple[Path, Path], lie: str) -> None:
    database, keys = store
    with closing(sqlite3.connect(database)) as db, db:
        assert LIES[lie](db).rowcount > 0
    assert other.verify(database, pin_of(keys))
    with provkeep.open(database) as trail:
        assert not trail.verify()


def test_a_pin_of_another_log_is_noticed(store: tuple[Path, Path]) -> None:
    database, keys = store
    pin = pin_of(keys)
    assert "pin" in other.verify(database, {**pin, "root": other.b64decode(pin["root"]).hex()[:44]})
    assert other.verify(database, {**pin, "size": pin["size"] + 1}) == ["pin"]


def test_the_other_reader_opens_every_value_and_reads_it_alike(store: tuple[Path, Path]) -> None:
    database, keys = store
    reader = other.Reader(database, json.loads((keys / "reader.json").read_text()))
    with closing(reader), provkeep.open(database) as trail:
        runs = trail.runs(limit=1_000)
        assert {run.id for run in runs} == set(reader.traces) and len(runs) > 260
        ids = [(tid, n) for tid, trace in reader.traces.items() for n in trace.artifacts]
        values = trail.values([f"{tid}.a{n}" for tid, n in ids], purpose="compare")
        for tid, number in ids:
            assert reader.value(tid, number) == values[f"{tid}.a{number}"]
        named = [run for run in runs if run.name == "RunnableSequence"]
        assert len(named) == 4
        for run in named:
            assert reader.answer(run.id) == trail.text(run) and ANSWER in reader.answer(run.id)


def test_the_store_tried_here_holds_everything_that_the_page_describes(
    store: tuple[Path, Path],
) -> None:
    """Else agreement would say nothing of what is not there."""
    entries = [e for body in bodies(store[0]) for e in body.get("e", ())]
    assert {e[0] for e in entries} >= set("sxaMdomSlf")
    options = {o for e in entries if e[0] == "a" for o in e[7]}
    assert options >= {"m", "x", "ty", "calls", "of", "g", "fp", "src", "ext", "len", "b"}
    assert {e[2] for e in entries if e[0] == "a"} >= {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
    assert {body["k"] for body in bodies(store[0])} == {"init", "trace", "access"}
    assert max(body.get("n", 0) for body in bodies(store[0])) > 0, "a trace of several records"


def test_a_private_key_opens_its_own_compartment_only(store: tuple[Path, Path]) -> None:
    database, keys = store
    held = json.loads((keys / "reader.json").read_text())
    del held["private"]["output"]
    with closing(other.Reader(database, held)) as reader:
        tid = next(iter(reader.traces))
        artifacts = reader.traces[tid].artifacts
        document = next(n for n, items in artifacts.items() if items[1] == other.DOCUMENT)
        assert reader.value(tid, document)["page_content"] in TEXTS
        with pytest.raises(KeyError, match="output"):
            reader.answer(tid)


def test_a_moved_envelope_does_not_open(store: tuple[Path, Path]) -> None:
    database, keys = store
    with closing(sqlite3.connect(database)) as db, db:
        (first, second) = db.execute("SELECT data FROM payload WHERE id < 3 ORDER BY id").fetchall()
        db.executemany("UPDATE payload SET data=? WHERE id=?", [(*second, 1), (*first, 2)])
    with (
        closing(other.Reader(database, json.loads((keys / "reader.json").read_text()))) as reader,
        pytest.raises(ValueError, match="other bytes"),
    ):
        reader.payload(1)


def test_tags_are_computed_as_written(store: tuple[Path, Path]) -> None:
    database, keys = store
    recorder = json.loads((keys / "recorder.json").read_text())
    key = other.b64decode(recorder["fingerprint_key"])

    def tag(domain: str, name: str) -> str:
        data = len(domain).to_bytes(4, "big") + domain.encode() + name.encode()
        return other.b64u(other.mac(key, data)[:12])

    config = load_recorder_config(bytes.fromhex(keys.name))
    assert records.unb64(tag("actor", "x")) == fingerprint(config.fingerprint_key, "actor", b"x")
    first = next(body for body in bodies(database) if body["k"] == "trace")
    assert first["h"] == {k: tag(k, SAID[k]) for k in ("actor", "session", "subject")}
    named = {e[1] for body in bodies(database) for e in body.get("e", ()) if e[0] == "S"}
    assert named >= {tag("source", f"law/{i}.txt") for i in range(4)}


def test_codes_are_those_of_the_page() -> None:
    page = FORMAT.read_text(encoding="utf-8")
    for title, words in (("artifact kind", records.KINDS), ("basis", records.BASES)):
        assert f"| {title} | " + ", ".join(f"{i} {w}" for i, w in enumerate(words)) + " |" in page
    for code, name in enumerate(records.COMPARTMENTS):
        assert f"| `{name}` | {code} |" in page


@pytest.mark.parametrize(("place", "suffix"), [(0, ""), (1, "-keys")])
def test_tables_are_those_of_the_page(store: tuple[Path, Path], place: int, suffix: str) -> None:
    block = re.findall(r"```sql\n(.*?)```", FORMAT.read_text(encoding="utf-8"), re.DOTALL)[place]
    database = store[0].with_name(store[0].name + suffix)
    sql = "SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
    with closing(other.connect(database)) as db, closing(sqlite3.connect(":memory:")) as made:
        made.executescript(block)
        assert db.execute(sql).fetchall() == made.execute(sql).fetchall()
        mark, version = (db.execute(f"PRAGMA {p}").fetchone()[0] for p in PRAGMAS)
    assert f"`application_id` 0x{mark:08X}".lower() in FORMAT.read_text(encoding="utf-8").lower()
    assert version == 1


PRAGMAS = ("application_id", "user_version")


def test_the_other_reader_is_a_program_of_its_own(store: tuple[Path, Path], tmp_path: Path) -> None:
    database, keys = store
    program = Path(other.__file__).read_text(encoding="utf-8")
    assert not re.search(r"^\s*(from|import) provkeep", program, re.MULTILINE)
    (tmp_path / "alone").mkdir()
    alone = tmp_path / "alone" / "reader.py"
    alone.write_text(program, encoding="utf-8")
    command = [sys.executable, "-I", str(alone), str(database), str(keys)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("verified\n"), done.stderr
    assert ANSWER in done.stdout
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("UPDATE payload SET data = substr(data, 2) WHERE id = 5")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "payload 5\n")
