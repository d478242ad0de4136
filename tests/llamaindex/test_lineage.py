"""Where answers came from: on LlamaIndex's own engines, with models that say what they are told."""

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import QueryEngineTool

import provkeep
from tests.llamaindex.kit import Scripted, Shelf, Store, engine, node, words

QUESTION = "What do the files say about the harbour?"


class FirstOf(BaseNodePostprocessor):
    """Keeps the first ``count`` nodes under a score of its own."""

    count: int = 1

    def _postprocess_nodes(self, nodes: Any, query_bundle: Any = None) -> list[NodeWithScore]:
        return [NodeWithScore(node=n.node, score=0.99) for n in nodes[: self.count]]


class Asks(BaseQuestionGenerator):
    """Asks these questions of these tools."""

    wanted: list[SubQuestion]

    def __init__(self, *wanted: tuple[str, str]) -> None:
        self.wanted = [SubQuestion(sub_question=q, tool_name=t) for q, t in wanted]

    def _get_prompts(self) -> Any:
        return {}

    def _update_prompts(self, prompts: Any) -> None: ...

    def generate(self, tools: Any, query: Any) -> list[SubQuestion]:
        return self.wanted

    async def agenerate(self, tools: Any, query: Any) -> list[SubQuestion]:
        return self.wanted


class Picks(BaseSelector):
    def __init__(self, *indexes: int) -> None:
        self.indexes = indexes

    def _get_prompts(self) -> Any:
        return {}

    def _update_prompts(self, prompts: Any) -> None: ...

    def _select(self, choices: Any, query: Any) -> SelectorResult:
        picked = [SingleSelection(index=i, reason="as told") for i in self.indexes]
        return SelectorResult(selections=picked)

    async def _aselect(self, choices: Any, query: Any) -> SelectorResult:
        return self._select(choices, query)


@pytest.mark.parametrize(
    "mode", ["compact", "refine", "tree_summarize", "accumulate", "simple_summarize"]
)
def test_every_synthesis_mode_names_the_files_it_read(store: Store, mode: str) -> None:
    with store.listening():
        engine(Shelf("a.txt", "b.txt"), Scripted(words("answer")), mode).query(QUESTION)
    found = store.sources()
    assert set(found) == {"a.txt", "b.txt"}
    assert {s.basis for s in found.values()} <= {"contained", "content", "id"}
    assert all(s.prompt_spans for s in found.values())


def test_which_characters_of_the_answer_stand_in_which_file(store: Store) -> None:
    quoted = words("a.txt")[:60]
    with store.listening():
        engine(Shelf("a.txt", "b.txt"), Scripted(f"As they say: {quoted}")).query(QUESTION)
    found = store.sources()
    [quotation] = found["a.txt"].quotations
    assert store.answer()[quotation.start : quotation.end] in quoted
    assert found["b.txt"].quotations == ()


def test_a_node_dropped_by_a_postprocessor_is_retrieved_and_no_source(store: Store) -> None:
    with store.listening():
        asked = engine(
            Shelf("a.txt", "b.txt"),
            Scripted(words("answer")),
            node_postprocessors=[SimilarityPostprocessor(similarity_cutoff=0.85)],
        )
        asked.query(QUESTION)
    assert set(store.sources()) == {"a.txt"}
    with provkeep.open(store.path) as trail:
        assert len(trail.impact("a.txt").reached) == 1
        assert not trail.impact("b.txt").reached
        assert len(trail.impact("b.txt").retrieved) == 1


def test_a_reranked_node_is_still_the_node_that_was_retrieved(store: Store) -> None:
    with store.listening():
        asked = engine(
            Shelf("a.txt", "b.txt"), Scripted(words("x")), node_postprocessors=[FirstOf(count=1)]
        )
        asked.query(QUESTION)
    assert set(store.sources()) == {"a.txt"}
    documents = store.values("document")
    assert len(documents) == 3  # two retrieved, one with its new score
    assert len({d["id"] for d in documents}) == 2


def test_a_refine_chain_keeps_every_step(store: Store) -> None:
    said = iter([words("first draft"), words("second draft"), words("final")])
    with store.listening():
        engine(Shelf("a.txt", "b.txt", "c.txt"), Scripted(lambda _: next(said)), "refine").query(
            QUESTION
        )
    assert set(store.sources()) == {"a.txt", "b.txt", "c.txt"}
    with provkeep.open(store.path) as trail:
        steps = [n for n in trail.lineage(trail.output()) if n.type == "artifact"]
        texts = list(trail.values(steps, purpose="test").values())
    assert words("first draft") in texts
    assert words("second draft") in texts


def test_an_answer_of_a_sub_question_carries_its_own_sources_upward(store: Store) -> None:
    def tool(name: str) -> QueryEngineTool:
        inner = engine(Shelf(f"{name}.txt"), Scripted(words(f"sub answer {name}")))
        return QueryEngineTool.from_defaults(inner, name=name, description=name)

    asked = SubQuestionQueryEngine.from_defaults(
        [tool("left"), tool("right")],
        question_gen=Asks(("What is left?", "left"), ("What is right?", "right")),
        llm=Scripted(words("both")),
        use_async=False,
        verbose=False,
    )
    with store.listening():
        asked.query("Compare them")
    found = store.sources()
    assert set(found) == {"left.txt", "right.txt"}  # and no node that only wraps an answer
    assert all(s.prompt_spans for s in found.values())


