"""The writer: traces over several records, numbers known late, records that cannot be written."""

import random
import re
import sqlite3

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda

import provkeep
from provkeep.errors import RecordingError
from provkeep.langchain import ProvenanceHandler
from provkeep.recording import outbox as outbox_module
from provkeep.recording.recorder import Scope, recorder_for
from provkeep.recording.trace import Trace
from provkeep.sealing.sealer import Sealer
from provkeep.tlog.log import Log
from tests.scenarios.recording_kit import bodies, checked, end, say, start, traces, verified


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.db"


def _chain(count: int, prefix: str = "d"):
    documents = [
        Document(
            page_content=f"{prefix}{i}: the {i}th of the things that are to be known, told at"
            f" some length, and not the same as the one before, which was number {i - 1}",
            metadata={"source": f"{prefix}{i}.txt"},
        )
        for i in range(count)
    ]

    class Retriever(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return documents

    return Retriever() | RunnableLambda(lambda found: "\n\n".join(d.page_content for d in found))


def _connection(handler) -> sqlite3.Connection:
    return handler._recorder._writer._outbox.opened.store._writer.get()


@pytest.mark.parametrize("count", [30, 150, 700])
@pytest.mark.parametrize("full", [False, True], ids=["", "on a full disk"])
def test_every_source_of_a_trace_of_many_records_is_found_by_its_impact(path, count, full):
    """The last entry names payloads that get their numbers when earlier records are committed."""
    chain = _chain(count)
    with ProvenanceHandler(path) as handler:
        config = {"callbacks": [handler]}
        _chain(1, "other").invoke("?", config)
        if full:
            connection = _connection(handler)
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
        chain.invoke("?", config)
        if full:
            connection.execute("PRAGMA max_page_count = 1073741823")
        handler.flush()
    numbers = [body["n"] for body in bodies(path) if body["k"] == "trace"][1:]
    assert numbers == list(range(len(numbers)))
    assert (len(numbers) > 1) == (count > 100)
    connection = sqlite3.connect(path)
    reached = connection.execute("SELECT reach, count(*) FROM xref WHERE trace = 2 GROUP BY 1")
    assert reached.fetchall() == [(1, count)]
    connection.close()
    with provkeep.open(path) as trail:
        names = {source.name for source in trail.lineage().sources()}
        assert names == {f"d{i}.txt" for i in range(count)}
        assert len(trail.impact(source=f"d{count - 1}.txt")) == 1
    checked(path)
    verified(path)


def test_a_trace_that_says_more_while_the_store_refuses_is_whole_afterwards(path):
    """Nothing may refer to numbers that are not known yet, however often it is looked at."""
    recorder, scope = recorder_for(path), Scope("batch")
    say(recorder, scope)
    recorder.flush()
    root = start(recorder, scope)
    connection = recorder._writer._outbox.opened.store._writer.get()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    for i in range(4):
        end(recorder, scope, start(recorder, scope, f"{i} long " * 3_000, root), f"{i}")
        with pytest.raises(RecordingError):
            recorder.flush()
    end(recorder, scope, root)
    with pytest.raises(RecordingError, match="0 events lost, 1 traces"):
        recorder.flush()
    connection.execute("PRAGMA max_page_count = 1073741823")
    recorder.close()
    assert traces(path)[f"{root:032x}"] == "ok"
    checked(path)
    verified(path)


def test_a_record_that_cannot_be_written_is_counted_and_the_others_are_written(path, monkeypatch):
    recorder, scope = recorder_for(path), Scope("batch")
    append = Log.append

    def refuse(log, pending, **options):
        pending = list(pending)
        if any(record.body.get("t") == bad for record in pending):
            raise ValueError("a body that is not canonical, quoting a secret")
        append(log, pending, **options)

    bad = f"{start(recorder, scope):032x}"
    monkeypatch.setattr(Log, "append", refuse)
    good = [say(recorder, scope, f"{i}") for i in range(3)]
    end(recorder, scope, int(bad, 16))
    good += [say(recorder, scope, f"{i}") for i in range(3)]
    with pytest.raises(RecordingError, match="2 events lost, 0 traces") as caught:
        recorder.flush()
    assert "secret" not in str(caught.value)
    recorder.close()
    assert traces(path).keys() == set(good)
    assert [body["events"] for body in bodies(path) if body["k"] == "gap"] == [2]
    checked(path)
    verified(path)


@pytest.mark.parametrize("place", [(Trace, "finish"), (Trace, "drain"), (Sealer, "record")])
def test_a_mistake_of_ours_in_one_trace_is_told_and_stops_nobody(path, monkeypatch, place):
    recorder = recorder_for(path)
    owner, name = place
    kept = getattr(owner, name)
    broken = []

    def once(self, *args, **options):
        if not broken:
            broken.append(1)
            raise KeyError("a secret")
        return kept(self, *args, **options)

    monkeypatch.setattr(owner, name, once)
    say(recorder, Scope("trace"))
    good = say(recorder, Scope("trace"))
    with pytest.raises(RecordingError, match=r"KeyError in .*test_writer, line") as caught:
        recorder.flush()
    assert "secret" not in str(caught.value)
    assert caught.value.lost >= 1
    assert caught.value.pending == 0
    recorder.close()
    assert traces(path)[good] == "ok"
    verified(path)


def test_strict_hears_that_its_own_trace_was_lost(path, monkeypatch):
    recorder = recorder_for(path)
    monkeypatch.setattr(Sealer, "record", lambda *_, **__: 1 / 0)
    with pytest.raises(provkeep.errors.ProvkeepError, match="ZeroDivisionError"):
        say(recorder, Scope("strict"))
    with pytest.raises(RecordingError):
        recorder.close()


def test_many_traces_waiting_at_once_are_few_commits(path, monkeypatch):
    recorder, scope = recorder_for(path), Scope("batch")
    commits = []
    append = Log.append

    def count(log, pending, **options):
        commits.append(len(pending))
        append(log, pending, **options)

    monkeypatch.setattr(Log, "append", count)
    writer = recorder._writer
    monkeypatch.setattr(type(writer), "start", lambda self: None)  # nobody writes yet
    for i in range(200):
        say(recorder, scope, f"{i}")
    monkeypatch.undo()
    monkeypatch.setattr(Log, "append", count)
    recorder.close()
    assert sum(commits) == 200
    assert len(commits) <= 3
    assert len(traces(path)) == 200


def test_a_backlog_is_written_in_commits_of_bounded_size(path, monkeypatch):
    """A neighbour must get its turn while a long backlog is written."""
    monkeypatch.setattr(outbox_module, "CHUNK", 4)
    recorder, scope = recorder_for(path), Scope("trace")
    say(recorder, scope)
    connection = recorder._writer._outbox.opened.store._writer.get()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    for i in range(10):
        say(recorder, scope, f"{i} long " * 3_000)
    sizes = []
    append = Log.append

    def count(log, pending, **options):
        append(log, pending, **options)
        sizes.append(len(pending))

    monkeypatch.setattr(Log, "append", count)
    connection.execute("PRAGMA max_page_count = 1073741823")
    recorder.close()
    assert max(sizes) <= 4
    assert len(traces(path)) == 11
    checked(path)


def test_each_of_twenty_thousand_pieces_of_a_document_is_found_in_the_text(path):
    """The spans of one edge fill records of their own; none is dropped."""
    chance = random.Random(1)
    lines = [
        f"item {i} has the value {chance.randrange(10**9)} and {chance.randrange(10**6)}"
        for i in range(20_000)
    ]
    order = chance.sample(range(20_000), 20_000)

    class Retriever(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return [Document(page_content="\n".join(lines), metadata={"source": "list.txt"})]

    shuffled = RunnableLambda(lambda _: "\n--\n".join(lines[i] for i in order))
    with ProvenanceHandler(path) as handler:
        text = (Retriever() | shuffled).invoke("?", {"callbacks": [handler]})
    with provkeep.open(path) as trail:
        lineage = trail.lineage()
        (edge,) = (e for e in lineage.edges if len(e.spans) > 1)
        told = sum(s.target_end - s.target_start for s in edge.spans)
        assert len(edge.spans) > 19_900
        assert told >= 0.99 * sum(map(len, lines))
        document = "\n".join(lines)
        for s in edge.spans:  # the same words; what separates them differs
            here, there = (
                text[s.target_start : s.target_end],
                document[s.source_start : s.source_end],
            )
            assert re.findall(r"\w+", here) == re.findall(r"\w+", there)
        (source,) = lineage.sources()
        assert len(source.quotations) == len(edge.spans)
    assert len([body for body in bodies(path) if body["k"] == "trace"]) > 5
    checked(path)
    verified(path)
