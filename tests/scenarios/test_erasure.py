"""What was erased is gone from every file, and everything else is as it was, proofs included."""

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import provkeep
from provkeep.errors import ErasedError, HeldError, UnknownIdError
from provkeep.langchain import ProvenanceHandler
from provkeep.recording.opening import open_for_recording
from provkeep.store.keyfile import KeyFile, keys_path
from tests.scenarios.erasing_kit import (
    HANDBOOK,
    PRICES,
    ask,
    files_with,
    keys_of,
    record,
    wrapped_keys,
)

TURNS = [
    ("handbook.pdf", "Until when may I return what I bought?", "anna"),
    ("prices.pdf", "What does a parcel cost within the country?", "bert"),
    ("handbook.pdf", "And in what state must the goods be then?", "bert"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder / "audit.db"


@pytest.fixture
def ids(path: Path) -> list[str]:
    return record(path, TURNS)


def erase(path: Path, **target: object):
    with provkeep.open(path) as trail:
        return trail.erase(trail.plan_erasure(**target), reason="request 17")


def verified(path: Path) -> None:
    with provkeep.open(path) as trail:
        report = trail.verify()
        assert report, report
        assert report.codes <= {"unsigned-tail"}


def texts(path: Path, tid: str) -> dict[str, str]:
    """Kind -> text, or "erased", of the document, the answer and the prompt of a trace."""
    out = {}
    with provkeep.open(path) as trail:
        for node in trail.graph(tid).of("artifact"):
            try:
                out[f"{node.kind} {node.id}"] = trail.text(node, purpose="a test")
            except ErasedError:
                out[f"{node.kind} {node.id}"] = "erased"
    return out


def test_an_erased_trace_is_gone_from_every_file_and_the_rest_is_as_it_was(path, ids, home):
    before = [texts(path, tid) for tid in ids]
    keys = wrapped_keys(path)
    gone = erase(path, trace=ids[0])
    assert gone is not None and not gone.pending and gone.keys > 0
    dead = keys.keys() - wrapped_keys(path).keys()
    assert len(dead) == gone.keys and dead < keys_of(path, ids[0])
    assert files_with((keys[n] for n in dead), path.parent, home) == []
    alive = keys_of(path, *ids[1:])
    assert not dead & alive and files_with((keys[n] for n in alive), path.parent) != []
    after = [texts(path, tid) for tid in ids]
    assert after[1:] == before[1:], "everyone else's data still opens"
    left = [v for v in after[0].values() if v != "erased"]
    assert left and all(HANDBOOK in text for text in left), "documents belong to their source"
    assert not any("It says" in text or "Until when" in text for text in left)
    verified(path)


def test_the_error_says_when_and_by_which_record_and_the_record_says_why(path, ids):
    gone = erase(path, trace=ids[0])
    with provkeep.open(path) as trail:
        with pytest.raises(ErasedError, match=rf"erased on 20.* by record {gone.record}") as caught:
            trail.text(ids[0], purpose="a test")
        assert caught.value.record == gone.record and caught.value.at_us == gone.at_us
        (listed,) = trail.erasures()
    assert listed == gone and listed.reason == "request 17" and not listed.pending


def test_lineage_still_shows_that_something_was_there(path, ids):
    with provkeep.open(path) as trail:
        before = trail.lineage(ids[0])
    erase(path, trace=ids[0])
    erase(path, source="handbook.pdf")
    with provkeep.open(path) as trail:
        after = trail.lineage(ids[0])
        assert {n.id for n in after} == {n.id for n in before}
        assert len(after.sources()) == 1
        assert after.sources()[0].quotations == before.sources()[0].quotations


def test_the_names_of_an_erased_person_and_source_are_gone(path, ids):
    with provkeep.open(path) as trail:
        assert [run.subject for run in trail.runs()] == ["bert", "bert", "anna"]
    gone = erase(path, subject="bert")
    assert gone.traces == 2
    erase(path, source="prices.pdf")
    with provkeep.open(path) as trail:
        shown = [run.subject for run in trail.runs()]
        assert shown[2] == "anna" and shown[0] == shown[1] != "bert"
        assert trail.runs()[0].actor == "alice@example.com", "another trace still says it"
        assert sorted(trail.source_names().values()) == ["docs/handbook.pdf"]
        with pytest.raises(UnknownIdError):
            trail.source_tag("prices.pdf")
        assert trail.source_tag("docs/prices.pdf"), "who knows the name finds its tag"
    verified(path)


def test_an_erased_source_leaves_what_quotes_it_and_says_beforehand_what_that_is(path, ids):
    with provkeep.open(path) as trail:
        plan = trail.plan_erasure(source="handbook.pdf")
        assert plan.sources == ("docs/handbook.pdf",) and plan.trace_count == 0
        assert [t.id for t in plan.derived] == [ids[0], ids[2]]
        answer = trail.text(ids[0], purpose="a test")
        assert HANDBOOK in answer
        trail.erase(plan, reason="request 18")
    for tid in (ids[0], ids[2]):
        shown = texts(path, tid)
        assert all(v == "erased" for k, v in shown.items() if k.startswith("document"))
        assert any(v.startswith("It says: ") for v in shown.values()), "the answer is its own"
    assert PRICES in texts(path, ids[1]).values()
    verified(path)


def test_a_text_that_quotes_by_reference_shows_where_something_was_erased(path, ids):
    """A prompt refers to the document's words instead of repeating them: they are gone there."""
    gone = erase(path, source="handbook.pdf")
    shown = " ".join(texts(path, ids[0]).values())
    assert f"Answer from: [erased: record {gone.record}]" in shown
    assert "Until when may I return" in shown


def test_a_document_that_comes_again_is_stored_again_under_a_fresh_key(path, ids):
    erase(path, source="handbook.pdf")
    [*_, new] = record(path, [TURNS[0]])
    assert HANDBOOK in texts(path, new).values()
    with provkeep.open(path) as trail:
        assert "docs/handbook.pdf" in trail.source_names().values()
    assert HANDBOOK not in texts(path, ids[0]).values()
    verified(path)


def test_a_running_recorder_seals_nothing_more_under_an_erased_key(path):
    """It holds the key of the source, and of the open trace, in memory."""
    with ProvenanceHandler(path, subject="anna") as handler:
        ask(handler, "handbook.pdf", "What is the first question about it?")
        before = keys_of(path, *[r["id"] for r in runs(path)])
        gone = erase(path, source="handbook.pdf")
        ask(handler, "handbook.pdf", "What is the second question about it?")
        handler.flush()
        [new, old] = [r["id"] for r in runs(path)]
        assert HANDBOOK in texts(path, new).values()
        assert HANDBOOK not in texts(path, old).values()
        assert not before & keys_of(path, new)
        assert gone.keys == 2  # of its documents, and of its name
        with provkeep.open(path) as trail:
            assert list(trail.source_names().values()) == ["docs/handbook.pdf"]
    verified(path)


def runs(path: Path) -> list[dict]:
    with provkeep.open(path) as trail:
        return [run.to_dict() for run in trail.runs()]


def test_what_was_sealed_before_the_erasure_and_committed_after_is_sealed_anew(path, monkeypatch):
    from provkeep.recording.outbox import Outbox

    append = Outbox._append
    with ProvenanceHandler(path) as handler:
        ask(handler, "handbook.pdf", "What is the first question about it?")
        handler.flush()
        erased = []

        def late(outbox, some):
            if some and not erased:
                erased.append(erase(path, source="handbook.pdf"))
            append(outbox, some)

        TEXT = HANDBOOK + " Now in a second edition."
        monkeypatch.setitem(
            __import__("tests.scenarios.erasing_kit", fromlist=["TEXTS"]).TEXTS,
            "handbook.pdf",
            TEXT,
        )
        monkeypatch.setattr(Outbox, "_append", late)
        ask(handler, "handbook.pdf", "What is the second question about it?")
        handler.flush()
        assert len(erased) == 1
        [new, _] = [r["id"] for r in runs(path)]
        assert TEXT in texts(path, new).values()
    verified(path)


def test_an_open_trace_that_is_erased_goes_on_under_fresh_keys(path):
    from provkeep.recording.recorder import Scope, recorder_for
    from tests.scenarios.recording_kit import end, start

    recorder, scope = recorder_for(path), Scope()
    root = start(recorder, scope, "the beginning")
    end(recorder, scope, start(recorder, scope, "a step of it", root), "a step of it")
    recorder._writer._looked_at = 0.0  # what open traces have said is written now and then
    recorder.flush()
    tid = f"{root:032x}"
    first = keys_of(path, tid)
    assert first
    gone = erase(path, trace=tid)
    assert gone.keys == len(first)
    end(recorder, scope, root, "the end of it")
    recorder.flush()
    assert keys_of(path, tid) > first
    with provkeep.open(path) as trail:
        assert trail.text(tid, purpose="a test") == "about the end of it this and that can be said"
    recorder.close()
    verified(path)


def test_an_erasure_is_pending_while_somebody_reads_and_is_finished_later(path, ids, home):
    keys = wrapped_keys(path)
    wanted = keys_of(path, ids[0])
    with closing(sqlite3.connect(f"{path}-keys", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM datakey").fetchone()
        gone = erase(path, trace=ids[0])
        assert gone.pending
        dead = wanted - wrapped_keys(path).keys()
        assert files_with((keys[n] for n in dead), path.parent) != []
        with provkeep.open(path) as trail:
            assert trail.verify().codes == {"erasure-pending"}
            assert trail.erasures()[0].pending and not trail.finish_erasures()
            with pytest.raises(ErasedError):
                trail.text(ids[0], purpose="a test")
        reader.execute("COMMIT")
    with provkeep.open(path) as trail:
        assert trail.finish_erasures() and not trail.erasures()[0].pending
    assert files_with((keys[n] for n in dead), path.parent, home) == []
    verified(path)


@pytest.mark.parametrize("how", ["open", "flush"])
def test_a_recorder_finishes_what_a_reader_held_back(path, ids, home, how):
    keys = wrapped_keys(path)
    handler = None
    if how == "flush":
        handler = ProvenanceHandler(path)
        ask(handler, "prices.pdf", "What does it cost, then?")
    with closing(sqlite3.connect(f"{path}-keys", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM datakey").fetchone()
        assert erase(path, trace=ids[0]).pending
        reader.execute("COMMIT")
    if handler is None:
        open_for_recording(path).close()
    else:
        handler.flush()
    dead = keys.keys() - wrapped_keys(path).keys()
    assert dead and files_with((keys[n] for n in dead), path.parent, home) == []
    if handler is not None:
        handler.close()


def test_a_process_that_dies_between_record_and_keys_leaves_them_to_the_next(
    path, ids, home, monkeypatch
):
    keys = wrapped_keys(path)
    monkeypatch.setattr(KeyFile, "erase", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        erase(path, trace=ids[0])
    monkeypatch.undo()
    monkeypatch.setenv("PROVKEEP_HOME", str(home))
    with provkeep.open(path) as trail:
        assert "key-back" in trail.verify().codes
        with pytest.raises(ErasedError):
            trail.text(ids[0], purpose="the key is there and is not used")
    open_for_recording(path).close()
    dead = keys.keys() - wrapped_keys(path).keys()
    assert dead and files_with((keys[n] for n in dead), path.parent) == []
    verified(path)


def test_a_key_file_that_is_put_back_is_found_and_its_keys_open_nothing(path, ids):
    copy = path.with_name("backup")
    shutil.copy(keys_path(path), copy)
    gone = erase(path, trace=ids[0])
    for suffix in ("-wal", "-shm"):
        Path(f"{keys_path(path)}{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, keys_path(path))
    with provkeep.open(path) as trail:
        report = trail.verify()
        assert not report and "key-back" in report.codes
        assert sum(f.code == "key-back" for f in report.findings) == gone.keys
        with pytest.raises(ErasedError):
            trail.text(ids[0], purpose="with the old key file")
        assert trail.finish_erasures()
        report = trail.verify()  # keys made since the backup are lost, and said to be
        assert "key-back" not in report.codes and "key-missing" in report.codes
    [*_, new] = record(path, [TURNS[1]])
    assert PRICES in texts(path, new).values(), "no new key has the number of an erased one"


def test_a_key_that_is_missing_without_an_erase_record_is_found(path, ids):
    number = min(keys_of(path, ids[1]))
    with closing(sqlite3.connect(f"{path}-keys")) as db, db:
        db.execute("DELETE FROM datakey WHERE id=?", (number,))
    with provkeep.open(path) as trail:
        report = trail.verify()
        assert not report
        assert [(f.code, f.place) for f in report.findings] == [
            ("key-missing", f"data key {number}")
        ]


def test_a_copy_of_the_log_without_its_keys_verifies(path, ids, tmp_path):
    erase(path, trace=ids[0])
    alone = tmp_path / "alone.db"
    with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(alone)) as other:
        db.backup(other)
    with provkeep.open(alone) as trail:
        assert trail.verify()


def test_what_is_under_a_legal_hold_is_not_erased(path, ids):
    with provkeep.open(path) as trail:
        trail.hold(subject="anna", reason="case 4711")
        for target in ({"trace": ids[0]}, {"subject": "anna"}, {"source": "handbook.pdf"}):
            with pytest.raises(HeldError, match="legal hold"):
                trail.erase(trail.plan_erasure(**target), reason="request 17")
        assert trail.erase(trail.plan_erasure(trace=ids[1]), reason="not held")
        (hold,) = trail.holds()
        assert (hold.what, hold.name, hold.reason) == ("subject", "anna", "case 4711")
        trail.lift_hold(subject="anna", reason="case closed")
        assert trail.holds() == []
        with pytest.raises(UnknownIdError):
            trail.lift_hold(subject="anna", reason="again")
        assert trail.erase(trail.plan_erasure(subject="anna"), reason="request 17")
    verified(path)


def test_a_hold_that_comes_between_plan_and_erasure_counts(path, ids):
    with provkeep.open(path) as trail, provkeep.open(path) as other:
        plan = trail.plan_erasure(trace=ids[0])
        other.hold(trace=ids[0], reason="case 4711")
        with pytest.raises(HeldError):
            trail.erase(plan, reason="request 17")
    verified(path)


def test_what_comes_between_plan_and_erasure_is_erased_too(path, ids):
    with provkeep.open(path) as trail:
        plan = trail.plan_erasure(subject="anna")
        [*_, new] = record(path, [TURNS[0]])
        gone = trail.erase(plan, reason="request 17")
        assert gone.traces == 2
    assert not any("Until when" in text for text in texts(path, new).values())


def test_erasing_again_finds_nothing(path, ids):
    erase(path, trace=ids[0])
    with provkeep.open(path) as trail:
        again = trail.plan_erasure(trace=ids[0])
        assert again.keys == 0
        assert trail.erase(again, reason="again") is None
        assert len(trail.erasures()) == 1


def test_only_one_compartment_can_be_erased(path, ids):
    with provkeep.open(path) as trail:
        plan = trail.plan_erasure(trace=ids[0], classes=["prompt"])
        assert plan.keys == 1 and set(plan.payloads) == {"prompt"}
        answer = trail.text(ids[0], purpose="before")
        trail.erase(plan, reason="prompts only")
        assert trail.text(ids[0], purpose="after").startswith(answer[:9])
    verified(path)


def test_an_erasure_of_many_parts_takes_several_records(path, ids, monkeypatch):
    monkeypatch.setattr("provkeep.reading.erasing.MAX_RANGES", 1)
    gone = erase(path, subject="bert")
    with provkeep.open(path) as trail:
        listed = trail.erasures()
    assert sum(each.keys for each in listed) == gone.keys
    assert "erased" in texts(path, ids[1]).values()
    verified(path)


def test_no_byte_of_a_deleted_key_stays_however_keys_come_and_go(tmp_path):
    """SQLite's secure_delete alone leaves copies where pages were split: seen, and closed."""
    draw = random.Random(3)
    keys = KeyFile(tmp_path / "audit.db-keys")
    epoch = keys.add_epoch(b"e" * 16, "meta", b"sealed", "x25519")
    live: dict[int, bytes] = {}
    dead: list[bytes] = []
    for step in range(12):
        some = [draw.randbytes(40) for _ in range(draw.choice([8, 64, 256, 2000]))]
        live.update(zip(keys.add_keys(epoch, some), some, strict=True))
        numbers = sorted(live)
        gone = draw.sample(numbers, draw.randrange(1, max(2, len(numbers) // 3)))
        assert keys.erase([(n, n) for n in gone], step, busy_ms=0)
        dead += [live.pop(n) for n in gone]
        blob = b"".join(f.read_bytes() for f in tmp_path.iterdir())
        assert not any(key in blob for key in dead)
        assert all(key in blob for key in live.values())
    keys.close()


def erased(path: Path, tid: str) -> dict[str, int]:
    """Artifacts and sources of a trace that its graph says were erased."""
    with provkeep.open(path) as trail:
        nodes = trail.graph(tid).nodes.values()
        assert {n.id for n in nodes if n.status == "erased"} == {
            n.id for n in nodes if "erased" in n.attrs
        }
        return {n.id: n.attrs["erased"] for n in nodes if n.status == "erased"}


@pytest.mark.parametrize("target", ["trace", "source", "subject"])
def test_a_graph_marks_exactly_what_opens_no_more(path, ids, target):
    """What the picture says was erased is what text() refuses, of every part of every trace."""
    assert not any(erased(path, tid) for tid in ids)
    named = {"trace": ids[2], "source": "handbook.pdf", "subject": "bert"}[target]
    gone = erase(path, **{target: named})
    found = {}
    for tid in ids:
        marks = erased(path, tid)
        assert set(marks.values()) <= {gone.record}
        refused = {k.split()[1] for k, v in texts(path, tid).items() if v == "erased"}
        assert {i for i in marks if not i.startswith("s.")} == refused
        found[tid] = marks
    assert [bool(found[tid]) for tid in ids] == {
        "trace": [False, False, True],
        "source": [True, False, True],
        "subject": [False, True, True],
    }[target]
    sources = {i for marks in found.values() for i in marks if i.startswith("s.")}
    assert len(sources) == (target == "source")


def test_a_lineage_shows_what_was_erased_in_picture_text_and_export(path, ids, tmp_path):
    with provkeep.open(path) as trail:
        before = trail.lineage(ids[0])
        assert "erased" not in before.to_text() + before.to_svg() + before.to_mermaid()
    erase(path, source="handbook.pdf")
    with provkeep.open(path) as trail:
        lineage = trail.lineage(ids[0])
        marked = [line for line in lineage.to_text().splitlines() if "◌" in line]
        assert [line.split("◌ ")[1].split()[0] for line in marked] == ["SOURCE", "DOCUMENT"]
        assert all("erased" in line.split() for line in marked)
        assert ">erased</text>" in lineage._repr_mimebundle_()["image/svg+xml"]
        loaded = provkeep.load_export(lineage.to_json(tmp_path / "lineage.json"))
        assert loaded.to_text() == lineage.to_text()
        assert trail.lineage(ids[1]).to_text().count("erased") == 0


def test_a_turn_that_took_over_an_erased_message_is_marked_too(path):
    """A later turn refers to the messages of the earlier one, and holds nothing of its own."""
    from langchain_core.messages import AIMessage, HumanMessage
    from langchain_core.runnables import RunnableLambda

    said = [HumanMessage("Where is the key kept, please?"), AIMessage("Under the third stone.")]
    chain = RunnableLambda(lambda messages: AIMessage(f"I was told: {messages[-2].content}"))
    with ProvenanceHandler(path, subject="anna") as handler:
        config = {"callbacks": [handler], "metadata": {"thread_id": "t"}}
        first = chain.invoke([HumanMessage("hello there"), *said], config)
    with ProvenanceHandler(path, subject="bert") as handler:
        config = {"callbacks": [handler], "metadata": {"thread_id": "t"}}
        chain.invoke([HumanMessage("hello there"), *said, first, HumanMessage("go on")], config)
    with closing(sqlite3.connect(path)) as db:
        ids = [tid.hex() for (tid,) in db.execute("SELECT tid FROM trace ORDER BY id")]
    erase(path, trace=ids[0])
    with provkeep.open(path) as trail:
        part = trail.lineage(ids[1])
        refused = set()
        for node in part.graph.of("artifact"):
            try:
                trail.text(node, purpose="a test")
            except ErasedError:
                refused.add(node.id)
        assert {n.id for n in part.graph.of("artifact") if n.status == "erased"} == refused
