"""Runs and artifacts while their trace is open, and what makes two values the same.

An artifact is an occurrence: what one run made, or what entered from outside. The same text made
by two runs is two artifacts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from provkeep.model.events import RunId
from provkeep.model.values import Part, Typed, encode_json

INLINE_CHARS: Final = 16  # shorter strings inside containers stay in the container's skeleton
MAX_OTHERS: Final = 8  # objects that are remembered as one artifact
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
        "options",
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
        self.options: dict[str, Any] = {}  # of its entry
        self.attrs: dict[str, Any] = {}
        self.closure: set[Artifact] | None = None

    def release(self) -> None:
        """Let go of values, and of what refers back to this run: artifacts and runs below."""
        self.used.clear()
        self.outs.clear()
        self.children.clear()
        self.slots = self.closure = None
        self.attrs = {}

    def inside(self, other: Run) -> bool:
        """Is this run ``other``, or below it?"""
        here: Run | None = self
        while here is not None and here.depth > other.depth:
            here = here.parent
        return here is other

    def given(self) -> set[Artifact]:
        """Everything this run was given, members of containers included."""
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
        "origin",
        "others",
        "payload",
        "place",
        "text",
        "value",
    )

    def __init__(
        self, number: int, kind: str, key: Key, made_by: Run | None, text: str | None
    ) -> None:
        self.number, self.kind, self.key, self.made_by, self.text = number, kind, key, made_by, text
        self.members: list[Artifact] = []
        self.keys: tuple[Key, ...] = ()  # of a list: the content keys of its items
        self.causes: list[Artifact] = []
        self.exact = False  # its edges explain it in full
        self.payload: int | None = None  # global number, for documents
        self.origin: Artifact | None = None  # the list of an earlier trace that it stands in
        self.place = 0  # its place there
        self.value: Any = None  # the snapshot it was made from
        self.others: list[Any] = []  # equal snapshots that were recognised as it
        self.more: dict[str, Any] = {}  # options of its entry

    @property
    def taken(self) -> bool:
        """Does it stand for something that an earlier trace gave?"""
        return self.origin is not None

    def meet(self, value: Any) -> Artifact:
        """An equal value was recognised as this artifact: know that very object again, too."""
        if len(self.others) < MAX_OTHERS and not self.is_same(value):
            self.others.append(value)
        return self

    def is_same(self, value: Any) -> bool:
        """Is an equal value the very object that this artifact was made from or recognised in?"""
        return is_same(self.value, value) or any(is_same(other, value) for other in self.others)

    def collect(self, into: set[Artifact]) -> None:
        """Add this artifact and its members."""
        stack = [self]
        while stack:
            here = stack.pop()
            if here not in into:
                into.add(here)
                stack.extend(here.members)

    def leaves(self) -> Iterator[Artifact]:
        """This artifact and the parts it is made of."""
        stack, seen = [self], set()
        while stack:
            here = stack.pop()
            if here in seen:
                continue
            seen.add(here)
            yield here
            stack.extend(here.members)

    def texts(self) -> Sequence[str]:
        """What can be recognised of it: its text, or the words a tool was called with."""
        if self.text is not None:
            return (self.text,)
        if self.kind != "tool_call" or type(self.value) is not Part:
            return ()
        args = self.value.fields.get("args")
        return [v for v in args.values() if type(v) is str and v] if type(args) is dict else ()


def common_depth(a: Run | None, b: Run | None) -> int:
    """Depth of the innermost run that holds both; -1 when nothing does."""
    while a is not None and b is not None and a is not b:
        if a.depth >= b.depth:
            a = a.parent
        else:
            b = b.parent
    return a.depth if a is not None and a is b else -1


def visible(artifact: Artifact, scope: Run | None) -> bool:
    """Can the code of ``scope`` have it: from outside, from its own input or from its children?"""
    made_by = artifact.made_by
    if scope is None:
        return made_by is None
    return made_by is None or made_by.inside(scope) or artifact in scope.given()


def nearest(found: list[Artifact], run: Run, value: Any, *, out: bool) -> list[Artifact]:
    """Those of some artifacts with equal content that ``run`` (or, going in, its parent) can mean.

    The very same object decides first, for equal strings of two models are two objects; then
    nearness in the tree of runs. More than one are left when nothing tells them apart.
    """
    leaf = out and not run.children
    scope = run if out else run.parent
    if leaf:
        if run.kind in MAKERS:
            return []
        given = run.given()
        pool = [a for a in found if a in given]
        if not pool:  # handed to it past its input, as what a person answered an interrupt with
            pool = [a for a in found if a.made_by is None]
    else:
        pool = [a for a in found if visible(a, scope)]
    if len(pool) < 2:
        return pool
    same = [a for a in pool if a.is_same(value)]
    if len(same) == 1:
        return same
    if same and type(value) is str:
        return same  # Python may hold equal strings as one: nothing tells them apart
    pool = same or pool
    if leaf:
        return pool
    depths = [common_depth(a.made_by, scope) for a in pool]
    best = max(depths)
    return [a for a, depth in zip(pool, depths, strict=True) if depth == best]


def message_text(fields: dict[str, Any]) -> str | None:
    """The text of a message: its content, or its text blocks joined."""
    content = fields.get("content")
    if type(content) is str:
        return content or None
    if type(content) is list:
        texts = [b.get("text") if type(b) is dict else b for b in content]
        return "".join([t for t in texts if type(t) is str]) or None
    return None


def text_value(part: Part) -> Any:
    """The string object that a part's text is, where it is one."""
    return part.fields.get("content" if part.kind == "message" else "page_content")


