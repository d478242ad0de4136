"""The LlamaIndex workload: a query engine over a retriever that finds four nodes of 1 KB."""

from __future__ import annotations

from itertools import count
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import CompletionResponse, LLMMetadata
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from prose import DOCUMENTS, prose


class Shelf(BaseRetriever):
    """Finds the same four nodes, in new objects each time."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [
            NodeWithScore(
                node=TextNode(
                    text=prose(i), id_=f"node-{i}", metadata={"file_path": f"terms-{i}.txt"}
                ),
                score=0.9 - i / 10,
            )
            for i in range(DOCUMENTS)
        ]


class Scripted(CustomLLM):
    """Answers at once."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="scripted", context_window=100_000, num_output=256)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        return CompletionResponse(
            text="Branch 2 takes goods back within 5 days of purchase, if you bring the receipt."
        )

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> Any:
        raise NotImplementedError


class Query:
    """One question to the engine."""

    made_of = "RetrieverQueryEngine(retriever, response synthesizer, LLM)"

    def __init__(self) -> None:
        model = Scripted()
        self._engine = RetrieverQueryEngine(
            retriever=Shelf(), response_synthesizer=get_response_synthesizer(llm=model)
        )
        self._numbers = count()

    def call(self, _: Any = None) -> Any:
        return self._engine.query(
            f"Customer {next(self._numbers)} asks: how long may I bring it back?"
        )


class _Events(BaseEventHandler):
    seen: int = 0

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: Any, **_: Any) -> None:
        self.seen += 1


def counted(query: Query) -> tuple[int, int]:
    """Spans of one query; and their begins and ends and the events between."""
    dispatcher: Any = get_dispatcher()
    spans, events = SimpleSpanHandler(), _Events()
    dispatcher.add_span_handler(spans)
    dispatcher.add_event_handler(events)
    query.call()
    dispatcher.span_handlers = [h for h in dispatcher.span_handlers if h is not spans]
    dispatcher.event_handlers = [h for h in dispatcher.event_handlers if h is not events]
    many = len(spans.completed_spans)
    return many, 2 * many + events.seen
