"""What the listener must never do, and what it must never miss."""

import asyncio
import gc
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.callbacks import CallbackManager
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.schema import NodeWithScore, TextNode

import provkeep
from provkeep.errors import RecordingError
from provkeep.llamaindex import listener as listening
from provkeep.llamaindex import runs as saying
from tests.llamaindex.kit import Scripted, Shelf, Store, caller, engine, words

QUESTION = "What of the harbour, in the files?"


class Happened(BaseEvent):
    """An event of a later version, or the user's own."""

    what: str
    weight: int = 3


class Ours:
    """Something of the user's with a decorated method."""

    @get_dispatcher("tests").span
    def work(self, what: str, more: Any = None) -> Any:
        get_dispatcher("tests").event(Happened(what="something odd and new"))
        return {"made": what * 2}


def test_an_unknown_span_is_a_run_and_an_unknown_event_a_note(store: Store) -> None:
    with store.listening():
        Ours().work("some material to work on, ")
    [run] = store.runs()
    assert (run.kind, run.label, run.status) == ("chain", "Ours.work", "ok")
    [note] = store.values("note")
    assert note == {"what": "something odd and new", "weight": 3}


def test_an_event_outside_any_span_is_kept(store: Store) -> None:
    with store.listening():
        get_dispatcher("tests").event(Happened(what="all alone"))
    [trace] = store.traces()
    assert trace.name == "Happened"
    assert store.values("note") == [{"what": "all alone", "weight": 3}]


def test_one_model_call_is_one_run_however_many_methods_hand_it_on(store: Store) -> None:
    llm = caller(lambda messages: words("answer"))
    messages = [ChatMessage(role="user", content="What of the harbour?")]
    with store.listening():
        llm.chat(messages)
        asyncio.run(llm.achat(messages))
        list(llm.stream_chat(messages))
        Scripted(words("x")).chat(messages)
        asyncio.run(Scripted(words("x")).achat(messages))
        asyncio.run(Scripted(words("x")).acomplete("What of the harbour?"))
    assert [(t.kind, t.runs, t.status) for t in store.traces()] == [("model", 1, "ok")] * 6


def test_an_error_is_counted_once_where_it_began(store: Store) -> None:
    def broken(prompt: str) -> str:
        raise RuntimeError("the model is down")

    with store.listening(), pytest.raises(RuntimeError, match="the model is down"):
        engine(Shelf("a.txt"), Scripted(broken)).query(QUESTION)
    [trace] = store.traces()
    assert (trace.status, trace.errors) == ("error", 1)
    [error] = store.values("error")
    assert error["message"] == "the model is down"
    failed = [r.kind for r in store.runs() if r.status == "error"]
    assert failed[0] == "chain"
    assert failed[-1] == "model"


def test_a_template_that_cannot_be_filled_fails_at_the_template(store: Store) -> None:
    from llama_index.core.prompts import PromptTemplate

    class Fussy(PromptTemplate):
        def format(self, llm: Any = None, **kwargs: Any) -> str:
            raise KeyError("harbour")

    with store.listening(), pytest.raises(KeyError):
        Scripted("x").predict(Fussy("{a}"), a="b")
    assert {r.status for t in store.traces() for r in store.runs(t)} == {"error"}


def test_the_model_and_what_it_cost_are_kept_and_unknown_stays_unknown(store: Store) -> None:
    with store.listening():
        Scripted(words("answer")).complete("What of the harbour?")
        list(Scripted(words("answer")).stream_complete("What of the harbour?"))
    first, second = store.traces()
    [run] = store.runs(first)
    assert run.attrs["model"] == "scripted-1.5"
    assert run.attrs["usage"] == {"input_tokens": 11, "output_tokens": 7}
    [run] = store.runs(second)
    assert "usage" not in run.attrs


def test_every_field_of_a_node_is_kept(store: Store) -> None:
    with store.listening():
        Shelf("a.txt").retrieve(QUESTION)
    [document] = store.values("document")
    assert document["id"] == "node-a.txt"
    assert document["page_content"] == words("a.txt")
    assert document["metadata"]["file_path"] == "a.txt"
    assert document["ref_doc_id"] == "doc-a.txt"
    assert document["ref_doc_hash"] == "h1"
    assert len(document["hash"]) == 64
    with provkeep.open(store.path) as trail:
        assert "a.txt" in trail.source_names().values() or "a.txt" in trail.source_names()


