"""A trace, loaded whole from its records.

No key is needed: ids, kinds, edges, bases and spans stand in the records' readable part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from provkeep.errors import StoreError
from provkeep.model import records as r
from provkeep.store.base import Store

_UUID_DIGITS: Final = 32
MORE: Final = "M"  # members that did not fit in their artifact's entry
Names = dict[str, str]  # tag in base64 -> name, as far as known


@dataclass(slots=True)
class Run:
    """A run as its entries say it."""

    number: int
    kind: str
    name: str
    parent: int
    start_ns: int
    rid: str  # its UUID, base64url
    options: dict[str, Any]
    end_ns: int | None = None
    status: str | None = None
    result: dict[str, Any] = field(default_factory=dict)
    used: list[int] = field(default_factory=list)
    children: list[int] = field(default_factory=list)

    @property
    def uuid(self) -> str:
        """Its id as UUIDs are written; StoreError when its record has none."""
        try:
            text = r.unb64(self.rid).hex()
        except ValueError:
            text = ""
        if len(text) != _UUID_DIGITS:
            raise StoreError(f"the id of run {self.number} is malformed; run `provkeep verify`")
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    @property
    def outputs(self) -> list[int]:
        """Artifacts it returned, its error included."""
        out = list(self.result.get("out", ()))
        if "er" in self.result:
            out.append(self.result["er"])
        return out


@dataclass(slots=True)
class Item:
    """An artifact as its entry says it."""

    number: int
    kind: str
    compartment: str
    made_by: int
    chars: int
    payload: int | None  # global number
    options: dict[str, Any]
    members: list[Any]

    @property
    def is_list(self) -> bool:
        """Is it a list of artifacts, without a payload of its own?"""
        return self.payload is None and not self.options.keys() & {"of", "b", "len", "g", "sh"}

    @property
    def exact(self) -> bool:
        """Do its edges explain it in full?"""
        return bool(self.options.get("x"))


@dataclass(slots=True)
class Trace:
    """Everything the records of one trace say."""

    tid: str
    t0_ns: int
    head: dict[str, str]
    sequence: list[int] = field(default_factory=list)
    runs: dict[int, Run] = field(default_factory=dict)
    items: dict[int, Item] = field(default_factory=dict)
    derived: list[list[Any]] = field(default_factory=list)
    notes: list[list[Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    metas: list[int] = field(default_factory=list)
    output: int = -1
    answer: int = -1
    bare: bool = False  # recorded without payloads
    masked: dict[str, int] = field(default_factory=dict)  # how often, by kind
    _places: dict[int, list[int]] = field(default_factory=dict)
    taken: list[Item] = field(default_factory=list)  # what earlier traces gave
    placed: list[Item] = field(default_factory=list)  # items of lists that earlier traces gave
    documents: list[int] = field(default_factory=list)  # their payloads
    _causes: dict[int, list[int]] = field(default_factory=dict)
    _derived: int = 0

    def length(self, number: int) -> int:
        """How many items a list has."""
        item = self.items[number]
        if "len" in item.options:
            return int(item.options["len"])
        if not item.is_list:
            return 1
        return sum(1 if isinstance(m, int) else m[2] - m[1] for m in item.members)

    def places(self, number: int) -> list[int]:
        """The artifact at each place of a list; of a list of another trace, that list itself."""
        waiting = [number]
        while waiting:
            here = waiting[-1]
            item = self.items[here]
            if here in self._places:
                waiting.pop()
                continue
            if "len" in item.options:
                self._places[here] = [here] * int(item.options["len"])
                continue
            lists = [m[0] for m in item.members if not isinstance(m, int)]
            missing = [base for base in lists if base not in self._places and base < here]
            if missing:
                waiting.extend(missing)
                continue
            out: list[int] = []
            for member in item.members:
                if isinstance(member, int):
                    out.append(member)
                else:
                    base, start, stop = member
                    out.extend(self._places.get(base, [])[start:stop])
            self._places[here] = out
        return self._places[number]

    @property
    def causes(self) -> dict[int, list[int]]:
        """What each artifact derives from, as its entries say, by its number."""
        if len(self.derived) != self._derived:
            self._causes.clear()
            for _, cause, effect, *_ in self.derived:
                self._causes.setdefault(effect, []).append(cause)
            self._derived = len(self.derived)
        return self._causes

    def artifact_id(self, number: int) -> str:
        """Its id in the store."""
        return f"{self.tid}.a{number}"

    def run_id(self, number: int) -> str:
        """Its id in the store."""
        return f"{self.tid}.r{number}"


def load_trace(store: Store, tid: bytes) -> Trace:
    """Load a trace from its records.

    Raises:
        StoreError: a record is not one that provkeep writes; `verify` says more.
    """
    rows = store.query(
        "SELECT r.seq, r.body FROM trace t JOIN trec x ON x.trace = t.id JOIN record r"
        " ON r.seq = x.seq WHERE t.tid = ? ORDER BY r.seq",
        (tid,),
    )
    trace: Trace | None = None
    for seq, body in rows:
        try:
            fields = orjson.loads(body)
            if trace is None:
                trace = Trace(tid.hex(), int(fields["t0"]), fields.get("h", {}))
            trace.sequence.append(seq)
            _read(trace, fields)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"record {seq} is malformed ({type(error).__name__}); run `provkeep verify`"
            ) from error
    if trace is None:
        raise StoreError(f"trace {tid.hex()} has no records; run `provkeep verify`")
    return trace


def _read(trace: Trace, fields: dict[str, Any]) -> None:
    p0 = fields.get("p0", 0)
    trace.bare = trace.bare or bool(fields.get("bare"))
    for kind, count in fields.get("masked", {}).items():
        trace.masked[kind] = trace.masked.get(kind, 0) + count
    for entry in fields["e"]:
        tag = entry[0]
        if tag == r.RUN:
            _, number, kind, name, parent, dt, rid, options = entry
            run = Run(number, kind, name, parent, trace.t0_ns + dt, rid, options)
            if "in" in options:
                run.used = list(options["in"])
            trace.runs[number] = run
            if parent >= 0:
                trace.runs[parent].children.append(number)
        elif tag == r.END:
            run = trace.runs[entry[1]]
            if run.status is None:
                run.end_ns, run.status = trace.t0_ns + entry[2], entry[3]
                run.result = entry[4]
        elif tag == r.ARTIFACT:
            _, number, kind, compartment, made_by, chars, place, options = entry
            payload = p0 + place if place >= 0 else options.get("g")
            if payload is None and "sh" in options:
                payload = trace.items[options["sh"]].payload
            word = r.KINDS[kind]
            item = trace.items[number] = Item(
                number,
                word,
                r.COMPARTMENTS[compartment],
                made_by,
                chars,
                payload,
                options,
                list(options["m"]) if "m" in options else [],
            )
            if payload is not None and word == "document":
                trace.documents.append(payload)
            if options.get("ext"):
                trace.taken.append(item)
            if "b" in options:
                trace.placed.append(item)
        elif tag == r.DERIVED:
            last = trace.derived[-1] if trace.derived else entry
            if len(entry) > 5 and last is not entry and last[:5] == entry[:5]:
                last[5] += entry[5]  # its spans did not fit into one entry
            else:
                trace.derived.append(entry)
        elif tag == r.USED:
            trace.runs[entry[1]].used.extend(entry[2])
        elif tag == r.NOTE:
            trace.notes.append(entry)
        elif tag == r.LINK:
            trace.links.append(entry)
        elif tag == r.META:
            trace.metas.append(p0 + entry[1])
        elif tag == MORE:
            trace.items[entry[1]].members.extend(entry[2])
        elif tag == r.FINAL:
            trace.output, trace.answer = entry[1], entry[2]


def members(trace: Trace, item: Item) -> Iterator[int]:
    """Numbers of the artifacts a container is made of.

    A stretch that is the whole of an earlier list, or that stands in a list taken from another
    trace, is given as that list.
    """
    for member in item.members:
        if isinstance(member, int):
            yield member
            continue
        base, start, stop = member
        if start == 0 and stop == trace.length(base):
            yield base
        else:
            yield from trace.places(base)[start:stop]


Given = Callable[[str, str], "tuple[Trace, int] | None"]


def flat(trace: Trace, number: int, given: Given) -> list[tuple[Trace, int] | None]:
    """The artifact at each place of a list, through earlier lists and earlier traces.

    Args:
        trace: loaded.
        number: a list, or anything else, which is then the only item.
        given: called with a link tag and a trace id, gives what an earlier trace gave or None.

    Returns:
        Trace and artifact; None where the earlier trace is not in the store.
    """
    out: list[tuple[Trace, int] | None] = []
    waiting: list[tuple[Trace, int, int, int]] = [(trace, number, 0, trace.length(number))]
    while waiting:
        here, at, start, stop = waiting.pop()
        item = here.items[at]
        if "len" in item.options:
            found = given(item.options["ext"], here.tid)
            if found is None:
                out.extend([None] * (stop - start))
            else:
                waiting.append((*found, start, min(stop, found[0].length(found[1]))))
            continue
        if not item.is_list:
            out.append((here, at))
            continue
        places = here.places(at)
        pieces: list[tuple[Trace, int, int, int]] = []
        for i in range(start, stop):
            place = places[i]
            if "len" not in here.items[place].options:
                pieces.append((here, place, 0, 1))
            elif pieces and pieces[-1][0] is here and pieces[-1][1] == place:
                pieces[-1] = (here, place, pieces[-1][2], pieces[-1][3] + 1)
            else:
                offset = i - places.index(place)
                pieces.append((here, place, offset, offset + 1))
        waiting.extend(reversed(pieces))
    return out
