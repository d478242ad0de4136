"""The same job with LlamaIndex, from files on disk: which file, and which of its words, were used.

The second witness is again the prompt as the model's own server rendered it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import SimpleDirectoryReader, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle
from pydantic import PrivateAttr

import provkeep
from provkeep.llamaindex import instrument
from tests.e2e.real import SLOT_TOKENS, MiniLM, SmolLM, missing, news

REQUIRED = "PROVKEEP_E2E_REQUIRED"  # set by `make e2e`, where a skipped test would prove nothing
_absent = missing()

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        bool(_absent) and not os.environ.get(REQUIRED),
        reason=f"not installed: {', '.join(_absent)}; `make e2e` installs them",
    ),
]

FILES = 40
RETRIEVED, KEPT = 5, 2
QUESTION = "What did the Israeli army do in Gaza?"
OPENING = 60  # characters at the head of a node by which it is found in a prompt


class Embedding(BaseEmbedding):
    """all-MiniLM-L6-v2, as LlamaIndex asks for it."""

    _model: Any = PrivateAttr()

    def __init__(self, model: MiniLM, **options: Any) -> None:
        super().__init__(model_name="all-MiniLM-L6-v2", **options)
        self._model = model

    def _get_text_embedding(self, text: str) -> list[float]:
        return list(self._model.embed_query(text))

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class Small(CustomLLM):
    """SmolLM2 behind its own server, as LlamaIndex asks for it."""

    _server: Any = PrivateAttr()

    def __init__(self, server: SmolLM) -> None:
        super().__init__()
        self._server = server

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            model_name="SmolLM2-135M-Instruct",
            context_window=SLOT_TOKENS,
            num_output=self._server.max_tokens,
        )

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        return CompletionResponse(text=self._server.invoke(prompt, config={"callbacks": []}).text)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **_: Any
    ) -> CompletionResponseGen:
        text = ""
        for chunk in self._server.stream(prompt, config={"callbacks": []}):
            text += chunk.text
            yield CompletionResponse(text=text, delta=chunk.text)


class KeepTheBest(BaseNodePostprocessor):
    """A reranker that keeps two of what was found."""

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return sorted(nodes, key=lambda n: n.score or 0, reverse=True)[:KEPT]


@pytest.fixture(scope="module")
def embedding() -> Embedding:
    return Embedding(MiniLM())


@pytest.fixture(scope="module")
def server() -> SmolLM:
    return SmolLM()


@pytest.fixture
def model(server: SmolLM) -> Iterator[SmolLM]:
    yield server
    server.prompts.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty news items on disk, a file each; those on the question among them."""
    made = tmp_path / "news"
    made.mkdir()
    items = sorted(news(), key=lambda d: "Gaza" not in d.page_content)[:FILES]
    for item in items:
        (made / f"{item.id}.txt").write_text(item.page_content, encoding="utf-8")
    return made


def ingested(folder: Path) -> list[BaseNode]:
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=160, chunk_overlap=0)], disable_cache=True
    )
    return list(pipeline.run(documents=SimpleDirectoryReader(str(folder)).load_data()))


def asked(folder: Path, embedding: Embedding, model: SmolLM, *, streaming: bool) -> str:
    index = VectorStoreIndex(ingested(folder), embed_model=embedding)
    engine = RetrieverQueryEngine.from_args(
        index.as_retriever(similarity_top_k=RETRIEVED),
        llm=Small(model),
        node_postprocessors=[KeepTheBest()],
        streaming=streaming,
    )
    found = engine.query(QUESTION)
    return "".join(found.response_gen) if streaming else str(found)


def shown_in(prompt: str, folder: Path) -> set[str]:
    """Files of which some node's opening stands in what the model was shown; by plain search."""
    return {
        str(node.metadata["file_path"])
        for node in ingested(folder)
        if node.get_content().strip()[:OPENING] in prompt
    }


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


@pytest.mark.parametrize("streaming", [False, True], ids=["at once", "streamed"])
def test_an_answer_comes_from_exactly_the_files_in_its_prompt(
    embedding: Embedding, model: SmolLM, folder: Path, tmp_path: Path, streaming: bool
) -> None:
    path = tmp_path / "audit.db"
    with instrument(path, actor="reader@example.com"):
        answer = asked(folder, embedding, model, streaming=streaming)
    (prompt,) = model.prompts
    shown = shown_in(prompt, folder)
    assert len(answer) > 50 and 0 < len(shown) <= KEPT  # else what follows would prove nothing

    with provkeep.open(path) as trail:
        [query] = [t for t in trail.runs() if "query" in t.name]
        node = trail.output(query)
        sources = trail.lineage(node).sources()
        assert {source.name for source in sources} == shown
        assert trail.text(node, purpose="compare") == answer
        places = {place for source in sources for place, _ in source.prompt_spans}
        prompts = trail.values(places, purpose="compare")
        for source in sources:
            text = Path(source.name).read_text(encoding="utf-8")
            assert source.prompt_spans
            for place, span in source.prompt_spans:
                value = prompts[place]
                whole = value if isinstance(value, str) else value["content"]
                here = whole[span.target_start : span.target_end]
                assert here in text and here in prompt
            for q in source.quotations:
                assert " ".join(words(answer[q.start : q.end])) in " ".join(words(text))
            assert query.id in [t.id for t in trail.impact(source.name).reached]
        retrieved = set(trail.source_names().values())
        dropped = [n for n in retrieved - shown if n in {str(f) for f in folder.iterdir()}]
        assert dropped
        assert all(query.id not in [t.id for t in trail.impact(n).reached] for n in dropped)
        assert trail.verify()


def test_a_file_that_changed_is_the_same_source_in_another_version(
    embedding: Embedding, model: SmolLM, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "audit.db"
    with instrument(path):
        asked(folder, embedding, model, streaming=False)
        first = shown_in(model.prompts[-1], folder)
        for name in first:
            file = Path(name)
            file.write_text("CORRECTED. " + file.read_text(encoding="utf-8"), encoding="utf-8")
        asked(folder, embedding, model, streaming=False)
    second = shown_in(model.prompts[-1], folder)
    both = first & second
    assert both, "the corrected files still fit the question best"
    with provkeep.open(path) as trail:
        queries = [t.id for t in trail.runs() if "query" in t.name]
        assert len(queries) == 2
        for name in both:
            assert set(queries) <= {t.id for t in trail.impact(name).reached}
        assert trail.verify()
