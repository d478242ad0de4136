"""What LlamaIndex allows a recorder and what it does not, as docs/THREATS.md says it."""

from typing import Any

import pytest
from llama_index.core.schema import QueryBundle
from llama_index_instrumentation import get_dispatcher

from provkeep.errors import RecordingError, StoreError
from provkeep.llamaindex import PolicyBlocked, guard
from provkeep.model.events import RunEnded
from provkeep.recording.recorder import recorder_for
from tests.llamaindex.kit import Scripted, Shelf, Store, engine, words

QUESTION = "What of the harbour?"


def refuse(call: Any) -> bool:
    return False


class Stops:
    """A handler that would stop everything, if it could."""

    def __init__(self) -> None:
        self.open_spans: dict[str, Any] = {}
        self.asked = 0

    def span_enter(self, *_: Any, **__: Any) -> None:
        self.asked += 1
        raise KeyboardInterrupt

    span_exit = span_drop = handle = span_enter

    def close(self) -> None:
        return None


def test_no_listener_can_stop_a_query(store: Store) -> None:
    """Not even with an exception that ends a program anywhere else."""
    dispatcher: Any = get_dispatcher()
    stops = Stops()
    dispatcher.span_handlers.insert(0, stops)
    dispatcher.event_handlers.insert(0, stops)
    try:
        with store.listening():
            answer = engine(Shelf("a.txt"), Scripted(words("answer"))).query(QUESTION)
    finally:
        dispatcher.span_handlers.remove(stops)
        dispatcher.event_handlers.remove(stops)
    assert stops.asked > 10
    assert str(answer) == words("answer")
    assert set(store.sources()) == {"a.txt"}


def test_strict_without_a_guard_lets_the_query_return_and_tells_at_flush(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    attached = store.listening(durability="strict")
    recorder = recorder_for(store.path)
    record = recorder.record

    def full(event: Any, scope: Any) -> None:
        record(event, scope)
        if isinstance(event, RunEnded):
            raise StoreError("the disk is full")

    monkeypatch.setattr(recorder, "record", full)
    answer = engine(Shelf("a.txt"), Scripted(words("answer"))).query(QUESTION)
    assert str(answer) == words("answer")
    monkeypatch.undo()
    with pytest.raises(RecordingError, match="the disk is full"):
        attached.flush()
    attached.detach()


def test_what_goes_round_the_guarded_methods_is_not_asked_about(store: Store) -> None:
    guarded = guard(engine(Shelf("a.txt"), Scripted(words("answer"))), refuse)
    with store.listening():
        with pytest.raises(PolicyBlocked):
            guarded.query(QUESTION)
        found = guarded.retrieve(QueryBundle(QUESTION))
        assert str(guarded.synthesize(QueryBundle(QUESTION), found)) == words("answer")


def test_a_part_of_a_guarded_whole_is_not_guarded() -> None:
    model = Scripted(words("answer"))
    guarded = guard(engine(Shelf("a.txt"), model), refuse)
    with pytest.raises(PolicyBlocked):
        guarded.query(QUESTION)
    assert model.asked == []
    assert model.complete(QUESTION).text == words("answer")
