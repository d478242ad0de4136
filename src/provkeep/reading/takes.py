"""Which data keys an erasure destroys: found in the readable part of the records, with no key.

A trace has one data key for each compartment. Documents, and the names of what they came from, are
sealed under keys of their source, whichever trace stored them, so they stay when a trace goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from provkeep.errors import StoreError
from provkeep.model import records as r
from provkeep.reading.lookup import AT_ONCE
from provkeep.store.base import Store, Transaction

ALL: Final = frozenset(range(len(r.COMPARTMENTS)))
MAX_SCANS: Final = 8  # sources looked for one by one; more of them are found in one pass

Asked = Store | Transaction


@dataclass(slots=True)
class Takes:
    """Keys to destroy, and how many payloads of which compartment they seal."""

    traces: set[bytes]
    sources: set[str]  # tags, as records spell them
    classes: frozenset[int] = ALL
    subjects: set[str] = field(default_factory=set)  # tags: traces that begin meanwhile count, too
    keys: set[int] = field(default_factory=set)
    payloads: dict[int, int] = field(default_factory=dict)
    gone: list[tuple[int, int]] = field(default_factory=list)  # erased before

    def meet(self, seq: int, raw: bytes) -> None:
        """Take what one record says."""
        try:
            self._meet(orjson.loads(raw))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise StoreError(
                f"record {seq} is malformed, so nothing was erased; run `provkeep verify`"
            ) from None

    def _meet(self, body: dict[str, Any]) -> None:
        if body["k"] != "trace":
            return
        tid = bytes.fromhex(body["t"])
        if body.get("h", {}).get("subject") in self.subjects:
            self.traces.add(tid)
        if "p" not in body:
            return
        sources: dict[int, str] = {}  # by payload place
        for entry in body["e"]:
            if entry[0] == r.ARTIFACT and "src" in entry[7]:
                sources[entry[6]] = entry[7]["src"]
            elif entry[0] == r.SOURCE:
                sources[entry[2]] = entry[1]
        ours = tid in self.traces
        for place, (_, key_place) in enumerate(body["p"]):
            compartment, number, _ = body["keys"][key_place]
            tag = sources.get(place)
            wanted = ours if tag is None else tag in self.sources
            if wanted and compartment in self.classes and not _within(number, self.gone):
                self.keys.add(number)
                self.payloads[compartment] = self.payloads.get(compartment, 0) + 1

    def ranges(self) -> list[tuple[int, int]]:
        """The keys as first and last numbers of what follows each other."""
        out: list[tuple[int, int]] = []
        for number in sorted(self.keys):
            if out and out[-1][1] == number - 1:
                out[-1] = (out[-1][0], number)
            else:
                out.append((number, number))
        return out


def _within(number: int, ranges: Sequence[tuple[int, int]]) -> bool:
    """Is it in one of these ranges, which are in order?"""
    low, high = 0, len(ranges)
    while low < high:
        middle = (low + high) // 2
        if ranges[middle][1] < number:
            low = middle + 1
        else:
            high = middle
    return low < len(ranges) and ranges[low][0] <= number


def records_about(store: Store, takes: Takes) -> Iterator[tuple[int, bytes]]:
    """Records that may name keys of these traces and sources."""
    waiting = sorted(takes.traces)
    for at in range(0, len(waiting), AT_ONCE):
        some = waiting[at : at + AT_ONCE]
        marks = ",".join("?" * len(some))
        yield from store.query(
            "SELECT r.seq, r.body FROM trace t JOIN trec x ON x.trace = t.id"  # noqa: S608  # marks only
            f" JOIN record r ON r.seq = x.seq WHERE t.tid IN ({marks})",
            some,
        )
    seen: set[int] = set()
    for seq, body in _about_sources(store, sorted(takes.sources)):
        if seq not in seen and not _is_of(body, takes.traces):
            seen.add(seq)
            yield seq, body


def _about_sources(store: Store, tags: list[str]) -> Iterator[tuple[int, bytes]]:
    """Every record that says one of these tags, whatever the index says."""
    if len(tags) > MAX_SCANS:
        yield from store.records()
        return
    for tag in tags:
        yield from store.query("SELECT seq, body FROM record WHERE instr(body, ?)", (tag.encode(),))


def _is_of(body: bytes, traces: set[bytes]) -> bool:
    """Is this a record of one of these traces?"""
    if not traces:
        return False
    found = orjson.loads(body).get("t")
    return isinstance(found, str) and bytes.fromhex(found) in traces


def held_targets(store: Asked) -> tuple[dict[bytes, int], dict[str, int]]:
    """Traces and sources under a legal hold, each with the record that says so.

    A hold on a subject holds its traces; a held trace holds the sources of what it retrieved.
    """
    traces: dict[bytes, int] = {}
    sources: dict[str, int] = {}
    for what, key, seq in store.query("SELECT what, id, seq FROM hold"):
        if what == "source":
            sources[r.b64(key)] = seq
        elif what == "trace":
            traces[bytes(key)] = seq
        else:
            rows = store.query("SELECT tid FROM trace WHERE subject=?", (key,))
            traces.update((bytes(row[0]), seq) for row in rows)
    for tid, seq in traces.items():
        rows = store.query(
            "SELECT s.tag FROM trace t JOIN xref x ON x.trace = t.id JOIN source s"
            " ON s.id = x.source WHERE t.tid=?",
            (tid,),
        )
        for (tag,) in rows:
            sources.setdefault(r.b64(tag), seq)
    return traces, sources


def traces_before(store: Store, at_us: int) -> set[bytes]:
    """Traces that began before an instant and are over."""
    rows = store.query("SELECT tid FROM trace WHERE coalesce(end_us, t0_us) < ?", (at_us,))
    return {bytes(row[0]) for row in rows}


def sources_before(store: Store, at_us: int) -> set[str]:
    """Sources of which nothing was retrieved since an instant."""
    rows = store.query(
        "SELECT s.tag FROM source s JOIN xref x ON x.source = s.id JOIN trace t ON t.id = x.trace"
        " GROUP BY s.id HAVING max(coalesce(t.end_us, t.t0_us)) < ?",
        (at_us,),
    )
    return {r.b64(row[0]) for row in rows}


def codes(classes: Iterable[str] | None) -> frozenset[int]:
    """Codes of compartments; all of them for None.

    Raises:
        ValueError: there is no such compartment.
    """
    if classes is None:
        return ALL
    wanted = list(classes)
    unknown = sorted(set(wanted) - set(r.COMPARTMENTS))
    if unknown or not wanted:
        raise ValueError(
            f"compartments are {', '.join(r.COMPARTMENTS)}; got {', '.join(unknown) or 'none'}"
        )
    return frozenset(r.CLASS_CODE[name] for name in wanted)
