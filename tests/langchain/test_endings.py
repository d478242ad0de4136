"""However a run ends, or does not, its record says so; an error is told once, where it began."""

import asyncio
import contextlib
import gc
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from provkeep.langchain import ProvenanceHandler
from tests.langchain.recorded import Recorded, Shelf, chat, rag


def failing(x: Any) -> Any:
    raise ValueError("no luck") from KeyError("inner")


def test_an_error_is_told_once_where_it_began(db, handler):
    inner = RunnableLambda(lambda x: x) | RunnableLambda(failing, name="failing")
    outer = RunnableLambda(inner.invoke, name="outer") | RunnableLambda(lambda x: x)
    with pytest.raises(ValueError, match="no luck"):
        outer.invoke(1, {"callbacks": [handler]})
    with Recorded(db) as recorded:
        statuses = {r.label: r.status for r in recorded.runs()}
        assert statuses["failing"] == statuses["outer"] == "error"
        told = {r.label: recorded.error(r) for r in recorded.runs()}
        where = told.pop("failing")
        assert (where["message"], where["cause"]["fields"]["message"]) == ("no luck", "'inner'")
        assert set(told.values()) == {None}
        (trace,) = recorded.trail.runs()
        assert (trace.status, trace.errors) == ("error", 1)
        (node,) = recorded.graph().of("artifact", "error")
        assert node.label == "builtins.ValueError"


def test_two_errors_are_told_twice(db, handler):
    step = RunnableLambda(failing, name="failing").with_fallbacks(
        [RunnableLambda(failing, name="worse"), RunnableLambda(lambda x: "fine", name="rescue")]
    )
    assert step.invoke(1, {"callbacks": [handler]}) == "fine"
    handler.flush()
    with Recorded(db) as recorded:
        statuses = {r.label: r.status for r in recorded.runs()}
        assert (statuses["failing"], statuses["worse"]) == ("error", "error")
        assert statuses["rescue"] == "ok"
        assert [t.errors for t in recorded.trail.runs()] == [2]


@pytest.mark.parametrize("way", ["invoke", "stream", "batch", "ainvoke", "astream"])
@pytest.mark.parametrize("nested", [False, True])
async def test_what_a_fallback_runs_stands_under_the_fallback(db, handler, way, nested):
    """LangChain puts it beside the fallback, or gives it no parent at all (langchain#36072)."""
    first = RunnableLambda(failing, name="first")
    step = first.with_fallbacks([first.with_fallbacks([RunnableLambda(str, name="last")])])
    chain = (RunnableLambda(lambda x: x) | step) if nested else step
    config = {"callbacks": [handler]}
    match way:
        case "invoke":
            chain.invoke(1, config)
        case "stream":
            list(chain.stream(1, config))
        case "batch":
            chain.batch([1], config)
        case "ainvoke":
            await chain.ainvoke(1, config)
        case "astream":
            assert [c async for c in chain.astream(1, config)]
    handler.flush()
    with Recorded(db) as recorded:
        assert len(recorded.traces) == 1
        graph = recorded.graph()
        above = {e.effect: graph.nodes[e.cause] for e in graph.edges if e.type == "informed"}
        (last,) = [r for r in recorded.runs() if r.label == "last"]
        inner = above[last.id]
        outer = above[inner.id]
        assert inner.label == outer.label == "RunnableWithFallbacks"
        assert {above[r.id].label for r in recorded.runs() if r.label == "first"} == {inner.label}
    assert not handler._fallbacks


def test_the_input_of_a_stream_that_fails_is_recorded(db, handler):
    chain = RunnableLambda(lambda x: x, name="a") | RunnableLambda(failing, name="failing")
    with pytest.raises(ValueError, match="no luck"):
        list(chain.stream({"question": "why?"}, {"callbacks": [handler]}))
    with Recorded(db) as recorded:
        assert recorded.input(recorded.runs()[0]) == {"question": "why?"}
        assert recorded.input(recorded.run("failing")) == {"question": "why?"}


class Breaks(GenericFakeChatModel):
    """Says two words, then the connection breaks."""

    def _stream(self, *args: Any, **kwargs: Any) -> Any:
        for word in ("half ", "an answer"):
            yield ChatGenerationChunk(message=AIMessageChunk(word))
        raise ConnectionError("gone")


