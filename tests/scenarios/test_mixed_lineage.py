"""One program, two frameworks, one trace: what the inner answer came from, the outer came from."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableLambda,
    RunnablePassthrough,
)
from langchain_core.tools import BaseTool, StructuredTool, tool
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool, QueryEngineTool

import provkeep
from provkeep.langchain import ProvenanceHandler
from provkeep.llamaindex import instrument
from provkeep.model.graph import Node
from tests.llamaindex.kit import Scripted, Shelf, Store, caller, calls, engine
from tests.scenarios.lineage_kit import Model, calling, joined, retriever, words

# llama-index-workflows 2.26.1 calls inspect.getmembers() on every agent, a pydantic object.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")


@pytest.fixture
def store(home: Path, tmp_path: Path) -> Store:
    return Store(tmp_path / "audit.db")


def heard(store: Store) -> Any:
    """LlamaIndex as the process does it; LangChain by a handler."""
    return instrument(store.path)


# -- LangChain outside, LlamaIndex inside ----------------------------------------------------------


def of_engine(n: int = 0) -> BaseTool:
    """A query engine over one file, called straight from a tool of LangChain."""
    asked = engine(Shelf(f"inner-{n}.txt"), Scripted(words(f"inner answer {n}")))

    def ask(input: str) -> str:
        """Ask the files."""
        return str(asked.query(input))

    async def aask(input: str) -> str:
        """Ask the files."""
        return str(await asked.aquery(input))

    return StructuredTool.from_function(ask, coroutine=aask, name="library")


def of_tool(n: int = 0) -> BaseTool:
    """The same behind LlamaIndex's own kind of tool."""
    asked = engine(Shelf(f"inner-{n}.txt"), Scripted(words(f"inner answer {n}")))
    held = QueryEngineTool.from_defaults(asked, name="files", description="Ask the files.")

    def ask(input: str) -> str:
        """Ask the files."""
        return held.call(input).content

    async def aask(input: str) -> str:
        """Ask the files."""
        return (await held.acall(input)).content

    return StructuredTool.from_function(ask, coroutine=aask, name="library")


def langchain_agent(held: BaseTool, n: int = 0) -> Runnable[str, str]:
    """A model calls a tool and, having its result, answers."""

    def say(messages: list[Any]) -> AIMessage | str:
        if isinstance(messages[-1], ToolMessage):
            return words(f"outer answer {n}")
        return calling("library", f"call-{n}", input=f"What of harbour {n}?")

    model: BaseChatModel = Model(say=say)

    def agent(question: str, config: RunnableConfig) -> str:
        messages: list[Any] = [HumanMessage(question)]
        messages.append(model.invoke(messages, config))
        for call in messages[-1].tool_calls:
            messages.append(held.invoke({**call, "type": "tool_call"}, config))
        return str(model.invoke(messages, config).content)

    async def aagent(question: str, config: RunnableConfig) -> str:
        messages: list[Any] = [HumanMessage(question)]
        messages.append(await model.ainvoke(messages, config))
        for call in messages[-1].tool_calls:
            messages.append(await held.ainvoke({**call, "type": "tool_call"}, config))
        return str((await model.ainvoke(messages, config)).content)

    return RunnableLambda(agent, aagent).with_config(run_name="outer-agent")


def run_langchain(store: Store, chain: Runnable[str, str], *, way: str, n: int = 0) -> str:
    question = f"What of harbour {n}?"
    with heard(store), ProvenanceHandler(store.path) as handler:
        config: RunnableConfig = {"callbacks": [handler]}
        if way == "invoke":
            return chain.invoke(question, config)
        return asyncio.run(chain.ainvoke(question, config))


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
@pytest.mark.parametrize("held", [of_engine, of_tool])
def test_a_langchain_agent_whose_tool_is_a_query_engine_is_one_trace(
    store: Store, way: str, held: Callable[[], BaseTool]
) -> None:
    said = run_langchain(store, langchain_agent(held()), way=way)
    assert said == words("outer answer 0")
    one_trace(store, "outer-agent", said, {"inner-0.txt"})
    runs = {run.label: run for run in store.runs()}
    query = next(run for name, run in runs.items() if name.startswith("RetrieverQueryEngine."))
    assert "library" in names_above(store, query)


# -- LlamaIndex outside, LangChain inside ----------------------------------------------------------


def rag(n: int = 0) -> Runnable[str, str]:
    """A LangChain retrieval chain over one file."""
    found = retriever(f"inner-{n}.txt") | RunnableLambda(joined)
    prompt = ChatPromptTemplate.from_template("From these:\n{found}\n\nAnswer: {question}")
    model = Model(say=lambda _: words(f"inner answer {n}"))
    given: Any = {"found": found, "question": RunnablePassthrough()}
    return (given | prompt | model | StrOutputParser()).with_config(run_name="inner-chain")


