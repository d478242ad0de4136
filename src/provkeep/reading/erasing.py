"""Erasing: a signed record that says which data keys are destroyed, then their destruction.

Nothing is removed from the log and no proof breaks: a record commits to ciphertext, and without its
key a ciphertext is noise. Retention is the same, for what is older than it may be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from provkeep.errors import HeldError, UnknownIdError
from provkeep.model import records as r
from provkeep.reading.access import Appender
from provkeep.reading.answers import TraceSummary, clock
from provkeep.reading.lookup import query_in
from provkeep.reading.takes import (
    ALL,
    Takes,
    codes,
    held_targets,
    records_about,
    sources_before,
    traces_before,
)
from provkeep.store.base import Store, Transaction
from provkeep.store.erasing import carry_out, gone_since
from provkeep.store.keyfile import KeyFile, keys_path

if TYPE_CHECKING:
    from provkeep.reading.reader import Reader

MAX_RANGES: Final = 1_500  # ranges of keys in one record
MAX_SOURCES: Final = 500  # tags of sources in one record
BUSY_MS: Final = 2_000  # how long readers of the old state are waited for
LISTED: Final = 1_000  # traces that a plan names

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an erasure would take, and what would be left that came from it. Nothing is done yet."""

    what: str  # trace, subject, source or retention
    classes: tuple[str, ...]
    traces: tuple[TraceSummary, ...]  # the first thousand of those whose payloads go
    trace_count: int
    sources: tuple[str, ...]  # names, as far as known, of the sources whose documents go
    keys: int
    payloads: dict[str, int]  # by compartment
    derived: tuple[TraceSummary, ...]  # other traces that hold something made from it
    stays: tuple[str, ...]  # sources of what the traces retrieved: their documents stay
    held: int = 0  # traces and sources left out, being under a legal hold (retention only)
    _takes: Takes = field(repr=False, compare=False)
    _size: int = field(repr=False, compare=False)  # records that were looked at
    _body: dict[str, Any] = field(repr=False, compare=False)

    def __repr__(self) -> str:
        return (
            f"<Plan to erase {self.what}: {self.keys} keys, {sum(self.payloads.values())} payloads>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        shown = {k: getattr(self, k) for k in ("what", "classes", "trace_count", "sources", "keys")}
        return {
            **shown,
            "payloads": self.payloads,
            "traces": [t.to_dict() for t in self.traces],
            "derived": [t.to_dict() for t in self.derived],
            "stays": self.stays,
            "held": self.held,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """An erasure as its record says it."""

    record: int
    at_us: int
    actor: str
    reason: str | None
    what: str
    keys: int
    traces: int
    sources: int
    pending: bool  # a reader holds back the last bytes of the keys

    def __repr__(self) -> str:
        state = ", pending" if self.pending else ""
        return f"<Erasure {self.record} {clock(self.at_us)} {self.what}: {self.keys} keys{state}>"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def appender(reader: Reader) -> Appender:
    """What appends records of an erasure or a hold to a reader's store."""
    return Appender(reader.path, reader._find_desk)


def plan(
    reader: Reader,
    *,
    trace: str | None = None,
    subject: str | None = None,
    source: str | None = None,
    older_than_us: int | None = None,
    classes: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> Plan:
    """See ``Trail.plan_erasure``."""
    named = {"trace": trace, "subject": subject, "source": source, "retention": older_than_us}
    given = [what for what, value in named.items() if value is not None]
    if len(given) != 1:
        raise ValueError("name one of trace, subject, source and older_than_us")
    what, store = given[0], reader._store
    takes = Takes(set(), set(), codes(classes), gone=gone_since(store, -1))
    body: dict[str, Any] = {"k": "erase", "v": r.FORMAT, "what": what}
    size = store.query("SELECT coalesce(max(seq), -1) + 1 FROM record")[0][0]
    held = 0
    if trace is not None:
        tid = reader._trace_id(trace)
        takes.traces.add(bytes.fromhex(tid))
        body["t"] = tid
    elif subject is not None:
        tags = reader._access.tags("subject", subject)
        takes.subjects = {r.b64(tag) for tag in tags}
        rows = query_in(store, "SELECT tid FROM trace WHERE subject IN ({marks})", tags)
        takes.traces.update(bytes(row[0]) for row in rows)
        if not takes.traces:
            raise UnknownIdError("subject", "of that name")  # the name itself goes into no message
    elif source is not None:
        takes.sources.add(r.b64(reader.source_tag(source)))
        if not source.startswith("s."):
            tags = reader._access.tags("source", source)
            rows = query_in(store, "SELECT tag FROM source WHERE tag IN ({marks})", tags)
            takes.sources.update(r.b64(row[0]) for row in rows)
    elif older_than_us is not None:
        body["before"] = older_than_us
        takes.traces = traces_before(store, older_than_us)
        takes.sources = sources_before(store, older_than_us)
        held = _leave_out_held(store, takes)
    if takes.classes != ALL:
        body["c"] = sorted(takes.classes)
    total = len(takes.traces) + len(takes.sources)
    for i, (seq, raw) in enumerate(records_about(store, takes)):
        takes.meet(seq, raw)
        if progress is not None and not i % 256:
            progress(min(i, total), total)
    return _described(reader, takes, what, size, body, held)


def _leave_out_held(store: Store, takes: Takes) -> int:
    traces, sources = held_targets(store)
    held = len(takes.traces & traces.keys()) + len(takes.sources & sources.keys())
    takes.traces -= traces.keys()
    takes.sources -= sources.keys()
    return held


def _described(
    reader: Reader, takes: Takes, what: str, size: int, body: dict[str, Any], held: int
) -> Plan:
    tids = [tid.hex() for tid in sorted(takes.traces)][:LISTED]
    derived: dict[str, None] = {}
    stays: dict[str, None] = {}
    names: dict[str, str] = {}
    if what != "retention":
        names = reader.source_names() if takes.sources or takes.traces else {}
        for tag in takes.sources:
            derived.update(dict.fromkeys(reader.built_on(r.unb64(tag))))
        rows = query_in(
            reader._store,
            "SELECT DISTINCT s.tag FROM trace t JOIN xref x ON x.trace = t.id JOIN source s"
            " ON s.id = x.source WHERE t.tid IN ({marks})",
            [bytes.fromhex(tid) for tid in tids],
        )
        stays.update((names.get(r.b64(row[0]), f"s.{r.b64(row[0])}"), None) for row in rows)
        derived.update((tid, None) for tid in reader._later(tids))
    left = [tid for tid in derived if bytes.fromhex(tid) not in takes.traces]
    named = [names.get(tag, f"s.{tag}") for tag in sorted(takes.sources)]
    return Plan(
        what=what,
        classes=tuple(r.COMPARTMENTS[code] for code in sorted(takes.classes)),
        traces=tuple(reader._by_id(tids)),
        trace_count=len(takes.traces),
        sources=tuple(named),
        keys=len(takes.keys),
        payloads={r.COMPARTMENTS[code]: n for code, n in sorted(takes.payloads.items())},
        derived=tuple(reader._by_id(left)),
        stays=tuple(sorted(stays)),
        held=held,
        _takes=takes,
        _size=size,
        _body=body,
    )


def erase(reader: Reader, wanted: Plan, *, reason: str) -> Erasure | None:
    """See ``Trail.erase``."""
    if not reason.strip():
        raise ValueError("say why: the reason stands, sealed, in the erase record")
    takes = wanted._takes
    pending: list[r.Pending] = []
    with closing(appender(reader)) as files:

        def decide(tx: Transaction) -> None:
            """Nobody can append now: look at what came since the plan, and at the holds."""
            if wanted.what == "retention":
                _leave_out_newly_held(tx, takes)
            else:
                _refuse_held(tx, takes)
            for seq, raw in tx.query("SELECT seq, body FROM record WHERE seq>=?", (wanted._size,)):
                takes.meet(seq, raw)
            pending.extend(_records(reader, files, takes, wanted._body, reason))

        files.append(pending, decide)
        if not pending:
            return None
        files.sign()
        done = _carry_out(files)
    return Erasure(
        record=pending[0].seq,
        at_us=pending[0].body["at"],
        actor=reader.actor,
        reason=reason,
        what=wanted.what,
        keys=len(takes.keys),
        traces=len(takes.traces),
        sources=len(takes.sources),
        pending=not done,
    )


def _refuse_held(tx: Transaction, takes: Takes) -> None:
    traces, sources = held_targets(tx)
    found = [traces[t] for t in takes.traces & traces.keys()]
    found += [sources[s] for s in takes.sources & sources.keys()]
    if found:
        raise HeldError(len(found), sorted(set(found)))


def _leave_out_newly_held(tx: Transaction, takes: Takes) -> None:
    """A hold that was set after the plan was made: make it anew without."""
    traces, sources = held_targets(tx)
    if takes.traces & traces.keys() or takes.sources & sources.keys():
        found = {*traces.values(), *sources.values()}
        raise HeldError(len(found), sorted(found))


def _records(
    reader: Reader, files: Appender, takes: Takes, base: dict[str, Any], reason: str
) -> list[r.Pending]:
    ranges = takes.ranges()
    tags = sorted(takes.sources)
    if not ranges:
        return []
    at = time.time_ns() // 1000
    said = {"actor": reader.actor, "reason": reason}
    out: list[r.Pending] = []
    while ranges or tags:
        some, ranges = ranges[:MAX_RANGES], ranges[MAX_RANGES:]
        named, tags = tags[:MAX_SOURCES], tags[MAX_SOURCES:]
        body = {
            **base,
            "at": at + len(out),
            "by": r.b64(reader._access.tag("actor", reader.actor)),
            "traces": len(takes.traces),
            "sources": len(takes.sources),
            "gone": [number for pair in some for number in pair],
        }
        if named:
            body["src"] = named
        out.append(files.seal(body, said))
    return out


def _carry_out(files: Appender) -> bool:
    keys = files.open()
    assert files.store is not None  # noqa: S101  # just opened
    return carry_out(files.store, keys, busy_ms=BUSY_MS)


def finish(reader: Reader) -> bool:
    """See ``Trail.finish_erasures``."""
    with closing(appender(reader)) as files:
        return _carry_out(files)


def erasures(reader: Reader) -> list[Erasure]:
    """See ``Trail.erasures``."""
    rows = reader._store.query(
        "SELECT e.seq, r.body FROM erasure e JOIN record r ON r.seq = e.seq ORDER BY e.seq DESC"
    )
    if not rows:
        return []
    keys = KeyFile(keys_path(reader.path), read_only=True)
    try:
        done = keys.erased_through()
    finally:
        keys.close()
    out = []
    for seq, raw in rows:
        body = orjson.loads(raw)
        said = reader._catalogue.said(body["p0"])
        gone = body["gone"]
        out.append(
            Erasure(
                record=seq,
                at_us=body["at"],
                actor=said.get("actor") or f"actor {body['by'][:8]}",
                reason=said.get("reason"),
                what=body["what"],
                keys=sum(
                    last - first + 1 for first, last in zip(gone[::2], gone[1::2], strict=True)
                ),
                traces=body["traces"],
                sources=body["sources"],
                pending=seq > done,
            )
        )
    return out
