"""Random small programs against an oracle that knows which documents really are in the prompts.

The oracle follows the plan, not the recording: a document is a source of the answer when its text
went into a prompt whose answer went on, however it was written there and whoever carried it.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langgraph.graph import START, StateGraph

from tests.scenarios.lineage_kit import Story, joined, model, retriever, words

NAMES = [f"doc {c}" for c in "abcdefgh"]
FORMS: dict[str, Callable[[list[Document]], str]] = {
    "joined": joined,
    "numbered": lambda docs: "\n".join(f"{i}. {d.page_content}" for i, d in enumerate(docs)),
    "half": lambda docs: "\n".join(d.page_content[: len(d.page_content) // 2] for d in docs),
    "json": lambda docs: json.dumps([d.page_content for d in docs], indent=2),
    "wrapped": lambda docs: "\n\n".join(textwrap.fill(d.page_content, 40) for d in docs),
    "excerpt": lambda docs: "\n".join(f"- {d.page_content[:50]}" for d in docs),
}


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Find documents, keep some in an order, write them down, perhaps ask a model about them."""

    found: tuple[str, ...]
    kept: tuple[int, ...]
    form: str
    says: str | None  # what a model makes of it; None hands the text itself on

    @property
    def sources(self) -> set[str]:
        return {self.found[i] for i in self.kept}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Branches side by side; the prompt uses some of them."""

    branches: tuple[Branch, ...]
    used: tuple[int, ...]
    says_it_asked: bool  # the prompt holds the question, too

    @property
    def sources(self) -> set[str]:
        return {name for i in self.used for name in self.branches[i].sources}


@st.composite
def branches(draw: st.DrawFn, number: int) -> Branch:
    found = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    says = draw(st.booleans())  # a model that is told of nothing rests on the shape alone
    places = st.integers(0, len(found) - 1)
    kept = draw(st.lists(places, min_size=says, max_size=3, unique=True))
    short = draw(st.sampled_from(["yes", "no", "42", words(f"answer {number}", 9)]))
    return Branch(
        found=tuple(found),
        kept=tuple(kept),
        form=draw(st.sampled_from(sorted(FORMS))) if kept else "joined",
        says=short if says else None,
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.integers(1, 3))
    made = tuple(draw(branches(i)) for i in range(count))
    used = draw(st.lists(st.integers(0, count - 1), unique=True, max_size=3))
    # A prompt in which nothing can be recognised rests on everything, structurally.
    speaks = any(made[i].says or made[i].kept for i in used)
    return Plan(branches=made, used=tuple(used), says_it_asked=not speaks or draw(st.booleans()))


def template(plan: Plan) -> str:
    """Every branch is named where it is used, so that short values are told apart by place."""
    lines = ["You weigh what you are given and nothing else."]
    lines += [f"Part {i}: {{b{i}}}" for i in plan.used]
    return "\n".join([*lines, "{question}"] if plan.says_it_asked else lines)


def is_told_apart(plan: Plan) -> bool:
    """Equal short answers of which one is used cannot be told apart in a template's text."""
    said = [b.says for b in plan.branches]
    unused = {said[i] for i in range(len(said)) if i not in plan.used} - {None}
    return not unused & {said[i] for i in plan.used}


def as_chain(plan: Plan) -> Runnable[Any, Any]:
    def branch(one: Branch) -> Runnable[Any, Any]:
        keep = RunnableLambda(lambda docs: [docs[i] for i in one.kept])
        chain = retriever(*one.found) | keep | RunnableLambda(FORMS[one.form])
        if one.says is None:
            return chain
        ask = ChatPromptTemplate.from_template("Sum up: {text}")
        return chain | ask | model(one.says) | StrOutputParser()

    parts = {f"b{i}": branch(b) for i, b in enumerate(plan.branches)}
    both = RunnableParallel(question=RunnablePassthrough(), **parts)
    return both | ChatPromptTemplate.from_template(template(plan)) | model() | StrOutputParser()


def run_branch(one: Branch, question: str, config: RunnableConfig) -> str:
    docs = retriever(*one.found).invoke(question, config=config)
    text = FORMS[one.form]([docs[i] for i in one.kept])
    if one.says is None:
        return text
    return str(model(one.says).invoke(f"Sum up: {text}", config=config).content)


def as_function(plan: Plan) -> Runnable[Any, Any]:
    def answer(question: str, config: RunnableConfig) -> str:
        parts = {f"b{i}": run_branch(one, question, config) for i, one in enumerate(plan.branches)}
        text = template(plan).format(question=question, **parts)
        return str(model().invoke(text, config=config).content)

    return RunnableLambda(answer)


def as_graph(plan: Plan) -> Runnable[Any, Any]:
    graph = StateGraph(dict)
    last = START
    for i, one in enumerate(plan.branches):

        def node(state: Any, config: RunnableConfig, i: int = i, one: Branch = one) -> Any:
            return {**state, f"b{i}": run_branch(one, state["question"], config)}

        graph.add_node(f"branch {i}", node)
        graph.add_edge(last, f"branch {i}")
        last = f"branch {i}"

    def finish(state: Any, config: RunnableConfig) -> Any:
        text = template(plan).format(**state)
        return {**state, "answer": model().invoke(text, config=config).content}

    graph.add_node("finish", finish)
    graph.add_edge(last, "finish")
    return RunnableLambda(lambda question: {"question": question}) | graph.compile()


QUESTION = "What of it, all things considered?"
_settings = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


# What a node writes down of a document it has just found stands also in a longer text of the state,
# which another node made of that document and a second one.
TWICE_EXCERPTED = Plan(
    branches=(
        Branch(found=("doc a",), kept=(), form="joined", says=None),
        Branch(found=("doc a", "doc b"), kept=(0, 1), form="excerpt", says=None),
        Branch(found=("doc a",), kept=(0,), form="excerpt", says=None),
    ),
    used=(2,),
    says_it_asked=False,
)
TWICE_HALVED = replace(
    TWICE_EXCERPTED, branches=tuple(replace(b, form="half") for b in TWICE_EXCERPTED.branches)
)
EXCERPTED_OF_HALVED = replace(
    TWICE_HALVED,
    branches=(*TWICE_HALVED.branches[:2], replace(TWICE_HALVED.branches[2], form="excerpt")),
)


@given(plan=plans())
@_settings
def test_a_chain_names_what_is_in_its_prompt(story: Story, plan: Plan) -> None:
    as_chain(plan).invoke(QUESTION, config=story.config())
    if is_told_apart(plan):
        assert story.sources() == plan.sources
    else:
        assert story.sources() >= plan.sources


@given(plan=plans())
@_settings
def test_plain_python_names_what_is_in_its_prompt(story: Story, plan: Plan) -> None:
    as_function(plan).invoke(QUESTION, config=story.config())
    if is_told_apart(plan):
        assert story.sources() == plan.sources
    else:
        assert story.sources() >= plan.sources


@given(plan=plans())
@example(plan=TWICE_EXCERPTED)
@example(plan=TWICE_HALVED)
@example(plan=EXCERPTED_OF_HALVED)
@_settings
def test_a_graph_names_what_is_in_its_prompt(story: Story, plan: Plan) -> None:
    as_graph(plan).invoke(QUESTION, config=story.config())
    if is_told_apart(plan):
        assert story.sources() == plan.sources
    else:
        assert story.sources() >= plan.sources
