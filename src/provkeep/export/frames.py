"""Graphs for networkx and pandas, which are imported only here and only when asked for."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, Final

from provkeep.errors import MissingExtraError
from provkeep.model.graph import Graph, Node

_NODE_COLUMNS: Final = tuple(f.name for f in dataclasses.fields(Node))
_EDGE_COLUMNS: Final = (
    "cause",
    "effect",
    "type",
    "basis",
    "flow",
    "coverage_permille",
    "spans",
)


def to_networkx(graph: Graph) -> Any:
    """Return a ``networkx.MultiDiGraph``: edges run from cause to effect, fields are attributes.

    Edges to nodes the graph does not hold are left out.

    Raises:
        MissingExtraError: networkx is not installed.
    """
    out = _module("networkx", "networkx").MultiDiGraph()
    for node in graph.nodes.values():
        out.add_node(node.id, **{key: getattr(node, key) for key in _NODE_COLUMNS[1:]})
    for edge in graph.edges:
        if edge.cause in graph.nodes and edge.effect in graph.nodes:
            fields = {key: getattr(edge, key) for key in _EDGE_COLUMNS[2:-1]}
            out.add_edge(edge.cause, edge.effect, **fields, spans=_spans(edge.spans))
    return out


def to_pandas(graph: Graph) -> tuple[Any, Any]:
    """Return two ``pandas.DataFrame``: nodes by id, and edges.

    Besides the fields of a node, ``start`` and ``end`` hold its times as UTC timestamps; whole
    numbers that may be absent have the type ``Int64``.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    pandas = _module("pandas", "pandas")
    nodes = pandas.DataFrame(
        [[getattr(node, key) for key in _NODE_COLUMNS] for node in graph.nodes.values()],
        columns=list(_NODE_COLUMNS),
        dtype=object,
    )
    for key in ("order", "start_ns", "end_ns", "size"):
        nodes[key] = nodes[key].astype("Int64")
    for key in ("start", "end"):
        nodes[key] = pandas.to_datetime(nodes[f"{key}_ns"], unit="ns", utc=True)
    edges = pandas.DataFrame(
        [
            [*(getattr(edge, key) for key in _EDGE_COLUMNS[:-1]), _spans(edge.spans)]
            for edge in graph.edges
        ],
        columns=list(_EDGE_COLUMNS),
        dtype=object,
    )
    edges["flow"] = edges["flow"].astype(bool)
    edges["coverage_permille"] = edges["coverage_permille"].astype("Int64")
    return nodes.set_index("id"), edges


def _spans(spans: Any) -> list[tuple[int, int, int, int]]:
    return [(s.target_start, s.target_end, s.source_start, s.source_end) for s in spans]


def _module(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MissingExtraError(name, extra) from error
