"""Requests that run at the same time on one handler know nothing of each other."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel, RunnablePassthrough

from tests.scenarios.lineage_kit import Story, document, joined, model, retriever

ASKED = "What does the handbook say of returns?"


def chain_of(name: str, gate: Any = None) -> Any:
    """Every request gets the same question and answer; only its documents are its own."""

    def form(found: Any) -> str:
        if gate is not None:
            gate.wait(5)
        return joined(found[:1])

    context = retriever(name, f"{name} dropped") | RunnableLambda(form)
    parts = RunnableParallel(context=context, question=RunnablePassthrough())
    prompt = ChatPromptTemplate.from_template("Use {context} for: {question}")
    return parts | prompt | model("They can be returned within a month.") | StrOutputParser()


def names_by_document(story: Story) -> list[set[str]]:
    return [story.sources(i) for i in range(len(story.traces()))]


def test_threads_on_one_handler_keep_apart(story: Story) -> None:
    gate = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(chain_of(f"d{i}", gate).invoke, ASKED, story.config()) for i in range(4)
        ]
        for job in jobs:
            job.result()
    found = names_by_document(story)
    assert sorted(found, key=sorted) == [{"d0"}, {"d1"}, {"d2"}, {"d3"}]


async def test_gathered_requests_on_one_handler_keep_apart(story: Story) -> None:
    await asyncio.gather(*[chain_of(f"d{i}").ainvoke(ASKED, story.config()) for i in range(4)])
    found = names_by_document(story)
    assert sorted(found, key=sorted) == [{"d0"}, {"d1"}, {"d2"}, {"d3"}]


def test_requests_of_one_session_keep_apart(story: Story) -> None:
    """The session is the same; the answers are equal; neither request saw the other."""
    for i in range(2):
        chain_of(f"d{i}").invoke(ASKED, story.config(metadata={"session_id": "s"}))
    assert names_by_document(story) == [{"d0"}, {"d1"}]


def test_a_batch_is_many_requests(story: Story) -> None:
    given = [{"name": f"d{i}"} for i in range(3)]
    find = RunnableLambda(lambda g: [document(g["name"]), document("dropped")])
    chain = find | RunnableLambda(lambda found: joined(found[:1])) | model()
    chain.batch(given, config=story.config())
    assert sorted(names_by_document(story), key=sorted) == [{"d0"}, {"d1"}, {"d2"}]
