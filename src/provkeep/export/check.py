"""Strict reading of ``provkeep-graph`` documents: what is wrong is named, and where it stands.

By hand rather than with a schema validator, so that reading an export needs nothing but this
package. A document comes from outside: every member is checked before it is used, and an unknown
one is refused, so that nothing in a document means something only to other readers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from provkeep.errors import ExportError
from provkeep.model.graph import BASES, EDGE_TYPES, NODE_TYPES, Edge, Graph, Node, Span

FORMAT: Final = "provkeep-graph"
VERSION: Final = 1
MAX_DEPTH: Final = 128  # of attrs, about and payloads
MAX_NS: Final = 2**63 - 1

Found = tuple[Graph, str | None, dict[str, Any]]
_NS: Final = re.compile(r"(0|-?[1-9][0-9]{0,18})\Z", re.ASCII)
_TOP: Final = frozenset({"format", "version", "focus", "about", "nodes", "links", "payloads"})


def parse(text: str) -> dict[str, Any]:
    """Parse JSON strictly: no duplicate key, no NaN, not too deep.

    Raises:
        ExportError: ``text`` is not such JSON, or not an object.
    """
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_not_a_number)
    except RecursionError:
        raise ExportError("nested too deep") from None
    except json.JSONDecodeError as error:
        problem = f"not JSON: {error.msg}"
        raise ExportError(problem, f"line {error.lineno} column {error.colno}") from error
    except ValueError as error:  # a number of more digits than Python converts
        raise ExportError("holds a number with too many digits") from error
    if type(document) is not dict:
        raise ExportError(f"is {_kind(document)}, not an object")
    return document


def graph_of(document: Mapping[str, Any]) -> tuple[Graph, str | None]:
    """Return the graph a document holds, and the id of its focus.

    Raises:
        ExportError: the document breaks a rule of the format.
    """
    if document.get("format") != FORMAT:
        _fail(f"not a {FORMAT} document", "/format")
    version = document.get("version")
    if type(version) is not int or version < 1:
        _fail(f"expected a version number from 1, got {_kind(version)}", "/version")
    if version > VERSION:
        _fail(
            f"version {version} is newer than {VERSION}, the newest this provkeep reads;"
            " upgrade provkeep",
            "/version",
        )
    _known(document, _TOP, "")
    for key in ("focus", "about", "nodes", "links"):
        if key not in document:
            _fail(f"{key!r} is missing", "/")
    nodes: dict[str, Node] = {}
    for number, item in enumerate(_list(document["nodes"], "/nodes")):
        node = _node(item, f"/nodes/{number}")
        if node.id in nodes:
            _fail(f"{short(node.id)} is already the id of another node", f"/nodes/{number}/id")
        nodes[node.id] = node
    edges = []
    for number, item in enumerate(_list(document["links"], "/links")):
        edges.append(_edge(item, f"/links/{number}", nodes))
    focus = document["focus"]
    if focus is not None and _text(focus, "/focus") not in nodes:
        _fail(f"{short(focus)} is not the id of a node", "/focus")
    _json(_dict(document["about"], "/about"), "/about")
    if "payloads" in document:
        for key, value in _dict(document["payloads"], "/payloads").items():
            if key not in nodes or nodes[key].type != "artifact":
                _fail(f"{short(key)} is not the id of an artifact", "/payloads")
            _json(value, f"/payloads/{short(key)}")
    return Graph(nodes.values(), edges), focus


def _node(item: Any, where: str) -> Node:
    fields = _dict(item, where)
    _known(fields, _NODE.keys(), where)
    for key in ("id", "type", "kind", "label"):
        if key not in fields:
            _fail(f"{key!r} is missing", where)
    return Node(**{key: _NODE[key](value, f"{where}/{key}") for key, value in fields.items()})


def _edge(item: Any, where: str, nodes: Mapping[str, Node]) -> Edge:
    fields = _dict(item, where)
    _known(fields, _LINK.keys(), where)
    for key in ("source", "target", "type", "basis"):
        if key not in fields:
            _fail(f"{key!r} is missing", where)
    values = {key: _LINK[key](value, f"{where}/{key}") for key, value in fields.items()}
    for key in ("source", "target"):
        if values[key] not in nodes:
            _fail(f"dangling: {short(values[key])} is not the id of a node", f"{where}/{key}")
    return Edge(cause=values.pop("source"), effect=values.pop("target"), **values)


def _text(value: Any, where: str) -> str:
    return value if type(value) is str else _wrong("a string", value, where)


def _name(value: Any, where: str) -> str:
    return _text(value, where) or _fail("must not be empty", where)


def _truth(value: Any, where: str) -> bool:
    return value if type(value) is bool else _wrong("true or false", value, where)


def _whole(value: Any, where: str) -> int:
    return value if type(value) is int else _wrong("a whole number", value, where)


def _count(value: Any, where: str) -> int:
    if _whole(value, where) < 0:
        _fail(f"must not be negative, got {value}", where)
    return int(value)


def _permille(value: Any, where: str) -> int:
    if _count(value, where) > 1000:
        _fail(f"must be at most 1000, got {value}", where)
    return int(value)


def _ns(value: Any, where: str) -> int:
    if not _NS.match(_text(value, where)) or abs(int(value)) > MAX_NS:
        _fail("expected nanoseconds since 1970 as a decimal string of at most 64 bits", where)
    return int(value)


def _one_of(words: tuple[str, ...]) -> Callable[[Any, str], str]:
    def check(value: Any, where: str) -> str:
        if _text(value, where) not in words:
            _fail(f"{short(value)} is unknown; one of {', '.join(words)}", where)
        return str(value)

    return check


def _labels(value: Any, where: str) -> tuple[str, ...]:
    return tuple(_text(v, f"{where}/{n}") for n, v in enumerate(_list(value, where)))


def _attrs(value: Any, where: str) -> dict[str, Any]:
    _json(_dict(value, where), where)
    return dict(value)


def _spans(value: Any, where: str) -> tuple[Span, ...]:
    out = []
    for number, item in enumerate(_list(value, where)):
        here = f"{where}/{number}"
        ends = [_count(v, f"{here}/{n}") for n, v in enumerate(_list(item, here))]
        if len(ends) != 4 or ends[0] > ends[1] or ends[2] > ends[3]:
            _fail("expected [target start, target end, source start, source end]", here)
        out.append(
            Span(
                target_start=ends[0],
                target_end=ends[1],
                source_start=ends[2],
                source_end=ends[3],
            )
        )
    return tuple(out)


_NODE: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "id": _name,
    "type": _one_of(NODE_TYPES),
    "kind": _text,
    "label": _text,
    "trace": _text,
    "order": _whole,
    "start_ns": _ns,
    "end_ns": _ns,
    "status": _text,
    "compartment": _text,
    "size": _count,
    "labels": _labels,
    "attrs": _attrs,
}
_LINK: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "source": _text,
    "target": _text,
    "type": _one_of(EDGE_TYPES),
    "basis": _one_of(BASES),
    "flow": _truth,
    "coverage_permille": _permille,
    "spans": _spans,
}


def _json(value: Any, where: str) -> None:
    """Check a free JSON value: plain types all the way down, and not too deep."""
    pending = [(value, 0)]
    while pending:
        here, depth = pending.pop()
        if depth > MAX_DEPTH:
            _fail(f"nested deeper than {MAX_DEPTH}", where)
        if type(here) is dict:
            if not all(type(key) is str for key in here):
                _fail("a key is not a string", where)
            pending += [(v, depth + 1) for v in here.values()]
        elif type(here) is list:
            pending += [(v, depth + 1) for v in here]
        elif here is not None and type(here) not in (str, int, float, bool):
            _fail(f"{type(here).__name__} is not a JSON value", where)
        elif type(here) is float and here - here != 0:
            _fail(f"{here} is not a JSON number", where)


def _dict(value: Any, where: str) -> dict[str, Any]:
    return value if type(value) is dict else _wrong("an object", value, where)


def _list(value: Any, where: str) -> list[Any]:
    return value if type(value) is list else _wrong("an array", value, where)


def _known(fields: Mapping[str, Any], keys: Any, where: str) -> None:
    for key in fields:
        if key not in keys:
            _fail(f"unknown member {short(key)}", where or "/")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        _fail(f"the key {short(twice)} stands twice in one object", "")
    return out


def _not_a_number(word: str) -> NoReturn:
    _fail(f"{word} is not a JSON number", "")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    names |= {type(None): "null", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def short(text: Any) -> str:
    """Quote a name from the document, cut: a message must not grow with what it is about."""
    quoted = ascii(text)
    return quoted if len(quoted) <= 80 else quoted[:76] + "…'"


def _wrong(expected: str, value: Any, where: str) -> NoReturn:
    _fail(f"expected {expected}, got {_kind(value)}", where)


def _fail(problem: str, where: str) -> NoReturn:
    raise ExportError(problem, where)
