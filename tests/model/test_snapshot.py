"""A snapshot is exact, immediate and total, whatever the value does."""

import asyncio
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import gc
import pathlib
import threading
import types
import uuid
import weakref
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pydantic
import pytest

from provkeep.model import snapshot as module
from provkeep.model.snapshot import MAX_CAUSES, MAX_LEARNED, snapshot
from provkeep.model.values import Part, Typed, decode, encode_json


class Colour(enum.Enum):
    RED = "r"


class Loud(enum.StrEnum):
    YES = "yes"


class Point(NamedTuple):
    x: int
    y: Any


@dataclasses.dataclass(slots=True)
class Plain:
    a: int
    b: Any = None


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int = 1


class Text(str):
    def __str__(self):
        raise RuntimeError("no")


class Number(int):
    def __int__(self):
        raise RuntimeError("no")


class Real(float):
    def __repr__(self):
        raise RuntimeError("no")


class Table(dict):
    def items(self):
        raise RuntimeError("no")

    def __iter__(self):
        raise RuntimeError("no")


class Row(list):
    def __iter__(self):
        raise RuntimeError("no")


HERE = __name__


@pytest.mark.parametrize(
    ("value", "type_name", "content"),
    [
        (b"\x00\xff", "bytes", "00ff"),
        (bytearray(b"\x01"), "bytearray", "01"),
        (memoryview(b"\x01\x02")[::-1], "memoryview", "0201"),
        ((1, "a"), "tuple", [1, "a"]),
        ((), "tuple", []),
        (Point(1, (2,)), f"{HERE}.Point", [1, Typed("tuple", [2])]),
        ({3, 1, 2}, "set", [1, 2, 3]),
        (frozenset({b"b", b"a"}), "frozenset", [Typed("bytes", "61"), Typed("bytes", "62")]),
        (collections.deque([1, 2]), "collections.deque", [1, 2]),
        (collections.OrderedDict(a=1), "collections.OrderedDict", {"a": 1}),
        (collections.defaultdict(list, {1: "x"}), "collections.defaultdict", [[1, "x"]]),
        (collections.UserDict(a=1), "collections.UserDict", {"a": 1}),
        (types.MappingProxyType({"a": 1}), "mappingproxy", {"a": 1}),
        ({1: "x", "y": 2}, "dict", [[1, "x"], ["y", 2]]),
        ({"$ref": 0}, "dict", [["$ref", 0]]),
        ({(1, 2): 3}, "dict", [[Typed("tuple", [1, 2]), 3]]),
        (float("nan"), "float", "nan"),
        (float("-inf"), "float", "-inf"),
        (1 + 2j, "complex", "(1+2j)"),
        (dt.datetime(2026, 1, 2, 3, 4, 5, 6, dt.UTC), "datetime.datetime", None),
        (dt.date(2026, 1, 2), "datetime.date", "2026-01-02"),
        (dt.time(1, 2, 3), "datetime.time", "01:02:03"),
        (dt.timedelta(days=1, microseconds=1), "datetime.timedelta", "1 day, 0:00:00.000001"),
        (uuid.UUID(int=1), "uuid.UUID", "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.10"), "decimal.Decimal", "1.10"),
        (
            pathlib.PurePosixPath("/a/b"),
            f"{pathlib.PurePosixPath.__module__}.PurePosixPath",
            "/a/b",
        ),
        (Colour.RED, f"{HERE}.Colour", ["RED", "r"]),
        (Loud.YES, f"{HERE}.Loud", ["YES", "yes"]),
        (Plain, "type", f"{HERE}.Plain"),
        (Model, "type", f"{HERE}.Model"),
        (Plain(1, b"x"), f"{HERE}.Plain", {"a": 1, "b": Typed("bytes", "78")}),
        (Model(extra=(1,)), f"{HERE}.Model", {"a": 1, "extra": Typed("tuple", [1])}),
        (Model.model_validate({"$ref": 0}), f"{HERE}.Model", [["a", 1], ["$ref", 0]]),
        (len, "builtin_function_or_method", "len"),
        (functools.wraps, "function", "wraps"),
        (range(3), "builtins.range", "range(0, 3)"),
        (Text("said"), f"{HERE}.Text", "said"),
        (Number(7), f"{HERE}.Number", 7),
        (Real(1.5), f"{HERE}.Real", "1.5"),
        (Table(a=1), f"{HERE}.Table", {"a": 1}),
        (Row([1, [2]]), f"{HERE}.Row", [1, [2]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_has_no_word_for_is_typed(value, type_name, content):
    made = snapshot(value)
    assert type(made) is Typed
    assert (made.type_name, made.value) == (type_name, content or made.value)
    encode_json(made)


@pytest.mark.parametrize(
    ("array", "dtype", "content"),
    [
        (np.array([[1, 2], [3, 4]]), "int64", [[1, 2], [3, 4]]),
        (np.array([0.5, np.nan]), "float64", [0.5, Typed("float", "nan")]),
        (np.float32(0.5), "float32", 0.5),
        (np.int64(2**40), "int64", 2**40),
        (np.bool_(True), "bool", True),
        (np.array(["a", "b"]), "<U1", ["a", "b"]),
        (np.array([b"x", None], dtype=object), "object", [Typed("bytes", "78"), None]),
        (np.array(3.0), "float64", 3.0),
    ],
)
def test_numpy_values_keep_type_shape_and_content(array, dtype, content):
    made = snapshot(array)
    assert made.type_name == f"numpy.{type(array).__name__}"
    assert made.value == {"dtype": dtype, "shape": list(array.shape), "values": content}


def test_data_frames_are_recorded_whole():
    """Their repr shows sixty rows at most."""
    frame = snapshot(pd.DataFrame({"n": range(1000), "s": ["x"] * 1000}))
    assert frame.type_name.endswith("DataFrame")
    assert frame.value["data"][999] == [999, "x"]
    assert snapshot(pd.Series([1, 2], index=["a", "b"])).value == {"a": 1, "b": 2}


def test_an_exception_says_what_caused_it():
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            inner.add_note("look here")
            raise ValueError("outer") from inner
    except ValueError as outer:
        made = snapshot(outer)
    assert (made.kind, made.type_name) == ("error", "builtins.ValueError")
    assert made.fields["message"] == "outer"
    assert made.fields["cause"].fields == {"message": "'inner'", "notes": ["look here"]}


def test_an_exception_raised_while_handling_another_keeps_the_context():
    try:
        try:
            raise KeyError("inner")
        except KeyError:
            raise ValueError("outer")  # noqa: B904  # an implicit context is the point
    except ValueError as outer:
        made = snapshot(outer)
    assert "cause" not in made.fields
    assert made.fields["context"].fields["message"] == "'inner'"


def test_an_exception_group_says_what_it_holds():
    made = snapshot(ExceptionGroup("two", [ValueError("a"), OSError(2, "b")]))
    assert [e.type_name for e in made.fields["exceptions"]] == [
        "builtins.ValueError",
        "builtins.FileNotFoundError",
    ]


def test_a_circle_of_causes_ends():
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    text = encode_json(snapshot(first)).decode()
    assert text.count('"message"') == MAX_CAUSES + 1


class NoRepr:
    def __repr__(self):
        raise RuntimeError("no repr")


class NoAnything:
    def __getattr__(self, name):
        raise RuntimeError(name)

    def __eq__(self, other):
        raise RuntimeError("eq")

    def __bool__(self):
        raise RuntimeError("bool")

    def __len__(self):
        raise RuntimeError("len")

    def __hash__(self):
        raise RuntimeError("hash")

    __repr__ = __str__ = __getattr__


class BadError(Exception):
    def __str__(self):
        raise RuntimeError("no str")

    def __bool__(self):
        raise RuntimeError("no bool")


class Meta(type):
    def __getattr__(cls, name):
        raise RuntimeError(name)


class OddClass(metaclass=Meta):
    pass


class OddRepr:
    def __repr__(self):
        return Text("odd")


@dataclasses.dataclass
class HalfReadable:
    good: int = 1
    bad: int = 2

    def __getattribute__(self, name):
        if name == "bad":
            raise RuntimeError("no")
        return super().__getattribute__(name)


class BadMapping(collections.abc.Mapping):
    def __getitem__(self, key):
        raise RuntimeError("no")

    def __iter__(self):
        return iter("ab")

    def __len__(self):
        return 2


@pytest.mark.parametrize(
    "value", [NoRepr(), NoAnything(), OddClass(), OddRepr(), BadMapping()], ids=lambda v: type(v)
)
def test_a_hostile_value_is_named_and_loses_nothing_of_its_neighbours(value):
    made = snapshot({"before": 1, "odd": value, "after": [value, 2]})
    assert (made["before"], made["after"][1]) == (1, 2)
    assert made["odd"].type_name == f"{HERE}.{type(value).__name__}"
    encode_json(made)


def test_a_released_buffer_and_a_cyclic_repr_are_named():
    view = memoryview(b"x")
    view.release()
    assert snapshot(view).type_name == "memoryview"


def test_a_hostile_exception_is_recorded():
    error = ValueError("real")
    error.__cause__ = BadError()
    made = snapshot(error)
    assert made.fields["message"] == "real"
    assert made.fields["cause"].fields["message"] == f"<{HERE}.BadError whose str raises>"


def test_one_unreadable_field_does_not_hide_the_others():
    made = snapshot(HalfReadable())
    assert made.value == {"good": 1, "bad": Typed("unreadable", "builtins.RuntimeError")}


@pytest.mark.parametrize("bottom", [NoRepr(), "text", {1: 2}])
def test_nesting_without_end_is_cut_not_raised(bottom):
    value = bottom
    for _ in range(5_000):
        value = [value]
    encode_json(snapshot(value))


def test_a_cycle_is_named_where_it_closes():
    loop: list[Any] = [1]
    loop.append({"again": loop})
    assert snapshot(loop) == [1, {"again": Typed("cycle", "list")}]
    plain = Plain(1)
    plain.b = [plain]
    assert snapshot(plain).value["b"] == [Typed("cycle", f"{HERE}.Plain")]


def test_many_cycles_in_one_value_take_no_more_time_than_one():
    nodes: list[dict[str, Any]] = [{} for _ in range(8)]
    for node in nodes[1:]:
        node["n"] = None
    for node in nodes:
        node["self"], node["twice"] = node, [node, node]
    assert snapshot(nodes)[0] == {
        "self": Typed("cycle", "dict"),
        "twice": [Typed("cycle", "dict")] * 2,
    }


def test_the_same_value_twice_is_not_a_cycle():
    shared = {"a": [[1]]}
    assert snapshot([shared, shared]) == [shared, shared]


def test_two_threads_may_walk_one_value_with_one_memory():
    """Branches of a RunnableParallel are given the same dictionary at the same time."""
    memo: dict[Any, Any] = {}
    inside = threading.Barrier(2)

    class Slow:
        def __repr__(self):
            inside.wait(10)  # both threads stand in the same dictionary now
            return "slow"

    value = {"slow": Slow()}
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(snapshot(value, memo))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [f["slow"].value for f in found] == ["slow", "slow"]
    assert not memo


def test_iterators_are_named_and_not_consumed():
    numbers = (n for n in range(3))
    letters = iter(["a", "b", "c"])

    async def words():
        yield "w"

    stream = words()
    made = snapshot({"g": numbers, "i": letters, "a": stream, "z": zip([1], [2], strict=True)})
    assert [v.type_name for v in made.values()] == [
        "builtins.generator",
        "builtins.list_iterator",
        "builtins.async_generator",
        "builtins.zip",
    ]
    assert (list(numbers), list(letters)) == ([0, 1, 2], ["a", "b", "c"])

    async def rest():
        return [w async for w in stream]

    assert asyncio.run(rest()) == ["w"]


def test_a_snapshot_does_not_change_with_its_value():
    inner = {"n": [1]}
    value = {"flat": {"a": 1}, "deep": inner, "list": [1, 2]}
    made = snapshot(value)
    value["flat"]["a"] = 2
    inner["n"].append(2)
    value["list"].clear()
    assert made == {"flat": {"a": 1}, "deep": {"n": [1]}, "list": [1, 2]}


def test_a_long_text_is_shared_and_not_copied():
    text = "x" * 50_000_000
    assert snapshot({"t": [text]})["t"][0] is text


def test_snapshots_of_snapshots_are_themselves():
    made = snapshot([b"x", ValueError("y")])
    again = snapshot(made)
    assert again[0] is made[0]
    assert type(again[1]) is Part


def test_classes_made_at_run_time_are_not_kept_alive():
    """``create_model`` on every call is common; what is learned of types is bounded."""
    first = type("Made", (), {})
    gone = weakref.ref(first)
    snapshot(first())
    del first
    for _ in range(MAX_LEARNED + 10):
        snapshot(type("Made", (), {})())
    gc.collect()
    assert gone() is None
    assert len(module._hooks) <= MAX_LEARNED + 1


def test_secrets_that_hide_themselves_stay_hidden():
    assert "hunter2" not in decode(encode_json(snapshot(pydantic.SecretStr("hunter2"))))["value"]
