"""What is masked is in no file, the record says how much was, and lineage is found all the same."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.runnables import RunnableLambda

import provkeep
from provkeep.errors import NotRecordedError
from provkeep.langchain import ProvenanceHandler
from provkeep.masking import PERSONAL, SECRETS
from tests.scenarios import erasing_kit
from tests.scenarios.erasing_kit import HANDBOOK, ask, files_with

TOKEN = "sk-proj-abcdefghijklmnopqrstuv"
MAIL = "anna.b@example.com"
SAID = f"Refunds are paid to {MAIL} within a week, with the key {TOKEN} of the shop's account."


@pytest.fixture(autouse=True)
def text(monkeypatch):
    monkeypatch.setitem(erasing_kit.TEXTS, "refunds.md", SAID)


def everything(path: Path) -> str:
    """All payloads, opened."""
    out = []
    with provkeep.open(path) as trail:
        for (number,) in trail._store.query("SELECT id FROM payload"):
            out.append(json.dumps(trail._open().payload(number)))
    return " ".join(out)


def bodies(path: Path) -> list[dict]:
    with closing(sqlite3.connect(path)) as db:
        return [json.loads(row[0]) for row in db.execute("SELECT body FROM record")]


def test_what_is_masked_is_nowhere_and_lineage_is_as_without(tmp_path, home):
    shown = {}
    for name, mask in (("plain", None), ("masked", [SECRETS, PERSONAL])):
        path = tmp_path / f"{name}.db"
        with ProvenanceHandler(path, mask=mask) as handler:
            answer = ask(handler, "refunds.md", f"I am {MAIL}: where is my money, please?")
        assert TOKEN in answer, "the program itself is not touched"
        with provkeep.open(path) as trail:
            lineage = trail.lineage()
            shown[name] = [(e.type, e.basis) for e in lineage.edges]
            (source,) = lineage.sources()
            assert (source.name, source.basis) == ("docs/refunds.md", "contained")
            assert trail.verify()
            if mask:
                assert "[email]" in trail.text(purpose="a test")
                assert trail.masked().keys() == {"email", "token"}
                assert all(n > 0 for n in trail.masked().values())
            else:
                assert trail.masked() == {}
    assert sorted(shown["plain"]) == sorted(shown["masked"])
    assert MAIL in everything(tmp_path / "plain.db")
    said = everything(tmp_path / "masked.db")
    assert MAIL not in said and TOKEN not in said and "[token]" in said


def test_ids_by_which_messages_are_joined_are_not_masked(tmp_path):
    def anything(text: str) -> str:
        return "x" if "call-" in text or "Anna" in text else text

    path = tmp_path / "audit.db"
    calls = [ToolCall(name="look", args={"who": "Anna"}, id=f"call-{i}") for i in range(2)]
    messages = [
        HumanMessage("Who is Anna?", id="call-h"),
        AIMessage("", tool_calls=calls, id="call-a"),
        ToolMessage("Anna is one", tool_call_id="call-0"),
        ToolMessage("Anna is two", tool_call_id="call-1"),
    ]
    with ProvenanceHandler(path, mask=anything) as handler:
        RunnableLambda(lambda m: m, name="echo").invoke(messages, {"callbacks": [handler]})
    said = everything(path)
    assert "Anna" not in said and "call-0" in said and "call-1" in said
    with provkeep.open(path) as trail:
        assert trail.masked() == {"custom": 4}
        kinds = [n.kind for n in trail.graph().of("artifact")]
        assert kinds.count("tool_call") == 2 and kinds.count("tool_result") == 2


def test_a_mask_that_fails_lets_nothing_through(tmp_path):
    path = tmp_path / "audit.db"
    with ProvenanceHandler(path, mask=lambda text: 1 / 0) as handler:
        assert ask(handler, "handbook.pdf", "Until when?") == f"It says: {HANDBOOK}"
    assert "thirty days" not in everything(path) and "[failed]" in everything(path)
    with provkeep.open(path) as trail:
        assert trail.masked().keys() == {"failed"} and trail.verify()


def test_llamaindex_is_masked_by_the_same_means(tmp_path):
    from llama_index.core.llms import MockLLM

    from provkeep.llamaindex import instrument

    path = tmp_path / "audit.db"
    with instrument(path, mask=PERSONAL):
        MockLLM().complete(f"Say after me: {MAIL}")
    with provkeep.open(path) as trail:
        assert trail.masked()["email"] > 0
    assert MAIL not in everything(path)


def test_without_payloads_nothing_that_was_said_is_stored_and_lineage_answers(tmp_path, home):
    path = tmp_path / "audit.db"
    with ProvenanceHandler(path, payloads=False, actor="alice@example.com") as handler:
        for question in ("Until when may I return it?", "And in what state must it be?"):
            ask(handler, "handbook.pdf", question, metadata={"session_id": "s1", "note": "a note"})
        asyncio.run(_failing(handler))
    said = everything(path)
    for text in ("thirty days", "Until when", "state must", "It says", "a note", "went wrong"):
        assert text not in said
    assert "docs/handbook.pdf" in said and "alice@example.com" in said, "names are kept, sealed"
    with provkeep.open(path) as trail:
        run = trail.runs()[-1]
        lineage = trail.lineage(run)
        (source,) = lineage.sources()
        assert source.name == "docs/handbook.pdf" and source.quotations
        assert len(trail.impact("handbook.pdf").reached) == 2
        for node in lineage.graph.of("artifact"):
            with pytest.raises(NotRecordedError, match="payloads=False"):
                trail.text(node, purpose="a test")
        ids = [n.id for n in lineage.graph.of("artifact")]
        assert all("$missing" in value for value in trail.values(ids, purpose="a test").values())
        assert trail.verify()
    assert files_with([b"thirty days"], tmp_path, home) == []
    assert all(body.get("bare") == 1 for body in bodies(path) if body["k"] == "trace")


async def _failing(handler):
    async def step(_):
        raise ValueError("it went wrong")

    with pytest.raises(ValueError, match="went wrong"):
        await RunnableLambda(step).ainvoke("a failing question", {"callbacks": [handler]})


def test_a_document_without_text_does_not_stand_for_one_with_it(tmp_path):
    path = tmp_path / "audit.db"
    with ProvenanceHandler(path, payloads=False) as bare, ProvenanceHandler(path) as full:
        ask(bare, "handbook.pdf", "Until when may I return it?")
        ask(full, "handbook.pdf", "And in what state must it be?")
        ask(bare, "handbook.pdf", "And who pays for sending it?")
    with provkeep.open(path) as trail:
        middle = trail.runs()[1]
        (document,) = [n for n in trail.graph(middle).of("artifact") if n.kind == "document"]
        assert trail.text(document, purpose="a test") == HANDBOOK
        assert len(trail.impact("handbook.pdf").reached) == 3
        assert trail.verify()