def part_key(part: Part) -> Key:
    """What makes two parts the same content; computed once per part."""
    key = part.key
    if key is not None:
        return key
    fields = part.fields
    if part.kind == "message":
        content, calls, role = fields.get("content"), fields.get("tool_calls"), fields.get("type")
        key = (
            "m",
            role,
            content if type(content) is str else encode_json(content),
            encode_json([[c.get("id"), c.get("args")] for c in calls if type(c) is dict])
            if calls
            else b"",
            fields.get("tool_call_id"),
            None if role in ("ai", "tool") else fields.get("name"),  # filled in later there
        )
    elif part.kind == "document":
        key = ("d", fields.get("id"), encode_json(fields))
    elif part.kind == "tool_call":
        key = ("c", fields.get("id"), encode_json(fields.get("args")))
    else:
        key = ("p", part.kind, part.type_name, encode_json(fields))
    part.key = key
    return key


def item_key(value: Any) -> Key:
    """Content key of a list item that is stored on its own."""
    return part_key(value) if type(value) is Part else ("t", value)


def has_parts(value: Any) -> bool:
    """Does a container hold something that is stored on its own?"""
    kind = type(value)
    if kind is str:
        return len(value) >= INLINE_CHARS
    if kind is Part:
        return True
    if kind is Typed:
        return has_parts(value.value)
    if kind is list:
        return any(has_parts(v) for v in value)
    if kind is dict:
        return any(has_parts(v) for v in value.values())
    return False


def is_list_of_parts(value: list[Any]) -> bool:
    """Is every item stored on its own, so that the list needs no skeleton?"""
    for item in value:
        kind = type(item)
        if kind is Part or (kind is str and len(item) >= INLINE_CHARS):
            continue
        return False
    return bool(value)


def alike(a: Any, b: Any) -> bool:
    """Do two snapshots say the same?"""
    if a is b:
        return True
    kind = type(a)
    if kind is not type(b):
        return False
    if kind is Part:
        return bool(part_key(a) == part_key(b))
    if kind is dict:
        return list(a) == list(b) and all(alike(v, b[k]) for k, v in a.items())
    if kind is list:
        return len(a) == len(b) and all(map(alike, a, b))
    if kind is Typed:
        return a.type_name == b.type_name and alike(a.value, b.value)
    return bool(a == b)


def is_same(a: Any, b: Any) -> bool:
    """Are two equal snapshots of the very same objects, as far as that can be told?"""
    if a is b:
        return True
    if type(a) is Part:
        a = text_value(a)
    if type(b) is Part:
        b = text_value(b)
    if a is b:
        return a is not None
    kind = type(a)
    if kind is not type(b):
        return False
    if kind is dict:
        return list(a) == list(b) and all(is_same(v, b[k]) for k, v in a.items())
    if kind is list:
        return len(a) == len(b) and all(map(is_same, a, b))
    if kind in (int, float, bool):
        return bool(a == b)
    return False
