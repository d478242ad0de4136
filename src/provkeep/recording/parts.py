"""Values split into artifacts, each recognised when it passes by again.

An artifact is an occurrence: what one run made, or what entered from outside. The same text made
by two runs is two artifacts. A value on its way into a run is recognised as the nearest visible
artifact with the same content; on its way out, as one the run was given or its children made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from provkeep.model.events import RunId
from provkeep.model.values import Part, Typed, encode_json

INLINE_CHARS: Final = 16  # shorter strings inside containers stay in the container's skeleton
SHARE_RUN: Final = 3  # list members in a row that are worth a reference to an earlier list
MAKERS: Final = frozenset({"model", "tool", "retriever", "embedding"})  # what they return is new

Key = Any


class Run:
    """One run while its trace is open."""

    __slots__ = (
        "attrs",
        "children",
        "closure",
        "depth",
        "ended",
        "kind",
        "name",
        "number",
        "outs",
        "parent",
        "rid",
        "slot",
        "slots",
        "used",
    )

    def __init__(self, number: int, rid: RunId, parent: Run | None, kind: str, name: str) -> None:
        self.number, self.rid, self.parent, self.kind, self.name = number, rid, parent, kind, name
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.used: list[Artifact] = []
        self.outs: list[Artifact] = []
        self.children: list[Run] = []
        self.slot: str | None = None
        self.slots: dict[str, Run] | None = None
        self.ended = False
        self.attrs: dict[str, Any] = {}
        self.closure: set[int] | None = None

    def inside(self, other: Run) -> bool:
        """Is this run ``other``, or below it?"""
        here: Run | None = self
        while here is not None and here.depth > other.depth:
            here = here.parent
        return here is other

    def given(self) -> set[int]:
        """Numbers of everything this run was given, members of containers included."""
        if self.closure is None:
            self.closure = set()
            for artifact in self.used:
                artifact.collect(self.closure)
        return self.closure


class Artifact:
    """One artifact while its trace is open."""

    __slots__ = (
        "causes",
        "exact",
        "key",
        "keys",
        "kind",
        "made_by",
        "members",
        "more",
        "number",
        "payload",
        "taken",
        "text",
    )

    def __init__(
        self, number: int, kind: str, key: Key, made_by: Run | None, text: str | None
    ) -> None:
        self.number, self.kind, self.key, self.made_by, self.text = number, kind, key, made_by, text
        self.members: list[Artifact] = []
        self.keys: tuple[Key, ...] = ()  # of a list: the content keys of its items
        self.causes: list[Artifact] = []
        self.exact = False
        self.payload: int | None = None  # global number, for documents
        self.taken = False  # stands for something an earlier trace gave
        self.more: dict[str, Any] = {}  # options of its entry

    def collect(self, into: set[int]) -> None:
        """Add this artifact's number and those of its members."""
        stack = [self]
        while stack:
            here = stack.pop()
            if here.number not in into:
                into.add(here.number)
                stack.extend(here.members)

    def leaves(self) -> Iterator[Artifact]:
        """This artifact, or the parts it is made of."""
        stack, seen = [self], set()
        while stack:
            here = stack.pop()
            if here.number in seen:
                continue
            seen.add(here.number)
            yield here
            stack.extend(here.members)


def common_depth(a: Run | None, b: Run | None) -> int:
    """Depth of the innermost run that holds both; -1 when nothing does."""
    while a is not None and b is not None and a is not b:
        if a.depth >= b.depth:
            a = a.parent
        else:
            b = b.parent
    return a.depth if a is not None and a is b else -1


def message_text(fields: dict[str, Any]) -> str | None:
    """The text of a message: its content, or its text blocks joined."""
    content = fields.get("content")
    if type(content) is str:
        return content or None
    if type(content) is list:
        texts = [b.get("text") if type(b) is dict else b for b in content]
        return "".join([t for t in texts if type(t) is str]) or None
    return None


def part_key(part: Part) -> Key:
    """What makes two parts the same content; computed once per part."""
    key = part.key
    if key is not None:
        return key
    fields = part.fields
    if part.kind == "message":
        content = fields.get("content")
        calls = fields.get("tool_calls")
        key = (
            "m",
            fields.get("type"),
            content if type(content) is str else encode_json(content),
            tuple([str(c.get("id")) for c in calls if type(c) is dict]) if calls else (),
            fields.get("tool_call_id"),
        )
    elif part.kind == "document":
        key = ("d", fields.get("id"), encode_json(fields))
    elif part.kind == "tool_call":
        key = ("c", fields.get("id"), encode_json(fields.get("args")))
    else:
        key = ("p", part.kind, part.type_name, encode_json(fields))
    part.key = key
    return key


def has_parts(value: Any, depth: int = 0) -> bool:
    """Does a container hold something that is stored on its own?"""
    kind = type(value)
    if kind is str:
        return len(value) >= INLINE_CHARS
    if kind is Part:
        return True
    if kind is Typed:
        return has_parts(value.value, depth + 1)
    if kind is list:
        return any(has_parts(v, depth + 1) for v in value)
    if kind is dict:
        return any(has_parts(v, depth + 1) for v in value.values())
    return False


def item_key(value: Any) -> Key:
    """Content key of a list item that is stored on its own."""
    return part_key(value) if type(value) is Part else ("t", value)


def is_list_of_parts(value: list[Any]) -> bool:
    """Is every item stored on its own, so that the list needs no skeleton?"""
    for item in value:
        kind = type(item)
        if kind is Part or (kind is str and len(item) >= INLINE_CHARS):
            continue
        return False
    return bool(value)


def segments(
    keys: tuple[Key, ...], where: dict[Key, tuple[Artifact, int]]
) -> list[int | tuple[Artifact, int, int]]:
    """Cut a list into positions of single items and runs that stand in an earlier list."""
    out: list[int | tuple[Artifact, int, int]] = []
    i, n = 0, len(keys)
    while i < n:
        found = where.get(keys[i])
        if found is not None:
            base, start = found
            theirs = base.keys
            j, k = i, start
            while j < n and k < len(theirs) and keys[j] == theirs[k]:
                j, k = j + 1, k + 1
            if j - i >= SHARE_RUN:
                out.append((base, start, k))
                i = j
                continue
        out.append(i)
        i += 1
    return out
