"""LangChain's own values as snapshots, and what an answer says of the model that gave it."""

from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import Generation, LLMResult
from langchain_core.prompt_values import ChatPromptValue

from provkeep.langchain.snapshots import answered_by, model_result, usage_of
from provkeep.model.snapshot import snapshot
from provkeep.model.values import Part, Typed


def test_a_part_is_taken_again_only_while_its_object_says_the_same():
    memo: dict[Any, Any] = {}
    for value, change in (
        (HumanMessage("a"), {"content": "b"}),
        (ToolMessage("a", tool_call_id="c"), {"id": "filled in later"}),
        (Document(page_content="a"), {"metadata": {"n": 1}}),
    ):
        first = snapshot(value, memo)
        assert snapshot(value, memo) is first
        for name, new in change.items():
            setattr(value, name, new)
            again = snapshot(value, memo)
            assert again is not first
            assert (first.fields[name], again.fields[name]) != (new, first.fields[name])


def test_a_message_whose_parts_cannot_be_compared_is_taken_anew():
    message = HumanMessage("a", additional_kwargs={"x": "text"})
    memo: dict[Any, Any] = {}
    snapshot(message, memo)
    message.additional_kwargs["x"] = np.array([1, 2])  # whose == has no truth
    assert snapshot(message, memo).fields["additional_kwargs"]["x"].type_name == "numpy.ndarray"


def test_extra_fields_of_a_message_are_kept():
    assert snapshot(HumanMessage("a", mood="calm")).fields["mood"] == "calm"
    odd = snapshot(HumanMessage("a", **{"$rope": [[0, 0, 9]]})).fields
    assert odd["extra"] == Typed("dict", [["$rope", [[0, 0, 9]]]])


def test_a_prompt_is_the_messages_it_holds():
    message = HumanMessage("a")
    made = snapshot(ChatPromptValue(messages=[message]))
    assert (made.kind, made.fields["messages"][0].fields["content"]) == ("prompt", "a")
    broken = ChatPromptValue(messages=[message])
    broken.messages = [message, "no message"]  # type: ignore[list-item]
    assert type(snapshot(broken)) is Typed


@pytest.mark.parametrize(
    ("message", "llm_output", "usage"),
    [
        (
            {"usage_metadata": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}},
            {},
            (1, 2, 3),
        ),
        ({"response_metadata": {"token_usage": {"prompt_tokens": 1}}}, {}, (1, None, None)),
        (
            {"response_metadata": {"usage": {"input_tokens": 4, "output_tokens": 5}}},
            {},
            (4, 5, None),
        ),
        ({}, {"token_usage": {"prompt_tokens": 1, "completion_tokens": 2}}, (1, 2, None)),
        ({}, {"usage": {"input_tokens": 1, "output_tokens": -2}}, (1, None, None)),
        ({}, {"usage": {"input_tokens": "many"}}, None),
        ({}, {"usage": None}, None),
        ({}, {}, None),
    ],
)
def test_usage_is_found_wherever_a_provider_puts_it(message, llm_output, usage):
    """What is not said stays unknown: it is never made up from parts."""
    assert usage_of(snapshot(AIMessage("a", **message)), {"llm_output": llm_output}) == usage


@pytest.mark.parametrize(
    ("metadata", "info", "llm_output", "found"),
    [
        ({"model_name": "m", "finish_reason": "stop"}, None, {}, ("m", "stop")),
        ({"model": "m", "stop_reason": "end_turn"}, None, {}, ("m", "end_turn")),
        ({"done_reason": "length"}, None, {"model_name": "m"}, ("m", "length")),
        ({}, {"finish_reason": "stop"}, {}, (None, "stop")),
        ({"model_name": 5, "finish_reason": ["odd"]}, None, {}, (None, None)),
    ],
)
def test_the_model_and_its_reason_are_found_wherever_a_provider_puts_them(
    metadata, info, llm_output, found
):
    attrs = {"llm_output": llm_output, **({"generation_info": [info]} if info else {})}
    assert answered_by(snapshot(AIMessage("a", response_metadata=metadata)), attrs) == found


def test_results_without_anything_are_recorded():
    assert model_result(LLMResult(generations=[]), {}) == ([], {})
    made, attrs = model_result(
        LLMResult(generations=[[Generation(text="a"), Generation(text="b")]]), {}
    )
    assert (made, attrs) == (["a", "b"], {})
    assert answered_by(made, attrs) == (None, None)
    assert type(snapshot(AIMessage("a"))) is Part
