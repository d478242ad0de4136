"""The programs that are measured: deterministic, offline, and made of LangChain's own parts.

A workload is a function that makes one call with a given list of callback handlers. ``counted``
says how many runs and callbacks a call makes, by listening; nothing here is assumed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import count
from typing import Any, Final
from uuid import UUID

from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.tools import tool
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from prose import DOCUMENTS, prose

TOOL_CALLS: Final = 3
TOKENS: Final = 500
TURNS: Final = 40
AT_ONCE: Final = 100  # chains that run concurrently
STEPS: Final = 40

Handlers = list[BaseCallbackHandler]
Call = Callable[[Handlers], Any]
CALLBACKS: Final = tuple(
    f"on_{name}"
    for name in (
        *("chain_start", "chain_end", "chain_error"),
        *("chat_model_start", "llm_start", "llm_new_token", "llm_end", "llm_error"),
        *("retriever_start", "retriever_end", "retriever_error"),
        *("tool_start", "tool_end", "tool_error"),
        *("custom_event", "retry"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A program under measurement."""

    name: str
    call: Call
    made_of: str
    options: dict[str, Any] = field(default_factory=dict)  # of the handler


class Scripted(BaseChatModel):
    """A chat model that asks for a tool ``tool_calls`` times and then answers, at no cost.

    What it says depends on the messages it is given and on nothing else.
    """

    tool_calls: int = 0
    chunks: int = 0

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        """Accept any tools."""
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        answered = sum(isinstance(m, ToolMessage) for m in messages)
        if answered < self.tool_calls:
            call = {"name": "look_up", "args": {"order": answered}, "id": f"call_{answered}"}
            said = AIMessage("", tool_calls=[call])
        else:
            said = AIMessage(
                f"Message {len(messages)}: branch 2 takes goods back within 5 days of purchase,"
                " if they are unopened and you bring the receipt."
            )
        return ChatResult(generations=[ChatGeneration(message=said)])

    def _stream(
        self, messages: list[BaseMessage], *_: Any, run_manager: Any = None, **__: Any
    ) -> Iterator[ChatGenerationChunk]:
        for i in range(self.chunks):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=f"word{i} "))
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


class Shelf(BaseRetriever):
    """Returns 1 KB documents: always the same, or new ones each time."""

    fresh: bool = False
    numbers: Any = None
    documents: int = DOCUMENTS

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        edition = next(self.numbers) if self.fresh else 0
        return [_document(i, edition).model_copy() for i in range(self.documents)]


@lru_cache(maxsize=8 * DOCUMENTS)
def _document(number: int, edition: int) -> Document:
    source = f"terms-{edition}-{number}.txt"
    return Document(page_content=prose(number, edition), metadata={"source": source})


def _join(documents: list[Document]) -> str:
    return "\n\n".join(d.page_content for d in documents)


def _chain(fresh: bool = False) -> Any:
    """Nine runs, eighteen callbacks."""
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Answer from this alone:\n{context}"), ("human", "{question}")]
    )
    together = RunnableLambda(_join)
    return (
        RunnableParallel(
            context=Shelf(fresh=fresh, numbers=count(1)) | together.with_config(run_name="join"),
            question=RunnablePassthrough(),
        )
        | prompt
        | Scripted()
        | StrOutputParser()
    )


def rag(*, fresh: bool = False) -> Workload:
    """Nine runs, eighteen callbacks."""
    chain = _chain(fresh)
    numbers = count()

    def call(handlers: Handlers) -> Any:
        question = f"Customer {next(numbers)} asks: how long may I bring it back?"
        return chain.invoke(question, {"callbacks": handlers})

    return Workload(
        name="RAG, new documents" if fresh else "RAG",
        call=call,
        made_of="sequence(parallel(sequence(retriever, join), passthrough), prompt, model, parser)",
    )


def concurrent(chains: int = AT_ONCE) -> Workload:
    """The same chain, many at once in one event loop."""
    chain = _chain()
    numbers = count()

    async def all_of_them(handlers: Handlers) -> list[Any]:
        config: RunnableConfig = {"callbacks": handlers}
        questions = [f"Customer {next(numbers)} asks: how long?" for _ in range(chains)]
        return await asyncio.gather(*(chain.ainvoke(q, config) for q in questions))

    return Workload(
        name="concurrent",
        call=lambda handlers: asyncio.run(all_of_them(handlers)),
        made_of=f"{chains} x the RAG chain at once, by asyncio.gather",
    )


