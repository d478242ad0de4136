"""Exact, immediate snapshots of whatever a framework passes by.

A snapshot shares what cannot change (strings, numbers) and copies what can. It is total: it never
raises, whatever the value does, and it runs no more of a value's own code than it must.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import math
import pathlib
import types
import uuid
from collections.abc import Callable, Iterable, Mapping
from threading import get_ident
from typing import Any, Final

from provkeep.model.values import Memo, Part, Typed, encode_json

MAX_DEPTH: Final = 50  # containers nested deeper than this are recorded by their repr
MAX_CAUSES: Final = 8  # exceptions told of in one chain of causes
MAX_LEARNED: Final = 2_000  # types remembered; programs make classes while they run
RESERVED: Final = "$"  # user keys that start with this are escaped, ours are not

Hook = Callable[[Any, Memo, int], Any]

_ATOMS: Final = frozenset({str, int, bool, type(None)})
_hooks: dict[type, Hook] = {}  # exact type -> snapshot function, grown as types are seen
_bases: list[tuple[type, Hook]] = []  # registered base classes, most specific last


def register(base: type, hook: Hook) -> None:
    """Use ``hook(value, memo, depth)`` for ``base`` and everything that derives from it."""
    _bases.append((base, hook))
    _forget_types()


def snapshot(value: Any, memo: Memo | None = None, depth: int = 0) -> Any:
    """Return a value equal to ``value`` now that nobody else can change.

    Args:
        value: anything at all. Iterators are named, never consumed.
        memo: parts already taken from the same objects; a part is reused while its object still
            says the same. It keeps those objects alive, so it lives as long as a trace.
        depth: how deep in containers the value stands.

    Returns:
        str, int, float, bool, None, list, dict with string keys, ``Part`` or ``Typed``.
    """
    kind = type(value)
    if kind in _ATOMS:
        return value
    try:
        hook = _hooks.get(kind) or _learn(kind)
        if depth > MAX_DEPTH:
            return Typed(_name(kind), _safe_repr(value))
        return hook(value, {} if memo is None else memo, depth)
    except Exception:  # noqa: BLE001  # a value's own code failed: keep what can be said of it
        return Typed(_name(kind), _safe_repr(value))


def _forget_types() -> None:
    global _hooks
    _hooks = dict(_BUILTIN)


def _learn(kind: type) -> Hook:
    if len(_hooks) > MAX_LEARNED:
        _forget_types()
    hook = _hooks[kind] = _choose(kind)
    return hook


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
    if kind.__module__.partition(".")[0] == "pandas" and hasattr(kind, "to_dict"):
        return _frame
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
        return str.__str__(repr(value))
    except Exception:  # noqa: BLE001  # a hostile __repr__
        return f"<{_dotted(type(value))} whose repr raises>"


# Containers: copied first, so that another thread cannot change them while they are walked --------


def _dict(value: dict[Any, Any], memo: Memo, depth: int) -> Any:
    items = value.copy()
    for key, item in items.items():
        if type(item) not in _ATOMS or type(key) is not str or key[:1] == RESERVED:
            return _inside(value, items, _walk_dict, memo, depth)
    return items


def _list(value: list[Any], memo: Memo, depth: int) -> Any:
    return _items(value, value.copy(), memo, depth)


def _items(value: Any, items: list[Any], memo: Memo, depth: int) -> Any:
    for item in items:
        if type(item) not in _ATOMS:
            return _inside(value, items, _walk_list, memo, depth)
    return items


def _inside(value: Any, items: Any, walk: Hook, memo: Memo, depth: int) -> Any:
    """Walk the items of a container, unless this thread is walking it already."""
    here = id(value), get_ident()
    if here in memo:
        return Typed("cycle", _name(type(value)))
    memo[here] = (value, None)
    try:
        return walk(items, memo, depth + 1)
    finally:
        del memo[here]


def _walk_dict(items: dict[Any, Any], memo: Memo, depth: int) -> Any:
    for key in items:
        if type(key) is not str or key[:1] == RESERVED:
            pairs = [[snapshot(k, memo, depth), snapshot(v, memo, depth)] for k, v in items.items()]
            return Typed("dict", pairs)
    return {k: v if type(v) in _ATOMS else snapshot(v, memo, depth) for k, v in items.items()}


def _walk_list(items: list[Any], memo: Memo, depth: int) -> Any:
    return [v if type(v) in _ATOMS else snapshot(v, memo, depth) for v in items]


def _named(kind: type, inner: Any) -> Any:
    """Content under the name of its own type; pairs need no second name, a cycle none at all."""
    if type(inner) is Typed:
        if inner.type_name == "cycle":
            return inner
        inner = inner.value
    return Typed(_name(kind), inner)


def _dict_like(value: Any, memo: Memo, depth: int) -> Any:
    own = issubclass(type(value), dict) and not issubclass(type(value), collections.OrderedDict)
    items = dict.copy(value) if own else dict(value)
    return _named(type(value), _inside(value, items, _walk_dict, memo, depth))


def _list_like(base: Any) -> Hook:
    """Iterate as ``base`` does, whatever a derived class makes of iteration."""

    def hook(value: Any, memo: Memo, depth: int) -> Any:
        return _named(type(value), _items(value, list(base.__iter__(value)), memo, depth))

    return hook


def _set_like(base: Any) -> Hook:
    def hook(value: Any, memo: Memo, depth: int) -> Any:
        items = [snapshot(v, memo, depth + 1) for v in base.copy(value)]
        return Typed(_name(type(value)), sorted(items, key=encode_json))

    return hook


def _dataclass(value: Any, memo: Memo, depth: int) -> Any:
    fields = {f.name: _attribute(value, f.name) for f in dataclasses.fields(value)}
    return _fielded(value, fields, memo, depth)


def _attribute(value: Any, name: str) -> Any:
    try:
        return getattr(value, name)
    except Exception as error:  # noqa: BLE001  # one field's code failed: keep the others
        return Typed("unreadable", _dotted(type(error)))


def _pydantic(value: Any, memo: Memo, depth: int) -> Any:
    fields = dict(value.__dict__)
    fields.update(getattr(value, "__pydantic_extra__", None) or {})
    return _fielded(value, fields, memo, depth)


def _fielded(value: Any, fields: dict[str, Any], memo: Memo, depth: int) -> Any:
    return _named(type(value), _inside(value, fields, _walk_dict, memo, depth))


# Everything else ----------------------------------------------------------------------------------


def _same(value: Any, memo: Memo, depth: int) -> Any:
    return value


def _float(value: float, memo: Memo, depth: int) -> Any:
    return value if math.isfinite(value) else Typed("float", repr(value))


def _array(value: Any, memo: Memo, depth: int) -> Any:
    plain = value.tolist()
    if value.dtype.kind not in "biuU":  # what JSON has words for needs no second look
        plain = snapshot(plain, memo, depth + 1)
    shape = [int(n) for n in getattr(value, "shape", ())]
    return Typed(_name(type(value)), {"dtype": str(value.dtype), "shape": shape, "values": plain})


def _frame(value: Any, memo: Memo, depth: int) -> Any:
    split = value.to_dict("split") if hasattr(type(value), "columns") else value.to_dict()
    return Typed(_name(type(value)), snapshot(split, memo, depth + 1))


def _exception(value: BaseException, memo: Memo, depth: int) -> Any:
    fields: dict[str, Any] = {"message": _safe_str(value)}
    notes = getattr(value, "__notes__", None)
    if notes:
        fields["notes"] = snapshot(list(notes), memo, depth + 1)
    if depth < MAX_CAUSES:
        cause, context = value.__cause__, value.__context__
        if cause is not None:
            fields["cause"] = snapshot(cause, memo, depth + 1)
        elif context is not None:
            fields["context"] = snapshot(context, memo, depth + 1)
        if isinstance(value, BaseExceptionGroup):
            fields["exceptions"] = [snapshot(e, memo, depth + 1) for e in value.exceptions]
    return Part("error", _dotted(type(value)), fields)


def _safe_str(value: BaseException) -> str:
    try:
        return str.__str__(str(value))
    except Exception:  # noqa: BLE001  # a hostile __str__
        return f"<{_dotted(type(value))} whose str raises>"


def _as(plain: Callable[[Any], Any]) -> Hook:
    """Recorded as the plain form that ``plain`` gives."""
    return lambda value, memo, depth: Typed(_name(type(value)), plain(value))


def _enum(value: enum.Enum, memo: Memo, depth: int) -> Any:
    return Typed(_name(type(value)), [value.name, snapshot(value.value, memo, depth + 1)])


def _type(value: type, memo: Memo, depth: int) -> Any:
    return Typed("type", _dotted(value))


def _callable(value: Any, memo: Memo, depth: int) -> Any:
    name = getattr(value, "__qualname__", None)
    return Typed(_name(type(value)), name if isinstance(name, str) else _name(type(value)))


def _other(value: Any, memo: Memo, depth: int) -> Any:
    return Typed(_dotted(type(value)), _safe_repr(value))


def _hex(value: Any) -> str:
    return bytes(value).hex()


def _isoformat(value: Any) -> Any:
    return value.isoformat()


_BUILTIN: Final[dict[type, Hook]] = {
    Typed: _same,
    Part: _same,
    float: _float,
    dict: _dict,
    list: _list,
    tuple: _list_like(tuple),
    set: _set_like(set),
    frozenset: _set_like(frozenset),
    bytes: _as(bytes.hex),
    bytearray: _as(_hex),
    memoryview: _as(_hex),
    complex: _as(str),
}
_FALLBACKS: Final[Iterable[tuple[type, Hook]]] = (
    (BaseException, _exception),
    (enum.Enum, _enum),
    (type, _type),
    (str, _as(str.__str__)),
    (int, _as(int.__index__)),
    (float, _as(float.__repr__)),
    (uuid.UUID, _as(str)),
    (decimal.Decimal, _as(str)),
    (pathlib.PurePath, _as(str)),
    (dt.date, _as(_isoformat)),
    (dt.time, _as(_isoformat)),
    (dt.timedelta, _as(str)),
    (bytes, _as(bytes.hex)),
    (bytearray, _as(bytearray.hex)),
    (dict, _dict_like),
    (Mapping, _dict_like),
    (list, _list_like(list)),
    (tuple, _list_like(tuple)),
    (collections.deque, _list_like(collections.deque)),
    (set, _set_like(set)),
    (frozenset, _set_like(frozenset)),
    (types.FunctionType, _callable),
    (types.BuiltinFunctionType, _callable),
    (types.MethodType, _callable),
)
_forget_types()
