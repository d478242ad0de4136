"""Impact from the index alone equals what the records say, read one by one."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda

import provkeep
from provkeep.errors import StoreError
from provkeep.langchain import ProvenanceHandler
from provkeep.model.records import Pending, unb64
from provkeep.reading import answers, impacts
from provkeep.reading.answers import Summaries, TraceSummary
from provkeep.reading.traces import load_trace
from provkeep.store.sqlite import SqliteStore
from tests.reading.forging import edit, make, tag

SOURCES = 3

# A trace: the sources of its documents and which of them reached the answer; the answer; the tags
# that it gives and takes; how many records it takes.
Plan = tuple[list[tuple[int, bool]], int | None, list[tuple[int, int]], int]
PLANS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, SOURCES - 1), st.booleans()), max_size=3),
        st.none() | st.integers(-1, 4),
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), max_size=4),
        st.integers(1, 2),
    ),
    min_size=1,
    max_size=12,
)


def records(number: int, plan: Plan) -> list[Pending]:
    """The records of one trace; all but the documents come in the last."""
    found, answer, links, count = plan
    documents = [
        ["a", i, 3, 2, 0, 40, i, {"src": tag(f"s{source}"), "fp": tag(f"d{number}.{i}")}]
        for i, (source, _) in enumerate(found)
    ]
    begin: list[Any] = [["s", 0, "chain", "Chain", -1, 0, "A" * 22, {}], *documents]
    rest: list[Any] = [["l", tag(f"t{name}"), 7 + role, role] for name, role in links]
    rest.append(["x", 0, 5_000, "ok", {}])
    # payloads are numbered on from trace to trace; where they come in an earlier record, by number
    parts = [[*begin, *rest]] if count == 1 else [begin, rest]
    out = []
    for n, entries in enumerate(parts):
        body: dict[str, Any] = {"k": "trace", "v": 1, "t": f"{number:032x}", "n": n}
        body |= {"t0": str(1_700_000_000_000_000_000 - number * 10_000), "e": entries}
        sealed = [b"envelope %d.%d" % (number, i) for i in range(len(found))] if n == 0 else []
        if sealed:
            body |= {"keys": [[2, 1, tag("key")]], "p": [[tag("hash"), 0]] * len(sealed)}
        out.append(Pending(body, sealed))
    if answer is not None:
        reached = [i for i, (_, is_reached) in enumerate(found) if is_reached]
        out[-1].body["e"].append(
            ["f", 0, answer, reached if count > 1 else [-1 - i for i in reached]]
        )
    return out


def build(path: Path, plans: list[Plan]) -> None:
    """A store of these traces; their records are interleaved: firsts, then seconds."""
    parts = [records(number, plan) for number, plan in enumerate(plans, 1)]
    first, at = 1, {}
    for number, part in enumerate(parts, 1):
        at[number], first = first, first + len(part[0].envelopes)
    for number, part in enumerate(parts, 1):
        for later in part[1:]:
            for entry in later.body["e"]:
                if entry[0] == "f":
                    entry[3] = [at[number] + place for place in entry[3]]
    make(path, [p[0] for p in parts] + [p[1] for p in parts if len(p) > 1])


def slowly(store: SqliteStore, plans: list[Plan], source: int) -> tuple[list[int], ...]:
    """Reached, built on it, dropped, and the outputs, from every record and the plan."""
    loaded = {n: load_trace(store, n.to_bytes(16, "big")) for n in range(1, len(plans) + 1)}
    reached = {n for n, p in enumerate(plans, 1) if p[1] is not None and (source, True) in p[0]}
    found = {n for n, p in enumerate(plans, 1) if source in [s for s, _ in p[0]]} - reached
    later: set[int] = set()
    while True:
        gives = {
            (tag_, n) for n in reached | later for _, tag_, _, role in loaded[n].links if role == 0
        }
        more = {
            n
            for n, trace in loaded.items()
            for _, tag_, _, role in trace.links
            if role == 1 and any(tag_ == given_ and n > giver for given_, giver in gives)
        } - later
        if not more:
            break
        later |= more
    outputs = [n for n in reached if loaded[n].answer >= 0]
    return (
        sorted(reached, reverse=True),  # a later number began earlier
        sorted(later, reverse=True),
        sorted(found, reverse=True),
        sorted(outputs, reverse=True),
    )


@settings(max_examples=150, deadline=None)
@given(plans=PLANS, source=st.integers(0, SOURCES - 1), few=st.sampled_from([0, 1, 200]))
def test_the_index_says_what_the_records_say(plans: list[Plan], source: int, few: int) -> None:
    """Whether links are read from a few records or from the index in one pass."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(impacts, "FEW", few)
        path = Path(folder) / "a.db"
        build(path, plans)
        with closing(SqliteStore(path, read_only=True)) as store:
            reached, later, dropped, outputs = slowly(store, plans, source)
            hits = impacts.hits(store, unb64(tag(f"s{source}")))
            assert (hits.reached, hits.retrieved) == (reached, dropped)
            answer = {n: plan[1] for n, plan in enumerate(plans, 1)}
            assert hits.outputs == [f"{n:032x}.a{answer[n]}" for n in outputs]
            found = impacts.later(store, reached)
            assert impacts.in_time(store, sorted(found)) == later


