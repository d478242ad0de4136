"""Is a record's body one that provkeep writes? Spelling and shape; nothing of what it means.

Total on hostile bytes: every answer is a sentence or None, never an exception.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

from provkeep.model import records as r
from provkeep.model.canonical import MAX_BODY, MAX_INT, canonical

KINDS: Final = (
    "init",
    "trace",
    "access",
    "gap",
    "anchor",
    r.LOG_KEY,
    r.RECIPIENTS,
    "erase",
    "hold",
    "grant",
    "revoke",
)
MORE: Final = "M"  # members that did not fit into one entry; see recording.cut

_SHAPES: Final[dict[str, frozenset[tuple[type, ...]]]] = {
    r.RUN: frozenset({(str, int, str, str, int, int, str, dict)}),
    r.END: frozenset({(str, int, int, str, dict)}),
    r.ARTIFACT: frozenset({(str, int, int, int, int, int, int, dict)}),
    r.DERIVED: frozenset({(str, int, int, int), (str, int, int, int, int, list)}),
    r.USED: frozenset({(str, int, list)}),
    r.NOTE: frozenset({(str, int, int, str, int)}),
    r.META: frozenset({(str, int)}),
    r.SOURCE: frozenset({(str, str, int)}),
    r.LINK: frozenset({(str, str, int, int)}),
    r.FINAL: frozenset({(str, int, int, list)}),
    MORE: frozenset({(str, int, list)}),
}
_SHAPE_OF: Final = frozenset((tag, *types) for tag, all_ in _SHAPES.items() for types in all_)
_PLACE: Final = {r.ARTIFACT: 6, r.META: 1, r.SOURCE: 2}  # where an entry names a payload
_MAYBE_FLOAT: Final = re.compile(rb"[\[:,]-?[0-9]+[.eE]")
# The same, much faster and with a false alarm now and then: without its digits a float begins ",e".
_NO_DIGITS: Final = bytes.maketrans(b"[:.E", b",,ee")
_DIGITS: Final = b"-0123456789"
_HASH: Final = re.compile(r"[A-Za-z0-9_-]{43}")  # 32 bytes in base64, unpadded
_HASHES: Final = re.compile(r"[A-Za-z0-9_-]*")
_HASH_CHARS: Final = 43
_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_T0: Final = re.compile(r"[0-9]{1,19}")


def parse(body: Any) -> dict[str, Any] | str:
    """The fields of a stored body, or why it is not one that provkeep spells.

    Keys that stand twice, floats, spaces, another order, another encoding: all of these spell
    otherwise when they are spelled again.
    """
    if not isinstance(body, bytes):
        return "it is not stored as bytes, or is larger than a record can be"
    if len(body) > MAX_BODY:
        return f"it has {len(body)} bytes, at most {MAX_BODY}"
    try:
        fields = orjson.loads(body)
        if type(fields) is not dict:
            return "it is not a JSON object"
        if canonical(fields) != body:
            return "spelled again it is other bytes: a key stands twice, or it was edited"
        if b",e" in body.translate(_NO_DIGITS, _DIGITS) and _MAYBE_FLOAT.search(body):
            json.loads(body, parse_float=_no_float, parse_constant=_no_float)
    except (ValueError, RecursionError) as error:
        return f"it is not canonical JSON ({type(error).__name__})"
    return fields


def problem(seq: int, fields: dict[str, Any]) -> str | None:
    """Why this is not a record that provkeep writes, or None."""
    if type(fields.get("k")) is not str:
        return "it does not say its kind"
    if fields.get("v") != r.FORMAT or type(fields["v"]) is not int:
        return f"its format is not {r.FORMAT}"
    if (seq == 0) != (fields["k"] == "init"):
        return "record 0 and no other says what the log is"
    check = _OF_KIND.get(fields["k"])
    return _payloads(fields) or (check(fields) if check is not None else None)


def _payloads(fields: dict[str, Any]) -> str | None:
    if "p" not in fields and "p0" not in fields and "keys" not in fields:
        return None
    hashes, keys, first = fields.get("p"), fields.get("keys"), fields.get("p0")
    if type(hashes) is not list or type(keys) is not list or type(first) is not int:
        return "its payloads need hashes, keys and a first number"
    for key in keys:
        if type(key) is not list or tuple(map(type, key)) != (int, int, str):
            return "a key does not read [compartment, number, commitment]"
        if not 0 <= key[0] < len(r.COMPARTMENTS) or not _HASH.fullmatch(key[2]):
            return "a key has no such compartment, or no commitment"
    try:
        words, places = [word for word, _ in hashes], [place for _, place in hashes]
    except (TypeError, ValueError):
        return "a payload does not read [hash, key]"
    types = {*map(type, hashes)}, {*map(type, words)}, {*map(type, places)}
    if hashes and types != ({list}, {str}, {int}):
        return "a payload does not read [hash, key]"
    if {*map(len, words)} - {_HASH_CHARS} or not _HASHES.fullmatch("".join(words)):
        return "a payload has no hash"
    if hashes and not 0 <= min(places) <= max(places) < len(keys):
        return "a payload has no such key"
    if not 0 < first <= MAX_INT - len(hashes):
        return "the number of its first payload is out of range"
    return None


def _trace(fields: dict[str, Any]) -> str | None:
    tid, t0, number = fields.get("t"), fields.get("t0"), fields.get("n")
    if type(tid) is not str or not _TRACE_ID.fullmatch(tid):
        return "its trace id is not 32 hexadecimal digits"
    if type(t0) is not str or not _T0.fullmatch(t0) or type(number) is not int or number < 0:
        return "its time or its number within the trace is malformed"
    entries = fields.get("e")
    if type(entries) is not list:
        return "it has no entries"
    payloads = len(fields.get("p", ()))
    for i, entry in enumerate(entries):
        if type(entry) is not list or not entry or type(entry[0]) is not str:
            return f"entry {i} is not a tagged list"
        tag = entry[0]
        if (tag, *map(type, entry)) not in _SHAPE_OF:
            return f"entry {i} has an unknown tag, or is not of its shape"
        if tag in _PLACE and not -1 <= entry[_PLACE[tag]] < payloads:
            return f"entry {i} names a payload that the record does not have"
        if tag == r.ARTIFACT:
            if not (0 <= entry[2] < len(r.KINDS) and 0 <= entry[3] < len(r.COMPARTMENTS)):
                return f"entry {i} is an artifact of an unknown kind or compartment"
        elif tag == r.DERIVED and not _is_derived(entry):
            return f"entry {i} is not an edge with a basis and whole spans"
    return None


def _anchor(fields: dict[str, Any]) -> str | None:
    texts = (fields.get("anchor"), fields.get("type"), fields.get("note"), fields.get("token", ""))
    if any(type(text) is not str for text in texts) or type(fields.get("at")) is not int:
        return "a proof needs an anchor, its type, a note and a time"
    return None


_OF_KIND: Final = {"trace": _trace, "anchor": _anchor}


def _is_derived(entry: list[Any]) -> bool:
    if not 0 <= entry[3] < len(r.BASES):
        return False
    spans = entry[5] if len(entry) > 5 else []
    return len(spans) % 4 == 0 and all(type(n) is int for n in spans)


def _no_float(text: str) -> Any:
    raise ValueError("a float")
