"""Agents and workflows: tools by their call id, retries, waits, cancellation."""

import asyncio
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool, QueryEngineTool
from pydantic import BaseModel
from workflows import Context, Workflow, step
from workflows.errors import WorkflowCancelledByUser
from workflows.events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
)
from workflows.retry_policy import retry_policy, stop_after_attempt, wait_fixed

import provkeep
from tests.llamaindex.kit import Scripted, Shelf, Store, caller, calls, engine, words

# llama-index-workflows 2.26.1 calls inspect.getmembers() on every agent, a pydantic object.
# llama-index-core 0.14.25 asks its context whether it runs, from within a step (ReActAgent).
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def lookup(what: str) -> str:
    """Look something up."""
    return words(f"found {what}")


def run(agent: Any, *args: Any, **kwargs: Any) -> Any:
    async def story() -> Any:
        return await agent.run(*args, **kwargs)

    return asyncio.run(story())


def asks_then(tool: str, answer: str, **arguments: Any) -> Any:
    """A model that calls a tool and, having its result, answers."""

    def say(messages: list[ChatMessage]) -> ChatMessage | str:
        told = [m for m in messages if m.role == MessageRole.TOOL]
        return answer if told else calls(tool, "call-7", **arguments)

    return caller(say)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_tool_run_answers_the_call_that_asked_for_it(store: Store, streaming: bool) -> None:
    llm = asks_then("lookup", words("final"), what="ships")
    with store.listening():
        run(FunctionAgent(tools=[lookup], llm=llm, streaming=streaming), "What of ships?")
    kinds = [r.kind for r in store.runs()]
    assert kinds[0] == "agent"
    assert kinds.count("model") == 2
    assert kinds.count("tool") == 1
    with provkeep.open(store.path) as trail:
        graph = trail.graph()
        [call] = graph.of("artifact", "tool_call")
        [result] = graph.of("artifact", "tool_result")
        assert result.id in graph.walk(call.id, upstream=False)
        answer = trail.output()
        assert trail.text(answer, purpose="test") == words("final")
        up = {n.id for n in trail.lineage(answer).nodes}
        assert {call.id, result.id} <= up


def test_a_tool_with_a_nested_query_engine_joins_the_answer_to_the_files(store: Store) -> None:
    inner = engine(Shelf("a.txt", "b.txt"), Scripted(words("inner answer")))
    tool = QueryEngineTool.from_defaults(inner, name="library", description="the files")
    llm = asks_then("library", words("outer answer"), input="What of the harbour?")
    with store.listening():
        run(FunctionAgent(tools=[tool], llm=llm, streaming=False), "What of the harbour?")
    assert len(store.traces()) == 1
    assert store.answer() == words("outer answer")
    assert set(store.sources()) == {"a.txt", "b.txt"}


def test_a_tool_that_fails_is_an_error_of_the_tool_alone(store: Store) -> None:
    def broken(what: str) -> str:
        """Never works."""
        raise ValueError("no such shelf")

    llm = asks_then("broken", words("sorry"), what="x")
    with store.listening():
        run(FunctionAgent(tools=[broken], llm=llm, streaming=False), "Try it")
    [trace] = store.traces()
    assert (trace.status, trace.errors) == ("ok", 1)
    assert [r.status for r in store.runs() if r.kind == "tool"] == ["error"]


def test_a_tool_that_does_not_exist_leaves_its_refusal(store: Store) -> None:
    llm = asks_then("nonsense", words("sorry"), what="x")
    with store.listening():
        run(FunctionAgent(tools=[add], llm=llm, streaming=False), "Try it")
    [result] = store.values("tool_result")
    assert result["status"] == "error"
    assert result["tool_call_id"] == "call-7"


def test_a_reasoning_agent_s_tool_is_recorded(store: Store) -> None:
    said = iter(
        [
            'Thought: I need a tool\nAction: lookup\nAction Input: {"what": "ships"}',
            f"Thought: I can answer without using any more tools.\nAnswer: {words('final')}",
        ]
    )
    agent = ReActAgent(tools=[lookup], llm=caller(lambda _: next(said)), streaming=False)
    with store.listening():
        run(agent, "What of ships?")
    kinds = [r.kind for r in store.runs()]
    assert (kinds.count("model"), kinds.count("tool"), kinds.count("parser")) == (2, 1, 2)
    assert store.answer() == words("final")
    with provkeep.open(store.path) as trail:
        graph = trail.graph()
        [result] = graph.of("artifact", "tool_result")
        assert result.id in graph.walk(trail.output().id, upstream=True)


def test_agents_that_hand_over_are_one_trace(store: Store) -> None:
    def first(messages: list[ChatMessage]) -> ChatMessage | str:
        return calls("handoff", "call-1", to_agent="second", reason="knows more")

    agents = AgentWorkflow(
        agents=[
            FunctionAgent(
                name="first",
                description="begins",
                llm=caller(first),
                can_handoff_to=["second"],
                streaming=False,
            ),
            FunctionAgent(
                name="second",
                description="ends",
                llm=caller(lambda _: words("second's answer")),
                streaming=False,
            ),
        ],
        root_agent="first",
    )
    with store.listening():
        run(agents, user_msg="Begin")
    assert [t.kind for t in store.traces()] == ["agent"]
    assert store.answer() == words("second's answer")
    assert [r.label for r in store.runs() if r.kind == "tool"] == ["handoff"]


