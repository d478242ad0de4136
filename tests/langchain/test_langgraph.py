"""Graphs, agents, interrupts and hand-overs, on real LangGraph objects."""

import asyncio
import operator
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt

import provkeep.langchain
from provkeep.langchain import ProvenanceHandler
from provkeep.recording.recorder import recorder_for
from tests.langchain.recorded import Recorded


class State(TypedDict):
    question: str
    log: Annotated[list[str], operator.add]


QUESTION = {"question": "delete it?", "log": []}


def ask(state: State) -> Any:
    answer = interrupt({"ask": "Really delete everything?"})
    return {"log": [f"human said {answer}"]}


def note(state: State) -> Any:
    return {"log": ["noted"]}


def asking_graph(**options: Any) -> Any:
    graph = StateGraph(State)
    graph.add_node("note", note)
    graph.add_node("ask", ask)
    graph.add_edge(START, "note")
    graph.add_edge("note", "ask")
    graph.add_edge("ask", END)
    return graph.compile(checkpointer=InMemorySaver(), **options)


class Agent(GenericFakeChatModel):
    """Says what it is told to; takes tools."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[{"name": t.name} for t in tools], **kwargs)


def agent_model(*messages: AIMessage) -> Agent:
    def again() -> Iterator[AIMessage]:
        while True:
            yield from [m.model_copy(deep=True) for m in messages]

    return Agent(messages=again())


def calling(name: str, args: dict[str, Any], call: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": call}])


@tool
def weather(city: str) -> str:
    """Say the weather."""
    return f"rain in {city}"


@pytest.fixture(params=["config", "install"])
def recording(request: Any, db: Any) -> Iterator[dict[str, Any]]:
    """The handler in the configuration, where LangGraph tells it of interrupts, or installed."""
    if request.param == "config":
        with ProvenanceHandler(db) as handler:
            yield {"callbacks": [handler]}
    else:
        handler = provkeep.langchain.install(db)
        try:
            yield {}
            handler.flush()
        finally:
            provkeep.langchain.uninstall()


def flush(db: Any) -> None:
    recorder_for(db).flush()


def test_nodes_are_nodes_of_a_graph(db, recording):
    graph = StateGraph(State)
    graph.add_node("note", note)
    graph.add_edge(START, "note")
    graph.compile(name="office").invoke(QUESTION, recording)
    flush(db)
    with Recorded(db) as recorded:
        assert recorded.shape() == [("graph", "office", "ok"), ("node", "note", "ok")]
        metadata = recorded.attrs(recorded.run("note"))["metadata"]
        assert metadata["langgraph_node"] == "note"
        assert metadata["langgraph_path"]["value"][-1] == "note"


@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke"])
def test_an_interrupt_is_no_error_and_its_resume_goes_on(db, recording, way):
    graph = asking_graph()
    config = {**recording, "configurable": {"thread_id": "t1"}}
    for given in (QUESTION, Command(resume="yes")):
        match way:
            case "invoke":
                out = graph.invoke(given, config)
            case "stream":
                out = list(graph.stream(given, config))[-1]
            case "ainvoke":
                out = asyncio.run(graph.ainvoke(given, config))
    assert "human said yes" in repr(out)
    flush(db)
    with Recorded(db) as recorded:
        first, second = recorded.traces
        assert recorded.shape(first) == [
            ("graph", "LangGraph", "interrupted"),
            ("node", "note", "ok"),
            ("node", "ask", "interrupted"),
        ]
        assert recorded.shape(second) == [("graph", "LangGraph", "ok"), ("node", "ask", "ok")]
        summaries = recorded.trail.runs()
        assert [t.errors for t in summaries] == [0, 0]
        assert {t.session for t in summaries} == {"t1"}
        ((name, asked),) = recorded.notes(recorded.run("ask", first))
        assert (name, asked["$type"]) == ("interrupt", "tuple")
        assert asked["value"][0]["value"]["value"] == {"ask": "Really delete everything?"}
        resume = recorded.input(recorded.runs(second)[0])
        assert (resume["$type"], resume["value"]["resume"]) == ("langgraph.types.Command", "yes")
        names = [name for name, _ in recorded.notes(recorded.runs(first)[0])]
        assert names == (["interrupt"] if recording else [])
        names = [name for name, _ in recorded.notes(recorded.runs(second)[0])]
        assert names == (["resume"] if recording else [])
        assert recorded.output(recorded.run("ask", second)) == {"log": ["human said yes"]}


def test_a_breakpoint_is_an_interrupt_where_langgraph_tells_of_it(db, handler):
    graph = asking_graph(interrupt_before=["note"])
    config = {"callbacks": [handler], "configurable": {"thread_id": "t1"}}
    graph.invoke(QUESTION, config)
    handler.flush()
    with Recorded(db) as recorded:
        assert recorded.shape() == [("graph", "LangGraph", "interrupted")]
        ((name, event),) = recorded.notes(recorded.runs()[0])
        assert (name, event["value"]["status"]) == ("interrupt", "interrupt_before")


def test_an_interrupt_is_noted_once_by_two_handlers_on_one_path(db, handler):
    with ProvenanceHandler(db) as other:
        config = {"callbacks": [handler, other], "configurable": {"thread_id": "t1"}}
        asking_graph().invoke(QUESTION, config)
    with Recorded(db) as recorded:
        assert [len(recorded.notes(r)) for r in recorded.runs()] == [1, 0, 1]


def test_an_interrupt_in_a_subgraph_interrupts_both(db, recording):
    outer = StateGraph(State)
    outer.add_node("inner", asking_graph())
    outer.add_edge(START, "inner")
    graph = outer.compile(checkpointer=InMemorySaver())
    config = {**recording, "configurable": {"thread_id": "t1"}}
    graph.invoke(QUESTION, config)
    graph.invoke(Command(resume="no"), config)
    flush(db)
    with Recorded(db) as recorded:
        first, second = recorded.traces
        statuses = {r.label: r.status for r in recorded.runs(first)}
        assert statuses["ask"] == statuses["LangGraph"] == "interrupted"
        assert {r.status for r in recorded.runs(second)} == {"ok"}
        assert [t.errors for t in recorded.trail.runs()] == [0, 0]


def test_an_agents_calls_are_recorded_with_the_tools_it_was_offered(db, recording):
    model = agent_model(calling("weather", {"city": "Rome"}, "c1"), AIMessage("It rains."))
    agent = create_agent(model, [weather], system_prompt="Be brief.")
    out = agent.invoke({"messages": [HumanMessage("Weather?")]}, recording)
    assert out["messages"][-1].content == "It rains."
    flush(db)
    with Recorded(db) as recorded:
        root, *runs = recorded.runs()
        assert (root.kind, root.status) == ("graph", "ok")
        models = [r for r in runs if r.kind == "model"]
        offered = recorded.attrs(models[0])["invocation_params"]["tools"]
        assert offered == [{"name": "weather"}]
        assert recorded.output(models[0])["tool_calls"][0]["args"] == {"city": "Rome"}
        assert [m["content"] for m in recorded.input(models[1])] == [
            "Be brief.",
            "Weather?",
            "",
            "rain in Rome",
        ]
        tool_run = recorded.run("weather")
        assert recorded.output(tool_run)["tool_call_id"] == "c1"
        assert recorded.trail.text(purpose="test") == "It rains."


def test_a_tool_error_that_the_agent_survives_is_told_once(db, recording):
    @tool
    def fragile(x: int) -> str:
        """Break."""
        raise ValueError("it broke")

    def tell(request: Any, handler: Any) -> Any:
        try:
            return handler(request)
        except ValueError as error:
            from langchain_core.messages import ToolMessage

            call = request.tool_call["id"]
            return ToolMessage(str(error), tool_call_id=call, status="error")

    from langchain.agents.middleware import wrap_tool_call

    model = agent_model(calling("fragile", {"x": 1}, "c1"), AIMessage("Sorry."))
    agent = create_agent(model, [fragile], middleware=[wrap_tool_call(tell)])
    agent.invoke({"messages": [HumanMessage("Do it")]}, recording)
    flush(db)
    with Recorded(db) as recorded:
        assert recorded.run("fragile").status == "error"
        assert recorded.error(recorded.run("fragile"))["message"] == "it broke"
        (trace,) = recorded.trail.runs()
        assert (trace.status, trace.errors) == ("ok", 1)


def test_a_hand_over_to_the_parent_graph_is_no_error(db, recording):
    def hand_over(state: State) -> Any:
        return Command(goto="other", graph=Command.PARENT, update={"log": ["handed over"]})

    inner = StateGraph(State)
    inner.add_node("hand_over", hand_over)
    inner.add_edge(START, "hand_over")
    outer = StateGraph(State)
    outer.add_node("team", inner.compile())
    outer.add_node("other", note)
    outer.add_edge(START, "team")
    out = outer.compile().invoke(QUESTION, recording)
    assert out["log"] == ["handed over", "noted"]
    flush(db)
    with Recorded(db) as recorded:
        assert {r.status for r in recorded.runs()} == {"ok"}
        assert list(recorded.graph().of("artifact", "error")) == []
        assert "handed over" in repr(recorded._values(recorded.run("team"), "outputs"))


def test_retries_of_a_node_are_recorded_each_with_its_error(db, recording):
    tries: list[int] = []

    def flaky(state: State) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError(f"try {len(tries)}")
        return {"log": ["done"]}

    graph = StateGraph(State)
    policy = RetryPolicy(initial_interval=0.001, max_attempts=3, jitter=False)
    graph.add_node("flaky", flaky, retry_policy=policy)
    graph.add_edge(START, "flaky")
    graph.compile().invoke(QUESTION, recording)
    flush(db)
    with Recorded(db) as recorded:
        attempts = [r for r in recorded.runs() if r.label == "flaky"]
        assert [r.status for r in attempts] == ["error", "error", "ok"]
        assert recorded.error(attempts[0])["message"] == "try 1"
        places = {recorded.attrs(r)["metadata"]["langgraph_checkpoint_ns"] for r in attempts[:1]}
        assert len(places) == 1


def test_an_error_in_a_node_is_told_once(db, recording):
    def fails(state: State) -> Any:
        raise LookupError("nothing there")

    graph = StateGraph(State)
    graph.add_node("fails", fails)
    graph.add_edge(START, "fails")
    with pytest.raises(LookupError):
        graph.compile().invoke(QUESTION, recording)
    flush(db)
    with Recorded(db) as recorded:
        (trace,) = recorded.trail.runs()
        assert (trace.status, trace.errors) == ("error", 1)
        assert recorded.error(recorded.run("fails"))["message"] == "nothing there"


def test_parallel_tasks_are_recorded_each_with_its_own_input(db, recording):
    def fan_out(state: State) -> list[Send]:
        return [Send("work", {"question": f"part {i}", "log": []}) for i in range(4)]

    def work(state: State) -> Any:
        return {"log": [state["question"]]}

    graph = StateGraph(State)
    graph.add_node("work", work)
    graph.add_conditional_edges(START, fan_out, ["work"])
    out = graph.compile().invoke(QUESTION, recording)
    assert sorted(out["log"]) == [f"part {i}" for i in range(4)]
    flush(db)
    with Recorded(db) as recorded:
        work_runs = [r for r in recorded.runs() if r.label == "work"]
        given = sorted(recorded.input(r)["question"] for r in work_runs)
        assert given == [f"part {i}" for i in range(4)]


def test_a_handler_made_before_langgraph_was_imported_works(db, monkeypatch):
    import sys

    kept = {k: v for k, v in sys.modules.items() if k != "langgraph"}
    with monkeypatch.context() as patch:
        patch.setattr(sys, "modules", kept)
        handler = ProvenanceHandler(db)
    assert type(handler) is ProvenanceHandler
    config = {"callbacks": [handler], "configurable": {"thread_id": "t1"}}
    asking_graph().invoke(QUESTION, config)
    handler.close()
    with Recorded(db) as recorded:
        assert recorded.runs()[0].status == "interrupted"
