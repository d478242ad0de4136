"""What was recorded, read back through ``provkeep.open``, and small things to record."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel, RunnablePassthrough

import provkeep
from provkeep.model.graph import Graph, Node


class Recorded:
    """One store, read."""

    def __init__(self, path: Path) -> None:
        self.trail = provkeep.open(path, actor="test")

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        self.trail.close()

    @property
    def traces(self) -> list[str]:
        """Ids, oldest first."""
        return [t.id for t in reversed(self.trail.runs(limit=10_000))]

    def graph(self, trace: str | None = None) -> Graph:
        return self.trail.graph(trace)

    def runs(self, trace: str | None = None) -> list[Node]:
        """In the order they began, of one trace or of all."""
        if trace is not None:
            return sorted(self.graph(trace).of("run"), key=lambda n: n.order)
        return [run for tid in self.traces for run in self.runs(tid)]

    def run(self, label: str, trace: str | None = None) -> Node:
        (found,) = [run for run in self.runs(trace) if run.label == label]
        return found

    def shape(self, trace: str | None = None) -> list[tuple[str, str, str | None]]:
        """Kind, name and status of every run."""
        return [(run.kind, run.label, run.status) for run in self.runs(trace)]

    def parents(self, trace: str | None = None) -> dict[str, str]:
        """Name of the parent by name of the child."""
        graph = self.graph(trace)
        return {
            graph.nodes[e.effect].label: graph.nodes[e.cause].label
            for e in graph.edges
            if e.type == "informed"
        }

    def _values(self, run: Node, what: str) -> list[Any]:
        trace = self.trail._paths.trace(str(run.trace))
        numbers = getattr(trace.runs[run.order], what)
        ids = [trace.artifact_id(n) for n in numbers]
        return list(self.trail.values(ids, purpose="test").values())

    def input(self, run: Node) -> Any:
        (value,) = self._values(run, "used")
        return value

    def output(self, run: Node) -> Any:
        (value,) = self._values(run, "outputs")
        return value

    def error(self, run: Node) -> Any:
        """Its error, told only where it began."""
        trace = self.trail._paths.trace(str(run.trace))
        number = trace.runs[run.order].result.get("er")
        return None if number is None else self.trail.value(trace.artifact_id(number))

    def attrs(self, run: Node) -> dict[str, Any]:
        """Everything else that was said of a run."""
        found: dict[str, Any] = self.trail.value(run, purpose="test")
        return found

    def notes(self, run: Node) -> list[tuple[str, Any]]:
        """What happened in a run, by name, with its data."""
        trace = self.trail._paths.trace(str(run.trace))
        return [
            (name, None if number < 0 else self.trail.value(trace.artifact_id(number)))
            for _, where, _, name, number in trace.notes
            if where == run.order
        ]


DOCUMENTS = [
    Document(
        id=f"doc-{i}",
        page_content=f"Branch {i} takes returns within {i + 3} days of the purchase.",
        metadata={"source": f"branch{i}.txt"},
    )
    for i in range(3)
]


class Shelf(BaseRetriever):
    """Gives copies of the same documents to whatever is asked."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [d.model_copy() for d in DOCUMENTS]


def chat(*answers: str | AIMessage) -> GenericFakeChatModel:
    """A chat model that says these, over and over; it streams word by word."""

    def message(answer: str | AIMessage) -> AIMessage:
        return AIMessage(answer) if isinstance(answer, str) else answer.model_copy(deep=True)

    # no generator: a batch asks from several threads at once
    said = itertools.cycle(answers or ["Within 5 days, I think."])
    return GenericFakeChatModel(messages=map(message, said))


def join(documents: list[Document]) -> str:
    return "\n\n".join(d.page_content for d in documents)


def rag(model: Runnable[Any, Any] | None = None) -> Runnable[Any, str]:
    """Retriever, template, model, parser: nine runs."""
    prompt = ChatPromptTemplate.from_messages([("system", "Use:\n{context}"), ("human", "{q}")])
    context = Shelf() | RunnableLambda(join).with_config(run_name="join")
    both = RunnableParallel(context=context, q=RunnablePassthrough())
    return both | prompt | (model or chat()) | StrOutputParser()


RAG_SHAPE = sorted(
    [
        ("chain", "RunnableSequence", "ok"),
        ("chain", "RunnableParallel<context,q>", "ok"),
        ("chain", "RunnableSequence", "ok"),
        ("chain", "RunnablePassthrough", "ok"),
        ("retriever", "Shelf", "ok"),
        ("chain", "join", "ok"),
        ("prompt", "ChatPromptTemplate", "ok"),
        ("model", "GenericFakeChatModel", "ok"),
        ("parser", "StrOutputParser", "ok"),
    ]
)


def text_model(*answers: str) -> FakeListLLM:
    return FakeListLLM(responses=list(answers) or ["Within 5 days."])


class Witness(BaseCallbackHandler):
    """Another handler of the user's: keeps what it is told, without what differs between runs."""

    def __init__(self, *, inline: bool = False) -> None:
        self.run_inline = inline
        self.heard: list[tuple[str, str]] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return object.__getattribute__(self, name)
        heard = self.heard

        def note(*args: Any, **kwargs: Any) -> None:
            heard.append((name, repr([a for a in args if not hasattr(a, "generations")])))

        return note
