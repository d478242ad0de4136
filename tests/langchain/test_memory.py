"""What is kept in memory belongs to open traces, and goes with them."""

import contextlib
import gc
import sys
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.runnables import RunnableLambda

from provkeep.langchain import ProvenanceHandler
from provkeep.langchain.meaning import MAX_KEPT
from tests.langchain.recorded import chat, rag


def held(handler: ProvenanceHandler) -> dict[str, int]:
    """How much of every table that grows with open runs is filled."""
    recorder = handler._recorder
    return {
        "runs": len(recorder._runs),
        "opened": len(recorder._writer.opened),
        "streams": len(handler._streams),
        "fallbacks": len(handler._fallbacks),
    }


NOTHING = {"runs": 0, "opened": 0, "streams": 0, "fallbacks": 0}


def grown(handler: ProvenanceHandler, rounds: tuple[int, int], work: Any) -> tuple[int, int]:
    """Bytes allocated after the first rounds, and after the second."""
    sizes = []
    for many in rounds:
        for _ in range(many):
            work()
        handler.flush()
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    return sizes[0], sizes[1]


@pytest.fixture
def unmeasured() -> Iterator[None]:
    """Branch coverage keeps what it saw, which would be taken for a leak of ours."""
    module = sys.modules.get("coverage")
    measuring = module.Coverage.current() if module is not None else None
    if measuring is not None:
        measuring.stop()
    yield
    if measuring is not None:
        measuring.start()


def test_memory_stays_flat_over_many_runs(db, monkeypatch, unmeasured):
    """What is remembered across traces has bounds, made small here so that they are reached."""
    monkeypatch.setattr("provkeep.recording.recorder.REMEMBERED_ENDS", 64)
    monkeypatch.setattr("provkeep.recording.ties.REMEMBERED", 64)
    monkeypatch.setattr("provkeep.sealing.sealer.LAST_BATCH", 16)
    handler = ProvenanceHandler(db, durability="batch", tokens=True)
    chain, config = rag(), {"callbacks": [handler]}
    for _ in range(50):
        chain.invoke("When?", config)
    tracemalloc.start()
    try:
        before, after = grown(handler, (60, 180), lambda: chain.invoke("When?", config))
    finally:
        tracemalloc.stop()
    # 9 runs a round, and 40 bytes a run would be a leak of one small object. What happens to be in
    # the writer's hands at either moment is up to 25 kB.
    assert after - before < 180 * 9 * 40
    assert held(handler) == NOTHING
    handler.close()


def test_streams_that_nobody_reads_to_the_end_are_let_go(db):
    with ProvenanceHandler(db, durability="batch", tokens=True) as handler:
        for _ in range(100):
            next(rag().stream("When?", {"callbacks": [handler]}))
        gc.collect()
        handler.flush()
        handler.flush()  # generators that were collected say so late
        assert held(handler) == NOTHING


def test_runs_below_a_finished_root_are_let_go(db, handler):
    for _ in range(200):
        root, child = uuid4(), uuid4()
        handler.on_chain_start(None, "q", run_id=root, name="root")
        handler.on_chat_model_start({}, [[]], run_id=child, parent_run_id=root, name="lost")
        handler.on_chain_end("done", run_id=root)
    handler.flush()
    assert held(handler) == NOTHING


def test_streams_and_fallbacks_that_never_end_are_dropped(db):
    with ProvenanceHandler(db, tokens=True) as handler:
        for i in range(3 * MAX_KEPT):
            handler.on_llm_new_token("x", run_id=uuid4(), chunk=None)
            root = uuid4()
            handler.on_chain_start(None, i, run_id=root, name="root")
            handler.on_chain_start(
                None, i, run_id=uuid4(), parent_run_id=root, name="RunnableWithFallbacks"
            )
            handler.on_chain_end(i, run_id=root)
            if i % MAX_KEPT == 0:
                handler.flush()
        assert len(handler._streams) <= MAX_KEPT + 1
        assert len(handler._fallbacks) <= 2 * MAX_KEPT + 1


def test_what_passed_by_is_not_kept_alive_by_its_record(db, handler):
    class Thing:
        def __repr__(self) -> str:
            return "thing"

    alive = []

    def step(message: Any) -> Any:
        thing = Thing()
        alive.extend([weakref.ref(thing), weakref.ref(message)])
        raise ValueError("its traceback holds both")

    chain = chat("said") | RunnableLambda(step)
    with contextlib.suppress(ValueError):
        chain.invoke("x", {"callbacks": [handler]})
    handler.flush()
    del chain
    gc.collect()
    assert [ref() for ref in alive] == [None, None]
