"""Payloads opened with the reader's keys, and values put together from them.

Whoever calls has committed the access first; see ``reading.access``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, Final

import orjson

from provkeep.errors import (
    ErasedError,
    NotRecordedError,
    SealingError,
    UnknownKeyError,
    UnsealError,
)
from provkeep.model import records as r
from provkeep.model.values import decode
from provkeep.reading.traces import Item, Trace
from provkeep.sealing.envelope import open_with_payload_key, payload_key, unseal
from provkeep.sealing.keyring import Keyring, unwrap_checked
from provkeep.store.base import Store
from provkeep.store.keyfile import KeyFile

NOT_RECORDED: Final = {"$missing": "a text of a trace that was recorded without payloads"}

Other = Callable[[str], "tuple[Trace, int] | None"]


class Opener:
    """Opens payloads of one store."""

    def __init__(self, store: Store, keys: KeyFile | None, ring: Keyring | None) -> None:
        self._store, self._file, self._ring = store, keys, ring
        self._bodies: dict[int, dict[str, Any]] = {}
        self._data_keys: dict[tuple[int, str, bytes], bytes] = {}
        self._said: dict[str, tuple[int, dict[str, dict[str, Any]]]] = {}
        self._newest_erasure: int | None = None

    def close(self) -> None:
        """Forget opened keys and release the key file."""
        self._data_keys.clear()
        self._said.clear()
        if self._file is not None:
            self._file.close()

    @property
    def held(self) -> tuple[str, ...]:
        """The compartments that this reader may open."""
        return () if self._ring is None else self._ring.held

    def holds(self, compartment: str | None) -> bool:
        """May it open this one? None is what has no payload of its own."""
        return compartment is None or compartment in self.held

    def payload(self, number: int) -> Any:
        """Open one payload.

        Raises:
            UnknownKeyError: its compartment's key is not held.
            ErasedError: it was erased.
            UnsealError: it was altered or moved, or its key is gone.
        """
        self._notice_erasures()
        found = self._store.payloads([number]).get(number)
        if found is None or found[1] is None:
            raise UnsealError(f"payload {number}", "it is not in the store")
        seq, envelope = found[0], found[1]
        try:
            return decode(self._plaintext(number, self._body(seq), envelope))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            # not chained: an error of a decoder carries what it decoded
            raise UnsealError(
                f"payload {number}", f"record {seq} is malformed; run `provkeep verify`"
            ) from None

    def reveal(self, number: int) -> tuple[bytes, bytes, bytes]:
        """Envelope, payload key (64 bytes) and plaintext of one payload.

        The payload key opens this payload and no other, and nobody can find a second one that
        does; see ``sealing.envelope``.

        Raises:
            UnknownKeyError, UnsealError: as :meth:`payload`.
        """
        found = self._store.payloads([number]).get(number)
        if found is None or found[1] is None:
            raise UnsealError(f"payload {number}", "it is not in the store")
        seq, envelope = found[0], found[1]
        try:
            data_key, context = self._sealed_with(number, self._body(seq), envelope)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise UnsealError(
                f"payload {number}", f"record {seq} is malformed; run `provkeep verify`"
            ) from None
        key = payload_key(data_key, context)
        return envelope, key, open_with_payload_key(envelope, key, context)

    def _plaintext(self, number: int, body: dict[str, Any], envelope: bytes) -> bytes:
        data_key, context = self._sealed_with(number, body, envelope)
        return unseal(envelope, data_key=data_key, context=context)

    def _sealed_with(
        self, number: int, body: dict[str, Any], envelope: bytes
    ) -> tuple[bytes, bytes]:
        """The data key of a payload, and the context that its envelope is bound to."""
        place = number - body["p0"]
        if place < 0:
            raise UnsealError(f"payload {number}", "it is filed under another record than its own")
        digest, key_place = body["p"][place]
        if r.b64(hashlib.sha256(envelope).digest()) != digest:
            raise UnsealError(f"payload {number}", "its bytes differ from what the log recorded")
        compartment_code, key_number, commitment = body["keys"][key_place]
        compartment = r.COMPARTMENTS[compartment_code]
        data_key = self._data_key(key_number, compartment, r.unb64(commitment))
        scope, n = body.get("t") or body["k"], body.get("n", 0)
        if body["k"] != "trace":
            scope, n = body["k"], body["at"]
        return data_key, r.payload_context(self._store.store_id, scope, n, place, compartment)

    def is_key_gone(self, number: int) -> bool:
        """Is the data key of a payload not in the key file?"""
        found = self._store.payloads([number]).get(number)
        if found is None or self._file is None:
            return False
        try:
            body = self._body(found[0])
            place = body["p"][number - body["p0"]][1]
            return self._file.key(body["keys"][place][1]) is None
        except (KeyError, IndexError, TypeError, ValueError, UnsealError):
            return False

    def _body(self, seq: int) -> dict[str, Any]:
        found = self._bodies.get(seq)
        if found is None:
            rows = self._store.query("SELECT body FROM record WHERE seq=?", (seq,))
            if not rows:
                raise UnsealError(f"record {seq}", "it is not in the store")
            found = self._bodies[seq] = orjson.loads(rows[0][0])
            if len(self._bodies) > 256:
                self._bodies.pop(next(iter(self._bodies)))
        return found

    def _data_key(self, number: int, compartment: str, commitment: bytes) -> bytes:
        at = number, compartment, commitment  # another record may claim another commitment
        key = self._data_keys.get(at)
        if key is None:
            if self._file is None or self._ring is None:
                raise UnsealError("payload", "this reader holds no keys of this store")
            self._refuse_erased(number)
            if compartment not in self._ring.held:
                raise UnknownKeyError(compartment, self._ring.held)
            row = self._file.key(number)
            if row is None:
                raise UnsealError(
                    f"data key {number}", "the key file does not hold it; run `provkeep verify`"
                )
            wrapped, eid, theirs, sealed, _ = row
            if theirs != compartment:
                raise UnsealError(f"data key {number}", "it belongs to another compartment")
            epoch = self._ring.open_epoch(compartment, eid, sealed)
            key = self._data_keys[at] = unwrap_checked(epoch, wrapped, commitment)
            if len(self._data_keys) > 1024:
                self._data_keys.pop(next(iter(self._data_keys)))
        return key

    def _refuse_erased(self, number: int) -> None:
        """An erased key opens nothing, even where an old key file still holds it."""
        rows = self._store.query(
            "SELECT e.seq, e.at_us FROM gone g JOIN erasure e ON e.seq = g.seq"
            " WHERE g.first <= ? AND g.last >= ? ORDER BY e.seq LIMIT 1",
            (number, number),
        )
        if rows:
            raise ErasedError("payload", *rows[0])

    def _notice_erasures(self) -> None:
        """Drop what was opened before an erasure."""
        newest = self._store.query("SELECT max(seq) FROM erasure")[0][0]
        if newest != self._newest_erasure:
            self._newest_erasure = newest
            self._data_keys.clear()
            self._said.clear()

    # -- values ------------------------------------------------------------------------------

    def value(self, trace: Trace, number: int, other: Other) -> Any:
        """The value of an artifact, put together from its parts.

        Args:
            trace: loaded.
            number: the artifact.
            other: called with a link tag, gives (trace, artifact) of an earlier trace or None.
        """
        item = trace.items[number]
        if trace.bare:
            raise NotRecordedError(trace.artifact_id(number))
        if "of" in item.options:
            return self.text(trace, item.options["of"], other)
        if "b" in item.options:
            base, at = item.options["b"]
            return self._in_list(trace, base, at, other)
        if item.payload is None:
            if "len" in item.options:
                found = other(item.options["ext"])
                if found is None:
                    return {"$missing": "an earlier trace that is not in this store"}
                values = self.value(found[0], found[1], other)
                return values[: item.options["len"]] if isinstance(values, list) else values
            return self._list(trace, item, other)
        value = self._fill(trace, item, self.payload(item.payload), other)
        if item.kind == "document" and isinstance(value, dict):
            scores = self.said(trace, "artifacts", number).get("scores")
            if scores:  # kept apart, so that a document retrieved again costs nothing
                value["metadata"] = {**(value.get("metadata") or {}), **scores}
        return value

    def said(self, trace: Trace, of: str, number: int) -> dict[str, Any]:
        """The sealed attributes of a run (``of="runs"``) or artifact (``of="artifacts"``)."""
        self._notice_erasures()
        if trace.tid not in self._said or len(trace.metas) != self._said[trace.tid][0]:
            found: dict[str, dict[str, Any]] = {"runs": {}, "artifacts": {}}
            for payload in trace.metas:
                try:
                    block = self.payload(payload)
                except SealingError:  # this reader does not hold that compartment, or it is gone
                    continue
                for kind, known in found.items():
                    for key, value in block.get(kind, {}).items():
                        known.setdefault(key, {}).update(value)
            self._said = {trace.tid: (len(trace.metas), found)}  # one trace at a time
        return dict(self._said[trace.tid][1][of].get(str(number), {}))

    def attributes(self, trace: Trace, number: int) -> dict[str, Any]:
        """Everything a framework said of a run besides its input and output."""
        own = self.said(trace, "runs", number)
        parent = trace.runs[number].parent
        if any(value == {"$parent": 1} for value in own.values()) and parent >= 0:
            theirs = self.attributes(trace, parent)
            own = {k: theirs.get(k) if v == {"$parent": 1} else v for k, v in own.items()}
        return own

    def _list(self, trace: Trace, item: Item, other: Other) -> list[Any]:
        out: list[Any] = []
        for member in item.members:
            if isinstance(member, int):
                out.append(self._part(trace, member, other))
            else:
                base, start, stop = member
                whole = self._part(trace, base, other)
                out.extend(whole[start:stop] if isinstance(whole, list) else [whole])
        if out and all(is_erased(part) for part in out):
            number = item.members[0] if isinstance(item.members[0], int) else item.members[0][0]
            self.value(trace, number, other)  # nothing is left of it: says so
        return out

    def _part(self, trace: Trace, number: int, other: Other) -> Any:
        """The value of a part; of one that was erased or is not held, the mark that says so."""
        try:
            return self.value(trace, number, other)
        except ErasedError as error:
            return erased_mark(error)
        except UnknownKeyError as error:
            return sealed_mark(error.key_id.partition("/")[0])
        except NotRecordedError:
            return dict(NOT_RECORDED)

    def _quoted(self, trace: Trace, piece: list[int], other: Other) -> str:
        number, start, stop = piece
        try:
            return self.text(trace, number, other)[start:stop]
        except ErasedError as error:
            return f"[erased: record {error.record}]"
        except UnknownKeyError as error:
            compartment = error.key_id.partition("/")[0]
            return f"[{stop - start} characters of {compartment}: sealed for this reader]"
        except NotRecordedError:
            return "[not recorded]"

    def _in_list(self, trace: Trace, base: int, at: int, other: Other) -> Any:
        values = self.value(trace, base, other)
        return values[at] if isinstance(values, list) and at < len(values) else values

    def _fill(self, trace: Trace, item: Item, value: Any, other: Other) -> Any:
        """Put the parts a payload refers to in their places."""
        if isinstance(value, list):
            return [self._fill(trace, item, v, other) for v in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (key, inner), *_ = value.items()
            if key == "$ref":
                return self._part(trace, item.members[inner], other)
            if key == "$rope":
                return "".join(
                    piece if isinstance(piece, str) else self._quoted(trace, piece, other)
                    for piece in inner
                )
            if key == "$calls":
                return [self._part(trace, n, other) for n in item.options["calls"]]
        return {k: self._fill(trace, item, v, other) for k, v in value.items()}

    def text(self, trace: Trace, number: int, other: Other) -> str:
        """The text of an artifact: of a message its content, of a document its page."""
        value = self.value(trace, number, other)
        return text_of(value)


def erased_mark(error: ErasedError) -> dict[str, int]:
    """What stands in a value for a part that was erased: the number of the erase record."""
    return {"$erased": error.record}


def is_erased(value: Any) -> bool:
    """Is this the mark of a part that was erased?"""
    return isinstance(value, dict) and value.keys() == {"$erased"}


def sealed_mark(compartment: str | None) -> dict[str, str | None]:
    """What stands in the place of something that a reader may not open."""
    return {"$sealed": compartment}


def text_of(value: Any) -> str:
    """The text of a value; of what has none, its JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        for key in ("page_content", "content"):
            inner = value.get(key)
            if isinstance(inner, str):
                return inner
            if isinstance(inner, list):
                texts = [b.get("text") if isinstance(b, dict) else b for b in inner]
                return "".join(t for t in texts if isinstance(t, str))
        if isinstance(value.get("message"), str) and len(value) <= 3:
            return str(value["message"])
    return json.dumps(value, ensure_ascii=False, indent=2)
