"""What a model or a server says stands in the clear only when it is a word that everybody says."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

import provkeep
from provkeep.langchain import ProvenanceHandler
from provkeep.recording.clear import FINISHES, ROLES, finish_word, is_model_name, role_word
from tests.scenarios.recording_kit import bodies


@given(st.text())
def test_a_word_is_of_the_list_or_other(said: str) -> None:
    assert finish_word(said) in FINISHES
    assert role_word(said) in ROLES | {"other"}


@pytest.mark.parametrize("said", ["stop", "STOP", "end_turn", "MAX_TOKENS", "tool_calls", "SAFETY"])
def test_known_reasons_are_kept_in_lower_case(said: str) -> None:
    assert finish_word(said) == said.lower()


@pytest.mark.parametrize("said", ["stop ", "stop: the dose is 5 mg", "", "st\u00f6p", "stop\n"])
def test_a_reason_with_more_in_it_is_other(said: str) -> None:
    assert finish_word(said) == "other"


@pytest.mark.parametrize("said", ["gpt-4o-2024-08-06", "org/model:free", "models/x.gguf", "m@1"])
def test_the_name_of_a_model_is_one_word(said: str) -> None:
    assert is_model_name(said)
    for lie in (f"{said} says hello", f"{said}\n", "", f"{said}\u00e9", "x" * 129):
        assert not is_model_name(lie)


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return "found"


@tool
def put_away(word: str) -> str:
    """Put a word away."""
    return "gone"


class Chat(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        functions = [{"type": "function", "function": {"name": t.name}} for t in tools]
        return self.bind(tools=functions)

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
        return super()._generate(messages, stop, run_manager)


def call(name: str) -> ToolCall:
    return ToolCall(name=name, args={"word": "w"}, id=f"id of {name}")


def recorded(tmp_path: Path, *answers: AIMessage, step: Any) -> tuple[str, Path]:
    """All entries as text, after a step that talks to a model."""
    chat = Chat(messages=iter(answers))
    path = tmp_path / "audit.db"
    with ProvenanceHandler(path) as handler:
        chain = RunnableLambda(lambda said: step(chat, said), name="step")
        chain.invoke("go on", {"callbacks": [handler]})
    return json.dumps([b["e"] for b in bodies(path) if b["k"] == "trace"]), path


def names_of_calls(path: Path) -> list[str]:
    with provkeep.open(path) as trail:
        return sorted({n.label for n in trail.graph().of("artifact", "tool_call")})


def test_a_tool_that_was_offered_is_named_and_one_that_was_not_is_sealed(tmp_path: Path) -> None:
    asks = AIMessage("", tool_calls=[call("look_up"), call("the_patient_is_ill")])
    step = lambda chat, said: chat.bind_tools([look_up, put_away]).invoke(said)  # noqa: E731
    entries, path = recorded(tmp_path, asks, step=step)
    assert "the_patient_is_ill" not in entries
    assert names_of_calls(path) == ["look_up", "tool call"]
    with provkeep.open(path) as trail:
        calls = [n.id for n in trail.graph().of("artifact", "tool_call")]
        said = trail.values(calls, purpose="test").values()
        assert {"look_up", "the_patient_is_ill"} <= {v["name"] for v in said}


def test_a_tool_that_ran_later_is_named(tmp_path: Path) -> None:
    """A model that was told of its tools in words; the run comes after the call."""
    asks = AIMessage("", tool_calls=[call("put_away"), call("the_patient_is_ill")])

    def step(chat: Chat, said: str) -> Any:
        answer = chat.invoke(said)
        return put_away.invoke(answer.tool_calls[0])

    entries, path = recorded(tmp_path, asks, step=step)
    assert "the_patient_is_ill" not in entries
    assert names_of_calls(path) == ["put_away", "tool call"]


def test_a_reason_a_model_and_a_role_of_their_own_words_are_sealed_exactly(tmp_path: Path) -> None:
    meta = {"finish_reason": "Because5mg", "model_name": "I am Dr Who"}
    answer = AIMessage("yes", response_metadata=meta)

    def step(chat: Chat, said: str) -> Any:
        chat.invoke([HumanMessage(said), BaseMessage(content="so", type="of-ward-9")])
        return "done"

    entries, path = recorded(tmp_path, answer, step=step)
    for said in ("Because5mg", "because5mg", "Dr Who", "ward-9"):
        assert said not in entries
    with provkeep.open(path) as trail:
        [model] = trail.graph().of("run", "model")
        assert model.attrs["finish_reason"] == "other"
        said = trail.value(model.id, purpose="test")
    assert (said["finish_reason"], said["answered_by"]) == ("Because5mg", "I am Dr Who")


def test_a_reason_that_everybody_gives_is_in_the_clear(tmp_path: Path) -> None:
    meta = {"finish_reason": "STOP", "model_name": "gpt-4o"}
    step = lambda chat, said: chat.invoke(said)  # noqa: E731
    _, path = recorded(tmp_path, AIMessage("yes", response_metadata=meta), step=step)
    with provkeep.open(path) as trail:
        [model] = trail.graph().of("run", "model")
        assert (model.attrs["finish_reason"], model.attrs["model"]) == ("stop", "gpt-4o")
