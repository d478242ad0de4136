"""From the file on disk to the words of the answer: ingestion, versions, one path through all."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import SimpleDirectoryReader, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.schema import Document

import provkeep
from tests.llamaindex.kit import Scripted, Store, engine, words

TOPICS = ("harbour", "lighthouse", "market", "bridge")


class Counts(BaseEmbedding):
    """A vector that says which topics a text names, so that retrieval really retrieves."""

    def _embed(self, text: str) -> list[float]:
        return [float(text.lower().count(t)) + 0.01 for t in TOPICS]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._embed(query)


def about(topic: str, more: str = "") -> str:
    return f"The {topic}: {words(topic + more, 30)} So much for the {topic}."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    where = tmp_path / "files"
    where.mkdir()
    for topic in TOPICS:
        (where / f"{topic}.txt").write_text(about(topic), encoding="utf-8")
    return where


def pipeline() -> IngestionPipeline:
    splitter = TokenTextSplitter(chunk_size=200, chunk_overlap=0)
    return IngestionPipeline(transformations=[splitter, Counts()], disable_cache=True)


def read(folder: Path) -> list[Document]:
    return SimpleDirectoryReader(str(folder), filename_as_id=True).load_data()


@pytest.mark.parametrize("way", ["sync", "async"])
def test_what_was_ingested_is_recorded_file_by_file(store: Store, folder: Path, way: str) -> None:
    documents = read(folder)
    with store.listening():
        if way == "sync":
            nodes = pipeline().run(documents=documents)
        else:
            nodes = asyncio.run(pipeline().arun(documents=documents))
    [trace] = store.traces()
    assert trace.name == ("IngestionPipeline.run" if way == "sync" else "IngestionPipeline.arun")
    with provkeep.open(store.path) as trail:
        graph = trail.graph()
        values = trail.values(list(graph.of("artifact", "document")), purpose="test")
        files = {i: v["metadata"].get("file_path") for i, v in values.items()}
        files = {i: f or values[i]["metadata"]["source"] for i, f in files.items()}
        chunks = [i for i, v in values.items() if v["id"] in {n.node_id for n in nodes}]
        for chunk in chunks:
            causes = graph.walk(chunk, upstream=True) - {chunk}
            assert {files[i] for i in causes if i in files} == {files[chunk]}
    assert {values[c]["id"] for c in chunks} == {n.node_id for n in nodes}
    assert "embedding" in [r.kind for r in store.runs()]


def test_a_cached_ingestion_says_what_went_in_and_came_out(store: Store, folder: Path) -> None:
    cache = IngestionCache()
    splitter = TokenTextSplitter(chunk_size=200, chunk_overlap=0)
    documents = read(folder)
    with store.listening():
        for _ in range(2):
            IngestionPipeline(transformations=[splitter], cache=cache).run(documents=documents)
    first, second = store.traces()
    assert second.runs < first.runs
    for trace in (first, second):
        assert {d["metadata"]["file_name"] for d in store.values("document", trace=trace)} == {
            f"{t}.txt" for t in TOPICS
        }


def test_from_the_file_on_disk_to_the_words_of_the_answer(store: Store, folder: Path) -> None:
    quoted = about("lighthouse")[16:90]
    with store.listening():
        index = VectorStoreIndex(pipeline().run(documents=read(folder)), embed_model=Counts())
        retriever = index.as_retriever(similarity_top_k=1)
        engine(retriever, Scripted(f"They say: {quoted}")).query("What of the lighthouse?")
    path = str(folder / "lighthouse.txt")
    found = store.sources()
    assert set(found) == {path}
    [quotation] = found[path].quotations
    assert store.answer()[quotation.start : quotation.end] in quoted
    with provkeep.open(store.path) as trail:
        assert "RetrieverQueryEngine.query" in [t.name for t in trail.impact(path).reached]
        unread = trail.impact(str(folder / "market.txt"))
        assert "RetrieverQueryEngine.query" not in [t.name for t in unread.reached]


def test_a_changed_file_is_the_same_source_in_another_version(store: Store, folder: Path) -> None:
    path = folder / "bridge.txt"
    with store.listening():
        for edition in ("", " second edition"):
            path.write_text(about("bridge", edition), encoding="utf-8")
            index = VectorStoreIndex(pipeline().run(documents=read(folder)), embed_model=Counts())
            asked = engine(index.as_retriever(similarity_top_k=1), Scripted(words("answer")))
            asked.query("What of the bridge?")
    queries = [t for t in store.traces() if t.name.endswith(".query")]
    texts: list[Any] = []
    for trace in queries:
        assert set(store.sources(trace)) == {str(path)}
        [document] = store.values("document", trace=trace)
        texts.append(document["page_content"])
    assert texts[0] != texts[1]
    with provkeep.open(store.path) as trail:
        reached = [t.id for t in trail.impact(str(path)).reached]
    assert {t.id for t in queries} <= set(reached)
