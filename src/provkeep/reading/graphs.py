"""A trace as a part of the provenance graph: its nodes and edges.

No key is needed: ids, kinds, edges, bases and spans stand in the records' readable part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from provkeep.model import records as r
from provkeep.model.graph import Edge, Node, Span
from provkeep.reading.traces import Item, Names, Run, Trace, members


def nodes_of(trace: Trace, names: Names, source_of: dict[int, str]) -> Iterator[Node]:
    """The nodes of a trace: runs, artifacts, their sources, the actor.

    Args:
        trace: loaded.
        names: what tags stand for, as far as the reader may know.
        source_of: source tag (base64) by document payload number.
    """
    for run in trace.runs.values():
        attrs: dict[str, Any] = {"uuid": run.uuid}
        model = run.result.get("mo") or run.options.get("mo")
        if model:
            attrs["model"] = model
        asked = run.options.get("mo")
        if asked and asked != model:
            attrs["asked_model"] = asked
        if run.number == 0 and "session" in trace.head:
            attrs["session"] = trace.head["session"]  # its tag
        if run.options.get("pr"):
            attrs["provider"] = run.options["pr"]
        if "tk" in run.result:
            words = ("input_tokens", "output_tokens", "total_tokens")
            known = zip(words, run.result["tk"], strict=True)
            attrs["usage"] = {word: n for word, n in known if n >= 0}
        if run.result.get("fr"):
            attrs["finish_reason"] = run.result["fr"]
        for mark in ("orphan", "dp"):
            if mark in run.options:
                attrs[{"orphan": "start_missing", "dp": "unknown_parent"}[mark]] = True
        yield Node(
            id=trace.run_id(run.number),
            type="run",
            kind=run.kind,
            label=run.name,
            trace=trace.tid,
            order=run.number,
            start_ns=run.start_ns,
            end_ns=run.end_ns,
            status=run.status or "open",
            attrs=attrs,
        )
    seen: set[str] = set()
    for item in trace.items.values():
        maker = trace.runs.get(item.made_by)
        attrs = {}
        role = item.options.get("ty")
        if role:
            attrs["role"] = role
        if item.options.get("ext"):
            attrs["from_earlier_trace"] = True
        tag = source_of.get(item.payload) if item.payload is not None else None
        if item.kind == "document" and tag is not None:
            attrs["source"] = f"s.{tag}"
            if tag not in seen:
                seen.add(tag)
                label = names.get(tag, f"source {tag[:8]}")
                yield Node(id=f"s.{tag}", type="source", kind="source", label=label)
        yield Node(
            id=trace.artifact_id(item.number),
            type="artifact",
            kind=item.kind,
            label=_label(item, maker, names.get(tag or "")),
            trace=trace.tid,
            order=item.number,
            start_ns=_when(trace, item, maker),
            compartment=item.compartment,
            size=item.chars if item.chars >= 0 else None,
            attrs=attrs,
        )
    if "actor" in trace.head:
        tag = trace.head["actor"]
        label = names.get(tag, f"actor {tag[:8]}")
        yield Node(id=f"u.{tag}", type="actor", kind="actor", label=label, start_ns=trace.t0_ns)


def _when(trace: Trace, item: Item, maker: Run | None) -> int | None:
    if maker is None:
        return trace.t0_ns
    return maker.end_ns if not maker.children else None


def _label(item: Item, maker: Run | None, source: str | None) -> str:
    role = item.options.get("ty")
    if item.kind == "document":
        return source.rsplit("/", 1)[-1] if source else "document"
    if item.kind == "tool_call":
        return str(role or "tool call")
    if item.kind == "tool_result":
        return f"{maker.name} result" if maker and maker.kind == "tool" else "tool result"
    if item.kind == "error":
        return str(role or "error")
    if item.kind == "message" and role:
        return f"{role} message"
    return item.kind


def edges_of(trace: Trace, source_of: dict[int, str]) -> Iterator[Edge]:
    """The edges of a trace; those to other traces are found by ``reading.paths``."""
    items, runs, aid, rid = trace.items, trace.runs, trace.artifact_id, trace.run_id
    for run in runs.values():
        leaf = not run.children
        for number in dict.fromkeys(run.used):
            yield Edge(
                type="used",
                cause=aid(number),
                effect=rid(run.number),
                basis="observed",
                flow=leaf,
            )
        if run.parent >= 0:
            yield Edge(
                type="informed",
                cause=rid(run.parent),
                effect=rid(run.number),
                basis="observed",
                flow=False,
            )
    for item in items.values():
        here = aid(item.number)
        maker = runs.get(item.made_by)
        if maker is not None:
            leaf = not maker.children
            flow = leaf and not item.exact
            yield Edge(
                type="generated",
                cause=rid(maker.number),
                effect=here,
                basis="observed" if leaf else "structural",
                flow=flow,
            )
            if not leaf and not item.exact:
                yield from _structural(trace, item, maker)
        elif "actor" in trace.head and not item.exact:
            yield Edge(
                type="attributed",
                cause=f"u.{trace.head['actor']}",
                effect=here,
                basis="observed",
            )
        for number in dict.fromkeys(members(trace, item)):
            yield Edge(type="member", cause=aid(number), effect=here, basis="observed")
        tag = source_of.get(item.payload) if item.payload is not None else None
        if item.kind == "document" and tag is not None:
            yield Edge(type="derived", cause=f"s.{tag}", effect=here, basis="id")
    for _, cause, effect, basis, *rest in trace.derived:
        coverage, flat = rest if rest else (-1, [])
        spans = tuple(
            Span(target_start=a, target_end=b, source_start=c, source_end=d)
            for a, b, c, d in zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
        )
        yield Edge(
            type="derived",
            cause=aid(cause),
            effect=aid(effect),
            basis=r.BASES[basis],
            coverage_permille=coverage if coverage >= 0 else None,
            spans=spans,
        )


def _structural(trace: Trace, item: Item, maker: Run) -> Iterator[Edge]:
    """Glue made it and nothing better explains it: it may rest on all the glue had by then."""
    causes = list(maker.used)
    for child in maker.children:
        causes.extend(n for n in trace.runs[child].outputs if n < item.number)
    for number in dict.fromkeys(causes):
        if number != item.number:
            yield Edge(
                type="derived",
                cause=trace.artifact_id(number),
                effect=trace.artifact_id(item.number),
                basis="structural",
            )
