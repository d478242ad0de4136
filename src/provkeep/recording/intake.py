"""Values split into artifacts, each recognised when it passes by again.

A value on its way into a run is recognised as the nearest visible artifact with the same content;
on its way out, as one the run was given or its children made. What is not recognised is a new
artifact, and ``recording.edges`` says what it came from.
"""

from __future__ import annotations

from typing import Any, Final

from provkeep.model import records as r
from provkeep.model.values import Part, Typed, encode_json, encode_text
from provkeep.recording.called import CalledTools
from provkeep.recording.clear import clean, role_word
from provkeep.recording.documents import Documents
from provkeep.recording.edges import Explainer
from provkeep.recording.joins import Joins
from provkeep.recording.lists import Lists
from provkeep.recording.match import Piece, rope
from provkeep.recording.parts import (
    INLINE_CHARS,
    MAKERS,
    Artifact,
    Run,
    alike,
    is_list_of_parts,
    item_key,
    message_text,
    nearest,
    part_key,
    text_value,
)
from provkeep.recording.sheet import Sheet, message_compartment
from provkeep.recording.state import State
from provkeep.recording.ties import Ties

SHORT_LIST: Final = 16  # members of a list whose short strings are stored on their own
_GROUP: Final = frozenset({"message", "text", "tool_result"})