def test_what_a_model_said_before_it_failed_is_kept(db):
    with ProvenanceHandler(db, tokens=True) as handler, pytest.raises(ConnectionError):
        list(Breaks(messages=iter(())).stream("x", {"callbacks": [handler]}))
    with Recorded(db) as recorded:
        run = recorded.run("Breaks")
        assert run.status == "error"
        partial, error = recorded._values(run, "outputs")
        assert (partial["content"], error["message"]) == ("half an answer", "gone")
        ((_, chunks),) = recorded.notes(run)
        assert [size for _, size in chunks] == [5, 9]


def test_a_stream_closed_early_keeps_what_had_come(db, handler):
    stream = rag().stream("When?", {"callbacks": [handler]})
    assert next(stream)
    stream.close()
    with contextlib.suppress(StopIteration):
        next(stream)
    handler.flush()
    with Recorded(db) as recorded:
        (trace,) = recorded.trail.runs()
        assert trace.status in ("ok", "cancelled")
        assert {r.status for r in recorded.runs()} <= {"ok", "cancelled", "unfinished"}
        assert recorded.input(recorded.run("Shelf")) == "When?"


async def test_an_async_stream_closed_early_ends_unfinished_or_cancelled(db, handler):
    stream = rag().astream("When?", {"callbacks": [handler]})
    async for _ in stream:
        break
    await stream.aclose()
    del stream
    gc.collect()
    await asyncio.sleep(0.05)
    handler.close()
    with Recorded(db) as recorded:
        statuses = {r.label: r.status for r in recorded.runs()}
        assert "open" not in statuses.values()
        assert statuses["Shelf"] == "ok"


async def test_a_cancelled_model_call_is_cancelled(db):
    """LangChain never ends it."""

    class Slow(GenericFakeChatModel):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(60)

    handler = ProvenanceHandler(db)
    chain = RunnableLambda(lambda x: x) | Slow(messages=iter(()))
    task = asyncio.create_task(chain.ainvoke("x", {"callbacks": [handler]}))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    handler.close()
    with Recorded(db) as recorded:
        statuses = {r.label: r.status for r in recorded.runs()}
        assert statuses["RunnableSequence"] == "cancelled"
        assert statuses["Slow"] == "cancelled"
        assert [t.errors for t in recorded.trail.runs()] == [0]


async def test_tokens_of_a_cancelled_stream_are_kept(db):
    class Slow(GenericFakeChatModel):
        async def _astream(self, *args: Any, **kwargs: Any) -> Any:
            yield ChatGenerationChunk(message=AIMessageChunk("begun"))
            await asyncio.sleep(60)

    async def read() -> None:
        chain = RunnableLambda(lambda x: x) | Slow(messages=iter(()))
        async for _ in chain.astream("x", {"callbacks": [handler]}):
            pass

    handler = ProvenanceHandler(db, tokens=True)
    task = asyncio.create_task(read())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    handler.close()
    assert not handler._streams
    with Recorded(db) as recorded:
        run = recorded.run("Slow")
        assert run.status == "cancelled"
        assert dict(recorded.notes(run))["tokens"][0] == [0, 5]


