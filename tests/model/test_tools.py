"""Every provider's way to describe a tool names it; nothing else counts as a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provkeep.model.tools import MAX_OFFERED, tool_names

LOOK_UP = {"name": "look_up", "description": "name: nothing"}


@pytest.mark.parametrize(
    "tool",
    [
        "look_up",
        LOOK_UP,
        {"type": "function", "function": LOOK_UP},
        {"toolSpec": LOOK_UP},
        {"type": "custom", "custom": LOOK_UP},
        {"function_declarations": [LOOK_UP]},
    ],
    ids=["name", "Anthropic", "OpenAI", "Bedrock", "custom", "Google"],
)
@pytest.mark.parametrize("place", ["tools", "functions"])
def test_a_described_tool_is_named(tool: object, place: str) -> None:
    assert tool_names({place: [tool]}) == ("look_up",)
    assert tool_names(None, {"other": [tool]}, {place: (tool, tool)}) == ("look_up",)


def test_names_are_bounded() -> None:
    assert len(tool_names({"tools": [str(i) for i in range(2 * MAX_OFFERED)]})) == MAX_OFFERED


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "function", "tools", "function_declarations", "x"]), inner
        )
    ),
)


@given(_json)
def test_odd_parameters_name_nothing_odd(params: object) -> None:
    assert all(isinstance(name, str) for name in tool_names(params, {"tools": params}))