class Intake:
    """The artifacts of one trace, by content."""

    def __init__(
        self, sheet: Sheet, ties: Ties, head: dict[str, str], runs: dict[int, Run]
    ) -> None:
        self._sheet = sheet
        session = head.get("session", "")
        self._by_key: dict[Any, list[Artifact]] = {}
        self._by_shape: dict[tuple[str, ...], list[Artifact]] = {}
        self.called = CalledTools(sheet)
        self._edges = Explainer(sheet)
        self.lists = Lists(sheet, ties, session, self._by_key, self._edges)
        self.documents = Documents(sheet, ties)
        self.state = State(sheet, ties, session)
        self.joins = Joins(sheet, ties, runs, self._edges, self.state)

    def release(self) -> None:
        """Nothing more will come: let go of what later values would have been known by."""
        self._by_key.clear()
        self._by_shape.clear()
        self._edges.release()
        self.lists.release()
        self.joins.calls.clear()
        self.called.release()

    def tie(self, ties: Ties) -> None:
        """Ask the ties of a store that was opened anew."""
        self.lists.ties = self.documents.ties = self.state.ties = self.joins.ties = ties

    def adopt(self, given: Artifact) -> None:
        """A stream says its input late: what its steps were given before came from there."""
        for leaf in given.leaves():
            for artifact in self._edges.by_text.get(leaf.text or "", ()):
                made_by = artifact.made_by
                if made_by is None or artifact.exact or artifact.causes:
                    continue
                if made_by.kind not in MAKERS and artifact.number >= self._sheet.drained:
                    self._edges.link(leaf, artifact, "content")
                    artifact.exact = True
                    artifact.more["x"] = 1

    # -- whole values --------------------------------------------------------------------------

    def place(self, value: Any, run: Run, *, out: bool) -> Artifact | None:
        """The artifact of a whole value that a run was given or returned; None for None."""
        if value is None:
            return None
        kind = type(value)
        if kind is str:
            return self._text(value, run, out)
        if kind is Part:
            return self._part(value, run, out)
        if kind is list and is_list_of_parts(value):
            return self._list(value, run, out)
        shape = tuple(value) if kind is dict else (kind.__name__,)
        found = self._by_shape.get(shape)
        if found:
            found = [a for a in found if alike(a.value, value)]
            known = nearest(found, run, value, out=out) if found else None
            if known:
                return known[-1].meet(value)
        members: list[Artifact] = []
        skeleton = self._skeleton(value, run, out, members, top=True)
        artifact = self._new("composite" if members else "data", ("C", shape), run, out)
        artifact.members, artifact.exact, artifact.value = members, bool(members), value
        extra = {"m": [a.number for a in members]} if members else {}
        compartment = _compartment(run, out)
        self._sheet.write(artifact, compartment, encode_json(skeleton), extra, share=True)
        self._by_shape.setdefault(shape, []).append(artifact)
        return artifact

    def _skeleton(
        self, value: Any, run: Run, out: bool, members: list[Artifact], *, top: bool = False
    ) -> Any:
        """A container with references in place of what is stored on its own.

        Strings at the top are stored on their own however short; deeper ones when they are long, or
        when they can be a string that is known already.
        """
        kind = type(value)
        if kind is str:
            if top or len(value) >= INLINE_CHARS or self._is_known(value, run, out):
                return self._refer(self._text(value, run, out), members)
            return value
        if kind is Part:
            return self._refer(self._part(value, run, out), members)
        if kind is list:
            if is_list_of_parts(value):
                return self._refer(self._list(value, run, out), members)
            near = top and len(value) <= SHORT_LIST
            return [
                self._skeleton(v, run, out, members, top=near and type(v) is str) for v in value
            ]
        if kind is dict:
            made: dict[str, Any] = {}
            slots = run.slots if out and top else None
            for key, item in value.items():
                inner = type(item)
                if inner is int or inner is bool or item is None or item == "":
                    made[key] = item
                    continue
                branch = slots.get(key) if slots else None
                found = _of_branch(item, branch) if branch is not None else None
                if found is not None:
                    made[key] = self._refer(found, members)
                else:
                    near = top and (inner is str or inner is list)
                    made[key] = self._skeleton(item, run, out, members, top=near)
            return made
        if kind is Typed:
            inside = self._skeleton(
                value.value, run, out, members, top=top and type(value.value) is dict
            )
            return Typed(value.type_name, inside)
        return value

    def _is_known(self, text: str, run: Run, out: bool) -> bool:
        found = self._edges.by_text.get(text)
        return found is not None and bool(nearest(found, run, text, out=out))

    def _refer(self, artifact: Artifact, members: list[Artifact]) -> dict[str, int]:
        self._sheet.wake(artifact)
        for i, other in enumerate(members):
            if other is artifact:
                return {"$ref": i}
        members.append(artifact)
        return {"$ref": len(members) - 1}

    def _list(
        self, value: list[Any], run: Run, out: bool, type_name: str | None = None
    ) -> Artifact:
        first = self._sheet.made

        def single(item: Any) -> Artifact:
            made = self._part(item, run, out) if type(item) is Part else self._text(item, run, out)
            self._sheet.wake(made)
            return made

        artifact = self.lists.of(
            value, run, single, out=out, compartment=_compartment(run, out), type_name=type_name
        )
        made_by_leaf = out and run.kind in MAKERS and not run.children
        if artifact.number >= first and artifact.made_by is not None and not made_by_leaf:
            talk = artifact.keys[0][0] == "m"
            if talk or run.kind == "prompt":
                self._settle(artifact, first)
        return artifact

    def _settle(self, artifact: Artifact, first: int) -> None:
        """What stands unexplained beside explained messages is constant: glue said it itself."""
        made = [a for a in artifact.members if a.number >= first and a.kind in _GROUP and a.text]
        if len(made) < len(artifact.members) or any(a.causes for a in made):
            for item in made:
                item.exact = True
                item.more["x"] = 1

    # -- texts ---------------------------------------------------------------------------------

    def _new(
        self, kind: str, key: Any, run: Run, out: bool, text: str | None = None, value: Any = None
    ) -> Artifact:
        artifact = self._sheet.new(kind, key, run if out else run.parent, text)
        artifact.value = value
        return artifact

    def _register(self, artifact: Artifact) -> Artifact:
        self._by_key.setdefault(artifact.key, []).append(artifact)
        self._edges.register(artifact)
        return artifact

    def _text(self, text: str, run: Run, out: bool) -> Artifact:
        found = self._edges.by_text.get(text)
        same = nearest(found, run, text, out=out) if found else []
        if len(same) > 1:
            same = _apart(same)
        last = same[-1] if same else None
        if (
            last is not None
            and last.kind == "text"
            and all(a is last or a in last.causes for a in same)
        ):
            return last.meet(text)  # it stands for all of them
        artifact = self._new("text", ("t", text), run, out, text or None, text)
        pieces = self._explain(artifact, out, found, same)
        extra: dict[str, Any] = {}
        compartment = _compartment(run, out)
        if pieces and pieces[0][:2] == (0, len(text)) and pieces[0][3:] == (0, len(text)):
            extra["of"] = pieces[0][2].number
            self._sheet.write(artifact, compartment, None, extra)
        else:
            made = rope(text, pieces)
            data = encode_text(text) if made is None else encode_json({"$rope": made})
            self.state.take(artifact, text, extra, out=out)
            self._sheet.write(artifact, compartment, data, extra)
        return self._register(artifact)

    def _explain(
        self,
        artifact: Artifact,
        out: bool,
        found: list[Artifact] | None,
        same: list[Artifact],
        shown: Artifact | None = None,
    ) -> list[Piece]:
        """What a new text came from: see ``recording.edges``."""
        run, text = artifact.made_by, artifact.text
        if run is not None and found and not same and text is not None:
            leaf = out and not run.children
            if not leaf and len(text) >= INLINE_CHARS:  # said elsewhere, and handed on unseen
                same = [a for a in found if a.made_by is not None and a.made_by.kind in MAKERS][-1:]
        beside = [] if shown is None else list(shown.leaves())
        if out and run is not None and run.kind == "tool" and not run.children and run.parent:
            # Agents give a tool the configuration of the step that called it, so that what the tool
            # itself calls stands beside it.
            for sibling in run.parent.children:
                if sibling.number > run.number:
                    beside.extend(leaf for made in sibling.outs for leaf in made.leaves())
        return self._edges.explain(artifact, run, out=out, same=same, shown=beside)

    # -- parts ---------------------------------------------------------------------------------

    def _part(self, part: Part, run: Run, out: bool) -> Artifact:
        if part.kind == "prompt":
            return self._list(part.fields["messages"], run, out, part.type_name)
        key = part_key(part)
        found = self._by_key.get(key)
        if found:
            known = nearest(found, run, part, out=out)
            if len(known) > 1 and part.kind == "message":
                name = part.fields.get("id")
                known = [a for a in known if a.value.fields.get("id") == name] or known
            if known:
                self._sheet.wake(known[-1])
                return known[-1].meet(part)
        if part.kind == "document":
            return self._document(part, key, run, out)
        if part.kind == "message":
            return self._message(part, key, run, out)
        artifact = self._new(part.kind, key, run, out, part.fields.get("text"), part)
        extra: dict[str, Any] = {}
        if part.kind == "error":
            extra["ty"] = clean(part.type_name)
        elif part.kind == "tool_call":
            self.called.name(artifact, part.fields.get("name"), extra)
            self.joins.calls[str(part.fields.get("id"))] = artifact
        compartment = "tool" if part.kind in ("tool_call", "tool_result") else "output"
        self._sheet.write(artifact, compartment, encode_json(part.fields), extra)
        return self._register(artifact)

    def _message(self, part: Part, key: Any, run: Run, out: bool) -> Artifact:
        fields = part.fields
        role, text = str(fields.get("type")), message_text(fields)
        kind = "tool_result" if role == "tool" else "message"
        hidden = fields.get("artifact")
        shown = None if hidden is None else self._hidden(hidden, run, out)
        artifact = self._new(kind, key, run, out, text, part)
        found = self._edges.by_text.get(text) if text is not None else None
        content = text_value(part)
        same = nearest(found, run, content, out=out) if found else []
        pieces = self._explain(artifact, out, found, same, shown)
        extra: dict[str, Any] = {"ty": role_word(role)}
        calls = [
            self._part(Part("tool_call", "tool_call", call), run, out)
            for call in fields.get("tool_calls") or ()
            if type(call) is dict
        ]
        if calls:
            extra["calls"] = [c.number for c in calls]
        self.joins.join(artifact, fields, run, extra, out=out)
        stored = {
            k: v
            for k, v in fields.items()
            if k == "content" or (v is not None and v != {} and v != [] and k != "artifact")
        }
        if calls:
            stored["tool_calls"] = {"$calls": len(calls)}
        if type(content) is str and (made := rope(content, pieces)) is not None:
            stored["content"] = {"$rope": made}
        self._sheet.write(artifact, message_compartment(role), encode_json(stored), extra)
        return self._register(artifact)

    def _hidden(self, value: Any, run: Run, out: bool) -> Artifact | None:
        """A tool's artifact, which the model never saw: kept, and no part of the message."""
        artifact = self.place(value, run, out=out)
        if artifact is not None and out:
            self._sheet.entries.append(
                [r.NOTE, run.number, self._sheet.now, "tool artifact", artifact.number]
            )
        return artifact

    def _document(self, part: Part, key: Any, run: Run, out: bool) -> Artifact:
        fields = part.fields
        text = fields.get("page_content")
        text = text if type(text) is str and text else None
        artifact = self._new("document", key, run, out, text, part)
        found = self._edges.by_text.get(text) if text is not None else None
        same = nearest(found, run, text, out=out) if found else []
        self._explain(artifact, out, found, same)
        extra: dict[str, Any] = {}
        if text is not None:
            self.state.take(artifact, text, extra, out=out)
        self.documents.store(artifact, fields, extra)
        return self._register(artifact)


def _apart(same: list[Artifact]) -> list[Artifact]:
    """Equal texts of which none is just another one's copy; texts last, oldest first."""
    texts = [a for a in same if a.kind == "text"]
    rest = [a for a in same if a.kind != "text"]
    alone = [a for a in rest if not any(a in t.causes or t in a.causes for t in texts)]
    return alone + texts


def _of_branch(value: Any, branch: Run) -> Artifact | None:
    """What a parallel branch returned, if the value is that."""
    if not branch.outs:
        return None
    made = branch.outs[0]
    kind = type(value)
    if kind is str:
        return made if made.text == value and made.kind == "text" else None
    if kind is Part:
        return made if made.key == part_key(value) else None
    if kind is list and value and is_list_of_parts(value):
        return made if made.keys == tuple([item_key(v) for v in value]) else None
    return made if alike(made.value, value) else None


def _compartment(run: Run, out: bool) -> str:
    if run.kind == "tool":
        return "tool"
    said = out and (run.kind in ("model", "parser") or run.parent is None)
    return "output" if said else "prompt"
