"""Streams: read whole, half, never, elsewhere; always untouched."""

import asyncio
import gc
import threading
import time
from typing import Any

import pytest
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.memory import ChatMemoryBuffer

import provkeep
from tests.llamaindex.kit import Scripted, Shelf, Store, engine, words

ANSWER = words("answer", 12)
QUESTION = "What of the harbour, in the files?"


def asked(**more: Any) -> Any:
    return engine(Shelf("a.txt", "b.txt"), Scripted(ANSWER), streaming=True, **more)


def chat() -> ContextChatEngine:
    return ContextChatEngine.from_defaults(
        Shelf("a.txt"),
        llm=Scripted(ANSWER),
        memory=ChatMemoryBuffer.from_defaults(token_limit=9999),
    )


def whole(store: Store) -> None:
    """One trace, ended, with the answer and both files."""
    [trace] = store.traces()
    assert trace.status == "ok"
    assert store.answer() == ANSWER
    assert set(store.sources()) >= {"a.txt"}
    assert [r.kind for r in store.runs()].count("model") == 1


def test_a_stream_read_later_belongs_to_its_query(store: Store) -> None:
    with store.listening():
        response = asked().query(QUESTION)
        assert "".join(response.response_gen) == ANSWER
    whole(store)


def test_a_stream_read_by_another_thread_belongs_to_its_query(store: Store) -> None:
    got: list[str] = []
    with store.listening():
        response = asked().query(QUESTION)
        reader = threading.Thread(target=lambda: got.extend(response.response_gen))
        reader.start()
        reader.join()
    assert "".join(got) == ANSWER
    whole(store)


def test_two_streams_read_in_turns_do_not_mix(store: Store) -> None:
    with store.listening():
        one = engine(Shelf("a.txt"), Scripted(words("one", 9)), streaming=True).query("One, then?")
        two = engine(Shelf("b.txt"), Scripted(words("two", 9)), streaming=True).query("Two, then?")
        streams = [iter(two.response_gen), iter(one.response_gen)]
        while streams:
            for stream in list(streams):
                if next(stream, None) is None:
                    streams.remove(stream)
    by_answer = {store.answer(t): set(store.sources(t)) for t in store.traces()}
    assert by_answer == {words("one", 9): {"a.txt"}, words("two", 9): {"b.txt"}}


def test_a_stream_read_in_another_task_belongs_to_its_query(store: Store) -> None:
    async def story() -> str:
        response = await asked().aquery(QUESTION)

        async def read() -> str:
            return "".join([token async for token in response.response_gen])

        return await asyncio.create_task(read())

    with store.listening():
        assert asyncio.run(story()) == ANSWER
    whole(store)


def test_a_stream_never_read_ends_when_it_is_thrown_away(store: Store) -> None:
    with store.listening() as attached:
        response = asked().query(QUESTION)
        attached.flush()
        assert store.traces()[-1].status == "open"
        del response
        gc.collect()
    [trace] = store.traces()
    assert trace.status == "cancelled"
    assert not any(r.kind == "model" for r in store.runs())


def test_a_stream_left_in_the_middle_keeps_what_was_read(store: Store) -> None:
    with store.listening():
        stream = asked().query(QUESTION).response_gen
        first = next(stream) + next(stream)
        stream.close()
    [trace] = store.traces()
    assert trace.status == "cancelled"
    assert trace.errors == 0  # nobody did wrong
    assert store.answer() == first
    assert set(store.sources()) == {"a.txt", "b.txt"}


def test_a_stream_that_breaks_fails_its_query_once(store: Store) -> None:
    class Breaks(Scripted):
        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            inner = super().stream_complete(prompt, formatted, **kwargs)

            def chunks() -> Any:
                yield next(inner)
                raise RuntimeError("the line went dead")

            return chunks()

    with store.listening():
        response = engine(Shelf("a.txt"), Breaks(ANSWER), streaming=True).query(QUESTION)
        with pytest.raises(RuntimeError, match="the line went dead"):
            list(response.response_gen)
    [trace] = store.traces()
    assert trace.status in ("error", "cancelled")
    assert len(store.values("error")) == 1


def test_a_chat_s_stream_ends_its_turn_when_it_is_written(store: Store) -> None:
    with store.listening() as attached:
        response = chat().stream_chat(QUESTION)
        assert "".join(response.response_gen) == ANSWER
        while attached.listener.open_spans:  # the writing thread is still to return
            time.sleep(0.01)
    whole(store)


def test_an_asynchronous_chat_s_stream_ends_its_turn(store: Store) -> None:
    async def story() -> str:
        response = await chat().astream_chat(QUESTION)
        said = "".join([token async for token in response.async_response_gen()])
        if response.awrite_response_to_history_task is not None:
            await response.awrite_response_to_history_task
        return said

    with store.listening():
        assert asyncio.run(story()) == ANSWER
    whole(store)


def test_arrival_times_of_chunks_are_kept_when_asked_for(store: Store) -> None:
    with store.listening(tokens=True):
        list(asked().query(QUESTION).response_gen)
    with provkeep.open(store.path) as trail:
        notes = list(trail.graph().of("artifact", "note"))
        [chunks] = trail.values(notes, purpose="test").values()
    assert sum(size for _, size in chunks) == len(ANSWER)
    assert [at for at, _ in chunks] == sorted(at for at, _ in chunks)


def test_streams_thrown_away_leave_nothing_in_memory(store: Store) -> None:
    with store.listening(durability="batch") as attached:
        listener = attached.listener
        for _ in range(20):
            asked().query(QUESTION)
        gc.collect()
        attached.flush()
        assert not listener.open_spans
        assert not listener._streams
        assert not listener._streams.gone
