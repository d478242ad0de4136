"""Attaching: once, by identity, leaving nothing; and whose traces they are."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import llama_index.core
import pytest
from llama_index.core import Settings
from llama_index.core.callbacks import CallbackManager
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.event_handlers import NullEventHandler
from llama_index_instrumentation.span_handlers import NullSpanHandler

from provkeep.errors import ProvkeepError
from provkeep.llamaindex import ProvenanceHandler, instrument, scope
from tests.llamaindex.kit import Scripted, Shelf, Store, engine, words

QUESTION = "What of the harbour, in the files?"


def ask(name: str = "a.txt") -> None:
    engine(Shelf(name), Scripted(words("answer"))).query(QUESTION)


def handlers() -> tuple[int, int]:
    dispatcher: Any = get_dispatcher()
    return len(dispatcher.span_handlers), len(dispatcher.event_handlers)


def test_nothing_is_recorded_before_or_after(store: Store) -> None:
    ask()
    with store.listening(actor="alice@example.com"):
        ask()
    ask()
    [trace] = store.traces()
    assert trace.actor == "alice@example.com"


def test_a_plain_call_listens_until_it_is_detached(store: Store) -> None:
    before = handlers()
    attached = instrument(store.path)
    ask()
    attached.detach()
    attached.detach()
    ask()
    assert len(store.traces()) == 1
    assert handlers() == before


def test_attached_twice_records_once(store: Store) -> None:
    with store.listening(actor="first"), store.listening(actor="second"):
        before = handlers()
        with store.listening():
            assert handlers() == before
        ask()
    assert [t.actor for t in store.traces()] == ["second"]


def test_the_outer_attachment_outlives_the_inner(store: Store) -> None:
    with store.listening(actor="outer"):
        with store.listening(actor="inner"):
            ask()
        ask()
    assert [t.actor for t in store.traces()] == ["inner", "outer"]


def test_two_stores_each_hear_everything(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other.db")
    with store.listening():
        with other.listening():
            ask()
        ask()
    assert (len(store.traces()), len(other.traces())) == (2, 1)


def test_only_this_handler_is_removed_and_not_its_equals(store: Store) -> None:
    """The dispatcher's lists compare by value: ``remove`` would take the first empty handler."""
    dispatcher: Any = get_dispatcher()
    mine, yours = NullSpanHandler(), NullEventHandler()
    attached = instrument(store.path)
    dispatcher.add_span_handler(mine)
    dispatcher.add_event_handler(yours)
    attached.detach()
    assert dispatcher.span_handlers[-1] is mine
    assert dispatcher.event_handlers[-1] is yours
    dispatcher.span_handlers = [h for h in dispatcher.span_handlers if h is not mine]
    dispatcher.event_handlers = [h for h in dispatcher.event_handlers if h is not yours]


def test_detached_in_the_middle_of_a_query_leaves_it_unfinished(store: Store) -> None:
    attached = instrument(store.path)

    def say(prompt: str) -> str:
        attached.detach()
        return words("answer")

    engine(Shelf("a.txt"), Scripted(say)).query(QUESTION)
    [trace] = store.traces()
    assert trace.status == "unfinished"


def test_attached_in_the_middle_of_a_query_records_what_follows(store: Store) -> None:
    attached: list[Any] = []

    def say(prompt: str) -> str:
        attached.append(instrument(store.path))
        return words("answer")

    engine(Shelf("a.txt"), Scripted(say), "accumulate").query(QUESTION)
    ask()
    attached[0].detach()
    assert [t.status for t in store.traces()][-1] == "ok"
    assert store.answer() == words("answer")


def test_attaching_and_detaching_while_queries_run_harms_nobody(store: Store) -> None:
    stop = threading.Event()
    answers: list[str] = []

    def work() -> None:
        while not stop.is_set():
            asked = engine(Shelf("a.txt"), Scripted(words("answer")))
            answers.append(str(asked.query(QUESTION)))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        with store.listening(durability="batch"):
            pass
    stop.set()
    for thread in threads:
        thread.join()
    assert set(answers) == {words("answer")}


@pytest.mark.parametrize("where", ["manager", "settings", "global"])
def test_a_callback_handler_attaches_once_wherever_it_is_put(store: Store, where: str) -> None:
    with ProvenanceHandler(store.path, actor="alice") as handler:
        before = Settings.callback_manager, llama_index.core.global_handler
        try:
            if where == "settings":
                Settings.callback_manager = CallbackManager([handler])
            elif where == "global":
                llama_index.core.global_handler = handler
            more = {"callback_manager": CallbackManager([handler])} if where == "manager" else {}
            llm = Scripted(words("answer"), **more)
            engine(Shelf("a.txt"), llm).query(QUESTION)
        finally:
            Settings.callback_manager, llama_index.core.global_handler = before
    [trace] = store.traces()
    assert trace.actor == "alice"
    assert [r.kind for r in store.runs()].count("model") == 1


def test_two_handlers_of_one_store_record_once(store: Store) -> None:
    with ProvenanceHandler(store.path), ProvenanceHandler(store.path), store.listening():
        ask()
    assert len(store.traces()) == 1


def test_a_scope_names_what_begins_inside_it(store: Store) -> None:
    with store.listening(actor="service"):
        with scope(session="s-1", actor="alice"):
            ask()
            with scope(subject="patient 7"):
                ask()
        ask()
    named = [(t.session, t.actor, t.subject) for t in store.traces()]
    assert named == [
        ("s-1", "alice", None),
        ("s-1", "alice", "patient 7"),
        (None, "service", None),
    ]


def test_scopes_of_concurrent_tasks_do_not_mix(store: Store) -> None:
    async def one(who: str) -> None:
        with scope(actor=who, session=who):
            await asyncio.sleep(0)
            await engine(Shelf(f"{who}.txt"), Scripted(words(who))).aquery(QUESTION)
            await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(one("alice"), one("bob"), one("carol"))

    with store.listening():
        asyncio.run(both())
    for trace in store.traces():
        assert set(store.sources(trace)) == {f"{trace.actor}.txt"}
        assert trace.session == trace.actor


def test_a_scope_left_in_another_context_is_no_error(store: Store) -> None:
    def block() -> Any:
        with scope(session="s"):
            yield

    import contextvars

    held = block()
    contextvars.copy_context().run(next, held)
    contextvars.copy_context().run(held.close)


def test_a_path_that_is_no_store_is_said_at_once(tmp_path: Path, home: Path) -> None:
    before = handlers()
    wrong = tmp_path / "notes.txt"
    wrong.write_text("Not a database, and long enough to be looked at by whoever opens it.")
    with pytest.raises(ProvkeepError):
        instrument(wrong)
    assert handlers() == before


def test_an_environment_variable_turns_it_on(store: Store, home: Path) -> None:
    program = """
import provkeep.llamaindex
from llama_index.core.llms.mock import MockLLM
MockLLM(max_tokens=3).complete("What of the harbour?")
"""
    source = Path(__file__).parents[2] / "src"
    env = {
        **os.environ,
        "PROVKEEP_LLAMAINDEX": str(store.path),
        "PROVKEEP_HOME": str(home),
        "PYTHONPATH": str(source),
    }
    subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True)
    [trace] = store.traces()
    assert (trace.kind, trace.status) == ("model", "ok")
