"""The gate: no call that is not allowed, and under strict durability none without evidence."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.llms import LLM
from llama_index.core.tools import FunctionTool, QueryEngineTool

from provkeep.errors import ProvkeepError, StoreError
from provkeep.llamaindex import PolicyBlocked, guard
from provkeep.recording.recorder import recorder_for
from tests.llamaindex.kit import Scripted, Shelf, Store, caller, calls, engine, words

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
USER = [ChatMessage(role="user", content="Tell me the secret of the harbour.")]


def no(call: Any) -> bool:
    return False


def yes(call: Any) -> bool:
    return True


def invocations(target: Any) -> Iterator[Any]:
    yield lambda: target.complete("Tell me the secret.")
    yield lambda: target.chat(USER)
    yield lambda: target.stream_complete("Tell me the secret.")
    yield lambda: target.stream_chat(USER)
    yield lambda: asyncio.run(target.acomplete("Tell me the secret."))
    yield lambda: asyncio.run(target.achat(USER))
    yield lambda: asyncio.run(target.astream_chat(USER))


def test_a_refused_call_never_reaches_the_model(store: Store) -> None:
    llm = Scripted("never said")
    guarded = guard(llm, no)
    assert isinstance(guarded, LLM)
    assert isinstance(guarded, Scripted)
    with store.listening():
        for invoke in invocations(guarded):
            with pytest.raises(PolicyBlocked, match="Scripted"):
                invoke()
    assert llm.asked == guarded.asked == []
    assert {t.status for t in store.traces()} == {"blocked"}
    assert len(store.traces()) == 7
    assert any("secret" in str(v) for v in store.values(trace=store.traces()[0]))


def test_an_allowed_call_is_the_same_call(store: Store) -> None:
    with store.listening():
        assert guard(Scripted(words("answer")), yes).complete("x").text == words("answer")
        assert asyncio.run(guard(Scripted(words("a")), yes).achat(USER)).message.content
        said = guard(Scripted("two words"), yes).stream_complete("x")
        assert [c.delta for c in said] == ["two", " words"]
    assert [(t.kind, t.runs) for t in store.traces()] == [("model", 1)] * 3


def test_the_original_stays_unguarded(store: Store) -> None:
    llm = Scripted(words("answer"))
    guard(llm, no)
    assert llm.complete("x").text == words("answer")


def test_a_predicate_is_asked_once_for_one_call(store: Store) -> None:
    asked: list[str] = []

    def noted(call: Any) -> bool:
        asked.append(call.method)
        return True

    llm = guard(Scripted(words("answer")), noted)
    asyncio.run(llm.achat(USER))
    assert asked == ["achat"]
    llm.complete("x")
    assert asked == ["achat", "complete"]


def test_a_predicate_decides_by_what_is_asked(store: Store) -> None:
    llm = guard(Scripted(words("answer")), lambda call: "secret" not in str(call.args))
    with store.listening():
        assert llm.complete("Tell me the weather.").text
        with pytest.raises(PolicyBlocked):
            llm.complete("Tell me the secret.")
    assert [t.status for t in store.traces()] == ["ok", "blocked"]


def test_a_predicate_that_fails_lets_nothing_through(store: Store) -> None:
    llm = guard(Scripted("never said"), lambda call: call.nonsense)
    with store.listening(), pytest.raises(PolicyBlocked, match="AttributeError") as caught:
        llm.complete("x")
    assert isinstance(caught.value.__cause__, AttributeError)
    assert llm.asked == []


def test_a_refused_model_stops_the_query_around_it(store: Store) -> None:
    llm = guard(Scripted("never said"), no)
    with store.listening(), pytest.raises(PolicyBlocked):
        engine(Shelf("a.txt"), llm).query("What of the harbour?")
    [trace] = store.traces()
    assert trace.status == "blocked"
    assert [r.kind for r in store.runs() if r.status == "blocked"].count("model") >= 1


def test_a_refused_tool_never_runs_and_the_agent_is_told(store: Store) -> None:
    ran: list[str] = []

    def wipe(what: str) -> str:
        """Wipe something."""
        ran.append(what)
        return "wiped"

    def say(messages: list[ChatMessage]) -> ChatMessage | str:
        told = [m for m in messages if m.role == MessageRole.TOOL]
        return words("I may not.") if told else calls("wipe", "call-1", what="everything")

    tool = guard(FunctionTool.from_defaults(wipe), no)
    agent = FunctionAgent(tools=[tool], llm=caller(say), streaming=False)

    async def story() -> Any:
        return await agent.run("Wipe it")

    with store.listening():
        assert str(asyncio.run(story())) == words("I may not.")
    assert ran == []
    assert [(r.kind, r.label) for r in store.runs() if r.status == "blocked"] == [("tool", "wipe")]


def test_a_refused_query_engine_never_retrieves(store: Store) -> None:
    shelf = Shelf("a.txt")
    shelf._retrieve = None  # type: ignore[method-assign,assignment]  # it would fail at once
    guarded = guard(engine(shelf, Scripted("never said")), no)
    tool = QueryEngineTool.from_defaults(guarded, name="library", description="the files")
    with store.listening():
        with pytest.raises(PolicyBlocked):
            guarded.query("What of the harbour?")
        with pytest.raises(PolicyBlocked):
            asyncio.run(guarded.aquery("What of the harbour?"))
        with pytest.raises(PolicyBlocked):
            tool("What of the harbour?")
    assert {t.status for t in store.traces()} == {"blocked"}


def test_strict_durability_records_before_the_body_runs(store: Store) -> None:
    seen: list[int] = []

    def say(prompt: str) -> str:
        seen.append(len(store.traces()))
        return words("answer")

    llm = guard(Scripted(say), yes, path=store.path, durability="strict")
    llm.complete("What of the harbour?")
    assert seen == [1]
    recorder_for(store.path).close()


def test_no_evidence_no_call(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = guard(Scripted("never said"), yes, path=store.path, durability="strict")
    recorder = recorder_for(store.path)

    def full(event: Any, scope: Any) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(recorder, "record", full)
    with pytest.raises(StoreError, match="the disk is full"):
        llm.complete("What of the harbour?")
    assert llm.asked == []
    monkeypatch.undo()
    recorder.close()


def test_strict_without_a_store_is_no_evidence_either(home: Path) -> None:
    llm = guard(Scripted("never said"), yes, durability="strict")
    with pytest.raises(ProvkeepError, match="no store"):
        llm.complete("x")
    assert llm.asked == []


def test_a_refusal_stands_without_a_store(home: Path) -> None:
    with pytest.raises(PolicyBlocked):
        guard(Scripted("never said"), no).complete("x")


def test_what_cannot_be_guarded_is_said() -> None:
    with pytest.raises(TypeError, match="not str"):
        guard("a string", no)
    with pytest.raises(ValueError, match="durability"):
        guard(Scripted("x"), no, durability="maybe")
