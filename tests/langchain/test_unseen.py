"""The program sees and raises the same with the handler as without, and so do other handlers."""

import asyncio
import contextlib
import inspect
import json
import re
import types
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_core.tracers import BaseTracer

from provkeep.errors import ProvkeepError
from provkeep.langchain import ProvenanceHandler
from tests.langchain.recorded import Recorded, Witness, chat, join, rag, text_model


class TracerLike(BaseTracer):
    """As LangChainTracer: inline, builds a tree of runs."""

    run_inline = True

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Any] = []

    def _persist_run(self, run: Any) -> None:
        self.roots.append(run)


@tool
def double(x: int) -> int:
    """Twice."""
    return 2 * x


def failing(x: Any) -> Any:
    raise ValueError(f"cannot take {x}")


PROGRAMS = {
    "chat chain": (lambda: rag(), "When?"),
    "text chain": (lambda: rag(text_model()), "When?"),
    "chat model": (lambda: chat(), "When?"),
    "text model": (lambda: text_model(), "When?"),
    "lambda": (lambda: RunnableLambda(lambda x: x + "!"), "a"),
    "tool": (lambda: double, {"x": 2}),
    "fallback": (lambda: RunnableLambda(failing).with_fallbacks([RunnableLambda(str)]), 5),
}


IDS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|0x[0-9a-f]+")


def plain(value: Any) -> str:
    """As text, without ids, which differ from run to run."""
    return IDS.sub("ID", repr(value))


def told(config_handlers: list[Any]) -> list[Any]:
    """What they heard, sorted: branches run in threads, and each hears them as they come."""
    return [sorted(map(plain, h.heard)) for h in config_handlers if isinstance(h, Witness)] + [
        [(r.name, r.run_type, len(r.child_runs), plain(r.outputs)) for r in h.roots]
        for h in config_handlers
        if isinstance(h, TracerLike)
    ]


OTHERS = {
    "nobody": lambda: [],
    "a plain handler": lambda: [Witness()],
    "an inline handler": lambda: [Witness(inline=True)],
    "a tracer": lambda: [TracerLike()],
    "a tracer and a plain one": lambda: [TracerLike(), Witness()],
}


async def seen(program: str, others: list[Any], ours: list[Any], version: str) -> list[Any]:
    """Everything that a program and its other handlers get to see, of seven ways to call it."""
    make, question = PROGRAMS[program]
    config: dict[str, Any] = {
        "callbacks": [*ours, *others] or None,
        "tags": ["t"],
        "metadata": {"m": 1},
    }
    ways = [
        lambda: make().invoke(question, config),
        lambda: list(make().stream(question, config)),
        lambda: make().batch([question, question], config),
    ]
    out = [way() for way in ways]
    out.append(await make().ainvoke(question, config))
    out.append([c async for c in make().astream(question, config)])
    out.append(await make().abatch([question], config))
    events = [e async for e in make().astream_events(question, config, version=version)]
    out.append(sorted(map(plain, events)) if "chain" in program else events)
    return [plain(value) for value in out] + told(others)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("others", OTHERS)
async def test_outputs_events_and_what_others_hear_are_the_same(db, handler, program, others):
    """Other handlers hear from threads, so that on a busy machine LangChain alone varies, too."""
    for _ in range(3):
        without = await seen(program, OTHERS[others](), [], "v2")
        found = await seen(program, OTHERS[others](), [handler], "v2")
        if found == without:
            return
    assert found == without


@pytest.mark.parametrize("program", ["chat chain", "text chain", "text model"])
@pytest.mark.filterwarnings("ignore:astream_events version=.v1.")
async def test_events_of_the_first_version_are_the_same(db, handler, program):
    without = await seen(program, [], [], "v1")
    assert await seen(program, [], [handler], "v1") == without


@pytest.mark.parametrize("others", OTHERS)
async def test_starts_of_text_models_are_heard_whoever_else_listens(db, handler, others):
    """langchain#39633: under asyncio one inline handler makes LangChain skip the others."""
    await text_model().ainvoke("When?", {"callbacks": [handler, *OTHERS[others]()]})
    await text_model().abatch(["a", "b"], {"callbacks": [*OTHERS[others](), handler]})
    handler.flush()
    with Recorded(db) as recorded:
        assert recorded.shape() == [("model", "FakeListLLM", "ok")] * 3
        assert sorted(recorded.input(r) for r in recorded.runs()) == ["When?", "a", "b"]


async def test_two_of_our_handlers_do_not_wait_for_each_other(db, tmp_path):
    with ProvenanceHandler(db) as one, ProvenanceHandler(tmp_path / "b.db") as two:
        await text_model().ainvoke("When?", {"callbacks": [one, two]})
    for path in (db, tmp_path / "b.db"):
        with Recorded(path) as recorded:
            assert recorded.shape() == [("model", "FakeListLLM", "ok")]