async def test_a_task_cancelled_by_a_timeout_is_cancelled_and_the_rest_goes_on(db):
    async def slow(x: Any) -> Any:
        await asyncio.sleep(60)

    async def step(x: Any) -> Any:
        try:
            return await asyncio.wait_for(RunnableLambda(slow, name="slow").ainvoke(x), 0.05)
        except TimeoutError:
            return "gave up"

    with ProvenanceHandler(db) as handler:
        chain = RunnableLambda(step, name="step")
        assert await chain.ainvoke(1, {"callbacks": [handler]}) == "gave up"
    with Recorded(db) as recorded:
        statuses = {r.label: r.status for r in recorded.runs()}
        assert statuses == {"step": "ok", "slow": "cancelled"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_retrieval_stopped_from_outside_does_not_stay_open(db, error):
    """LangChain ends neither the retriever nor, for some, its parent."""

    class Stopped(Shelf):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> Any:
            raise error

    handler = ProvenanceHandler(db)
    with pytest.raises(error):
        (Stopped() | (lambda x: x)).invoke("q", {"callbacks": [handler]})
    handler.close()
    with Recorded(db) as recorded:
        statuses = {r.label: r.status for r in recorded.runs()}
        assert statuses["Stopped"] in ("cancelled", "unfinished")
        expected = "cancelled" if error is KeyboardInterrupt else "error"
        assert statuses["RunnableSequence"] == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_tool_stopped_from_outside_does_not_stay_open(db, error):
    @tool
    def stopped(x: int) -> int:
        """Stop."""
        raise error

    handler = ProvenanceHandler(db)
    with pytest.raises(error):
        stopped.invoke({"x": 1}, {"callbacks": [handler]})
    handler.close()
    with Recorded(db) as recorded:
        assert recorded.run("stopped").status in ("cancelled", "unfinished", "error")


def test_a_root_that_never_ends_is_closed_as_unfinished(db):
    handler = ProvenanceHandler(db)
    handler.on_chain_start(None, {"q": "never answered"}, run_id=uuid4(), name="hangs")
    handler.close()
    with Recorded(db) as recorded:
        assert recorded.shape() == [("chain", "hangs", "unfinished")]
        assert recorded.input(recorded.runs()[0]) == {"q": "never answered"}
        assert recorded.trail.verify()


def test_an_end_without_a_start_is_kept_and_says_so(db, handler):
    handler.on_chain_end({"answer": 42}, run_id=uuid4())
    handler.on_tool_error(ValueError("late"), run_id=uuid4())
    handler.flush()
    with Recorded(db) as recorded:
        first, second = recorded.runs()
        assert first.attrs["start_missing"] is second.attrs["start_missing"] is True
        assert recorded.output(first) == {"answer": 42}
        assert recorded.error(second)["message"] == "late"


def test_a_child_that_ends_after_its_root_is_kept(db, handler):
    root, child = uuid4(), uuid4()
    handler.on_chain_start(None, "q", run_id=root, name="root")
    handler.on_chain_start(None, "q", run_id=child, parent_run_id=root, name="child")
    handler.on_chain_end("done", run_id=root)
    handler.on_chain_end("late", run_id=child)
    handler.flush()
    with Recorded(db) as recorded:
        assert recorded.shape() == [("chain", "root", "ok"), ("chain", "child", "ok")]
        assert recorded.output(recorded.run("child")) == "late"


def test_a_second_end_changes_nothing(db, handler):
    run = uuid4()
    handler.on_chain_start(None, "q", run_id=run, name="root")
    handler.on_chain_end("first", run_id=run)
    handler.on_chain_end("second", run_id=run)
    handler.on_chain_error(ValueError("third"), run_id=run)
    handler.flush()
    with Recorded(db) as recorded:
        assert recorded.shape() == [("chain", "root", "ok")]
        assert recorded.output(recorded.runs()[0]) == "first"


def test_one_of_three_prompts_failing_leaves_no_run_open(db):
    """LangChain never ends the other two."""

    class OneFails(GenericFakeChatModel):
        def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            if messages[0].content == "bad":
                raise ValueError("bad prompt")
            return super()._generate(messages, *args, **kwargs)

    handler = ProvenanceHandler(db)
    model = OneFails(messages=iter([AIMessage("a"), AIMessage("b"), AIMessage("c")]))
    with pytest.raises(ValueError, match="bad prompt"):
        model.batch(["a", "bad", "c"], {"callbacks": [handler]})
    handler.close()
    with Recorded(db) as recorded:
        assert sorted(r.status for r in recorded.runs()) == ["error", "ok", "ok"]


def test_a_run_that_never_ends_does_not_hold_its_root(db, handler):
    root, child = uuid4(), uuid4()
    handler.on_chain_start(None, "q", run_id=root, name="root")
    handler.on_chain_start(None, "q", run_id=child, parent_run_id=root, name="child")
    handler.on_chain_end("done", run_id=root)
    handler.flush()
    with Recorded(db) as recorded:
        assert recorded.shape() == [("chain", "root", "ok"), ("chain", "child", "unfinished")]
    assert not handler._recorder._runs


def test_an_interrupted_answer_is_not_invented(db):
    handler = ProvenanceHandler(db)
    model = uuid4()
    handler.on_llm_start({"name": "m"}, ["q"], run_id=model)
    handler.close()
    with Recorded(db) as recorded:
        run = recorded.run("m")
        assert (run.status, recorded._values(run, "outputs")) == ("unfinished", [])


async def test_many_cancelled_tasks_leave_nothing_behind(db):
    handler = ProvenanceHandler(db)

    async def slow(x: Any) -> Any:
        await asyncio.sleep(60)

    chain = chat() | RunnableLambda(slow, name="slow")
    tasks = [asyncio.create_task(chain.ainvoke("x", {"callbacks": [handler]})) for _ in range(20)]
    await asyncio.sleep(0.3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    handler.close()
    assert not handler._recorder._runs
    with Recorded(db) as recorded:
        assert {t.status for t in recorded.trail.runs()} == {"cancelled"}
        assert len(recorded.traces) == 20
