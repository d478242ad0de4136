"""Lineage across the turns of a conversation: history, checkpoints, interrupts, cached answers."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.documents import Document
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, trim_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda, RunnablePassthrough
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from tests.scenarios.lineage_kit import Story, calling, joined, model, retriever, words

PROMPT = ChatPromptTemplate.from_messages(
    [
        ("system", "Answer from the context alone.\n\n{context}"),
        MessagesPlaceholder("history"),
        ("human", "{question}"),
    ]
)
FIRST = words("the first answer", 14)
SECOND = words("the second answer", 14)


def chat_graph(*finds: Any, answers: tuple[str, ...] = (FIRST, SECOND)) -> Any:
    """Turn ``n`` retrieves with the n-th retriever, and keeps messages only."""
    chat, waiting = model(*answers), list(finds)

    def answer(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        question = state["messages"][-1].content
        found = waiting.pop(0).invoke(question, config=config) if waiting else []
        context = SystemMessage(f"Use this:\n{joined(found)}")
        return {"messages": [chat.invoke([context, *state["messages"]], config=config)]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph.compile(checkpointer=MemorySaver())


def test_a_second_turn_rests_on_the_documents_of_the_first(story: Story) -> None:
    graph = chat_graph(retriever("a"), retriever("b"))
    for question in ("What of returns, then?", "And what of repairs?"):
        graph.invoke({"messages": [("human", question)]}, config=story.config("thread 1"))
    assert story.sources(0) == {"a"}
    assert story.sources(1) == {"a", "b"}
    said = story.came_from(1)
    assert {"What of returns, then?", "And what of repairs?", FIRST} <= said


def test_a_second_turn_without_documents_still_rests_on_the_first(story: Story) -> None:
    graph = chat_graph(retriever("a"))
    for question in ("What of returns, then?", "Why?"):
        graph.invoke({"messages": [("human", question)]}, config=story.config("thread 1"))
    assert story.sources(1) == {"a"}


def test_another_thread_is_another_conversation(story: Story) -> None:
    """Equal questions, equal answers: what the other thread read is not what this one read."""
    graph = chat_graph(retriever("a"), retriever("b"), answers=(FIRST, FIRST, SECOND))
    for thread in ("thread 1", "thread 2"):
        graph.invoke({"messages": [("human", "What then?")]}, config=story.config(thread))
    graph.invoke({"messages": [("human", "Why?")]}, config=story.config("thread 1"))
    assert story.sources(2) == {"a"}


def with_history(*answers: str) -> tuple[Any, dict[str, InMemoryChatMessageHistory]]:
    histories: dict[str, InMemoryChatMessageHistory] = {}
    chat = model(*answers)
    chain = RunnableWithMessageHistory(
        RunnablePassthrough.assign(
            context=RunnableLambda(lambda given: given["find"])
            | RunnableLambda(lambda name: retriever(name))
            | RunnableLambda(joined)
        )
        | PROMPT
        | chat,
        lambda session_id: histories.setdefault(session_id, InMemoryChatMessageHistory()),
        input_messages_key="question",
        history_messages_key="history",
    )
    return chain, histories


def test_message_histories_carry_lineage(story: Story, deprecated: None) -> None:
    chain, _ = with_history(FIRST, SECOND, "At last.")
    for name, question in (("a", "What then?"), ("b", "Why is that?"), ("c", "And so?")):
        chain.invoke(
            {"question": question, "find": name},
            config=story.config(configurable={"session_id": "s1"}),
        )
    assert story.sources(0) == {"a"}
    assert story.sources(1) == {"a", "b"}
    assert story.sources(2) == {"a", "b", "c"}


def test_two_message_histories_with_equal_words_stay_apart(story: Story, deprecated: None) -> None:
    """Both begin alike, word for word; only the documents and the model calls differ."""
    chain, _ = with_history(FIRST, FIRST, SECOND, SECOND)
    for session, name in (("s1", "a"), ("s2", "b")):
        config = story.config(configurable={"session_id": session})
        chain.invoke({"question": "What then?", "find": name}, config=config)
    for session in ("s1", "s2"):
        config = story.config(configurable={"session_id": session})
        chain.invoke({"question": "Why is that?", "find": "c"}, config=config)
    assert story.sources(2) == {"a", "c"}
    assert story.sources(3) == {"b", "c"}


def manual(chat: Any) -> Any:
    return (
        RunnablePassthrough.assign(
            context=RunnableLambda(lambda given: given["question"])
            | RunnableLambda(lambda question: retriever(question.split()[-1]))
            | RunnableLambda(joined)
        )
        | PROMPT
        | chat
    )


def test_a_history_kept_by_hand_carries_lineage(story: Story) -> None:
    chain, history = manual(model(FIRST, SECOND, "At last.")), []
    for question in ("Tell me of a", "Tell me of b", "Tell me of c"):
        said = chain.invoke({"question": question, "history": history}, config=story.config())
        history = [*history, HumanMessage(question), said]
    assert story.sources(2) == {"a", "b", "c"}
    assert {"Tell me of a", "Tell me of b", "Tell me of c", FIRST, SECOND} <= story.came_from(2)


def test_a_history_rebuilt_from_plain_texts_carries_lineage(story: Story) -> None:
    """Nobody kept the message ids: equal content in equal order is what is left."""
    chain = manual(model(FIRST, SECOND, "At last.")) | StrOutputParser()
    history: list[tuple[str, str]] = []
    for question in ("Tell me of a", "Tell me of b", "Tell me of c"):
        said = chain.invoke({"question": question, "history": history}, config=story.config())
        history = [*history, ("human", question), ("ai", said)]
    assert story.sources(2) == {"a", "b", "c"}


def test_a_trimmed_history_brings_only_what_is_left_of_it(story: Story) -> None:
    chain, history = manual(model(FIRST, SECOND, "At last.")), []
    trim = trim_messages(max_tokens=2, token_counter=len, strategy="last")
    cut = RunnablePassthrough.assign(history=RunnableLambda(lambda g: g["history"]) | trim)
    for question in ("Tell me of a", "Tell me of b", "Tell me of c"):
        said = (cut | chain).invoke(
            {"question": question, "history": history}, config=story.config()
        )
        history = [*history, HumanMessage(question), said]
    assert FIRST not in story.came_from(2) or "a" in story.sources(2)
    assert SECOND in story.came_from(2)


class Review(TypedDict, total=False):
    question: str
    documents: list[Document]
    verdict: str
    answer: str


def review_graph(find: Any, chat: Any) -> Any:
    def look(state: Review, config: RunnableConfig) -> dict[str, Any]:
        return {"documents": find.invoke(state["question"], config=config)}

    def review(state: Review) -> dict[str, Any]:
        return {"verdict": interrupt({"keep": len(state["documents"])})}

    def answer(state: Review, config: RunnableConfig) -> dict[str, Any]:
        text = f"{joined(state['documents'][:1])}\n{state['verdict']}\n{state['question']}"
        return {"answer": chat.invoke(text, config=config).content}

    graph = StateGraph(Review)
    graph.add_node("look", look)
    graph.add_node("review", review)
    graph.add_node("answer", answer)
    graph.add_edge(START, "look")
    graph.add_edge("look", "review")
    graph.add_edge("review", "answer")
    return graph.compile(checkpointer=MemorySaver())


def test_a_resumed_graph_rests_on_what_was_found_before_the_interrupt(story: Story) -> None:
    graph = review_graph(retriever("a", "b"), model())
    config = story.config("thread 1")
    graph.invoke({"question": "What then of the first?"}, config=config)
    graph.invoke(Command(resume="Use the first one, please."), config=config)
    assert story.sources(1) == {"a"}
    said = story.came_from(1)
    assert "What then of the first?" in said
    assert any("Use the first one, please." in text for text in said)
    with story.trail() as trail:
        first, second = story.traces()
        lineage = trail.lineage(second)
        retrievals = list(lineage.graph.of("run", "retriever"))
        assert [n.trace for n in retrievals] == [first], "the retrieval before the interrupt"


def test_an_interrupt_is_no_error_and_has_no_answer_of_its_own(story: Story) -> None:
    graph = review_graph(retriever("a", "b"), model())
    graph.invoke({"question": "What then of the first?"}, config=story.config("thread 1"))
    with story.trail() as trail:
        (trace,) = trail.runs()
        assert (trace.status, trace.errors) == ("interrupted", 0)


def test_a_short_answer_to_an_interrupt_is_known_for_what_it_is(story: Story) -> None:
    graph = review_graph(retriever("a", "b"), model())
    config = story.config("thread 1")
    graph.invoke({"question": "What then of the first?"}, config=config)
    graph.invoke(Command(resume="yes"), config=config)
    assert story.sources(1) == {"a"}
    assert "yes" in story.came_from(1)


def test_a_tool_that_waits_for_a_person_answers_with_what_they_said(story: Story) -> None:
    @tool
    def ask(question: str) -> str:
        """Ask a person."""
        return f"They say: {interrupt(question)}"

    chat = model(calling("ask", "c1", question="May I?"), "They let me.")
    agent = create_agent(chat, [ask], checkpointer=MemorySaver())
    config = story.config("thread 1")
    agent.invoke({"messages": [("human", "Please ask them.")]}, config=config)
    agent.invoke(Command(resume="Yes, but only until noon."), config=config)
    said = story.came_from(1)
    assert {"Please ask them.", "Yes, but only until noon."} <= said
    assert story.came_from(1, "tool_result") == {"They say: Yes, but only until noon."}


@pytest.fixture
def cache() -> Iterator[InMemoryCache]:
    made = InMemoryCache()
    set_llm_cache(made)
    yield made
    set_llm_cache(None)


def test_a_cached_answer_points_at_the_call_that_made_it(
    story: Story, cache: InMemoryCache
) -> None:
    chat = model(FIRST, SECOND)
    chain = manual(chat)
    given = {"question": "Tell me of a", "history": []}
    for _ in range(2):
        said = chain.invoke(given, config=story.config())
        assert said.content == FIRST
    assert len(chat.prompts) == 1
    first, second = story.traces()
    assert story.sources(1) == {"a"}
    models = list(story.lineage(1).graph.of("run", "model"))
    assert {n.trace for n in models} == {first, second}
    made_first = [n for n in models if n.trace == first]
    assert len(made_first) == 1


def test_a_cached_answer_within_one_trace_points_at_the_call_that_made_it(
    story: Story, cache: InMemoryCache
) -> None:
    chat = model(FIRST, SECOND)

    def twice(question: str, config: RunnableConfig) -> str:
        chat.invoke(question, config=config)
        return str(chat.invoke(question, config=config).content)

    RunnableLambda(twice).invoke("Tell me of a", config=story.config())
    assert len(chat.prompts) == 1
    assert len(list(story.lineage().graph.of("run", "model"))) == 2


def test_a_cached_text_points_at_the_call_that_made_it(story: Story, cache: InMemoryCache) -> None:
    """Text models have no message ids: LangChain says nothing of a call that the cache answers."""
    llm = FakeListLLM(responses=[FIRST, SECOND])
    chain = (
        RunnableLambda(lambda name: retriever(name))
        | RunnableLambda(joined)
        | PromptTemplate.from_template("Use {text}")
        | llm
    )
    for _ in range(2):
        assert chain.invoke("a", config=story.config(metadata={"session_id": "s"})) == FIRST
    assert story.sources(1) == {"a"}
    assert {n.trace for n in story.lineage(1).graph.of("run", "llm", "model")} == {
        story.traces()[0]
    }


class Jokes(TypedDict, total=False):
    topic: str
    notes: Annotated[list[str], operator.add]


def test_state_that_is_not_messages_is_carried_from_turn_to_turn(story: Story) -> None:
    """A text that one turn left in the state is what the next one finds there."""
    chat = model(FIRST, SECOND)

    def write(state: Jokes, config: RunnableConfig) -> dict[str, Any]:
        notes = "\n".join(state.get("notes", []))
        said = chat.invoke(f"{notes}\nNow of {state['topic']}, please.", config=config)
        return {"notes": [said.content]}

    graph = StateGraph(Jokes)
    graph.add_node("write", write)
    graph.add_edge(START, "write")
    app = graph.compile(checkpointer=MemorySaver())
    for topic in ("the cats of old", "the dogs of today"):
        app.invoke({"topic": topic}, config=story.config("thread 1"))
    assert {"the cats of old", "the dogs of today", FIRST} <= story.came_from(1)


def test_an_answer_that_a_person_typed_in_again_is_theirs(story: Story) -> None:
    """Without a session nothing says that the text came from the earlier answer."""
    chain = PROMPT | model(FIRST, SECOND) | StrOutputParser()
    said = chain.invoke({"context": "-", "question": "What?", "history": []}, story.config())
    chain.invoke({"context": "-", "question": said, "history": []}, story.config())
    lineage = story.lineage(1)
    assert {n.trace for n in lineage.graph.of("artifact")} == {story.traces()[1]}


def test_a_message_made_by_hand_in_the_history_is_kept_as_such(story: Story) -> None:
    chain = manual(model(FIRST))
    history = [HumanMessage("Hello, you."), AIMessage("Hello to you, too, and welcome.")]
    chain.invoke({"question": "Tell me of a", "history": history}, config=story.config())
    assert {"Hello, you.", "Hello to you, too, and welcome."} <= story.came_from()
    assert story.sources() == {"a"}
