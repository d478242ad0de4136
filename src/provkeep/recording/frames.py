"""What a trace has said, as bytes and back: the plaintext of a journal's frame.

Pickled, because snapshots share parts and a trace knows them again by sharing; opened only after
their seal was checked, and then nothing but the classes named here is ever made from them.
"""

from __future__ import annotations

import _thread
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


class Frame:
    """The bytes of what a trace says, some events at a time, so that its end need not pay for all.

    One thread at a time: ``held`` is taken, without waiting for it, by whoever adds.
    """

    __slots__ = ("_out", "_pickler", "count", "held")

    def __init__(self, tid: int, root: int, names: dict[str, str]) -> None:
        self.count = 0  # events in it
        self.held = _thread.allocate_lock()
        self._out = io.BytesIO()
        self._pickler = _Writer(self._out, 5)  # one for all: it knows again what was said before
        self._pickler.dump((tid, root, names))

    def add(self, events: Iterable[ev.Event]) -> None:
        """Say these, too.

        Raises:
            Exception: something in it cannot be said so; then no more may be added.
        """
        said = [(_CODES[type(event)], _FIELDS[type(event)](event)) for event in events]
        if said:
            self._pickler.dump(said)
            self.count += len(said)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._out.tell()

    def data(self) -> bytes:
        """The bytes of all that was said."""
        return self._out.getvalue()


def encode(tid: int, root: int, names: dict[str, str], events: Iterable[ev.Event]) -> bytes:
    """The bytes of what a trace has said.

    Raises:
        Exception: something in it cannot be written so; then it is to be committed instead.
    """
    frame = Frame(tid, root, names)
    frame.add(events)
    return frame.data()


def decode(data: bytes) -> Said:
    """What a trace had said. Only for bytes whose seal was checked.

    Raises:
        Exception: they are not what ``encode`` made.
    """
    stream = io.BytesIO(data)
    reader = _Reader(stream)
    tid, root, names = reader.load()
    events: list[ev.Event] = []
    while stream.tell() < len(data):
        for code, values in reader.load():
            events.append(_KINDS[code](**dict(zip(_NAMES[code], values, strict=True))))
    return Said(tid, root, names, events)
