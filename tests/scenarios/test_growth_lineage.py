"""A conversation costs what it adds, not what it repeats.

Measured in bytes of records and payloads: from 10 to 20 and from 20 to 40 turns, a turn costs
the same. Every turn adds messages of one length, so a slope that rises is repetition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from tests.scenarios.lineage_kit import Model, Story, calling, joined, retriever, words

STEADY = 1.15  # a turn may cost so much more at the end than at the beginning
PROMPT = ChatPromptTemplate.from_messages(
    [
        ("system", "You are the patient voice of a large and friendly shop."),
        MessagesPlaceholder("history"),
        ("human", "{question}"),
    ]
)


def counting() -> Model:
    """Says something else of the same length each time."""
    said: list[int] = []

    def say(_: Any) -> AIMessage:
        said.append(1)
        return AIMessage(words(f"answer {len(said):03}", 40))

    return Model(say=say)


def question(turn: int) -> str:
    return words(f"question {turn:03}", 20)


def assert_linear(story: Story, turn: Callable[[int], Any], turns: int = 40) -> None:
    marks = {}
    for i in range(1, turns + 1):
        turn(i)
        if i in (turns // 4, turns // 2, turns):
            marks[i] = story.stored()
    first, second, third = marks.values()
    early = (second - first) / (turns // 4)
    late = (third - second) / (turns // 2)
    assert late < STEADY * early, f"a turn cost {early:.0f} bytes, later {late:.0f}"


def test_a_chat_with_a_history_kept_by_hand_grows_linearly(story: Story) -> None:
    chain = PROMPT | counting()
    history: list[Any] = []

    def turn(i: int) -> None:
        said = chain.invoke({"question": question(i), "history": history}, story.config())
        history.extend([HumanMessage(question(i)), said])

    assert_linear(story, turn)


def test_a_chat_with_a_message_history_grows_linearly(story: Story, deprecated: None) -> None:
    histories: dict[str, InMemoryChatMessageHistory] = {}
    chain = RunnableWithMessageHistory(
        PROMPT | counting(),
        lambda session_id: histories.setdefault(session_id, InMemoryChatMessageHistory()),
        input_messages_key="question",
        history_messages_key="history",
    )
    config = story.config(configurable={"session_id": "s1"})
    assert_linear(story, lambda i: chain.invoke({"question": question(i)}, config))


def test_a_chat_kept_by_a_checkpointer_grows_linearly(story: Story) -> None:
    chat = counting()

    def answer(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        return {"messages": [chat.invoke(state["messages"], config=config)]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    app = graph.compile(checkpointer=MemorySaver())
    assert_linear(
        story,
        lambda i: app.invoke({"messages": [("human", question(i))]}, story.config("thread 1")),
    )


def test_a_chat_with_retrieval_at_every_turn_grows_linearly(story: Story) -> None:
    """The system message is another one each turn; the conversation behind it goes on."""
    chat = counting()

    def answer(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        found = retriever("a", "b").invoke(state["messages"][-1].content, config=config)
        said = chat.invoke([("system", joined(found)), *state["messages"]], config=config)
        return {"messages": [said]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    app = graph.compile(checkpointer=MemorySaver())
    assert_linear(
        story,
        lambda i: app.invoke({"messages": [("human", question(i))]}, story.config("thread 1")),
    )


@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_loop_of_an_agent_grows_linearly(story: Story, checkpoints: bool) -> None:
    """One trace per length: 10, 20 and 40 steps."""

    @tool
    def look(page: int) -> str:
        """Look at a page."""
        return words(f"page {page:03}", 40)

    def run(steps: int) -> int:
        said: list[int] = []

        def say(_: Any) -> AIMessage:
            said.append(1)
            if len(said) > steps:
                return AIMessage("That is all there is to it.")
            return calling("look", f"call {steps} {len(said):03}", page=len(said))

        agent = create_agent(
            Model(say=say), [look], checkpointer=MemorySaver() if checkpoints else None
        )
        before = story.stored()
        agent.invoke(
            {"messages": [("human", question(0))]},
            config=story.config(f"thread {steps}", recursion_limit=1000),
        )
        return story.stored() - before

    ten, twenty, forty = run(10), run(20), run(40)
    early, late = (twenty - ten) / 10, (forty - twenty) / 20
    assert late < STEADY * early, f"a step cost {early:.0f} bytes, later {late:.0f}"