def read_in_a_nested_comprehension(self: Any) -> list[Any]:
    """As Python 3.11 compiles the comprehension of ``on_llm_start``: a frame of its own."""

    def inner(handlers: Any) -> list[bool]:
        found = []
        for handler in handlers:
            found.append(handler.run_inline)
        return found

    code = inner.__code__.replace(co_name="<listcomp>")
    return types.FunctionType(code, globals())(self.handlers)


def read_in_an_inlined_comprehension(self: Any) -> list[Any]:
    """As Python 3.12 and later do: in the frame of the function."""
    found = []
    for handler in self.handlers:
        found.append(handler.run_inline)
    return found


@pytest.mark.parametrize("others", ["nobody", "a plain handler", "an inline handler", "a tracer"])
@pytest.mark.parametrize("read", [read_in_a_nested_comprehension, read_in_an_inlined_comprehension])
def test_run_inline_follows_the_others_only_where_a_text_model_starts(
    db, handler, monkeypatch, read, others
):
    manager = AsyncCallbackManager([handler, *OTHERS[others]()])
    assert read(manager)[0] is True
    monkeypatch.setattr("provkeep.langchain.handler._ASYNC_LLM_START", read.__code__)
    assert read(manager)[0] is (others in ("an inline handler", "a tracer"))


def test_langchain_still_reads_run_inline_where_we_expect_it():
    source = inspect.getsource(AsyncCallbackManager.on_llm_start)
    assert "[handler for handler in self.handlers if handler.run_inline]" in source


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_what_a_program_raises_is_raised_as_it_was(db, handler, error):
    def step(x):
        raise error

    with pytest.raises(type(error)) as caught:
        (RunnableLambda(lambda x: x) | step).invoke(1, {"callbacks": [handler]})
    assert caught.value is error


async def test_a_cancelled_task_is_cancelled(db, handler):
    async def forever(x):
        await asyncio.sleep(60)

    task = asyncio.create_task(RunnableLambda(forever).ainvoke(1, {"callbacks": [handler]}))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_values_are_handed_on_as_the_same_objects(db, handler):
    value = {"list": [1], "bytes": b"x"}
    assert RunnableLambda(lambda x: x).invoke(value, {"callbacks": [handler]}) is value
    assert value == {"list": [1], "bytes": b"x"}


def test_generators_pass_through_unconsumed(db, handler):
    chain = RunnableLambda(lambda n: iter(range(n))).with_config(run_name="numbers")
    assert list(chain.invoke(3, {"callbacks": [handler]})) == [0, 1, 2]


class Hostile:
    """Nothing about it works."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def _no(self, *args: Any) -> Any:
        raise RuntimeError("no")

    __eq__ = __bool__ = __len__ = __hash__ = __repr__ = __str__ = __iter__ = _no


def test_a_value_that_does_nothing_but_raise_passes_through(db, handler):
    value = Hostile()
    config = {"callbacks": [handler]}
    step = RunnableLambda(lambda x: x, name="step")
    assert step.invoke(value, config) is value
    assert step.invoke({"input": value}, config)["input"] is value
    with Recorded(db) as recorded:
        assert recorded.shape() == [("chain", "step", "ok")] * 2
        found = recorded.input(recorded.runs()[0])
        assert found["$type"].endswith("Hostile")
    handler.flush()


def test_a_broken_recorder_stops_nobody_and_is_told_at_flush(db, monkeypatch):
    handler = ProvenanceHandler(db)

    def broken(*args: Any) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(handler, "_record", broken)
    assert rag().invoke("When?", {"callbacks": [handler]}) == "Within 5 days, I think."
    with pytest.raises(ProvkeepError, match="RuntimeError"):
        handler.flush()
    with contextlib.suppress(ProvkeepError):
        handler.close()


def test_a_replaced_database_stops_nobody(db):
    handler = ProvenanceHandler(db)
    rag().invoke("When?", {"callbacks": [handler]})
    for file in db.parent.glob("audit.db*"):
        file.unlink()
    assert rag().invoke("When?", {"callbacks": [handler]}) == "Within 5 days, I think."
    with contextlib.suppress(ProvkeepError):
        handler.close()


def test_strict_recording_that_cannot_be_written_fails_the_run(db, monkeypatch):
    handler = ProvenanceHandler(db, durability="strict")

    def broken(*args: Any) -> None:
        raise ProvkeepError("the disk is full")

    chain = RunnableLambda(join)
    monkeypatch.setattr(handler, "_record", broken)
    with pytest.raises(ProvkeepError, match="the disk is full"):
        chain.invoke([], {"callbacks": [handler]})
    with contextlib.suppress(ProvkeepError):
        handler.close()


def test_the_metadata_that_langgraph_shares_is_not_held(db, handler):
    """LangGraph goes on writing into it."""
    metadata = {"a": {"b": 1}}
    RunnableLambda(lambda x: metadata["a"].update(b=2), name="step").invoke(
        1, {"callbacks": [handler], "metadata": metadata}
    )
    with Recorded(db) as recorded:
        assert json.dumps(recorded.attrs(recorded.run("step"))["metadata"]) == '{"a": {"b": 1}}'
