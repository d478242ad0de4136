"""Graphs as node-link JSON, the format ``provkeep-graph``, version 1.

    {"format": "provkeep-graph", "version": 1, "focus": "t1.a9", "about": {…},
     "nodes": [{"id", "type", "kind", "label", "trace", "order", "start_ns", "end_ns", "status",
                "compartment", "size", "labels", "attrs"}, …],
     "links": [{"source", "target", "type", "basis", "flow", "coverage_permille",
                "spans": [[target start, target end, source start, source end], …]}, …],
     "payloads": {"t1.a9": …}}

A link runs from cause (``source``) to effect (``target``). Members that hold nothing are left out,
``order`` 0 and ``flow`` true too. Times are decimal strings of UTC nanoseconds: a JSON number
that large is not exact everywhere. ``graph.schema.json`` says the same as a JSON Schema. What
``to_document`` writes, ``load`` reads back equal, node for node and edge for edge.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from provkeep.errors import ExportError
from provkeep.export.check import (
    FORMAT,
    MAX_DEPTH,
    MAX_NS,
    VERSION,
    Found,
    graph_of,
    parse,
    short,
)
from provkeep.model.graph import Edge, Graph, Node

__all__ = ["FORMAT", "VERSION", "load", "to_document", "write"]


def to_document(
    graph: Graph,
    *,
    focus: str | None = None,
    payloads: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return ``graph`` as a JSON document.

    Args:
        graph: what to export; every edge must join two of its nodes.
        focus: id of the node the graph is about.
        payloads: opened payloads by artifact id; none are exported unless given here.
        about: what else a reader should know: store, origin, software, time. JSON values.

    Raises:
        ExportError: the document would not be one that ``load`` accepts.
    """
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "focus": focus,
        "about": _plain(dict(about or {}), "/about"),
        "nodes": [_node(node, f"/nodes/{n}") for n, node in enumerate(graph.nodes.values())],
        "links": [_link(edge) for edge in graph.edges],
    }
    if payloads is not None:
        document["payloads"] = {
            key: _plain(value, f"/payloads/{short(key)}") for key, value in payloads.items()
        }
    graph_of(document)
    return document


def write(path: str | pathlib.Path, document: Mapping[str, Any]) -> None:
    """Write ``document`` to ``path`` as UTF-8 JSON, one node or link a line.

    Raises:
        ExportError: it is not a document of this format; nothing is written.
        OSError: the file cannot be written.
    """
    graph_of(document)
    pathlib.Path(path).write_bytes(_encode(document))


def load(path_or_text: str | pathlib.Path | Mapping[str, Any]) -> Found:
    """Read an exported graph back.

    Args:
        path_or_text: a file's path, or the JSON text itself (a ``str`` that begins with ``{``),
            or a document already parsed.

    Returns:
        The graph, the id of its focus or None, and the whole document.

    Raises:
        ExportError: it is not a document of this format; the error says what is wrong and where.
        OSError: the file cannot be read.
    """
    if isinstance(path_or_text, Mapping):
        document = dict(path_or_text)
        return (*graph_of(document), document)
    if isinstance(path_or_text, str) and path_or_text.lstrip()[:1] == "{":
        text = path_or_text
    else:
        try:
            text = pathlib.Path(path_or_text).read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ExportError(f"not UTF-8 text (at byte {error.start})") from error
    document = parse(text)
    graph, focus = graph_of(document)
    return graph, focus, document


def _encode(document: Mapping[str, Any]) -> bytes:
    """Write the members of a document, the long lists one item a line."""
    members = []
    for key, value in document.items():
        if key in ("nodes", "links") and value:
            text = "[\n" + ",\n".join(_dump(item) for item in value) + "\n]"
        else:
            text = _dump(value)
        members.append(f"{_dump(key)}: {text}")
    whole = "{\n" + ",\n".join(members) + "\n}\n"
    return whole.encode()


def _dump(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates only exist as \u escapes
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text


def _node(node: Node, where: str) -> dict[str, Any]:
    out: dict[str, Any] = {
        "id": node.id,
        "type": node.type,
        "kind": node.kind,
        "label": node.label,
    }
    if node.trace is not None:
        out["trace"] = node.trace
    if node.order:
        out["order"] = node.order
    for key, ns in (("start_ns", node.start_ns), ("end_ns", node.end_ns)):
        if ns is not None:
            if not -MAX_NS <= ns <= MAX_NS:
                raise ExportError(f"{ns} is outside 64 bits", f"{where}/{key}")
            out[key] = str(ns)
    for key in ("status", "compartment", "size"):
        value = getattr(node, key)
        if value is not None:
            out[key] = value
    if node.labels:
        out["labels"] = list(node.labels)
    if node.attrs:
        out["attrs"] = _plain(dict(node.attrs), f"{where}/attrs")
    return out


def _link(edge: Edge) -> dict[str, Any]:
    out: dict[str, Any] = {
        "source": edge.cause,
        "target": edge.effect,
        "type": edge.type,
        "basis": edge.basis,
    }
    if not edge.flow:
        out["flow"] = False
    if edge.coverage_permille is not None:
        out["coverage_permille"] = edge.coverage_permille
    if edge.spans:
        out["spans"] = [
            [s.target_start, s.target_end, s.source_start, s.source_end] for s in edge.spans
        ]
    return out


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """Copy a JSON value; a tuple becomes a list, anything JSON has no word for is refused.

    ``where`` does not grow on the way down: keys inside a payload are payload.
    """
    if value is None or type(value) in (str, int, bool):
        return value
    if type(value) is float:
        if math.isfinite(value):
            return value
        raise ExportError(f"{value} is not a JSON number", where)
    if depth > MAX_DEPTH:
        raise ExportError(f"nested deeper than {MAX_DEPTH}", where)
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise ExportError(f"a key is {type(key).__name__}, not a string", where)
        return {k: _plain(v, where, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, where, depth + 1) for v in value]
    raise ExportError(f"{type(value).__name__} is not a JSON value", where)
