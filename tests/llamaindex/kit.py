"""What the LlamaIndex tests share: nodes that say who they are, models that say what they are told
to, and a store to ask what became of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import (
    ChatMessage,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import (
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from pydantic import Field

import provkeep
from provkeep.llamaindex import instrument
from provkeep.model.graph import Node
from provkeep.reading.answers import TraceSummary
from provkeep.reading.lineage import Source

_SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ka",
    "le",
    "mi",
    "no",
    "pu",
    "ra",
    "se",
    "ti",
    "vo",
    "zu",
]


def words(seed: str, count: int = 40) -> str:
    """Sentences that no other seed gives."""
    chance = random.Random(seed)
    out = ["".join(chance.choices(_SYLLABLES, k=3)) for _ in range(count)]
    return " ".join(out).capitalize() + "."


def node(name: str, text: str | None = None, **metadata: Any) -> TextNode:
    """A chunk of the file ``name``, with a text of its own."""
    made = TextNode(
        text=words(name) if text is None else text,
        id_=f"node-{name}",
        metadata={"file_path": name, **metadata},
    )
    made.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=f"doc-{name}", hash="h1")
    return made


class Shelf(BaseRetriever):
    """Finds what stands on it, in new objects each time, as a database would."""

    def __init__(self, *nodes: TextNode | str) -> None:
        self._nodes = [node(n) if isinstance(n, str) else n for n in nodes]
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [
            NodeWithScore(node=n.model_copy(deep=True), score=0.9 - i / 10)
            for i, n in enumerate(self._nodes)
        ]


class Scripted(CustomLLM):
    """Says what ``say`` makes of the prompt, whole or word by word."""

    say: Callable[[str], str]
    asked: list[str] = Field(default_factory=list)

    def __init__(self, say: Callable[[str], str] | str, **more: Any) -> None:
        super().__init__(say=say if callable(say) else lambda _: say, **more)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="scripted-1", context_window=100_000, num_output=256)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.asked.append(prompt)
        return CompletionResponse(
            text=self.say(prompt),
            raw={"model": "scripted-1.5", "usage": {"prompt_tokens": 11, "completion_tokens": 7}},
        )

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        self.asked.append(prompt)
        answer = self.say(prompt)

        def chunks() -> CompletionResponseGen:
            said = ""
            for word in answer.split(" "):
                delta = word if not said else " " + word
                said += delta
                yield CompletionResponse(text=said, delta=delta)

        return chunks()


def engine(
    retriever: BaseRetriever, llm: Any, mode: str = "compact", **more: Any
) -> RetrieverQueryEngine:
    """A query engine over a shelf."""
    streaming = more.pop("streaming", False)
    synthesizer = get_response_synthesizer(llm=llm, response_mode=mode, streaming=streaming)
    return RetrieverQueryEngine(retriever, response_synthesizer=synthesizer, **more)


def caller(say: Callable[[list[ChatMessage]], ChatMessage | str]) -> MockFunctionCallingLLM:
    """A chat model that may call tools."""

    def answer(messages: Any, *args: Any, **kwargs: Any) -> ChatMessage:
        said = say(list(messages))
        return ChatMessage(role="assistant", content=said) if isinstance(said, str) else said

    return MockFunctionCallingLLM(response_generator=answer, is_chat_model=True)


def calls(tool: str, call_id: str = "call-1", **arguments: Any) -> ChatMessage:
    """A model's wish to call a tool."""
    block = ToolCallBlock(tool_call_id=call_id, tool_name=tool, tool_kwargs=arguments)
    return ChatMessage(role="assistant", blocks=[TextBlock(text="Let me look that up."), block])


class Store:
    """A store, and what the tests ask of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def listening(self, **options: Any) -> Any:
        return instrument(self.path, **options)

    def traces(self) -> list[TraceSummary]:
        """All traces, oldest first."""
        with provkeep.open(self.path) as trail:
            return list(reversed(trail.runs()))

    def runs(self, trace: TraceSummary | None = None) -> list[Node]:
        with provkeep.open(self.path) as trail:
            graph = trail.graph(trace or self.traces()[-1])
            return sorted(graph.of("run"), key=lambda n: n.order)

    def shape(self, trace: TraceSummary | None = None) -> list[tuple[str, str, str | None]]:
        return [(n.kind, n.label, n.status) for n in self.runs(trace)]

    def sources(self, trace: TraceSummary | None = None) -> dict[str, Source]:
        """The sources of a trace's answer, by name."""
        with provkeep.open(self.path) as trail:
            answer = trail.output(trace or self.traces()[-1])
            return {s.name: s for s in trail.lineage(answer).sources()}

    def answer(self, trace: TraceSummary | None = None) -> Any:
        with provkeep.open(self.path) as trail:
            return trail.text(trail.output(trace or self.traces()[-1]), purpose="test")

    def values(self, *kinds: str, trace: TraceSummary | None = None) -> list[Any]:
        """The values of a trace's artifacts of these kinds, in order."""
        with provkeep.open(self.path) as trail:
            graph = trail.graph(trace or self.traces()[-1])
            nodes = sorted(graph.of("artifact", *kinds), key=lambda n: n.order)
            found = trail.values(nodes, purpose="test")
            return [found[n.id] for n in nodes]

    def edges(self, trace: TraceSummary | None = None) -> list[Any]:
        with provkeep.open(self.path) as trail:
            return list(trail.graph(trace or self.traces()[-1]).edges)
