"""Which artifacts of a graph can no longer be opened, because an erase record names their key.

No key is needed: which data key sealed a payload stands in the records' readable part.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import replace

import orjson

from provkeep.model.graph import ERASED, Node
from provkeep.reading.lookup import query_in
from provkeep.reading.traces import Trace, members
from provkeep.store.base import Store
from provkeep.store.erasing import newest_erasure


def erased_payloads(store: Store, payloads: Iterable[int]) -> dict[int, int]:
    """Of these payloads, by number, those whose keys were erased, each with the erase record."""
    if newest_erasure(store) < 0:
        return {}
    of_record: dict[int, list[int]] = {}
    for number, seq in query_in(
        store, "SELECT id, seq FROM payload WHERE id IN ({marks})", sorted(set(payloads))
    ):
        of_record.setdefault(seq, []).append(number)
    sealed: dict[int, list[int]] = {}  # payloads by the number of their data key
    for seq, raw in query_in(
        store, "SELECT seq, body FROM record WHERE seq IN ({marks})", sorted(of_record)
    ):
        body = orjson.loads(raw)
        for number in of_record[seq]:
            try:
                key = body["keys"][body["p"][number - body["p0"]][1]][1]
            except (KeyError, IndexError, TypeError):
                continue  # altered: it is opened by nobody, and `verify` names it
            sealed.setdefault(key, []).append(number)
    keys = sorted(sealed)
    out: dict[int, int] = {}
    if keys:
        for first, last, seq in store.query(
            "SELECT first, last, seq FROM gone WHERE first <= ? AND last >= ? ORDER BY seq",
            (keys[-1], keys[0]),
        ):
            for key in keys[bisect_left(keys, first) : bisect_right(keys, last)]:
                for number in sealed[key]:
                    out.setdefault(number, seq)
    return out


def erased_artifacts(
    store: Store, traces: Iterable[Trace], came: Mapping[str, str]
) -> dict[str, int]:
    """Artifacts that were erased, by id, each with the erase record.

    Args:
        store: says what was erased.
        traces: loaded.
        came: ids of artifacts of earlier traces by the ids of those that are the same thing.
    """
    loaded = list(traces)
    payloads = (i.payload for t in loaded for i in t.items.values() if i.payload is not None)
    gone = erased_payloads(store, payloads)
    if not gone:
        return {}
    out: dict[str, int] = {}
    taken: list[str] = []  # holds nothing of its own
    for trace in loaded:
        for number in sorted(trace.items):
            item, here = trace.items[number], trace.artifact_id(number)
            if item.payload is not None:
                marks = [gone.get(item.payload)]
            elif "of" in item.options:
                marks = [out.get(trace.artifact_id(item.options["of"]))]
            elif item.is_list:
                marks = [out.get(trace.artifact_id(n)) for n in members(trace, item)]
            else:
                taken.append(here)
                continue
            known = [record for record in marks if record is not None]
            if known and len(known) == len(marks):
                out[here] = known[0]
    for effect in taken:
        origin, seen = effect, {effect}
        while origin not in out and came.get(origin, origin) not in seen:
            origin = came[origin]
            seen.add(origin)
        if origin in out:
            out[effect] = out[origin]
    return out


def marked(nodes: dict[str, Node], erased: Mapping[str, int]) -> None:
    """Say of nodes that they were erased, and of a source when all its documents here were."""
    if not erased:
        return
    left: dict[str, list[int | None]] = {}
    for node in nodes.values():
        if node.type == "artifact" and "source" in node.attrs:
            left.setdefault(node.attrs["source"], []).append(erased.get(node.id))
    sources = {
        tag: min(r for r in found if r is not None) for tag, found in left.items() if all(found)
    }
    for node_id, record in {**erased, **sources}.items():
        if node_id in nodes:
            node = nodes[node_id]
            attrs = {**node.attrs, "erased": record}
            nodes[node_id] = replace(node, status=ERASED, attrs=attrs)
