"""A trace as a part of the provenance graph: its nodes and edges.

No key is needed: ids, kinds, edges, bases and spans stand in the records' readable part.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any, Final

from provkeep.model import records as r
from provkeep.model.graph import Edge, Node, Span, make_edge, make_node
from provkeep.reading.traces import Item, Names, Run, Trace, members

_MARKS: Final = {"orphan": "start_missing", "dp": "unknown_parent"}
_USAGE: Final = ("input_tokens", "output_tokens", "total_tokens")


class Ids(dict[int, str]):
    """Ids of a trace's artifacts by number, and of its runs by -1 - number."""

    def __init__(self, tid: str) -> None:
        super().__init__()
        self._artifact, self._run = f"{tid}.a", f"{tid}.r"

    def __missing__(self, code: int) -> str:
        out = self[code] = f"{self._artifact}{code}" if code >= 0 else f"{self._run}{~code}"
        return out


class _Everything:
    """Holds whatever is asked for."""

    def __contains__(self, _: object) -> bool:
        return True


EVERYTHING: Final[Container[Any]] = _Everything()


def nodes_of(
    trace: Trace,
    names: Names,
    source_of: Mapping[int, str],
    ids: Ids,
    keep: Container[int] = EVERYTHING,
    actors: Container[str] = EVERYTHING,
) -> list[Node]:
    """The nodes of a trace: runs, artifacts, their sources, the actor.

    Args:
        trace: loaded.
        names: what tags stand for, as far as the reader may know.
        source_of: source tag (base64) by document payload number.
        ids: of this trace.
        keep: numbers of artifacts, and -1 - number of runs: only these, and their sources.
        actors: tags: only these.
    """
    tid, runs = trace.tid, trace.runs
    out = [_run_node(trace, run, ids) for run in runs.values() if ~run.number in keep]
    seen: set[str] = set()
    for item in trace.items.values():
        number = item.number
        if number not in keep:
            continue
        maker = runs.get(item.made_by)
        attrs: dict[str, Any] = {}
        options = item.options
        if options:
            if options.get("ty"):
                attrs["role"] = options["ty"]
            if options.get("ext"):
                attrs["from_earlier_trace"] = True
        name = None
        if item.kind == "document" and item.payload is not None:
            tag = source_of.get(item.payload)
            if tag is not None:
                attrs["source"] = f"s.{tag}"
                name = names.get(tag)
                if tag not in seen:
                    seen.add(tag)
                    label = name or f"source {tag[:8]}"
                    out.append(_plain("source", f"s.{tag}", label, None))
        out.append(
            make_node(
                ids[number],
                "artifact",
                item.kind,
                _label(item, maker, name),
                tid,
                number,
                _when(trace, maker),
                None,
                None,
                item.compartment,
                item.chars if item.chars >= 0 else None,
                attrs,
            )
        )
    actor = trace.head.get("actor")
    if actor is not None and actor in actors:
        out.append(actor_node(trace, names))
    return out


def actor_node(trace: Trace, names: Names) -> Node:
    """Who a trace belongs to."""
    tag = trace.head["actor"]
    return _plain("actor", f"u.{tag}", names.get(tag, f"actor {tag[:8]}"), trace.t0_ns)


def _plain(word: str, id_: str, label: str, start_ns: int | None) -> Node:
    return make_node(id_, word, word, label, None, 0, start_ns, None, None, None, None, {})


def _run_node(trace: Trace, run: Run, ids: Ids) -> Node:
    attrs: dict[str, Any] = {"uuid": run.uuid}
    options, result = run.options, run.result
    asked = options.get("mo")
    model = result.get("mo") or asked
    if model:
        attrs["model"] = model
    if asked and asked != model:
        attrs["asked_model"] = asked
    if run.number == 0 and "session" in trace.head:
        attrs["session"] = trace.head["session"]  # its tag
    if options.get("pr"):
        attrs["provider"] = options["pr"]
    if "tk" in result:
        known = zip(_USAGE, result["tk"], strict=True)
        attrs["usage"] = {word: n for word, n in known if n >= 0}
    if result.get("fr"):
        attrs["finish_reason"] = result["fr"]
    for mark, word in _MARKS.items():
        if mark in options:
            attrs[word] = True
    return make_node(
        ids[~run.number],
        "run",
        run.kind,
        run.name,
        trace.tid,
        run.number,
        run.start_ns,
        run.end_ns,
        run.status or "open",
        None,
        None,
        attrs,
    )


def _when(trace: Trace, maker: Run | None) -> int | None:
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


def edges_of(
    trace: Trace, source_of: Mapping[int, str], ids: Ids, keep: Container[int] = EVERYTHING
) -> list[Edge]:
    """The edges of a trace; those to other traces are found by ``reading.paths``.

    Args:
        trace: loaded.
        source_of: source tag (base64) by document payload number.
        ids: of this trace.
        keep: numbers of artifacts, and -1 - number of runs: only edges between these, from their
            sources and from the actor.
    """
    out: list[Edge] = []
    add = out.append
    for run in trace.runs.values():
        code = ~run.number
        if code not in keep:
            continue
        here, leaf = ids[code], not run.children
        for number in dict.fromkeys(run.used):
            if number in keep:
                add(make_edge("used", ids[number], here, "observed", None, (), leaf))
        if run.parent >= 0 and ~run.parent in keep:
            add(make_edge("informed", ids[~run.parent], here, "observed", None, (), False))
    for item in trace.items.values():
        if item.number in keep:
            _into(trace, item, source_of, ids, keep, add)
    for _, cause, effect, basis, *rest in trace.derived:
        if effect not in keep or cause not in keep:
            continue
        coverage, flat = rest if rest else (-1, ())
        spans = tuple(
            [
                Span(target_start=a, target_end=b, source_start=c, source_end=d)
                for a, b, c, d in zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
            ]
            if flat
            else ()
        )
        known = coverage if coverage >= 0 else None
        add(make_edge("derived", ids[cause], ids[effect], r.BASES[basis], known, spans))
    return out


def _into(
    trace: Trace,
    item: Item,
    source_of: Mapping[int, str],
    ids: Ids,
    keep: Container[int],
    add: Callable[[Edge], None],
) -> None:
    """The edges into an artifact, but those that a record says one by one."""
    here = ids[item.number]
    maker = trace.runs.get(item.made_by)
    if maker is not None:
        leaf, exact = not maker.children, item.exact
        code = ~maker.number
        if code in keep:
            basis = "observed" if leaf else "structural"
            add(make_edge("generated", ids[code], here, basis, None, (), leaf and not exact))
        if not leaf and not exact:
            for number in structural(trace, item, maker):
                if number in keep:
                    add(make_edge("derived", ids[number], here, "structural"))
    elif "actor" in trace.head and not item.exact:
        add(make_edge("attributed", f"u.{trace.head['actor']}", here, "observed"))
    if item.members:
        for number in dict.fromkeys(members(trace, item)):
            if number in keep:
                add(make_edge("member", ids[number], here, "observed"))
    if item.kind == "document" and item.payload is not None:
        tag = source_of.get(item.payload)
        if tag is not None:
            add(make_edge("derived", f"s.{tag}", here, "id"))


def structural(trace: Trace, item: Item, maker: Run) -> list[int]:
    """Glue made it and nothing better explains it: it may rest on all the glue had by then."""
    here, runs = item.number, trace.runs
    causes = dict.fromkeys(maker.used)
    for child in maker.children:
        for number in runs[child].outputs:
            if number < here:
                causes[number] = None
    causes.pop(here, None)
    return list(causes)