def test_a_user_s_own_node_without_a_file_is_a_source(store: Store) -> None:
    """Only a node that carries an earlier answer of the trace is taken for a wrapping."""
    lone = TextNode(text=words("pasted"), id_="pasted-1")
    with store.listening():
        engine(Shelf(lone), Scripted(words("answer"))).query(QUESTION)
    assert set(store.sources()) == {"pasted-1"}


def test_a_router_s_answer_comes_from_the_engine_it_chose(store: Store) -> None:
    tools = [
        QueryEngineTool.from_defaults(
            engine(Shelf(f"{n}.txt"), Scripted(words(n))), name=n, description=n
        )
        for n in ("left", "right")
    ]
    with store.listening():
        RouterQueryEngine(Picks(1), tools, llm=Scripted("x")).query(QUESTION)
    assert set(store.sources()) == {"right.txt"}


def test_fused_retrievals_stay_the_files_they_were(store: Store) -> None:
    fused = QueryFusionRetriever(
        [Shelf("a.txt", "b.txt"), Shelf("b.txt", "c.txt")],
        llm=Scripted("What else is known of the harbour?\nAnd one more."),
        num_queries=2,
        use_async=False,
        similarity_top_k=2,
        mode="reciprocal_rerank",
    )
    with store.listening():
        asked = engine(fused, Scripted(words("answer")))
        used = {n.metadata["file_path"] for n in asked.query(QUESTION).source_nodes}
    assert set(store.sources()) == used
    assert len(used) == 2


def test_concurrent_queries_never_mix(store: Store) -> None:
    async def one(number: int) -> None:
        name = f"file{number}.txt"
        await engine(Shelf(name), Scripted(words(f"answer {number}"))).aquery(f"Question {number}?")

    async def all_of_them() -> None:
        await asyncio.gather(*(one(n) for n in range(8)))

    with store.listening():
        asyncio.run(all_of_them())
    traces = store.traces()
    assert len(traces) == 8
    for trace in traces:
        [name] = store.sources(trace)
        number = name.removeprefix("file").removesuffix(".txt")
        assert store.answer(trace) == words(f"answer {number}")


def test_a_second_turn_knows_what_it_used_of_the_first(store: Store) -> None:
    said = iter([words("first answer"), "A standalone question?", words("second answer")])
    llm = Scripted(lambda _: next(said))
    chat = CondensePlusContextChatEngine.from_defaults(
        Shelf("a.txt"), llm=llm, memory=ChatMemoryBuffer.from_defaults(token_limit=100_000)
    )
    with store.listening():
        chat.chat("What of the harbour, in the files?")
        chat._retriever = Shelf("b.txt")
        chat.chat("And what does that mean for ships?")
    first, second = store.traces()
    assert set(store.sources(first)) == {"a.txt"}
    assert set(store.sources(second)) == {"a.txt", "b.txt"}
    with provkeep.open(store.path) as trail:
        assert [t.id for t in trail.impact("a.txt").later] == [second.id]
    assert first.session == second.session


def test_another_conversation_knows_nothing_of_it(store: Store) -> None:
    """Two engines say the very same; only the one that remembers is joined to the first."""

    def chat(name: str) -> ContextChatEngine:
        return ContextChatEngine.from_defaults(
            Shelf(name),
            llm=Scripted(words("the same answer")),
            memory=ChatMemoryBuffer.from_defaults(token_limit=9999),
        )

    with store.listening():
        chat("a.txt").chat("What of the harbour?")
        other = chat("b.txt")
        other.chat("What of the harbour?")
        other.chat("And then?")
    first, second, third = store.traces()
    assert set(store.sources(third)) == {"b.txt"}
    assert len({first.session, second.session}) == 2
    assert second.session == third.session


def test_a_chat_without_files_still_joins_its_turns(store: Store) -> None:
    said = iter([words("first answer"), words("second answer")])
    chat = SimpleChatEngine.from_defaults(
        llm=Scripted(lambda _: next(said)), memory=ChatMemoryBuffer.from_defaults(token_limit=9999)
    )
    with store.listening():
        chat.chat("Tell me of the harbour.")
        chat.chat("And of the ships?")
    first, second = store.traces()
    with provkeep.open(store.path) as trail:
        up = trail.lineage(trail.output(second)).nodes
    assert [n.label for n in up if n.trace == first.id and n.kind == "model"] == ["Scripted"]


def test_a_node_edited_in_place_is_another_version_of_it(store: Store) -> None:
    class Window(BaseNodePostprocessor):
        def _postprocess_nodes(self, nodes: Any, query_bundle: Any = None) -> Any:
            for n in nodes:
                n.node.set_content(n.node.metadata["window"])
            return nodes

    sentence = words("sentence", 12)
    wide = f"{words('before', 10)} {sentence} {words('after', 10)}"
    with store.listening():
        asked = engine(
            Shelf(node("a.txt", sentence, window=wide)),
            Scripted(words("answer")),
            node_postprocessors=[Window()],
        )
        asked.query(QUESTION)
    assert {d["page_content"] for d in store.values("document")} == {sentence, wide}
    assert set(store.sources()) == {"a.txt"}


def test_a_document_retrieved_again_costs_no_second_ciphertext(store: Store) -> None:
    shelf = Shelf(node("a.txt", words("long", 800)))
    sizes = []
    for _ in range(3):
        with store.listening():
            engine(shelf, Scripted("Short.")).query(QUESTION)
        with provkeep.open(store.path) as trail:
            sizes.append(len(trail.graph().nodes))
    documents = [store.runs(t) for t in store.traces()]
    assert len(documents) == 3
    with closing(sqlite3.connect(store.path)) as db:
        [[count]] = db.execute("SELECT count(*) FROM doc").fetchall()
    assert count == 1