def function_agent(held: Any, n: int = 0) -> FunctionAgent:
    """A model calls a tool and, having its result, answers."""

    def say(messages: list[ChatMessage]) -> ChatMessage | str:
        if any(m.role == MessageRole.TOOL for m in messages):
            return words(f"outer answer {n}")
        return calls("library", f"call-{n}", question=f"What of harbour {n}?")

    return FunctionAgent(tools=[held], llm=caller(say), streaming=False)


def chain_tool(chain: Runnable[str, str], handler: ProvenanceHandler, way: str) -> FunctionTool:
    """A chain as a tool of LlamaIndex; nothing is handed on but the handler."""

    def library(question: str) -> str:
        """Ask the files."""
        return chain.invoke(question, {"callbacks": [handler]})

    async def alibrary(question: str) -> str:
        """Ask the files."""
        return await chain.ainvoke(question, {"callbacks": [handler]})

    return FunctionTool.from_defaults(
        library, async_fn=alibrary if way == "ainvoke" else None, name="library"
    )


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_a_llamaindex_agent_whose_tool_is_a_chain_is_one_trace(store: Store, way: str) -> None:
    """A synchronous tool of an asynchronous agent runs on a thread of its own."""

    async def story(handler: ProvenanceHandler) -> str:
        answer = await function_agent(chain_tool(rag(), handler, way)).run("What of harbour 0?")
        return str(answer)

    with heard(store), ProvenanceHandler(store.path) as handler:
        said = asyncio.run(story(handler))
    assert said == words("outer answer 0")
    one_trace(store, "FunctionAgent", said, {"inner-0.txt"})
    [chain] = [run for run in store.runs() if run.label == "inner-chain"]
    assert names_above(store, chain)[0] == "library"


def test_a_tool_called_without_an_agent_holds_its_chain(store: Store) -> None:
    with heard(store), ProvenanceHandler(store.path) as handler:
        chain_tool(rag(), handler, "invoke")(question="What of harbour 0?")
    one_trace(store, "library", words("inner answer 0"), {"inner-0.txt"})


# -- deeper, beside, and failing -------------------------------------------------------------------


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_frameworks_that_take_turns_nest_as_they_were_called(store: Store, way: str) -> None:
    """LangChain, LlamaIndex, LangChain, LlamaIndex: each is inside the one that called it."""
    asked = engine(Shelf("deep.txt"), Scripted(words("deep answer")))

    async def alook(question: str) -> str:
        """Look deeper."""
        return str(await asked.aquery(question))

    deepest = RunnableLambda(lambda q: str(asked.query(q)), alook).with_config(run_name="deepest")

    def middle(question: str) -> str:
        """Ask a chain, which is given no handler: it inherits its own from the context."""
        return str(deepest.invoke(question))

    async def amiddle(question: str) -> str:
        """The same."""
        return str(await deepest.ainvoke(question))

    held = FunctionTool.from_defaults(middle, async_fn=amiddle, name="middle")

    async def acall(question: str) -> str:
        return str(await held.acall(question=question))

    top = RunnableLambda(lambda q: str(held(question=q)), acall).with_config(run_name="top")
    said = run_langchain(store, top, way=way)
    assert said == words("deep answer")
    one_trace(store, "top", said, {"deep.txt"})
    [query] = [run for run in store.runs() if run.label.startswith("RetrieverQueryEngine.")]
    assert names_above(store, query) == ["deepest", "middle", "top"]


def test_concurrent_mixed_agents_never_mix(store: Store) -> None:
    """Eight at once, of both kinds, and each answer has the one file that its own tool read."""

    async def outer_langchain(n: int, handler: ProvenanceHandler) -> str:
        chain = langchain_agent(of_engine(n), n)
        return await chain.ainvoke(f"What of harbour {n}?", {"callbacks": [handler]})

    async def outer_llamaindex(n: int, handler: ProvenanceHandler) -> str:
        agent = function_agent(chain_tool(rag(n), handler, "invoke" if n % 2 else "ainvoke"), n)
        return str(await agent.run(f"What of harbour {n}?"))

    async def story(handler: ProvenanceHandler) -> list[str]:
        first = [outer_langchain(n, handler) for n in range(4)]
        return await asyncio.gather(*first, *(outer_llamaindex(n, handler) for n in range(4, 8)))

    with heard(store), ProvenanceHandler(store.path) as handler:
        said = asyncio.run(story(handler))
    assert said == [words(f"outer answer {n}") for n in range(8)]
    found = {store.answer(trace): set(store.sources(trace)) for trace in store.traces()}
    assert found == {words(f"outer answer {n}"): {f"inner-{n}.txt"} for n in range(8)}


