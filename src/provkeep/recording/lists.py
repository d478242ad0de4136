"""Lists of messages, documents and texts, each stored as what it adds to those before it.

A conversation passes by again and again, one message longer each time. A list is written as
references to stretches of earlier lists and the items that are new; what an earlier trace of the
conversation ended with is *taken* from there as one piece.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from provkeep.model.records import GIVES, TAKES
from provkeep.model.values import Part
from provkeep.recording.clear import clean
from provkeep.recording.edges import Explainer
from provkeep.recording.parts import Artifact, Run, item_key, message_text, nearest, part_key
from provkeep.recording.sheet import Sheet
from provkeep.recording.ties import Items, Ties

SHARE_RUN: Final = 3  # list members in a row that are worth a reference to an earlier list
MAX_GIVEN: Final = 4  # lists that later traces may go on from


class Lists:
    """The lists of one trace while it is open."""

    def __init__(
        self,
        sheet: Sheet,
        ties: Ties,
        session: str,
        by_key: dict[Any, list[Artifact]],
        edges: Explainer,
    ) -> None:
        self._sheet, self.ties, self._session = sheet, ties, session
        self._by_key, self._edges = by_key, edges
        self._items: dict[Artifact, list[Artifact]] = {}  # of a list: the artifact at each place
        self._where: dict[Any, tuple[Artifact, int]] = {}  # item -> the latest list, and its place
        self._messages: list[Artifact] = []  # lists of messages

    def release(self) -> None:
        """No later list will be known by these."""
        self._items.clear()
        self._where.clear()
        self._messages.clear()

    def of(
        self,
        value: list[Any],
        run: Run,
        single: Callable[[Any], Artifact],
        *,
        out: bool,
        compartment: str,
        type_name: str | None = None,
    ) -> Artifact:
        """The artifact of a list; of a prompt value, which is its messages, when it has a type.

        Args:
            value: parts and long texts.
            run: who was given it or returned it.
            single: places one item on its own.
            out: it was returned.
            compartment: whose payload it would be.
            type_name: of a prompt value.
        """
        keys = tuple([item_key(v) for v in value])
        key = ("L", keys)
        found = self._by_key.get(key)
        if found and type_name is not None:
            found = [a for a in found if a.kind == "prompt"]
        if found and (known := nearest(found, run, value, out=out)):
            return known[-1]
        talk = keys[0][0] == "m"
        if talk:
            begin = _opening(keys)
            if len(keys) - begin > 1 and keys[begin] not in self._by_key:
                self._take(value[begin:], keys[begin:])
        spelled, items = self._spell(value, keys, single)
        kind = "composite" if type_name is None else "prompt"
        artifact = self._sheet.new(kind, key, run if out else run.parent, None)
        artifact.exact, artifact.keys, artifact.value = True, keys, value
        artifact.members = list(dict.fromkeys(items))
        extra: dict[str, Any] = {"m": spelled}
        if type_name is not None:
            extra["ty"] = clean(type_name)
        self._sheet.write(artifact, compartment, None, extra)
        self._keep(artifact, items)
        self._by_key.setdefault(key, []).append(artifact)
        if talk:
            self._messages.append(artifact)
        return artifact

    def _keep(self, artifact: Artifact, items: list[Artifact]) -> None:
        self._items[artifact] = items
        for i, key in enumerate(artifact.keys):
            self._where[key] = (artifact, i)

    def _spell(
        self, value: list[Any], keys: tuple[Any, ...], single: Callable[[Any], Artifact]
    ) -> tuple[list[Any], list[Artifact]]:
        """Members as they are written, and the artifact at each place."""
        spelled: list[Any] = []
        items: list[Artifact] = []
        i, n = 0, len(keys)
        while i < n:
            where = self._where.get(keys[i])
            if where is not None:
                base, start = where
                theirs = self._items[base]
                first = theirs[start]
                if first.origin is not None and self._is_all_of(first, keys, i):
                    taken = first.origin
                    spelled.append([taken.number, 0, len(taken.keys)])
                    items.extend(taken.members)
                    i += len(taken.keys)
                    continue
                j, k = i, start
                while j < n and k < len(theirs) and keys[j] == base.keys[k] and not theirs[k].taken:
                    j, k = j + 1, k + 1
                if j - i >= SHARE_RUN:
                    spelled.append([base.number, start, k])
                    items.extend(theirs[start:k])
                    i = j
                    continue
            item = single(value[i])
            spelled.append(item.number)
            items.append(item)
            i += 1
        return spelled, items

    def _known_item(self, part: Any) -> Artifact:
        """A message that stands in a list already, on its own."""
        base, place = self._where[item_key(part)]
        item = self._items[base][place]
        self._sheet.wake(item)
        return item

    @staticmethod
    def _is_all_of(first: Artifact, keys: tuple[Any, ...], at: int) -> bool:
        """Does everything that was taken with ``first`` stand here? Of a part, each is named."""
        taken = first.origin
        return (
            taken is not None and first.place == 0 and keys[at : at + len(taken.keys)] == taken.keys
        )

    # -- between traces ------------------------------------------------------------------------

    def _take(self, value: list[Any], keys: tuple[Any, ...]) -> None:
        """The beginning of a list may be what an earlier trace of this conversation ended with."""
        found = self.ties.longest_list(_named(value, keys), self._session)
        if found is None:
            return
        tag, length, by_id = found
        taken = self._sheet.new("composite", ("taken", tag), None, None)
        taken.keys, taken.exact = keys[:length], True
        extra: dict[str, Any] = {"len": length, "ext": self._sheet.link(tag, taken, TAKES)}
        if not by_id:
            extra["c"] = 1
        self._sheet.write(taken, "prompt", None, extra)
        for i, part in enumerate(value[:length]):
            taken.members.append(self._member(part, taken, i))
        self._keep(taken, taken.members)

    def _member(self, part: Part, taken: Artifact, place: int) -> Artifact:
        """A message of an earlier trace; it gets an entry when it is met on its own."""
        role = str(part.fields.get("type"))
        kind = "tool_result" if role == "tool" else "message"
        item = Artifact(-1, kind, part_key(part), None, message_text(part.fields))
        item.exact, item.origin, item.place, item.value = True, taken, place, part
        self._by_key.setdefault(item.key, []).append(item)
        self._edges.register(item)
        return item

    def give(self, last: Run | None) -> None:
        """Let later traces of the same conversation refer to this one's lists of messages."""
        if last is not None and last.used and last.outs:
            given, made = last.used[0], last.outs[0]
            if given.keys and given.keys[0][0] == "m" and made.kind == "message":
                self._append(given, made, last)
        longest: dict[Any, Artifact] = {}
        for artifact in self._messages:
            head = artifact.keys[0]
            best = longest.get(head)
            if head[1] != "system" and (best is None or len(artifact.keys) >= len(best.keys)):
                longest[head] = artifact
        for artifact in list(longest.values())[:MAX_GIVEN]:
            if len(artifact.keys) > 1:
                items = _named(artifact.value, artifact.keys)
                for tag in self.ties.list_tags(items, self._session):
                    self._sheet.link(self.ties.give(tag), artifact, GIVES)

    def _append(self, given: Artifact, made: Artifact, run: Run) -> None:
        """What a model was given and what it said, as the list that a next turn begins with.

        Without the system messages it opens with: they are another turn's own.
        """
        begin, end = _opening(given.keys), len(given.keys)
        keys = (*given.keys[begin:], made.key)
        if begin == end or ("L", keys) in self._by_key:
            return
        artifact = self._sheet.new("composite", ("L", keys), run, None)
        artifact.exact, artifact.keys = True, keys
        artifact.value = [*given.value[begin:], made.value]
        spelled, items = self._spell(given.value[begin:], keys[:-1], self._known_item)
        artifact.members = [*dict.fromkeys(items), made]
        self._sheet.write(artifact, "output", None, {"m": [*spelled, made.number]})
        self._messages.append(artifact)


def _opening(keys: tuple[Any, ...]) -> int:
    """How many system messages a conversation opens with."""
    for i, key in enumerate(keys):
        if key[0] != "m" or key[1] != "system":
            return i
    return len(keys)


def _named(value: list[Any], keys: tuple[Any, ...]) -> Items:
    """Keys of messages with the ids of those that a model made."""
    out: list[tuple[Any, str]] = []
    for part, key in zip(value, keys, strict=False):
        name = part.fields.get("id") if type(part) is Part and key[1] == "ai" else None
        out.append((key, name if type(name) is str else ""))
    return out
