"""Graphs as PROV-JSON, for tools that read W3C provenance.

A run is an activity, an artifact or a source an entity, an actor an agent. Follows the PROV-JSON
submission (W3C, 2013-04-24). Written directly: through a library it costs 20 times as much.
"""

from __future__ import annotations

import datetime as dt
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from provkeep.model.graph import Edge, Graph, Node

NAMESPACE: Final = "urn:provkeep:"
PREFIX: Final = "pk"
_ELEMENTS: Final[Mapping[str, str]] = {
    "run": "activity",
    "artifact": "entity",
    "source": "entity",
    "actor": "agent",
}
# (edge type, element of the cause, of the effect) -> relation, role of the cause, of the effect
_RELATIONS: Final[Mapping[tuple[str, str, str], tuple[str, str, str]]] = {
    ("used", "entity", "activity"): ("used", "entity", "activity"),
    ("generated", "activity", "entity"): ("wasGeneratedBy", "activity", "entity"),
    ("derived", "entity", "entity"): ("wasDerivedFrom", "usedEntity", "generatedEntity"),
    ("informed", "activity", "activity"): ("wasInformedBy", "informant", "informed"),
    ("attributed", "agent", "activity"): ("wasAssociatedWith", "agent", "activity"),
    ("attributed", "agent", "entity"): ("wasAttributedTo", "agent", "entity"),
    ("attributed", "agent", "agent"): ("actedOnBehalfOf", "responsible", "delegate"),
}
_ANY: Final = ("wasInfluencedBy", "influencer", "influencee")


def to_prov_json(graph: Graph) -> dict[str, Any]:
    """Return ``graph`` as a PROV-JSON document.

    What PROV has no word for stands in attributes of the namespace ``urn:provkeep:``: kind,
    status, labels, and of every relation its basis, flow, coverage and spans. A link PROV has no
    relation for becomes ``wasInfluencedBy``. Edges to nodes the graph does not hold are left out.
    """
    out: dict[str, Any] = {"prefix": {PREFIX: NAMESPACE}}
    for node in graph.nodes.values():
        out.setdefault(_ELEMENTS[node.type], {})[_name(node.id)] = _element(node)
    for number, edge in enumerate(graph.edges):
        if edge.cause in graph.nodes and edge.effect in graph.nodes:
            relation, fields = _relation(edge, graph)
            out.setdefault(relation, {})[f"_:e{number}"] = fields
    return out


def _name(node_id: str) -> str:
    """Return a qualified name; what a local name may not hold is percent-encoded."""
    return f"{PREFIX}:{urllib.parse.quote(node_id, safe='', errors='surrogatepass')}"


def _element(node: Node) -> dict[str, Any]:
    fields: dict[str, Any] = {"prov:label": node.label, f"{PREFIX}:kind": node.kind}
    if node.type == "run":
        for key, ns in (("prov:startTime", node.start_ns), ("prov:endTime", node.end_ns)):
            if ns is not None:
                fields[key] = utc(ns)
    elif node.start_ns is not None:
        fields[f"{PREFIX}:time"] = {"$": utc(node.start_ns), "type": "xsd:dateTime"}
    if node.kind == "composite":
        fields["prov:type"] = {"$": "prov:Collection", "type": "prov:QUALIFIED_NAME"}
    elif node.type == "source":
        fields["prov:type"] = {"$": f"{PREFIX}:source", "type": "prov:QUALIFIED_NAME"}
    for key in ("trace", "status", "compartment", "size"):
        value = getattr(node, key)
        if value is not None:
            fields[f"{PREFIX}:{key}"] = value
    if node.order:
        fields[f"{PREFIX}:order"] = node.order
    if node.labels:
        fields[f"{PREFIX}:label"] = list(node.labels)
    if node.attrs:
        fields[f"{PREFIX}:attrs"] = json.dumps(dict(node.attrs), sort_keys=True, default=str)
    return fields


def _relation(edge: Edge, graph: Graph) -> tuple[str, dict[str, Any]]:
    cause, effect = graph.nodes[edge.cause], graph.nodes[edge.effect]
    ends = (edge.type, _ELEMENTS[cause.type], _ELEMENTS[effect.type])
    relation, cause_role, effect_role = _RELATIONS.get(ends, _ANY)
    if edge.type == "member" and ends[1:] == ("entity", "entity"):
        # PROV allows hadMember no attributes; a container hands on to a part as a derivation
        if effect.kind == "composite":
            pair = {"prov:collection": _name(effect.id), "prov:entity": _name(cause.id)}
            return "hadMember", pair
        relation, cause_role, effect_role = _RELATIONS["derived", "entity", "entity"]
    fields: dict[str, Any] = {
        f"prov:{effect_role}": _name(effect.id),
        f"prov:{cause_role}": _name(cause.id),
        f"{PREFIX}:basis": edge.basis,
    }
    if relation == "wasGeneratedBy" and effect.start_ns is not None:
        fields["prov:time"] = utc(effect.start_ns)
    if relation == _ANY[0]:
        fields[f"{PREFIX}:type"] = edge.type
    if not edge.flow:
        fields[f"{PREFIX}:flow"] = False
    if edge.coverage_permille is not None:
        fields[f"{PREFIX}:coveragePermille"] = edge.coverage_permille
    if edge.spans:
        spans = [[s.target_start, s.target_end, s.source_start, s.source_end] for s in edge.spans]
        fields[f"{PREFIX}:spans"] = json.dumps(spans)
    return relation, fields


def utc(ns: int) -> str:
    """Return nanoseconds since 1970 as an ``xsd:dateTime`` with nine decimals."""
    seconds, rest = divmod(ns, 1_000_000_000)
    moment = dt.datetime(1970, 1, 1) + dt.timedelta(seconds=seconds)
    return f"{moment.isoformat()}.{rest:09d}Z"