def test_a_query_beside_an_open_agent_is_a_trace_of_its_own(store: Store) -> None:
    """It runs while the agent's tool waits, in the same loop, and has nothing to do with it."""

    async def story(handler: ProvenanceHandler) -> None:
        inside, asked = asyncio.Event(), asyncio.Event()

        async def wait(question: str) -> str:
            """Ask the files."""
            inside.set()
            await asked.wait()
            return await rag().ainvoke(question, {"callbacks": [handler]})

        async def beside() -> None:
            await inside.wait()
            await rag(1).ainvoke("What of harbour 1?", {"callbacks": [handler]})
            await engine(Shelf("other.txt"), Scripted(words("other"))).aquery("What else?")
            asked.set()

        held = FunctionTool.from_defaults(async_fn=wait, name="library")
        agent = function_agent(held)

        async def inner() -> str:
            return str(await agent.run("What of harbour 0?"))

        await asyncio.gather(inner(), beside())

    with heard(store), ProvenanceHandler(store.path) as handler:
        asyncio.run(story(handler))
    found = {trace.name: set(store.sources(trace)) for trace in store.traces()}
    assert found == {
        "FunctionAgent": {"inner-0.txt"},
        "inner-chain": {"inner-1.txt"},
        "RetrieverQueryEngine.aquery": {"other.txt"},
    }


def test_a_stream_begun_outside_and_read_inside_a_query_stays_outside(store: Store) -> None:
    """A chain runs as it is read; who reads it does not become its caller."""
    with heard(store), ProvenanceHandler(store.path) as handler:
        stream = rag().stream("What of harbour 0?", {"callbacks": [handler]})
        pieces = [next(stream)]  # now it has begun

        def read() -> str:
            """Read what somebody else asked for."""
            pieces.extend(stream)
            return words("something else")

        FunctionTool.from_defaults(read)()
    assert "".join(pieces) == words("inner answer 0")
    traces = {trace.name: trace for trace in store.traces()}
    assert set(traces) == {"inner-chain", "read"}
    assert set(store.sources(traces["inner-chain"])) == {"inner-0.txt"}
    assert set(store.sources(traces["read"])) == set()


def test_a_chain_that_is_told_whose_it_is_stays_there(store: Store) -> None:
    """A configuration that is handed on says more than who happens to call: here, in a thread that
    knows of no trace, a query of its own.
    """

    def outer(question: str, config: RunnableConfig) -> str:
        model = Scripted(lambda _: rag().invoke(question, config))
        with ThreadPoolExecutor(1) as pool:
            return str(pool.submit(engine(Shelf("other.txt"), model).query, question).result())

    run_langchain(store, RunnableLambda(outer).with_config(run_name="outer"), way="invoke")
    traces = {trace.name: trace for trace in store.traces()}
    assert set(traces) == {"outer", "RetrieverQueryEngine.query"}
    assert "inner-chain" in {run.label for run in store.runs(traces["outer"])}


def test_an_error_that_crosses_both_frameworks_began_in_one_place(store: Store) -> None:
    def broken(_: Any) -> str:
        raise KeyError("no such harbour")

    asked = engine(Shelf("inner.txt"), Scripted(broken))

    @tool
    def library(question: str) -> str:
        """Ask the files."""
        return str(asked.query(question))

    chain: Runnable[str, str] = RunnableLambda(lambda q: library.invoke({"question": q}))
    with pytest.raises(KeyError, match="no such harbour"):
        run_langchain(store, chain.with_config(run_name="outer"), way="invoke")
    [trace] = store.traces()
    assert trace.status == "error"
    with provkeep.open(store.path) as trail:
        assert len(list(trail.graph(trace).of("artifact", "error"))) == 1


def test_each_recorder_hears_its_own_framework_when_they_write_to_different_stores(
    store: Store, tmp_path: Path
) -> None:
    other = Store(tmp_path / "other.db")
    with heard(store), ProvenanceHandler(other.path) as handler:
        chain_tool(rag(), handler, "invoke")(question="What of harbour 0?")
    assert [trace.name for trace in store.traces()] == ["library"]
    assert [trace.name for trace in other.traces()] == ["inner-chain"]


# -- what is asked of a store ----------------------------------------------------------------------


def one_trace(store: Store, name: str, answer: str, sources: set[str]) -> None:
    """One connected trace, verified, whose answer comes from exactly these files."""
    [trace] = store.traces()
    assert (trace.name, trace.status) == (name, "ok")
    assert store.answer(trace) == answer
    assert set(store.sources(trace)) == sources
    runs = store.runs(trace)
    tops = [run for run in runs if not names_above(store, run)]
    assert [run.label for run in tops] == [name], "a run of it hangs on nothing"
    with provkeep.open(store.path) as trail:
        assert trail.verify()
        for source in sources:
            assert [found.id for found in trail.impact(source).reached] == [trace.id]


def names_above(store: Store, run: Node) -> list[str]:
    """Names of the runs around one, innermost first."""
    with provkeep.open(store.path) as trail:
        graph = trail.graph(store.traces()[-1])
    out: list[str] = []
    here = run.id
    while found := [e.cause for e in graph.into.get(here, ()) if e.type == "informed"]:
        [here] = found
        out.append(graph.nodes[here].label)
    return out