def test_a_retried_step_is_a_run_for_each_attempt(store: Store) -> None:
    class Flaky(Workflow):
        attempts = 0

        @step(retry_policy=retry_policy(wait=wait_fixed(0), stop=stop_after_attempt(3)))
        async def work(self, ev: StartEvent) -> StopEvent:
            Flaky.attempts += 1
            if Flaky.attempts < 3:
                raise ValueError(f"attempt {Flaky.attempts}")
            return StopEvent(result="done at last")

    with store.listening():
        assert run(Flaky(), topic="x") == "done at last"
    assert [r.status for r in store.runs()] == ["ok", "error", "error", "ok"]
    assert store.traces()[0].errors == 2
    assert store.answer() == "done at last"


def test_a_step_that_waits_for_a_person_is_interrupted_and_runs_again(store: Store) -> None:
    class Middle(Event):
        draft: str

    class Asks(Workflow):
        @step
        async def write(self, ev: StartEvent) -> Middle:
            return Middle(draft=words("draft"))

        @step
        async def ask(self, ctx: Context, ev: Middle) -> StopEvent:
            said = await ctx.wait_for_event(
                HumanResponseEvent, waiter_event=InputRequiredEvent(prefix="May I?")
            )
            return StopEvent(result=f"{ev.draft} {said.response}")

    async def story() -> Any:
        handler = Asks().run(topic="x")
        async for event in handler.stream_events():
            if isinstance(event, InputRequiredEvent):
                handler.ctx.send_event(HumanResponseEvent(response="Yes, you may."))
        return await handler

    with store.listening():
        asyncio.run(story())
    statuses = [(r.label.rpartition(".")[2], r.status) for r in store.runs()]
    assert statuses[1:] == [("write", "ok"), ("ask", "interrupted"), ("ask", "ok")]
    assert store.traces()[0].status == "ok"
    [note] = store.values("note")
    assert "May I?" in str(note)


def test_a_step_that_merely_returns_nothing_was_not_interrupted(store: Store) -> None:
    class Quiet(Workflow):
        @step
        async def nothing(self, ev: StartEvent) -> StopEvent | None:
            return None

        @step
        async def something(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result="this")

    with store.listening():
        run(Quiet())
    assert {r.status for r in store.runs()} == {"ok"}


def test_a_cancelled_workflow_says_so(store: Store) -> None:
    class Slow(Workflow):
        @step
        async def sleep(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(60)
            return StopEvent()

    async def story() -> None:
        handler = Slow().run()
        await asyncio.sleep(0.05)
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler

    with store.listening():
        asyncio.run(story())
    assert [r.status for r in store.runs()] == ["cancelled", "cancelled"]
    assert store.traces()[0].errors == 0


def test_structured_prediction_is_one_call_and_its_object(store: Store) -> None:
    class Ship(BaseModel):
        """A ship."""

        name: str

    from llama_index.core.prompts import PromptTemplate

    llm = caller(lambda _: calls("Ship", "call-3", name="Albatross of the northern seas"))
    with store.listening():
        made = llm.structured_predict(Ship, PromptTemplate("Which ship is {what}?"), what="white")
    assert made == Ship(name="Albatross of the northern seas")
    kinds = [r.kind for r in store.runs()]
    assert (kinds.count("model"), kinds.count("tool")) == (1, 1)
    with provkeep.open(store.path) as trail:
        graph = trail.graph()
        [call] = graph.of("artifact", "tool_call")
        assert call.id in graph.walk(trail.output().id, upstream=True)


def test_a_tool_s_own_result_is_kept_whole(store: Store) -> None:
    def table() -> dict[str, Any]:
        """A table."""
        return {"rows": [["a", 1], ["b", 2]]}

    with store.listening():
        FunctionTool.from_defaults(table)()
    [run_] = store.runs()
    assert (run_.kind, run_.label) == ("tool", "table")
    assert {"rows": [["a", 1], ["b", 2]]} in store.values("data", "composite")


def test_a_second_run_of_an_agent_joins_what_it_said_before(store: Store) -> None:
    said = iter([words("first"), words("second")])
    agent = FunctionAgent(tools=[add], llm=caller(lambda _: next(said)), streaming=False)

    async def story() -> None:
        from llama_index.core.memory import ChatMemoryBuffer

        memory = ChatMemoryBuffer.from_defaults(token_limit=9999)
        await agent.run("Tell me of the harbour.", memory=memory)
        await agent.run("And of the ships?", memory=memory)

    with store.listening():
        asyncio.run(story())
    first, second = store.traces()
    with provkeep.open(store.path) as trail:
        up = trail.lineage(trail.output(second)).nodes
    assert sum(n.trace == first.id and n.kind == "model" for n in up) == 1
