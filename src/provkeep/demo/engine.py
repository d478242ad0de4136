"""The LlamaIndex program that the demo records: an index over the manual, and a query engine.

Like ``app.py`` it knows nothing of provkeep; recording is switched on around it.
"""

from __future__ import annotations

from typing import Any, Final

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import (
    CompletionResponse,
    CompletionResponseGen,
    CustomLLM,
    LLMMetadata,
)
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.node_parser import MarkdownNodeParser
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import BaseNode, Document, MetadataMode, NodeWithScore, QueryBundle

from provkeep.demo.corpus import pages
from provkeep.demo.model import NOTHING_FOUND, sentences
from provkeep.demo.search import Index, best

FOUND: Final = 3  # nodes that are retrieved, and stand in the prompt
_ASKED: Final = "\n\nQuestion: "
_PROMPT: Final = PromptTemplate(
    "Answer from these passages of the manual only:\n\n{context_str}" + _ASKED + "{query_str}"
)


def manual_documents() -> list[Document]:
    """The pages of the manual as LlamaIndex's documents."""
    return [
        Document(
            text=text,
            id_=name,
            metadata={"file_path": f"manual/{name}"},
            excluded_llm_metadata_keys=["file_path", "header_path"],
        )
        for name, text in pages().items()
    ]


def manual_engine(sentences: int = 2) -> RetrieverQueryEngine:
    """Cut the pages into sections, and answer from the three that fit best."""
    pipeline = IngestionPipeline(transformations=[MarkdownNodeParser()], disable_cache=True)
    nodes = list(pipeline.run(documents=manual_documents()))
    synthesizer = get_response_synthesizer(
        llm=ExtractiveLLM(sentences=sentences), text_qa_template=_PROMPT
    )
    return RetrieverQueryEngine(SectionRetriever(nodes), response_synthesizer=synthesizer)


class SectionRetriever(BaseRetriever):
    """Returns the nodes that share the rarest words with the question."""

    def __init__(self, nodes: list[BaseNode]) -> None:
        self._nodes = nodes
        self._index = Index(node.get_content(MetadataMode.NONE) for node in nodes)
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        scores = self._index.scores(query_bundle.query_str)
        return [
            NodeWithScore(node=self._nodes[n], score=round(scores[n], 3))
            for n in best(scores, FOUND)
        ]


class ExtractiveLLM(CustomLLM):
    """Copies the sentences of its prompt that fit the question at the prompt's end."""

    sentences: int = 2  # at most so many in an answer

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex asks of a model."""
        return LLMMetadata(model_name="extractive-1", context_window=100_000)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt."""
        given, _, question = prompt.rpartition(_ASKED)
        found = list(dict.fromkeys(sentences(given)))
        chosen = best(Index(found).scores(question), self.sentences)
        return CompletionResponse(text=" ".join(found[n] for n in chosen) or NOTHING_FOUND)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer a prompt, a word at a time."""
        answer = self.complete(prompt, formatted, **kwargs).text

        def pieces() -> CompletionResponseGen:
            said = ""
            for word in answer.split(" "):
                delta = f" {word}" if said else word
                said += delta
                yield CompletionResponse(text=said, delta=delta)

        return pieces()
