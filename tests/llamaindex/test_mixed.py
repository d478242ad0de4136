"""Programs that use both frameworks: one store, one trace."""

from typing import Any
from uuid import UUID

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from llama_index.core.tools import FunctionTool

from provkeep.langchain import ProvenanceHandler
from provkeep.llamaindex.install import current_run
from provkeep.recording.recorder import recorder_for
from tests.llamaindex.kit import Scripted, Shelf, Store, engine, words


def chain_around(asked: Any) -> Any:
    """A LangChain agent's loop by hand: a model calls a tool, the tool queries, the model ends."""

    @tool
    def library(question: str) -> str:
        """Ask the files."""
        return str(asked.query(question))

    call = {"name": "library", "args": {"question": "What of the harbour?"}, "id": "call-1"}
    said = [AIMessage("", tool_calls=[call]), AIMessage(words("outer answer"))]
    model = GenericFakeChatModel(messages=iter(said))

    def loop(question: str) -> str:
        first = model.invoke(question)
        told: ToolMessage = library.invoke({**first.tool_calls[0], "type": "tool_call"})
        return str(model.invoke([("human", question), first, told]).content)

    return RunnableLambda(loop).with_config(run_name="agent")


def test_a_query_inside_a_langchain_tool_is_part_of_its_trace(store: Store) -> None:
    chain = chain_around(engine(Shelf("a.txt"), Scripted(words("inner answer"))))
    with store.listening():
        handler = ProvenanceHandler(store.path)
        chain.invoke("What of the harbour?", config={"callbacks": [handler]})
        handler.close()
    [trace] = store.traces()
    assert trace.name == "agent"
    runs = {r.label: r for r in store.runs()}
    assert {"library", "RetrieverQueryEngine.query", "Scripted"} <= set(runs)
    assert store.answer() == words("outer answer")
    assert set(store.sources()) == {"a.txt"}


def test_a_query_beside_langchain_is_a_trace_of_its_own(store: Store) -> None:
    with store.listening():
        handler = ProvenanceHandler(store.path)
        RunnableLambda(str.upper).invoke("quiet", config={"callbacks": [handler]})
        engine(Shelf("a.txt"), Scripted(words("answer"))).query("What of the harbour?")
        handler.close()
    assert len(store.traces()) == 2


def test_a_langchain_run_of_another_store_is_not_adopted(store: Store, tmp_path: Any) -> None:
    other = Store(tmp_path / "other.db")
    chain = chain_around(engine(Shelf("a.txt"), Scripted(words("inner answer"))))
    with store.listening():
        handler = ProvenanceHandler(other.path)
        chain.invoke("What of the harbour?", config={"callbacks": [handler]})
        handler.close()
    assert [t.name for t in store.traces()] == ["RetrieverQueryEngine.query"]
    assert [t.name for t in other.traces()] == ["agent"]


def test_code_inside_a_tool_can_learn_which_run_it_is_part_of(store: Store) -> None:
    """What a LangChain handler needs to know, to join a chain that a LlamaIndex tool calls."""
    seen: list[int | None] = []
    recorder = recorder_for(store.path)

    def look() -> str:
        """Look around."""
        seen.append(current_run(recorder))
        return "seen"

    with store.listening():
        FunctionTool.from_defaults(look)()
        assert current_run(recorder) is None
    [run] = store.runs()
    assert seen == [UUID(run.attrs["uuid"]).int]
