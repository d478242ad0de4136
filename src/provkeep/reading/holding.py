"""Legal holds: signed records that keep erasure and retention off a trace, subject or source."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import orjson

from provkeep.errors import UnknownIdError
from provkeep.model import records as r
from provkeep.reading.answers import clock
from provkeep.reading.erasing import appender

if TYPE_CHECKING:
    from provkeep.reading.reader import Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A hold that is in force."""

    record: int
    at_us: int
    actor: str
    reason: str | None
    what: str  # trace, subject or source
    name: str  # trace id, or the name where it may be shown, else its tag

    def __repr__(self) -> str:
        return f"<Hold {self.record} {clock(self.at_us)} on {self.what}>"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def _target(
    reader: Reader, trace: str | None, subject: str | None, source: str | None
) -> tuple[str, bytes, str]:
    if sum(value is not None for value in (trace, subject, source)) != 1:
        raise ValueError("name one of trace, subject and source")
    if trace is not None:
        tid = reader._trace_id(trace)
        return "trace", bytes.fromhex(tid), tid
    if subject is not None:
        return "subject", reader._access.tag("subject", subject), subject
    tag = reader.source_tag(source or "")
    return "source", tag, source or ""


def write(
    reader: Reader,
    *,
    do: str,
    trace: str | None,
    subject: str | None,
    source: str | None,
    reason: str,
) -> int:
    """See ``Trail.hold`` and ``Trail.lift_hold``."""
    if not reason.strip():
        raise ValueError("say why: the reason stands, sealed, in the record")
    what, key, name = _target(reader, trace, subject, source)
    known = reader._store.query("SELECT seq FROM hold WHERE what=? AND id=?", (what, key))
    if do == "remove" and not known:
        raise UnknownIdError(f"hold on a {what}", trace or source or "of that name")
    at = time.time_ns() // 1000
    body: dict[str, Any] = {
        "k": "hold",
        "v": r.FORMAT,
        "at": at,
        "by": r.b64(reader._access.tag("actor", reader.actor)),
        "do": do,
        "what": what,
        "id": r.b64(key),
    }
    said = {"actor": reader.actor, "reason": reason, "name": name}
    with closing(appender(reader)) as files:
        record = files.seal(body, said)
        files.append([record])
        files.sign()
    return record.seq


def holds(reader: Reader) -> list[Hold]:
    """See ``Trail.holds``."""
    out = []
    for what, key, seq, raw in reader._store.query(
        "SELECT h.what, h.id, h.seq, r.body FROM hold h JOIN record r ON r.seq = h.seq"
        " ORDER BY h.seq"
    ):
        body = orjson.loads(raw)
        said = reader._catalogue.said(body["p0"])
        shown = bytes(key).hex() if what == "trace" else said.get("name") or f"({body['id'][:8]})"
        out.append(
            Hold(
                record=seq,
                at_us=body["at"],
                actor=said.get("actor") or f"actor {body['by'][:8]}",
                reason=said.get("reason"),
                what=what,
                name=shown,
            )
        )
    return out
