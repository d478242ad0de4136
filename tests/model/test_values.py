"""What is recorded reads back as it was: JSON values exactly, others under their type."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provkeep.model.snapshot import MAX_DEPTH, snapshot
from provkeep.model.values import Part, Typed, decode, encode_json, encode_text

texts = st.text(st.characters(), max_size=20)  # all code points, lone surrogates included
atoms = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from(["$ref"])
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts | st.sampled_from(["$ref", "$type", "value"]), inner, max_size=4)
    ),
    max_leaves=20,
)


def restored(value: Any) -> Any:
    """The value that a decoded snapshot stands for, its marks undone."""
    if isinstance(value, list):
        return [restored(v) for v in value]
    if not isinstance(value, dict):
        return value
    match value.get("$type"):
        case None:
            return {k: restored(v) for k, v in value.items()}
        case "int":
            return int(value["value"], 0)
        case "float":
            return float(value["value"])
        case "dict":
            return {restored(k): restored(v) for k, v in value["value"]}
        case other:
            raise AssertionError(f"no JSON value is of type {other}")


def read_back(value: Any) -> Any:
    return restored(decode(encode_json(snapshot(value))))


@given(values)
def test_a_json_value_reads_back_as_it_was(value):
    assert repr(read_back(value)) == repr(value)  # repr: -0.0 is not 0.0, True not 1, nan is nan


@given(st.text(st.characters()))
def test_a_text_reads_back_as_it_was(text):
    assert decode(encode_text(text)) == text


@pytest.mark.parametrize("key", ["$ref", "$rope", "$type", "$pairs", "$surrogates", "$part"])
def test_no_value_of_the_users_can_pass_for_a_mark(key):
    """A reader follows marks: a forged one must not make it show something else."""
    stored = decode(encode_json(snapshot({"outer": {key: [0]}})))
    assert stored == {"outer": {"$type": "dict", "value": [[key, [0]]]}}


@pytest.mark.parametrize(
    "number", [2**63 - 1, -(2**63), 2**64, -(2**200), 10**5000, 7**30_000], ids=int.bit_length
)
def test_integers_of_any_size_are_exact(number):
    assert read_back([number]) == [number]


def test_depth_is_bounded_by_what_the_encoding_can_hold():
    """Every level as deep in JSON as a level can be: an odd dictionary under an odd key."""
    value: Any = "bottom"
    for _ in range(MAX_DEPTH):
        value = {1: value}
    assert read_back(value) == value
    assert "nested too deeply" not in encode_json(snapshot(value)).decode()
    for _ in range(200):
        value = [value]
    found = decode(encode_json(snapshot(value)))
    for _ in range(MAX_DEPTH + 1):
        (found,) = found
    assert found["$type"] == "list"
    assert "bottom" in found["value"]


def test_parts_and_typed_values_name_themselves():
    part = Part("error", "builtins.ValueError", {"message": "no", "data": Typed("bytes", "00")})
    assert decode(encode_json([part])) == [
        {
            "$part": "error",
            "type": "builtins.ValueError",
            "fields": {"message": "no", "data": {"$type": "bytes", "value": "00"}},
        }
    ]
    assert repr(part) == "Part('error', 'builtins.ValueError', 2 fields)"
    assert repr(Typed("bytes", "secret")) == "Typed('bytes')"


def test_typed_values_are_equal_when_type_and_content_are():
    assert Typed("a", [1]) == Typed("a", [1])
    assert Typed("a", [1]) != Typed("b", [1])
    assert Typed("a", [1]) != [1]