@tool
def look_up(order: int) -> str:
    """Say where an order is."""
    return f"Order {order} left the warehouse on day {order + 3} and is {order * 7} km away."


def _agent(calls: int) -> Any:
    return create_agent(Scripted(tool_calls=calls), [look_up])


def agent(calls: int = TOOL_CALLS, *, name: str = "agent") -> Workload:
    """A graph, and for each step a node and what it calls: 3 + 4 * calls runs."""
    graph = _agent(calls)
    numbers = count()

    def call(handlers: Handlers) -> Any:
        question = f"Customer {next(numbers)} asks: where are my orders?"
        config = {"callbacks": handlers, "recursion_limit": 4 * calls + 10}
        return graph.invoke({"messages": [("human", question)]}, config)

    return Workload(
        name=name,
        call=call,
        made_of=f"graph, {calls + 1} x (node 'model', model), {calls} x (node 'tools', tool)",
    )


def stream(chunks: int = TOKENS) -> Workload:
    """One run whose answer comes in ``chunks`` tokens."""
    model = Scripted(chunks=chunks)
    numbers = count()

    def call(handlers: Handlers) -> Any:
        question = f"Customer {next(numbers)} asks: tell me everything."
        return sum(1 for _ in model.stream(question, {"callbacks": handlers}))

    return Workload(name="stream", call=call, made_of=f"one model, {chunks} tokens")


def chat(turns: int = TURNS) -> Workload:
    """A conversation whose whole history is passed as messages, each turn a trace of its own."""
    prompt = ChatPromptTemplate.from_messages(
        [("system", "You sell shoes."), MessagesPlaceholder("history"), ("human", "{question}")]
    )
    chain = prompt | Scripted()
    numbers = count()

    def call(handlers: Handlers) -> Any:
        config: RunnableConfig = {
            "callbacks": list(handlers),
            "metadata": {"session_id": f"chat {next(numbers)}"},
        }
        history: list[BaseMessage] = []
        for turn in range(turns):
            question = _question(turn)
            answer = chain.invoke({"history": history, "question": question}, config)
            history = [*history, HumanMessage(question), answer]
        return history

    return Workload(
        name="chat, history as messages",
        call=call,
        made_of=f"{turns} x sequence(prompt, model)",
    )


def graph_chat(turns: int = TURNS) -> Workload:
    """The same conversation, its history kept by LangGraph's ``MemorySaver``."""
    model = Scripted()

    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    numbers = count()

    def call(handlers: Handlers) -> Any:
        graph: Any = builder.compile(checkpointer=MemorySaver())
        thread = {"thread_id": f"thread {next(numbers)}"}
        for turn in range(turns):
            message = {"messages": [("human", _question(turn))]}
            graph.invoke(message, {"callbacks": handlers, "configurable": thread})

    return Workload(
        name="chat, MemorySaver",
        call=call,
        made_of=f"{turns} x graph(node 'answer'(model))",
    )


def _question(turn: int) -> str:
    return f"Question {turn}: may I still bring back the shoes I bought {turn + 2} days ago?"


@cache
def workloads(*, small: bool = False) -> dict[str, Workload]:
    """All of them, by the name the command line knows; ``small`` ones only show that they run."""
    tokens, turns, steps = (20, 4, 4) if small else (TOKENS, TURNS, STEPS)
    return {
        "rag": rag(),
        "rag-new": rag(fresh=True),
        "agent": agent(),
        "stream": stream(tokens),
        "stream-tokens": replace(
            stream(tokens), name="stream, tokens noted", options={"tokens": True}
        ),
        "chat": chat(turns),
        "graph-chat": graph_chat(turns),
        "loop": agent(steps, name="agent loop"),
        "concurrent": concurrent(2 if small else AT_ONCE),
    }


class Counting(BaseCallbackHandler):
    """Counts runs and callbacks."""

    def __init__(self) -> None:
        self.events = 0
        self.runs: set[UUID] = set()
        for name in CALLBACKS:
            setattr(self, name, self._count)

    def _count(self, *_: Any, run_id: UUID, **__: Any) -> None:
        self.events += 1
        self.runs.add(run_id)


def counted(workload: Workload) -> tuple[int, int]:
    """Runs and callbacks of one call."""
    counting = Counting()
    workload.call([counting])
    return len(counting.runs), counting.events
