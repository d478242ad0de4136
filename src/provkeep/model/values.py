"""Recorded values: what a snapshot is made of, and its encoding as the plaintext of a payload.

What JSON has a word for stands as it is. What it has none for is ``Typed`` and names its type;
messages, documents and errors are ``Part`` so that the recorder can store them once. Encoded, each
is an object with a key that begins with ``$``; keys of the user's that begin so are escaped, so
that no recorded value can pass for a mark.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import orjson

MAX_JSON_DEPTH: Final = 250  # orjson refuses 255; a snapshot needs at most four levels for one


class Part:
    """A value that becomes an artifact of its own: message, document, tool call, error."""

    __slots__ = ("fields", "key", "kind", "number", "type_name")

    def __init__(self, kind: str, type_name: str, fields: dict[str, Any]) -> None:
        self.kind, self.type_name, self.fields = kind, type_name, fields
        self.key: Any = None  # content key, filled by the recorder on first use
        self.number: int = -1

    def __repr__(self) -> str:
        return f"Part({self.kind!r}, {self.type_name!r}, {len(self.fields)} fields)"


class Typed:
    """A value JSON has no word for: its type's name and the nearest plain form of its content."""

    __slots__ = ("type_name", "value")

    def __init__(self, type_name: str, value: Any) -> None:
        self.type_name, self.value = type_name, value

    def __repr__(self) -> str:
        return f"Typed({self.type_name!r})"

    def __eq__(self, other: object) -> bool:
        return (
            type(other) is Typed
            and other.type_name == self.type_name
            and bool(other.value == self.value)
        )

    __hash__ = None  # type: ignore[assignment]  # it may hold lists


# Of messages and documents: id -> (the object, kept alive; its snapshot). Of containers that some
# thread is now walking: (id, thread). A trace's memo is shared by the threads of its branches.
Memo = dict[Any, tuple[Any, Any]]

_TEXT: Final = b"t"
_JSON: Final = b"j"


def encode_text(text: str) -> bytes:
    """Encode a text payload; lone surrogates survive."""
    return _TEXT + text.encode("utf-8", "surrogatepass")


def encode_json(value: Any) -> bytes:
    """Encode a snapshot (or JSON value) exactly: big integers and lone surrogates included."""
    try:
        return _JSON + orjson.dumps(value, default=_default)
    except (TypeError, ValueError, RecursionError):
        return _JSON + orjson.dumps(_plain(value), default=_default)


def _default(value: Any) -> Any:
    if type(value) is Typed:
        return {"$type": value.type_name, "value": value.value}
    if type(value) is Part:
        return {"$part": value.kind, "type": value.type_name, "fields": value.fields}
    raise TypeError(type(value).__name__)


def _plain(value: Any, depth: int = 0) -> Any:
    """Rewrite what orjson refuses: big integers, lone surrogates, deep nesting."""
    if depth > MAX_JSON_DEPTH:
        return {"$type": "depth", "value": "nested too deeply"}
    if type(value) is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return {"$surrogates": value.encode("utf-8", "surrogatepass").hex()}
        return value
    if type(value) is int and not -(2**63) <= value < 2**64:
        digits = hex(value) if value.bit_length() > sys.get_int_max_str_digits() else str(value)
        return {"$type": "int", "value": digits}
    if type(value) is list:
        return [_plain(v, depth + 1) for v in value]
    if type(value) is dict:
        items = {k: _plain(v, depth + 1) for k, v in value.items()}
        try:
            "".join(items).encode()
        except UnicodeEncodeError:
            return {"$pairs": [[_plain(k, depth + 1), v] for k, v in items.items()]}
        return items
    if type(value) in (Typed, Part):
        return _plain(_default(value), depth + 1)
    return value


def decode(data: bytes) -> Any:
    """Read the plaintext of a payload back: a str, or a JSON value with its ``$`` marks."""
    if data[:1] == _TEXT:
        return data[1:].decode("utf-8", "surrogatepass")
    return _unmark(orjson.loads(data[1:]))


def _unmark(value: Any) -> Any:
    if type(value) is list:
        return [_unmark(v) for v in value]
    if type(value) is dict:
        if len(value) == 1 and "$surrogates" in value:
            return bytes.fromhex(value["$surrogates"]).decode("utf-8", "surrogatepass")
        if len(value) == 1 and "$pairs" in value:
            return {_unmark(k): _unmark(v) for k, v in value["$pairs"]}
        return {k: _unmark(v) for k, v in value.items()}
    return value
