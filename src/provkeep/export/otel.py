"""Graphs as OTLP/JSON, for the tracing tools that a team already looks at.

A run is a span, an edge of content between two runs a link. Follows the OpenTelemetry protocol 1.x
(``ExportTraceServiceRequest`` in its JSON encoding: ids in hexadecimal, 64-bit numbers as strings)
and the semantic conventions for generative AI, version 1.41.0. No text leaves this way, and no
name of a source, person or session.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, Final

from provkeep.model.graph import Edge, Graph, Node

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.0"
PREFIX: Final = "provkeep"
MAX_LINKS: Final = 128  # of one span, the collector's own default; more are counted as dropped
INTERNAL, CLIENT = 1, 3  # SpanKind
ERROR: Final = 2  # StatusCode
_FAILED: Final = frozenset({"error", "blocked"})
_MAX_NS: Final = 2**64 - 1
_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")

# kind of run -> operation, span kind, attribute that holds the run's name
_OPERATIONS: Final[Mapping[str, tuple[str, int, str | None]]] = {
    "model": ("chat", CLIENT, None),
    "embedding": ("embeddings", CLIENT, None),
    "retriever": ("retrieval", CLIENT, None),
    "tool": ("execute_tool", INTERNAL, "gen_ai.tool.name"),
    "agent": ("invoke_agent", INTERNAL, "gen_ai.agent.name"),
    "graph": ("invoke_workflow", INTERNAL, "gen_ai.workflow.name"),
}
_USAGE: Final = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
}


def to_otlp_json(graph: Graph, whole: Graph | None = None) -> dict[str, Any]:
    """Return the runs of ``graph`` as one OTLP/JSON trace request.

    A span's id is the first 8 bytes of the SHA-256 of the run's id, so that a run exported twice is
    one span. A run that never ended ends where it began. A session is given by its tag, which says
    whether two are equal.

    Args:
        graph: what to export.
        whole: the graph it is a part of: where a run's parent is left out, its span hangs under the
            nearest run above that is not.
    """
    whole = graph if whole is None else whole
    runs = list(graph.of("run"))
    parents = {e.effect: e.cause for e in whole.edges if e.type == "informed"}
    sessions = {n.trace: str(n.attrs["session"]) for n in whole.of("run") if n.attrs.get("session")}
    links = _links(graph)
    spans = []
    for run in runs:
        span = _span(run, graph)
        parent = _above(run.id, parents, graph)
        if parent is not None and graph.nodes[parent].trace == run.trace:
            span["parentSpanId"] = span_id(parent)
        session = sessions.get(run.trace)
        if session is not None:
            span["attributes"] += _attributes({"gen_ai.conversation.id": session})
        found = links.get(run.id, [])
        if found:
            span["links"] = found[:MAX_LINKS]
        if len(found) > MAX_LINKS:
            span["droppedLinksCount"] = len(found) - MAX_LINKS
        spans.append(span)
    scope = {"name": PREFIX, "version": version("provkeep")}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes({"service.name": PREFIX})},
                "scopeSpans": [{"scope": scope, "spans": spans, "schemaUrl": SCHEMA_URL}],
                "schemaUrl": SCHEMA_URL,
            }
        ]
    }


def span_id(run_id: str) -> str:
    """The 8 bytes that stand for a run, in hexadecimal."""
    return hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def trace_id(trace: str | None) -> str:
    """The 16 bytes of a trace's id in hexadecimal; of an id that is none, a hash."""
    if trace is not None and _TRACE_ID.fullmatch(trace):
        return trace
    return hashlib.sha256((trace or "").encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _span(run: Node, graph: Graph) -> dict[str, Any]:
    operation, kind, named = _OPERATIONS.get(run.kind, (None, INTERNAL, None))
    model = run.attrs.get("model")
    said: dict[str, Any] = {f"{PREFIX}.run.id": run.id, f"{PREFIX}.run.kind": run.kind}
    if operation == "chat" and not _talks(run, graph):
        operation = "text_completion"
    if operation is not None:
        said["gen_ai.operation.name"] = operation
    if named is not None:
        said[named] = run.label
    if run.kind in ("model", "embedding"):
        said["gen_ai.provider.name"] = run.attrs.get("provider")
        said["gen_ai.request.model"] = run.attrs.get("asked_model") or model
        if "asked_model" in run.attrs:
            said["gen_ai.response.model"] = model
        if run.attrs.get("finish_reason"):
            said["gen_ai.response.finish_reasons"] = [str(run.attrs["finish_reason"])]
        usage = run.attrs.get("usage")
        for word, name in _USAGE.items():
            said[name] = usage.get(word) if isinstance(usage, Mapping) else None
    said[f"{PREFIX}.run.status"] = run.status
    status = {}
    if run.status in _FAILED:
        status = {"code": ERROR}
        said["error.type"] = _error_of(run, graph) or run.status
    start = _ns(run.start_ns if run.start_ns is not None else run.end_ns)
    name = str(model or run.label) if operation and named is None else run.label
    return {
        "traceId": trace_id(run.trace),
        "spanId": span_id(run.id),
        "name": _text(f"{operation} {name}" if operation else name),
        "kind": kind,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(max(start, _ns(run.end_ns))),
        "attributes": _attributes(said),
        "status": status,
    }


def _talks(run: Node, graph: Graph) -> bool:
    """Was the model given messages? A text model was given one text; an unknown input says yes."""
    given = [e.cause for e in graph.into.get(run.id, ()) if e.type == "used"]
    kinds = {graph.nodes[i].kind for i in given if i in graph.nodes}
    return kinds != {"text"}


def _error_of(run: Node, graph: Graph) -> str | None:
    for edge in graph.out_of.get(run.id, ()):
        made = graph.nodes.get(edge.effect)
        if edge.type == "generated" and made is not None and made.kind == "error":
            return made.label
    return None


def _above(run_id: str, parents: Mapping[str, str], graph: Graph) -> str | None:
    """The nearest run above that is in the graph."""
    seen = {run_id}
    here = parents.get(run_id)
    while here is not None and here not in seen:
        if here in graph.nodes:
            return here
        seen.add(here)
        here = parents.get(here)
    return None


def _links(graph: Graph) -> dict[str, list[dict[str, Any]]]:
    """For each run, links to the runs whose artifacts it used or made its own from."""
    makers = {
        e.effect: e.cause
        for e in graph.edges
        if e.type == "generated" and e.cause in graph.nodes and e.effect in graph.nodes
    }
    known: dict[tuple[str, str, str, str], Edge] = {}
    for edge in graph.edges:
        if not edge.flow or edge.type not in ("derived", "used"):
            continue
        cause = makers.get(edge.cause)
        effect = edge.effect if edge.type == "used" else makers.get(edge.effect)
        if cause is None or effect is None or cause == effect or effect not in graph.nodes:
            continue
        key = (effect, cause, edge.type, edge.basis)
        best = known.get(key)
        if best is None or (edge.coverage_permille or 0) > (best.coverage_permille or 0):
            known[key] = edge
    out: dict[str, list[dict[str, Any]]] = {}
    for (effect, cause, kind, basis), edge in known.items():
        said = {
            f"{PREFIX}.edge.type": kind,
            f"{PREFIX}.edge.basis": basis,
            f"{PREFIX}.edge.coverage_permille": edge.coverage_permille,
        }
        link = {
            "traceId": trace_id(graph.nodes[cause].trace),
            "spanId": span_id(cause),
            "attributes": _attributes(said),
        }
        out.setdefault(effect, []).append(link)
    return out


def _ns(value: int | None) -> int:
    return min(max(value or 0, 0), _MAX_NS)


def _text(value: str) -> str:
    """Text as protocol buffers can hold it."""
    return value.encode("utf-8", "replace").decode()


def _attributes(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": k, "value": _value(v)} for k, v in said.items() if v is not None]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(max(-(2**63), min(value, 2**63 - 1)))}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return {"arrayValue": {"values": [_value(v) for v in value]}}
    return {"stringValue": _text(str(value))}
