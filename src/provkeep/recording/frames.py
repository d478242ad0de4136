"""What a trace has said, as bytes and back: the plaintext of a journal's frame.

Pickled, because snapshots share parts and a trace knows them again by sharing; opened only after
their seal was checked, and then nothing but the classes named here is ever made from them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from provkeep.model import events as ev
from provkeep.model.values import Part, Typed

_KINDS: Final = (ev.RunStarted, ev.RunEnded, ev.RunFailed, ev.Noted, ev.TokensStreamed)
_FIELDS: Final = {kind: attrgetter(*kind.__slots__) for kind in _KINDS}
_CODES: Final = {kind: code for code, kind in enumerate(_KINDS)}
_NAMES: Final[tuple[tuple[str, ...], ...]] = tuple(kind.__slots__ for kind in _KINDS)


@dataclass(frozen=True, slots=True)
class Said:
    """What one trace had said when its root ended."""

    tid: int
    root: int
    names: dict[str, str]
    events: list[ev.Event]


def _nothing() -> object:
    """The one object that stands for no value."""
    return ev.NOTHING


class _Writer(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        """Called for what is no plain value; a subclass of one would come back as another."""
        kind = type(obj)
        if kind is Part:
            return Part, (obj.kind, obj.type_name, obj.fields)
        if kind is Typed:
            return Typed, (obj.type_name, obj.value)
        if obj is ev.NOTHING:
            return _nothing, ()
        if obj is Part or obj is Typed or obj is _nothing:
            return NotImplemented  # by its name
        raise pickle.PicklingError("a frame holds values and nothing else")


_CLASSES: Final = {(made.__module__, made.__qualname__): made for made in (Part, Typed, _nothing)}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _CLASSES[module, name]
        except KeyError:
            raise pickle.UnpicklingError("a frame holds values and nothing else") from None


def encode(tid: int, root: int, names: dict[str, str], events: Iterable[ev.Event]) -> bytes:
    """The bytes of what a trace has said.

    Raises:
        Exception: something in it cannot be written so; then it is to be committed instead.
    """
    said = [(_CODES[type(event)], _FIELDS[type(event)](event)) for event in events]
    out = io.BytesIO()
    _Writer(out, 5).dump((tid, root, names, said))
    return out.getvalue()


def decode(data: bytes) -> Said:
    """What a trace had said. Only for bytes whose seal was checked.

    Raises:
        Exception: they are not what ``encode`` made.
    """
    tid, root, names, said = _Reader(io.BytesIO(data)).load()
    events = [_KINDS[code](**dict(zip(_NAMES[code], values, strict=True))) for code, values in said]
    return Said(tid, root, names, events)
