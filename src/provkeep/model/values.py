"""Exact, immediate snapshots of whatever a framework passes by, and their encoding.

A snapshot shares what cannot change (strings, numbers, bytes) and copies what can. It is total: it
never raises, whatever the value does. What JSON has no word for becomes ``Typed`` and names its
type; messages, documents and errors become ``Part`` so that the recorder can store them once.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import math
import pathlib
import sys
import types
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

MAX_DEPTH: Final = 60  # containers nested deeper than this are recorded by their repr
RESERVED: Final = "$"  # user keys that start with this are escaped, ours are not


class Part:
    """A value that becomes an artifact of its own: message, document, tool call, error and so on."""

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


Memo = dict[int, tuple[Any, Any]]  # id -> (the object, kept alive; its snapshot)
Hook = Callable[[Any, Memo, int], Any]

_ATOMS: Final = frozenset({str, int, bool, type(None)})
_hooks: dict[type, Hook] = {}  # exact type -> snapshot function, grown as types are seen
_bases: list[tuple[type, Hook]] = []  # registered base classes, most specific last


def register(base: type, hook: Hook) -> None:
    """Use ``hook(value, memo, depth)`` for ``base`` and everything that derives from it."""
    _bases.append((base, hook))
    for known in [t for t in _hooks if issubclass(t, base) and t not in _BUILTIN]:
        del _hooks[known]


def snapshot(value: Any, memo: Memo | None = None, depth: int = 0) -> Any:
    """Return a value equal to ``value`` now that nobody else can change.

    Args:
        value: anything at all.
        memo: parts already taken from the same objects; a part is reused while its object still
            says the same. It keeps those objects alive, so it lives as long as a trace.
        depth: how deep in containers the value stands.

    Returns:
        str, int, float, bool, None, list, dict with string keys, ``Part`` or ``Typed``.
    """
    kind = type(value)
    if kind in _ATOMS:
        return value
    hook = _hooks.get(kind)
    if hook is None:
        hook = _hooks[kind] = _choose(kind)
    if depth > MAX_DEPTH:
        return Typed(_name(kind), _safe_repr(value))
    try:
        return hook(value, {} if memo is None else memo, depth)
    except RecursionError:
        return Typed(_name(kind), "recursion limit reached")
    except Exception:  # noqa: BLE001  # a value's own code failed: keep what can be said of it
        return Typed(_name(kind), _safe_repr(value))


def _choose(kind: type) -> Hook:
    for base, hook in reversed(_bases):
        if issubclass(kind, base):
            return hook
    if hasattr(kind, "model_fields") and hasattr(kind, "__pydantic_validator__"):
        return _pydantic
    if dataclasses.is_dataclass(kind):
        return _dataclass
    if kind.__module__ == "numpy" or hasattr(kind, "__array_interface__"):
        return _array
    for base, hook in _FALLBACKS:
        if issubclass(kind, base):
            return hook
    return _other


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else _dotted(kind)


def _dotted(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _safe_repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  # a hostile __repr__
        return f"<{_dotted(type(value))} whose repr raises>"


def _float(value: float, memo: Memo, depth: int) -> Any:
    return value if math.isfinite(value) else Typed("float", repr(value))


def _dict(value: dict[Any, Any], memo: Memo, depth: int) -> Any:
    if not value:
        return {}
    if id(value) in memo:  # only containers now being walked stand here
        return Typed("cycle", type(value).__name__)
    memo[id(value)] = (value, None)
    try:
        out: dict[str, Any] = {}
        plain = type(value) is dict
        for key, item in value.copy().items():
            if type(key) is not str or key[:1] == RESERVED:
                plain = False
            out[key] = item if type(item) in _ATOMS else snapshot(item, memo, depth + 1)
        if plain:
            return out
        if type(value) is not dict and all(type(k) is str and k[:1] != RESERVED for k in out):
            return Typed(_name(type(value)), out)
        pairs = [[snapshot(k, memo, depth + 1), v] for k, v in out.items()]
        return Typed(_name(type(value)), pairs)
    finally:
        del memo[id(value)]


def _list(value: list[Any], memo: Memo, depth: int) -> Any:
    if not value:
        return []
    if id(value) in memo:
        return Typed("cycle", type(value).__name__)
    memo[id(value)] = (value, None)
    try:
        return [v if type(v) in _ATOMS else snapshot(v, memo, depth + 1) for v in tuple(value)]
    finally:
        del memo[id(value)]


def _sequence(value: Any, memo: Memo, depth: int) -> Any:
    return Typed(_name(type(value)), _list(value, memo, depth))


def _set(value: Any, memo: Memo, depth: int) -> Any:
    items = [snapshot(v, memo, depth + 1) for v in value]
    return Typed(_name(type(value)), sorted(items, key=repr))


def _bytes(value: Any, memo: Memo, depth: int) -> Any:
    return Typed(_name(type(value)), bytes(value).hex())


def _text(value: Any, memo: Memo, depth: int) -> Any:
    return Typed(_name(type(value)), str(value))


def _isoformat(value: Any, memo: Memo, depth: int) -> Any:
    return Typed(_name(type(value)), value.isoformat())


def _subclass_of_str(value: str, memo: Memo, depth: int) -> Any:
    return Typed(_name(type(value)), str.__str__(value))


def _subclass_of_int(value: int, memo: Memo, depth: int) -> Any:
    return Typed(_name(type(value)), int.__index__(value))


def _enum(value: enum.Enum, memo: Memo, depth: int) -> Any:
    return Typed(_name(type(value)), [value.name, snapshot(value.value, memo, depth + 1)])


def _array(value: Any, memo: Memo, depth: int) -> Any:
    plain = snapshot(value.tolist(), memo, depth + 1)
    shape = [int(n) for n in getattr(value, "shape", ())]
    return Typed(_name(type(value)), {"dtype": str(value.dtype), "shape": shape, "values": plain})


def _dataclass(value: Any, memo: Memo, depth: int) -> Any:
    if isinstance(value, type):
        return Typed("type", _dotted(value))
    fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
    return _fielded(value, fields, memo, depth)


def _pydantic(value: Any, memo: Memo, depth: int) -> Any:
    fields = dict(value.__dict__)
    extra = getattr(value, "__pydantic_extra__", None)
    if extra:
        fields.update(extra)
    return _fielded(value, fields, memo, depth)


def _fielded(value: Any, fields: dict[str, Any], memo: Memo, depth: int) -> Any:
    if id(value) in memo:
        return Typed("cycle", _name(type(value)))
    memo[id(value)] = (value, None)
    try:
        return Typed(_dotted(type(value)), snapshot(fields, memo, depth + 1))
    finally:
        del memo[id(value)]


def _exception(value: BaseException, memo: Memo, depth: int) -> Any:
    fields: dict[str, Any] = {"message": _safe_str(value)}
    notes = getattr(value, "__notes__", None)
    if notes:
        fields["notes"] = snapshot(list(notes), memo, depth + 1)
    cause = value.__cause__ or value.__context__
    if cause is not None and depth < 8:
        fields["cause"] = snapshot(cause, memo, depth + 1)
    return Part("error", _dotted(type(value)), fields)


def _safe_str(value: BaseException) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # a hostile __str__
        return f"<{_dotted(type(value))} whose str raises>"


def _type(value: type, memo: Memo, depth: int) -> Any:
    return Typed("type", _dotted(value))


def _callable(value: Any, memo: Memo, depth: int) -> Any:
    name = getattr(value, "__qualname__", None)
    return Typed(_name(type(value)), name if isinstance(name, str) else _name(type(value)))


def _other(value: Any, memo: Memo, depth: int) -> Any:
    return Typed(_dotted(type(value)), _safe_repr(value))


_BUILTIN: Final[dict[type, Hook]] = {
    float: _float,
    dict: _dict,
    list: _list,
    tuple: _sequence,
    set: _set,
    frozenset: _set,
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    complex: _text,
}
_hooks.update(_BUILTIN)
_FALLBACKS: Final[tuple[tuple[type, Hook], ...]] = (
    (BaseException, _exception),
    (enum.Enum, _enum),
    (type, _type),
    (str, _subclass_of_str),
    (int, _subclass_of_int),
    (float, _text),
    (uuid.UUID, _text),
    (decimal.Decimal, _text),
    (pathlib.PurePath, _text),
    (dt.datetime, _isoformat),
    (dt.date, _isoformat),
    (dt.time, _isoformat),
    (dt.timedelta, _text),
    (bytes, _bytes),
    (bytearray, _bytes),
    (dict, _dict),
    (Mapping, lambda v, m, d: _dict_of_mapping(v, m, d)),
    (list, _sequence),
    (tuple, _sequence),
    (set, _set),
    (frozenset, _set),
    (types.FunctionType, _callable),
    (types.BuiltinFunctionType, _callable),
    (types.MethodType, _callable),
)


def _dict_of_mapping(value: Mapping[Any, Any], memo: Memo, depth: int) -> Any:
    return Typed(_name(type(value)), snapshot(dict(value), memo, depth + 1))


# Encoding of snapshots as the plaintext of a payload ------------------------------------------

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
    if depth > 2 * MAX_DEPTH:
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