def test_a_malformed_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    build(path, [([(0, True)], 0, [(0, 0)], 1), ([], 0, [(0, 1)], 1)])
    with edit(path) as conn:
        conn.execute("UPDATE record SET body=x'00' WHERE seq=1")
    with (
        closing(SqliteStore(path, read_only=True)) as store,
        pytest.raises(StoreError, match="record 1 is malformed"),
    ):
        impacts.later(store, [1])


# -- summaries that are read when they are asked for ------------------------------------------


def summary(number: int) -> TraceSummary:
    return TraceSummary(
        id=f"{number:032x}",
        name="chain",
        kind="chain",
        status="ok",
        started_us=number,
        ended_us=None,
        runs=1,
        errors=0,
    )


def test_only_the_pages_that_are_asked_for_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PAGE", 10)
    read: list[int] = []

    def load(numbers: Any) -> list[TraceSummary]:
        read.extend(numbers)
        return [summary(number) for number in numbers]

    found = Summaries(range(100, 195), load)
    assert len(found) == 95 and repr(found) == "<95 traces>" and not read
    assert (found[11], found[19], found[-1]) == (summary(111), summary(119), summary(194))
    assert read == [*range(110, 120), *range(190, 195)], "a page is kept"
    assert list(found[3:5]) == [summary(103), summary(104)]
    assert read[15:] == [103, 104]
    with pytest.raises(IndexError):
        found[95]
    read.clear()
    assert list(found) == [summary(n) for n in range(100, 195)] == list(reversed(found))[::-1]
    assert found == tuple(found) and found != list(found)[:-1] and found != 95
    assert hash(found) == hash(tuple(found))


class Shelf(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document("Shoes come back within 5 days.", metadata={"source": "shoes.txt"})]


def test_names_are_opened_when_a_trace_is_looked_at(tmp_path: Path) -> None:
    """Counting what a source reached is no access; reading who asked is one."""
    path = tmp_path / "audit.db"
    with ProvenanceHandler(path, actor="alice@example.com") as handler:
        chain = Shelf() | RunnableLambda(lambda found: found[0].page_content)
        chain.invoke("shoes?", {"callbacks": [handler]})
    with provkeep.open(path) as trail:
        found = trail.impact("shoes.txt")
        assert len(found) == 1 and found.outputs == (trail.output().id,)
        assert "reached 1 outputs" in repr(found)
    with provkeep.open(path) as trail:
        names = "SELECT count(*) FROM access WHERE kind = 'names'"
        (before,) = trail._store.query(names)
        found = trail.impact("shoes.txt")
        assert trail._store.query(names) == [before], "counting opens nothing"
        assert found.reached[0].actor == "alice@example.com"
        assert trail._store.query(names) == [(before[0] + 1,)]
        assert found.to_dict()["reached"] == [trail.summary().to_dict()]
    with pytest.raises(StoreError, match="open it again"):
        found.reached[0:1][0]
