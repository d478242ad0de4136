"""Lineage of agents and graphs: tools, hand-overs, subgraphs, fallbacks, retries, map-reduce."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda, RunnablePassthrough
from langchain_core.tools import BaseTool, InjectedToolCallId, create_retriever_tool, tool
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, Send

from tests.scenarios.lineage_kit import (
    Model,
    Story,
    calling,
    document,
    joined,
    model,
    retriever,
    words,
)

ASKED = "What does the handbook say of returns?"
WEATHER = "It rains in the north, and the wind is light."


@tool
def weather(place: str) -> str:
    """The weather at a place."""
    return WEATHER


@tool
def count(word: str) -> str:
    """How often a word stands somewhere."""
    return "42"


def search(*names: str, show: int = 2) -> BaseTool:
    """A tool that shows the model some documents and keeps them all as its artifact."""

    @tool(response_format="content_and_artifact")
    def find(query: str) -> tuple[str, list[Document]]:
        """Find documents."""
        found = [document(name) for name in names]
        return joined(found[:show]), found

    return find


def ask(agent: Any, story: Story, text: str = ASKED, **more: Any) -> Any:
    return agent.invoke({"messages": [("human", text)]}, config=story.config(**more))


def test_an_agents_answer_rests_on_the_tool_results_it_saw(story: Story) -> None:
    chat = model(calling("weather", "c1", place="north"), "Take a coat.")
    ask(create_agent(chat, [weather, count], system_prompt="Be brief, and friendly."), story)
    assert story.came_from(-1, "tool_result") == {WEATHER}
    assert ASKED in story.came_from()


def test_a_tool_called_after_the_answer_is_none_of_its_grounds(story: Story) -> None:
    """Two tools are called at once by two messages; the second model call saw the first alone."""
    chat = model(calling("weather", "c1", place="north"), calling("count", "c2", word="coat"), "42")
    ask(create_agent(chat, [weather, count]), story)
    assert story.came_from(-1, "tool_result") == {WEATHER, "42"}
    with story.trail() as trail:
        graph = trail.graph()
        second = list(graph.of("run", "model"))[1]
        seen = graph.upstream(second.id)
        assert len(list(seen.of("artifact", "tool_result"))) == 1


def test_documents_of_a_tool_are_sources_where_the_model_saw_them(story: Story) -> None:
    chat = model(calling("find", "c1", query="returns"), "They can be returned.")
    ask(create_agent(chat, [search("a", "b", "c")]), story)
    assert story.sources() == {"a", "b"}


def test_an_artifact_that_the_model_never_saw_is_not_a_source(story: Story) -> None:
    chat = model(calling("find", "c1", query="returns"), "They can be returned.")
    ask(create_agent(chat, [search("a", "b", show=0)]), story)
    assert story.sources() == set()


def test_a_retriever_inside_a_tool_names_what_the_tool_showed(story: Story) -> None:
    base = retriever("a", "b", "c")

    @tool
    def find(query: str, config: RunnableConfig) -> str:
        """Find documents."""
        return joined(base.invoke(query, config=config)[1:])

    chat = model(calling("find", "c1", query="returns"), "They can be returned.")
    ask(create_agent(chat, [find]), story)
    assert story.sources() == {"b", "c"}


def test_a_retriever_tool_with_its_documents_as_artifact(story: Story) -> None:
    find = create_retriever_tool(
        retriever("a", "b"), "find", "Find documents.", response_format="content_and_artifact"
    )
    chat = model(calling("find", "c1", query="returns"), "They can be returned.")
    ask(create_agent(chat, [find]), story)
    assert story.sources() == {"a", "b"}


def test_tools_called_side_by_side_are_told_apart_by_their_calls(story: Story) -> None:
    both = AIMessage(
        "",
        tool_calls=[
            {"name": "weather", "args": {"place": "north"}, "id": "c1"},
            {"name": "weather", "args": {"place": "south"}, "id": "c2"},
        ],
    )
    ask(create_agent(model(both, "Take a coat."), [weather]), story)
    with story.trail() as trail:
        graph = trail.graph()
        results = list(graph.of("artifact", "tool_result"))
        assert len(results) == 2
        calls = []
        for result in results:
            up = graph.upstream(result.id)
            runs = list(up.of("run", "tool"))
            assert len(runs) == 1
            (call,) = [e.cause for e in graph.into[runs[0].id] if e.type == "used" and e.flow]
            calls.append(trail.value(call)["args"]["place"])
        assert sorted(calls) == ["north", "south"]


def test_call_ids_that_a_model_uses_again_keep_their_own_results(story: Story) -> None:
    chat = model(calling("count", "c1", word="x"), calling("weather", "c1", place="y"), "Done.")
    ask(create_agent(chat, [weather, count]), story)
    assert story.came_from(-1, "tool_result") == {WEATHER, "42"}


def test_a_second_turn_of_an_agent_rests_on_the_tools_of_the_first(story: Story) -> None:
    chat = model(calling("find", "c1", query="returns"), words("said", 12), "And so it is.")
    agent = create_agent(chat, [search("a", "b")], checkpointer=MemorySaver())
    ask(agent, story, thread="thread 1")
    ask(agent, story, "Is that so?", thread="thread 1")
    assert story.sources(1) == {"a", "b"}
    assert {ASKED, "Is that so?", words("said", 12)} <= story.came_from(1)


class Talk(MessagesState, total=False):
    notes: str


def hand_over(story: Story) -> None:
    chats = {"first": model(FIRST), "second": model("And I finish.")}

    def first(state: Talk, config: RunnableConfig) -> Command[str]:
        found = retriever("a", "b").invoke(ASKED, config=config)
        said = chats["first"].invoke(
            [HumanMessage(joined(found[:1])), *state["messages"]], config=config
        )
        return Command(goto="second", update={"messages": [said], "notes": joined(found)})

    def second(state: Talk, config: RunnableConfig) -> dict[str, Any]:
        return {"messages": [chats["second"].invoke(state["messages"], config=config)]}

    graph = StateGraph(Talk)
    graph.add_node("first", first)
    graph.add_node("second", second)
    graph.add_edge(START, "first")
    ask(graph.compile(), story)


FIRST = words("what the first agent said", 14)


def test_a_hand_over_carries_what_was_handed_over_and_no_more(story: Story) -> None:
    """The notes hold both documents; the second agent was shown the messages alone."""
    hand_over(story)
    assert story.sources() == {"a"}
    assert FIRST in story.came_from()


def test_agents_as_nodes_of_a_parent_graph_hand_over_by_tools(story: Story) -> None:
    @tool
    def to_bob(tool_call_id: Annotated[str, InjectedToolCallId]) -> Command[str]:
        """Hand over to Bob."""
        done = ToolMessage("Handed over to Bob, who knows.", tool_call_id=tool_call_id)
        return Command(goto="bob", graph=Command.PARENT, update={"messages": [done]})

    alice = create_agent(
        model(calling("find", "c0", query="x"), calling("to_bob", "c1")),
        [to_bob, search("a", "b", show=1)],
        name="alice",
    )
    bob = create_agent(model("Bob here, and this is my answer."), [], name="bob")
    graph = StateGraph(MessagesState)
    graph.add_node("alice", alice, destinations=("bob",))
    graph.add_node("bob", bob)
    graph.add_edge(START, "alice")
    ask(graph.compile(), story)
    assert ASKED in story.came_from()
    with story.trail() as trail:
        assert trail.text(purpose="test") == "Bob here, and this is my answer."
        assert trail.runs()[0].errors == 0
    assert story.came_from(-1, "tool_result") >= {"Handed over to Bob, who knows."}


class Inner(TypedDict, total=False):
    query: str
    found: list[Document]
    summary: str


class Outer(TypedDict, total=False):
    question: str
    query: str
    summary: str
    answer: str


def test_a_subgraph_passes_on_what_it_returns_and_no_more(story: Story) -> None:
    chats = [model(FIRST), model("Finally.")]

    def find(state: Inner, config: RunnableConfig) -> dict[str, Any]:
        return {"found": retriever("a", "b", "c").invoke(state["query"], config=config)}

    def summarise(state: Inner, config: RunnableConfig) -> dict[str, Any]:
        said = chats[0].invoke(f"Sum up: {joined(state['found'][:2])}", config=config)
        return {"summary": said.content}

    inner = StateGraph(Inner)
    inner.add_node("find", find)
    inner.add_node("summarise", summarise)
    inner.add_edge(START, "find")
    inner.add_edge("find", "summarise")

    def begin(state: Outer) -> dict[str, Any]:
        return {"query": state["question"].upper()}

    def finish(state: Outer, config: RunnableConfig) -> dict[str, Any]:
        said = chats[1].invoke(f"{state['summary']}\n{state['question']}", config=config)
        return {"answer": said.content}

    outer = StateGraph(Outer)
    outer.add_node("begin", begin)
    outer.add_node("inner", inner.compile())
    outer.add_node("finish", finish)
    outer.add_edge(START, "begin")
    outer.add_edge("begin", "inner")
    outer.add_edge("inner", "finish")
    outer.compile().invoke({"question": ASKED}, config=story.config())
    assert story.sources() == {"a", "b"}
    assert {ASKED, FIRST} <= story.came_from()


class Board(TypedDict, total=False):
    question: str
    left: str
    right: str
    answer: str


def test_parallel_nodes_of_a_graph_do_not_vouch_for_each_other(story: Story) -> None:
    """Both nodes say the same constant to their models, and both get the same short answer."""
    chats = {"left": model("yes"), "right": model("yes")}

    def branch(name: str, source: str) -> Any:
        def node(state: Board, config: RunnableConfig) -> dict[str, Any]:
            found = retriever(source).invoke(state["question"], config=config)
            said = chats[name].invoke(
                [("system", "You say yes or no, and nothing else."), ("human", joined(found))],
                config=config,
            )
            return {name: "".join(list(said.content))}

        return node

    def finish(state: Board, config: RunnableConfig) -> dict[str, Any]:
        said = model("So be it.").invoke(
            f"The left one: {state['left']}. {state['question']}", config=config
        )
        return {"answer": said.content}

    graph = StateGraph(Board)
    graph.add_node("ask_left", branch("left", "a"))
    graph.add_node("ask_right", branch("right", "b"))
    graph.add_node("finish", finish)
    graph.add_edge(START, "ask_left")
    graph.add_edge(START, "ask_right")
    graph.add_edge("ask_left", "finish")
    graph.add_edge("ask_right", "finish")
    graph.compile().invoke({"question": ASKED}, config=story.config())
    assert "a" in story.sources()
    with story.trail() as trail:
        whole = trail.graph()
        models = list(whole.of("run", "model"))
        for run in models[:2]:
            names = {
                whole.nodes[n.attrs["source"]].label
                for n in whole.upstream(run.id).of("artifact", "document")
            }
            assert len(names) == 1, "each branch has its own document and no other"


class Topics(TypedDict, total=False):
    question: str
    topics: list[str]
    jokes: Annotated[list[str], operator.add]
    best: str


def test_map_and_reduce_with_send(story: Story) -> None:
    """Each branch knows its own topic; the end knows them all."""

    def plan(state: Topics, config: RunnableConfig) -> dict[str, Any]:
        said = model("cats, dogs").invoke(state["question"], config=config)
        return {"topics": said.content.split(", ")}

    def spread(state: Topics) -> list[Send]:
        return [Send("joke", {"topic": topic}) for topic in state["topics"]]

    def joke(state: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        topic = state["topic"]
        found = retriever(f"{topic}.txt").invoke(topic, config=config)
        text = f"A joke on {topic}, please. Use: {joined(found)}"
        said = model(words(f"joke on {topic}", 12)).invoke(text, config=config)
        return {"jokes": [said.content]}

    def best(state: Topics, config: RunnableConfig) -> dict[str, Any]:
        text = "Which is best?\n" + "\n".join(state["jokes"])
        return {"best": model("The first.").invoke(text, config=config).content}

    graph = StateGraph(Topics)
    graph.add_node("plan", plan)
    graph.add_node("joke", joke)
    graph.add_node("best", best)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", spread, ["joke"])
    graph.add_edge("joke", "best")
    graph.compile().invoke({"question": "Find two topics."}, config=story.config())
    assert story.sources() == {"cats.txt", "dogs.txt"}
    assert {words("joke on cats", 12), words("joke on dogs", 12)} <= story.came_from()
    with story.trail() as trail:
        whole = trail.graph()
        jokes = list(whole.of("run", "model"))[1:3]
        for run in jokes:
            part = whole.upstream(run.id)
            names = {whole.nodes[n.attrs["source"]].label for n in part.of("artifact", "document")}
            assert len(names) == 1


class Votes(TypedDict, total=False):
    question: str
    votes: Annotated[list[str], operator.add]
    answer: str


def test_short_votes_in_a_list_keep_their_voters(story: Story) -> None:
    def voter(name: str, says: str) -> Any:
        def vote(state: Votes, config: RunnableConfig) -> dict[str, Any]:
            found = retriever(name).invoke(state["question"], config=config)
            said = model(says).invoke(f"{joined(found)}\n{state['question']}", config=config)
            return {"votes": ["".join(list(said.content))]}

        return vote

    def finish(state: Votes, config: RunnableConfig) -> dict[str, Any]:
        text = f"Votes: {', '.join(state['votes'])}. What now?"
        return {"answer": model("Go on, then.").invoke(text, config=config).content}

    graph = StateGraph(Votes)
    graph.add_node("finish", finish)
    for name, says in (("a", "yes"), ("b", "no"), ("c", "yes")):
        graph.add_node(name, voter(name, says))
        graph.add_edge(START, name)
        graph.add_edge(name, "finish")
    graph.compile().invoke({"question": ASKED}, config=story.config())
    assert story.sources() == {"a", "b", "c"}


def test_a_chain_inside_a_node_called_from_plain_python(story: Story) -> None:
    prompt = ChatPromptTemplate.from_template("Sum up in a line: {text}")

    def node(state: Board, config: RunnableConfig) -> dict[str, Any]:
        found = retriever("a", "b", "c").invoke(state["question"], config=config)
        lines = []
        for one in found[:2]:
            chain = prompt | model(words(f"sum of {one.metadata['source']}", 9)) | StrOutputParser()
            lines.append(chain.invoke({"text": one.page_content}, config=config))
        numbered = "\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1))
        chain = model("In the end, all is well.") | StrOutputParser()
        return {"answer": chain.invoke(f"{numbered}\n{state['question']}", config=config)}

    graph = StateGraph(Board)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.compile().invoke({"question": ASKED}, config=story.config())
    assert story.sources() == {"a", "b"}
    assert {words("sum of a", 9), words("sum of b", 9), ASKED} <= story.came_from()


def failing(_: Any) -> Any:
    raise ValueError("this one is down")


@pytest.mark.parametrize("place", ["model", "chain"])
def test_a_fallback_answers_with_its_own_grounds(story: Story, place: str) -> None:
    prompt = ChatPromptTemplate.from_template("{context}\n{question}")
    down = Model(say=failing)
    if place == "model":
        chat: Any = down.with_fallbacks([model(FIRST)])
        chain = (
            RunnablePassthrough.assign(
                context=RunnableLambda(lambda g: g["question"])
                | retriever("a", "b")
                | RunnableLambda(lambda found: joined(found[:1]))
            )
            | prompt
            | chat
            | StrOutputParser()
        )
        expected = {"a"}
    else:

        def side(name: str, chat: Any) -> Any:
            return (
                RunnablePassthrough.assign(
                    context=RunnableLambda(lambda g: g["question"])
                    | retriever(name)
                    | RunnableLambda(joined)
                )
                | prompt
                | chat
                | StrOutputParser()
            )

        chain = RunnablePassthrough() | side("a", down).with_fallbacks([side("b", model(FIRST))])
        expected = {"b"}
    assert chain.invoke({"question": ASKED}, config=story.config()) == FIRST
    assert story.sources() == expected


def test_a_fallback_at_the_root_answers_with_its_own_grounds(story: Story) -> None:
    """langchain#36072: the runs under such a root say they have no parent."""

    def side(name: str, chat: Any) -> Any:
        prompt = ChatPromptTemplate.from_template("{context}\n{question}")
        return (
            RunnablePassthrough.assign(
                context=RunnableLambda(lambda g: g["question"])
                | retriever(name)
                | RunnableLambda(joined)
            )
            | prompt
            | chat
        )

    chain = side("a", Model(say=failing)).with_fallbacks([side("b", model(FIRST))])
    assert chain.invoke({"question": ASKED}, config=story.config()).content == FIRST
    with story.trail() as trail:
        root = next(t for t in trail.runs() if t.name == "RunnableWithFallbacks")
        assert {s.name for s in trail.sources(root)} == {"b"}
        names = {n.label for n in trail.lineage(root).graph.of("run", "model")}
        assert names == {"Model"}


def test_a_retry_answers_with_the_attempt_that_worked(story: Story) -> None:
    tries: list[int] = []

    def find(question: str, config: RunnableConfig) -> str:
        found = retriever("a" if not tries else "b").invoke(question, config=config)
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("not today")
        return joined(found)

    retried = RunnableLambda(find).with_retry(wait_exponential_jitter=False)
    chain = retried | ChatPromptTemplate.from_template("Use {context}.") | model()
    chain.invoke(ASKED, config=story.config())
    assert story.sources() == {"b"}


def test_a_structured_answer_keeps_the_short_values_it_is_made_of(story: Story) -> None:
    """42, said by a tool, named in a template: short, but the structure says where it is from."""
    chat = model(calling("count", "c1", word="coat"), "There are 42.")
    ask(create_agent(chat, [count]), story)
    assert story.came_from(-1, "tool_result") == {"42"}
