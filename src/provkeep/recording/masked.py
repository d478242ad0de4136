"""Events with the texts in them masked, before anything is recognised, matched or sealed.

Used on the writer's thread, once for each event of a trace that has a mask. Equal texts stay equal
and the very same object stays the very same, so that lineage is found as it would be without.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from typing import Any, Final

from provkeep.masking import Masks
from provkeep.model.events import Event
from provkeep.model.values import Part, Typed

KNOWN: Final = 4096  # texts of one trace that are remembered masked
_VALUES: Final = ("inputs", "outputs", "error", "attrs", "data")
_IDS: Final = frozenset({"id", "tool_call_id"})  # by which messages and calls are joined
_JOINS: Final = _IDS | {"tool_calls"}  # those have ids of their own
_JOINED: Final = frozenset({"message", "tool_call", "tool_result"})


class Masking:
    """Masks the events of one trace, and counts."""

    def __init__(self, masks: Masks) -> None:
        self._masks = masks
        self.counts: Counter[str] = Counter()  # since the last record
        self._texts: dict[str, str] = {}
        self._parts: dict[int, tuple[Part, Part]] = {}  # by address, kept alive

    def event(self, event: Event) -> Event:
        """The event with its values masked; itself when nothing in it changes."""
        changed: dict[str, Any] = {}
        for each in fields(event):
            if each.name in _VALUES:
                value = getattr(event, each.name)
                made = self.value(value)
                if made is not value:
                    changed[each.name] = made
        return replace(event, **changed) if changed else event

    def take_counts(self) -> dict[str, int]:
        """How many of each kind were replaced since the last call."""
        counts, self.counts = self.counts, Counter()
        return dict(counts)

    def value(self, value: Any) -> Any:
        """A snapshot with its texts masked; the same object where nothing changes."""
        kind = type(value)
        if kind is str:
            return self._text(value)
        if kind is dict:
            return self._dict(value)
        if kind is list:
            made = [self.value(item) for item in value]
            return made if _differ(made, value) else value
        if kind is Part:
            return self._part(value)
        if kind is Typed:
            inner = self.value(value.value)
            return value if inner is value.value else Typed(value.type_name, inner)
        return value

    def _text(self, text: str) -> str:
        found = self._texts.get(text)
        if found is None:
            found, counts = self._masks.mask(text)
            self.counts += counts
            if found == text:
                found = text
            if len(self._texts) >= KNOWN:
                self._texts.pop(next(iter(self._texts)))
            self._texts[text] = found
        return text if found == text else found

    def _dict(self, value: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        same = True
        for key, item in value.items():
            name, inner = self._text(key), self.value(item)
            if name is not key or inner is not item:
                same = False
            if name in made:  # two keys that are masked alike are still two
                name = f"{name} {len(made)}"
            made[name] = inner
        return value if same else made

    def _fields(self, value: dict[str, Any], kept: frozenset[str]) -> dict[str, Any]:
        """The same of a part, whose keys are the framework's."""
        made = {k: v if k in kept else self.value(v) for k, v in value.items()}
        return made if any(made[k] is not v for k, v in value.items()) else value

    def _part(self, part: Part) -> Part:
        known = self._parts.get(id(part))
        if known is not None and known[0] is part:
            return known[1]
        joined = part.kind in _JOINED
        made = self._fields(part.fields, _JOINS if joined else frozenset())
        calls = part.fields.get("tool_calls")
        if joined and type(calls) is list:
            masked = [self._fields(c, _IDS) if type(c) is dict else self.value(c) for c in calls]
            if _differ(masked, calls):
                made = {**made, "tool_calls": masked}
        out = part if made is part.fields else Part(part.kind, part.type_name, made)
        self._parts[id(part)] = (part, out)
        return out


def _differ(made: list[Any], value: list[Any]) -> bool:
    return any(a is not b for a, b in zip(made, value, strict=True))