def test_vectors_are_kept_only_when_asked_for(store: Store) -> None:
    with store.listening():
        MockEmbedding(embed_dim=3).get_text_embedding("The harbour is open.")
    with store.listening(vectors=True):
        MockEmbedding(embed_dim=3).get_text_embedding("The harbour is open.")
    without, with_them = store.traces()
    assert store.values(trace=without) == ["The harbour is open."]
    assert [0.5, 0.5, 0.5] in store.values(trace=with_them)


def test_nothing_the_program_sees_is_changed(store: Store) -> None:
    seen: list[list[ChatMessage]] = []

    def say(messages: list[ChatMessage]) -> str:
        seen.append([m.model_copy(deep=True) for m in messages])
        return words("answer")

    def go() -> tuple[Any, Any]:
        given = [ChatMessage(role="user", content="What of the harbour?")]
        before = given[0].model_dump_json()
        response = caller(say).chat(given)
        assert given[0].model_dump_json() == before
        asked = engine(Shelf("a.txt", "b.txt"), Scripted(words("x"))).query(QUESTION)
        return response.model_dump(), [n.model_dump() for n in asked.source_nodes]

    plain = go()
    with store.listening(tokens=True, vectors=True):
        heard = go()
    assert heard == plain
    assert seen[0] == seen[1]


def test_a_response_s_raw_object_is_never_dumped(store: Store) -> None:
    """Integrations put live objects there; dumping an event has broken programs before."""

    class Raw:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(f"touched {name}")

        def __repr__(self) -> str:
            raise RuntimeError("shown")

    class Odd(Scripted):
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            return CompletionResponse(text=words("answer"), raw=Raw())

    with store.listening():
        assert Odd("x").complete("What of the harbour?").text == words("answer")
    assert store.answer() == words("answer")


def test_a_failure_inside_is_counted_and_told_and_never_raised(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    attached = store.listening()

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(saying, "inputs_of", broken)
    answer = engine(Shelf("a.txt"), Scripted(words("answer"))).query(QUESTION)
    assert str(answer) == words("answer")
    monkeypatch.undo()
    with pytest.raises(RecordingError, match="ZeroDivisionError"):
        attached.flush()
    attached.detach()


def test_values_that_cannot_be_read_harm_nobody(store: Store) -> None:
    class Hostile:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("hands off")

    with store.listening():
        assert Ours().work("material to work on, ", more=Hostile()) is not None
    [trace] = store.traces()
    assert trace.status == "ok"


def test_nothing_is_left_in_memory_when_queries_have_ended(store: Store) -> None:
    with store.listening(durability="batch") as attached:
        for n in range(30):
            engine(Shelf(f"{n}.txt"), Scripted(words("answer"))).query(QUESTION)
        listener = attached.listener
        assert not listener.open_spans
        gc.collect()
        assert not [o for o in gc.get_objects() if type(o) is listening.Span]


def test_spans_that_never_end_are_forgotten_in_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import inspect

    monkeypatch.setattr(listening, "MAX_OPEN", 10)
    bound = inspect.signature(lambda: None).bind()
    with store.listening(durability="batch") as attached:
        for n in range(50):
            attached.listener.span_enter(f"Lost.work-{n:08}-0000-4000-8000-000000000000", bound)
        assert len(attached.listener.open_spans) == 10


def test_a_context_manager_of_the_old_callbacks_changes_nothing(store: Store) -> None:
    llm = Scripted(words("answer"), callback_manager=CallbackManager([]))
    with store.listening():
        engine(Shelf(TextNode(text=words("t"), id_="t")), llm).query(QUESTION)
    assert [t.status for t in store.traces()] == ["ok"]


def test_answers_of_any_type_are_kept(store: Store) -> None:
    class Talks(Scripted):
        def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            blocks = [
                {"block_type": "text", "text": "Look:"},
                {"block_type": "image", "url": "x:y"},
            ]
            return ChatResponse(message=ChatMessage(role="assistant", blocks=blocks))

    with store.listening():
        Talks("x").chat([ChatMessage(role="user", content="Show me the harbour.")])
    [said] = [m for m in store.values("message") if m["type"] == "ai"]
    assert said["content"][0] == {"type": "text", "text": "Look:"}
    assert "x:y" in str(said["content"][1])


def test_a_score_of_none_is_no_score(store: Store) -> None:
    class Plain(Shelf):
        def _retrieve(self, query_bundle: Any) -> list[NodeWithScore]:
            return [NodeWithScore(node=TextNode(text=words("t"), id_="t"))]

    with store.listening():
        Plain().retrieve(QUESTION)
    [document] = store.values("document")
    assert "score" not in document["metadata"]
