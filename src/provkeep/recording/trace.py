"""One open trace: events in, entries and plaintext payloads out.

Used by the writer thread only. What is kept in memory is what later events of the same trace may
refer to; it goes when the trace is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from provkeep.model import events as ev
from provkeep.model import records as r
from provkeep.model.values import Part, Typed, encode_json, encode_text
from provkeep.recording.edges import Explainer, rope, upstream
from provkeep.recording.parts import (
    INLINE_CHARS,
    MAKERS,
    SHARE_RUN,
    Artifact,
    Run,
    common_depth,
    has_parts,
    is_list_of_parts,
    item_key,
    message_text,
    part_key,
    segments,
)
from provkeep.recording.ties import Ties
from provkeep.sealing.sealer import DataKey, Payload

MAX_NAME: Final = 200  # characters of a component's name kept in the clear
SHARED_PAYLOAD: Final = 512  # bytes up to which equal skeletons of a trace share a payload
MAX_SOURCES_FIELD: Final = ("source", "file_path", "file_name", "url", "path")
_MESSAGE_COMPARTMENT: Final = {"ai": "output", "AIMessageChunk": "output", "tool": "tool"}
_SCORES: Final = ("score", "distance", "similarity")


def clean(name: object) -> str:
    """A component's name as it may stand in the clear."""
    text = str(name)[:MAX_NAME]
    return text.encode("utf-8", "replace").decode()


class Trace:
    """The state of one trace while events of it may still come."""

    def __init__(self, number: int, ties: Ties, head: dict[str, str]) -> None:
        self.tid = f"{number:032x}"
        self.ties = ties
        self.head = head  # names of session, actor, subject, application
        self.t0_ns = 0
        self.runs: dict[int, Run] = {}
        self.open = 0
        self.finished = False  # the root has ended and the last record says so
        self.count = 0  # records committed
        self.keys: dict[str, DataKey] = {}
        self.entries: list[list[Any]] = []
        self.payloads: list[Payload] = []
        self._artifacts = 0
        self._by_key: dict[Any, list[Artifact]] = {}
        self._where: dict[Any, tuple[Artifact, int]] = {}  # list item -> list and place
        self._by_call: dict[str, Artifact] = {}
        self._lists: list[Artifact] = []
        self._shared: dict[tuple[str, bytes], int] = {}
        self._meta_runs: dict[str, Any] = {}
        self._meta_artifacts: dict[str, Any] = {}
        self._errors: set[int] = set()
        self._fresh: dict[bytes, Artifact] = {}  # documents this trace is the first to store
        self._waiting: list[Artifact] = []  # documents whose global number is not known yet
        self._edges = Explainer(self.entries.append)
        self._last_model: Run | None = None
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.RunStarted: self._started,
            ev.RunEnded: self._ended,
            ev.RunFailed: self._failed,
            ev.Noted: self._noted,
            ev.TokensStreamed: self._tokens,
        }

    # -- events ------------------------------------------------------------------------------

    def feed(self, event: ev.Event) -> None:
        """Take one event in."""
        if not self.t0_ns:
            self.t0_ns = event.at_ns
        self._handlers[type(event)](event)

    def _dt(self, at_ns: int) -> int:
        return at_ns - self.t0_ns

    def _started(self, event: ev.RunStarted) -> None:
        if event.run_id in self.runs:
            return
        parent = self.runs.get(event.parent_id) if event.parent_id is not None else None
        run = Run(len(self.runs), event.run_id, parent, event.kind, clean(event.name))
        run.slot = event.slot
        self.runs[event.run_id] = run
        self.open += 1
        more: dict[str, Any] = {}
        if event.slot is not None:
            more["sl"] = r.b64(self.ties.tag("slot", event.slot))
        if event.model:
            more["mo"] = clean(event.model)
        if event.provider:
            more["pr"] = clean(event.provider)
        if event.parent_id is not None and parent is None:
            more["dp"] = r.b64(event.parent_id.to_bytes(16, "big"))
        entry = [
            r.RUN,
            run.number,
            event.kind,
            run.name,
            -1 if parent is None else parent.number,
            self._dt(event.at_ns),
            r.b64(event.run_id.to_bytes(16, "big")),
            more,
        ]
        self.entries.append(entry)
        if event.inputs is not ev.NOTHING:
            call = self._by_call.get(event.call_id) if event.call_id else None
            if call is not None:
                run.used.append(call)
            self._use(run, event.inputs, known=call is not None)
            if run.used:
                more["in"] = [a.number for a in run.used]
        if parent is not None:
            parent.children.append(run)
            if run.slot is not None:
                if parent.slots is None:
                    parent.slots = {}
                parent.slots[run.slot] = run
        if event.kind == "model":
            self._last_model = run
        run.attrs = dict(event.attrs)
        self._keep_attrs(run, run.attrs)

    def _use(self, run: Run, value: Any, *, known: bool) -> None:
        if known:  # a tool's arguments stand in the tool call already
            return
        artifact = self._place(value, run, out=False)
        if artifact is not None:
            run.used.append(artifact)
            run.closure = None

    def _late_inputs(self, run: Run, value: Any) -> None:
        if value is ev.NOTHING or run.used:
            return
        self._use(run, value, known=False)
        if run.used:
            self.entries.append([r.USED, run.number, [a.number for a in run.used]])

    def _end(self, run: Run, event: ev.RunEnded | ev.RunFailed, status: str) -> dict[str, Any]:
        more: dict[str, Any] = {}
        if event.outputs is not ev.NOTHING:
            first = self._artifacts
            artifact = self._place(event.outputs, run, out=True)
            if artifact is not None:
                run.outs.append(artifact)
                more["out"] = [artifact.number]
                if run.kind == "prompt":
                    self._settle_prompt(artifact, run, first)
        if not run.ended:
            run.ended = True
            self.open -= 1
        self.entries.append([r.END, run.number, self._dt(event.at_ns), status, more])
        if event.attrs:
            self._keep_attrs(run, dict(event.attrs))
        return more

    def _ended(self, event: ev.RunEnded) -> None:
        run = self.runs.get(event.run_id)
        if run is None:
            run = self._orphan(event.run_id, event.at_ns, event.name or "unknown")
        if run.ended:
            return
        self._late_inputs(run, event.inputs)
        more = self._end(run, event, "ok")
        if event.usage is not None:
            more["tk"] = [-1 if n is None else n for n in event.usage]
        if event.finish:
            more["fr"] = clean(event.finish)
        if event.model:
            more["mo"] = clean(event.model)

    def _failed(self, event: ev.RunFailed) -> None:
        run = self.runs.get(event.run_id)
        if run is None:
            run = self._orphan(event.run_id, event.at_ns, "unknown")
        if run.ended:
            return
        more = self._end(run, event, event.status)
        if event.error is not ev.NOTHING:
            first = event.error_key is None or event.error_key not in self._errors
            if event.error_key is not None:
                self._errors.add(event.error_key)
            if first:
                error = self._place(event.error, run, out=True)
                if error is not None:
                    more["er"] = error.number
                    run.outs.append(error)
                if event.status == "error":
                    more["o"] = 1

    def _orphan(self, rid: int, at_ns: int, name: str) -> Run:
        """A run whose start never came: keep its end under a run that says so."""
        run = Run(len(self.runs), rid, None, "chain", clean(name))
        self.runs[rid] = run
        self.open += 1
        uuid = r.b64(rid.to_bytes(16, "big"))
        more = {"orphan": 1}
        self.entries.append([r.RUN, run.number, "chain", run.name, -1, self._dt(at_ns), uuid, more])
        return run

    def _noted(self, event: ev.Noted) -> None:
        run = self.runs.get(event.run_id)
        if run is None:
            return
        number = -1
        if event.data is not None:
            artifact = self._new("note", ("n", self._artifacts), run, None)
            self._write(
                artifact, "tool" if run.kind == "tool" else "prompt", encode_json(event.data)
            )
            number = artifact.number
        dt = self._dt(event.at_ns)
        self.entries.append([r.NOTE, run.number, dt, clean(event.name), number])

    def _tokens(self, event: ev.TokensStreamed) -> None:
        run = self.runs.get(event.run_id)
        if run is None:
            return
        artifact = self._new("note", ("n", self._artifacts), run, None)
        self._write(artifact, "output", encode_json([list(c) for c in event.chunks]))
        self.entries.append([r.NOTE, run.number, self._dt(event.at_ns), "tokens", artifact.number])

    def close_open(self, at_ns: int) -> None:
        """End the runs that the framework never ended."""
        for run in list(self.runs.values()):
            if not run.ended:
                status, here = "unfinished", run.parent
                while here is not None:
                    if here.attrs.get("$status") == "cancelled":
                        status = "cancelled"
                    here = here.parent
                run.ended = True
                self.open -= 1
                self.entries.append([r.END, run.number, self._dt(at_ns), status, {}])

    def mark(self, rid: int, status: str) -> None:
        """Remember how a run ended, for the runs below it that never will."""
        run = self.runs.get(rid)
        if run is not None:
            run.attrs["$status"] = status

    def finish(self) -> None:
        """The root has ended: say what its output is and which sources reached it."""
        self.finished = True
        root = next(iter(self.runs.values()), None)
        if root is None:
            return
        output = root.outs[0] if root.outs else None
        answer = None
        reached: list[int] = []
        if output is not None:
            parts = [a for a in output.leaves() if a.text and a.kind in ("message", "text")]
            made = [a for a in parts if a.made_by is not None and not a.taken]
            answer = max(made or parts, key=lambda a: a.number, default=output)
            for artifact in upstream([output]):
                if artifact.kind == "document" and artifact.payload is not None:
                    reached.append(artifact.payload)
        self._give_lists(output)
        self.entries.append(
            [
                r.FINAL,
                -1 if output is None else output.number,
                -1 if answer is None else answer.number,
                sorted(reached),
            ]
        )

    def _give_lists(self, output: Artifact | None) -> None:
        """Let a later trace of the same conversation refer to this one's message lists."""
        model = self._last_model
        if model is not None and model.used and model.outs:
            given, made = model.used[0], model.outs[0]
            if given.keys and made.kind == "message":
                self._list(
                    [*given.members, made],
                    (*given.keys, made.key),
                    model,
                    out=True,
                )
        longest: dict[Any, Artifact] = {}
        for artifact in self._lists:
            head = artifact.keys[0]
            if head[0] == "m" and len(artifact.keys) > 1:
                best = longest.get(head)
                if best is None or len(artifact.keys) >= len(best.keys):
                    longest[head] = artifact
        for artifact in list(longest.values())[:4]:
            tag = r.b64(self.ties.list_tag(artifact.keys))
            self.entries.append([r.LINK, tag, artifact.number, r.GIVES])
        session = self.head.get("session")
        if session is not None and output is not None:
            for artifact in list(output.leaves())[:64]:
                if artifact.kind in ("text", "document") and artifact.text:
                    tag = r.b64(self.ties.value_tag(session, artifact.text))
                    self.entries.append([r.LINK, tag, artifact.number, r.GIVES])

    # -- values ------------------------------------------------------------------------------

    def _place(self, value: Any, run: Run, *, out: bool) -> Artifact | None:
        """The artifact of a whole value that a run was given or returned."""
        kind = type(value)
        if value is None:
            return None
        if kind is str:
            return self._text(value, run, out)
        if kind is Part:
            return self._part(value, run, out)
        if kind is list and is_list_of_parts(value):
            return self._list_of(value, run, out)
        members: list[Artifact] = []
        skeleton = self._skeleton(value, run, out, members, top=True)
        data = encode_json(skeleton)
        key = ("C", data, tuple(a.number for a in members))
        known = self._known(key, run, out)
        if known is not None:
            return known
        kind_name = "composite" if members else "data"
        artifact = self._new(kind_name, key, self._maker(run, out), None)
        artifact.members, artifact.exact = members, bool(members)
        extra = {"m": [a.number for a in members]} if members else {}
        self._write(artifact, self._compartment(run, out), data, extra, share=True)
        self._by_key.setdefault(key, []).append(artifact)
        return artifact

    def _skeleton(
        self, value: Any, run: Run, out: bool, members: list[Artifact], *, top: bool = False
    ) -> Any:
        """A container with references in place of what is stored on its own."""
        kind = type(value)
        if kind is str:
            if not (top or len(value) >= INLINE_CHARS):
                return value
            return self._refer(self._text(value, run, out), members)
        if kind is Part:
            return self._refer(self._part(value, run, out), members)
        if kind is list:
            if not has_parts(value):
                return value
            if is_list_of_parts(value):
                return self._refer(self._list_of(value, run, out), members)
            return [self._skeleton(v, run, out, members) for v in value]
        if kind is dict:
            made: dict[str, Any] = {}
            slots = run.slots if out and top else None
            for key, item in value.items():
                inner = type(item)
                if inner is int or inner is bool or item is None or item == "":
                    made[key] = item
                    continue
                branch = slots.get(key) if slots else None
                if branch is not None:
                    found = self._of_branch(item, branch)
                    if found is not None:
                        made[key] = self._refer(found, members)
                        continue
                made[key] = self._skeleton(item, run, out, members, top=top and inner is str)
            return made
        if kind is Typed:
            return Typed(value.type_name, self._skeleton(value.value, run, out, members))
        return value

    @staticmethod
    def _refer(artifact: Artifact, members: list[Artifact]) -> dict[str, int]:
        for i, other in enumerate(members):
            if other is artifact:
                return {"$ref": i}
        members.append(artifact)
        return {"$ref": len(members) - 1}

    @staticmethod
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
        return None

    def _maker(self, run: Run, out: bool) -> Run | None:
        return run if out else run.parent

    def _known(self, key: Any, run: Run, out: bool) -> Artifact | None:
        """The artifact that this value is, if it passed by where ``run`` can have it from."""
        found = self._by_key.get(key)
        if not found:
            return None
        if not out:
            if len(found) == 1:
                return found[0]
            scope = run.parent or run
            return max(found, key=lambda a: (common_depth(a.made_by, scope), a.number))
        if not run.children:
            if run.kind in MAKERS:
                return None
            given = run.given()
            fits = [a for a in found if a.number in given]
        else:
            given = run.given()
            fits = [
                a
                for a in found
                if a.number in given or (a.made_by is not None and a.made_by.inside(run))
            ]
        return fits[-1] if fits else None

    def _new(self, kind: str, key: Any, made_by: Run | None, text: str | None) -> Artifact:
        artifact = Artifact(self._artifacts, kind, key, made_by, text)
        self._artifacts += 1
        return artifact

    def _register(self, artifact: Artifact) -> Artifact:
        self._by_key.setdefault(artifact.key, []).append(artifact)
        self._edges.register(artifact)
        return artifact

    def _text(self, text: str, run: Run, out: bool) -> Artifact:
        key = ("t", text)
        known = self._known(key, run, out)
        if known is not None:
            return known
        artifact = self._new("text", key, self._maker(run, out), text or None)
        pieces = self._edges.explain(artifact, artifact.made_by, out=out)
        extra: dict[str, Any] = {}
        if pieces and pieces[0][1] == len(text) and pieces[0][3:] == (0, len(text)):
            extra["of"] = pieces[0][2].number
            self._write(artifact, self._compartment(run, out), None, extra)
        else:
            made = rope(text, pieces)
            data = encode_text(text) if made is None else encode_json({"$rope": made})
            self._take_value(artifact, run, extra)
            self._write(artifact, self._compartment(run, out), data, extra)
        return self._register(artifact)

    def _take_value(self, artifact: Artifact, run: Run, extra: dict[str, Any]) -> None:
        """Text that nothing in this trace explains may come from an earlier one of the session."""
        session = self.head.get("session")
        text = artifact.text
        if session and text and not artifact.causes and len(text) >= INLINE_CHARS:
            made = artifact.made_by
            if made is None or (made.kind not in MAKERS and made.children):
                extra["ext"] = tag = r.b64(self.ties.value_tag(session, text))
                self.entries.append([r.LINK, tag, artifact.number, r.TAKES])

    @staticmethod
    def _settle_prompt(output: Artifact, run: Run, first: int) -> None:
        """A template puts in what it was given and nothing else: what is not found is constant."""
        made = [a for a in output.leaves() if a.made_by is run and a.number >= first and a.text]
        if any(a.causes for a in made):
            for artifact in made:
                artifact.exact = True
                artifact.more["x"] = 1

    def _part(self, part: Part, run: Run, out: bool) -> Artifact:
        if part.kind == "document":
            return self._document(part, run, out)
        if part.kind == "prompt":
            return self._prompt(part, run, out)
        if part.kind == "message":
            return self._message(part, run, out)
        key = part_key(part)
        known = self._known(key, run, out)
        if known is not None:
            return known
        artifact = self._new(part.kind, key, self._maker(run, out), part.fields.get("text"))
        extra: dict[str, Any] = {}
        if part.kind == "error":
            extra["ty"] = clean(part.type_name)
        elif part.kind == "tool_call":
            extra["ty"] = clean(part.fields.get("name"))
        compartment = "tool" if part.kind in ("tool_call", "tool_result") else "output"
        self._write(artifact, compartment, encode_json(part.fields), extra)
        if part.kind == "tool_call":
            self._by_call[str(part.fields.get("id"))] = artifact
        return self._register(artifact)

    def _prompt(self, part: Part, run: Run, out: bool) -> Artifact:
        members = [self._part(m, run, out) for m in part.fields["messages"]]
        keys = tuple(part_key(m) for m in part.fields["messages"])
        return self._list(members, keys, run, out=out, kind="prompt", type_name=part.type_name)

    def _message(self, part: Part, run: Run, out: bool) -> Artifact:
        fields = part.fields
        key = part_key(part)
        known = self._known(key, run, out)
        if known is not None:
            return known
        place = self._where.get(key)
        if place is not None and place[0].taken:
            return self._from_taken(key, part, place, run)
        role = str(fields.get("type"))
        kind = "tool_result" if role == "tool" else "message"
        maker = self._maker(run, out)
        text = message_text(fields)
        artifact = self._new(kind, key, maker, text)
        pieces = self._edges.explain(artifact, maker, out=out)
        calls: list[Artifact] = []
        for call in fields.get("tool_calls") or ():
            if type(call) is dict:
                calls.append(self._part(Part("tool_call", "tool_call", call), run, out))
        extra: dict[str, Any] = {"ty": clean(role)}
        if calls:
            extra["calls"] = [c.number for c in calls]
        message_id = fields.get("id")
        call_id = fields.get("tool_call_id")
        if type(call_id) is str and call_id in self._by_call:
            call_artifact = self._by_call[call_id]
            if maker is None or maker.kind != "tool":
                self._edges.link(call_artifact, artifact, "id")
        self._message_links(artifact, message_id, run, out, extra)
        stored = {k: v for k, v in fields.items() if v is not None and v != {} and v != []}
        if calls:
            stored["tool_calls"] = {"$calls": len(calls)}
        if type(fields.get("content")) is str:
            made = rope(fields["content"], pieces)
            if made is not None:
                stored["content"] = {"$rope": made}
        if "artifact" in stored:
            hidden = stored.pop("artifact")
            if hidden is not None:
                self._hidden(hidden, run, out)
        compartment = _MESSAGE_COMPARTMENT.get(role, "prompt")
        self._write(artifact, compartment, encode_json(stored), extra)
        return self._register(artifact)

    def _hidden(self, value: Any, run: Run, out: bool) -> None:
        """A tool's artifact, which the model never saw: kept, and no part of the message."""
        artifact = self._place(value, run, out=out)
        if artifact is not None and out:
            self.entries.append([r.NOTE, run.number, 0, "tool artifact", artifact.number])

    def _message_links(
        self, artifact: Artifact, message_id: Any, run: Run, out: bool, extra: dict[str, Any]
    ) -> None:
        if type(message_id) is not str:
            return
        if out and run.kind in MAKERS:
            tag = r.b64(self.ties.tag("message", message_id))
            other = message_run(message_id)
            if other is not None and other != run.rid:
                made = self.runs.get(other)
                if made is None:
                    extra["ext"] = tag
                    self.entries.append([r.LINK, tag, artifact.number, r.TAKES])
                elif made.outs:
                    self._edges.link(made.outs[0], artifact, "id")
            else:
                self.entries.append([r.LINK, tag, artifact.number, r.GIVES])
        elif not artifact.causes:
            extra["ext"] = tag = r.b64(self.ties.tag("message", message_id))
            self.entries.append([r.LINK, tag, artifact.number, r.TAKES])

    def _from_taken(self, key: Any, part: Part, place: tuple[Artifact, int], run: Run) -> Artifact:
        """A message of an earlier trace, now met on its own."""
        base, at = place
        kind = "tool_result" if key[1] == "tool" else "message"
        artifact = self._new(kind, key, None, message_text(part.fields))
        artifact.exact = True
        role = str(part.fields.get("type"))
        more = {"ty": clean(role), "b": [base.number, at]}
        self._write(artifact, _MESSAGE_COMPARTMENT.get(role, "prompt"), None, more)
        for call in part.fields.get("tool_calls") or ():
            if type(call) is dict and str(call.get("id")) not in self._by_call:
                self._part(Part("tool_call", "tool_call", call), run, out=False)
        return self._register(artifact)

    def _document(self, part: Part, run: Run, out: bool) -> Artifact:
        key = part_key(part)
        known = self._known(key, run, out)
        if known is not None:
            return known
        fields = dict(part.fields)
        text = fields.get("page_content")
        artifact = self._new("document", key, self._maker(run, out), text or None)
        self._edges.explain(artifact, artifact.made_by, out=out)
        metadata = fields.get("metadata")
        if type(metadata) is dict:
            scores = {k: v for k, v in metadata.items() if _is_score(k, v)}
            if scores:
                self._meta_artifacts[str(artifact.number)] = {"scores": scores}
                fields["metadata"] = {k: v for k, v in metadata.items() if k not in scores}
        data = encode_json(fields)
        found = self.ties.document(data)
        extra: dict[str, Any] = {}
        if not isinstance(found, int) and found in self._fresh:
            first = self._fresh[found]
            artifact.payload = first.payload
            extra["sh"] = first.number
            self._waiting.append(artifact)
            self._write(artifact, "document", None, extra)
        elif isinstance(found, int):
            artifact.payload = found
            extra["g"] = found
            self._write(artifact, "document", None, extra)
        else:
            name = source_name(fields)
            source = self.ties.tag("source", name)
            extra["fp"], extra["src"] = r.b64(found), r.b64(source)
            self._write(artifact, "document", data, extra, source=source)
            artifact.payload = -len(self.payloads)
            self._fresh[found] = artifact
            self._waiting.append(artifact)
            if self.ties.source_is_new(source):
                self.payloads.append(Payload("meta", encode_json({"name": name}), source))
                self.entries.append([r.SOURCE, extra["src"], len(self.payloads) - 1])
        return self._register(artifact)

    def _list_of(self, value: list[Any], run: Run, out: bool) -> Artifact:
        keys = tuple([item_key(v) for v in value])
        known = self._known(("L", keys), run, out)
        if known is not None:
            return known
        head = keys[0]
        if head[0] == "m" and len(keys) >= SHARE_RUN and head not in self._by_key:
            self._take_list(keys)
        members: list[Artifact] = []
        for item, key in zip(value, keys, strict=True):
            place = self._where.get(key)
            if place is not None and place[0].taken and key not in self._by_key:
                members.append(place[0])  # stands for the item: the list it was taken with
            elif type(item) is Part:
                members.append(self._part(item, run, out))
            else:
                members.append(self._text(item, run, out))
        return self._list(members, keys, run, out=out)

    def _take_list(self, keys: tuple[Any, ...]) -> None:
        """The beginning of a list may be what an earlier trace of this conversation ended with."""
        found = self.ties.longest_list(keys)
        if found is None:
            return
        tag, length = found
        artifact = self._new("composite", ("taken", tag), None, None)
        artifact.keys, artifact.exact, artifact.taken = keys[:length], True, True
        for i, key in enumerate(artifact.keys):
            self._where[key] = (artifact, i)
        text = r.b64(tag)
        self._write(artifact, "prompt", None, {"ext": text, "len": length})
        self.entries.append([r.LINK, text, artifact.number, r.TAKES])

    def _list(
        self,
        members: list[Artifact],
        keys: tuple[Any, ...],
        run: Run,
        *,
        out: bool,
        kind: str = "composite",
        type_name: str | None = None,
    ) -> Artifact:
        key = ("L", keys)
        if type_name is None:
            known = self._known(key, run, out)
            if known is not None:
                return known
        artifact = self._new(kind, key, self._maker(run, out), None)
        artifact.members, artifact.keys, artifact.exact = list(dict.fromkeys(members)), keys, True
        spelled: list[Any] = []
        for item in segments(keys, self._where) if keys[0][0] == "m" else range(len(keys)):
            if isinstance(item, int):
                spelled.append(members[item].number)
            else:
                spelled.append([item[0].number, item[1], item[2]])
        extra: dict[str, Any] = {"m": spelled}
        if type_name is not None:
            extra["ty"] = clean(type_name)
        self._write(artifact, self._compartment(run, out), None, extra)
        for i, item in enumerate(keys):
            self._where[item] = (artifact, i)
        self._by_key.setdefault(key, []).append(artifact)
        self._lists.append(artifact)
        return artifact

    # -- entries -----------------------------------------------------------------------------

    def _compartment(self, run: Run, out: bool) -> str:
        if run.kind == "tool":
            return "tool"
        return (
            "output"
            if out and (run.kind in ("model", "parser") or run.parent is None)
            else "prompt"
        )

    def _write(
        self,
        artifact: Artifact,
        compartment: str,
        data: bytes | None,
        extra: dict[str, Any] | None = None,
        *,
        source: bytes | None = None,
        share: bool = False,
    ) -> None:
        """Write an artifact's entry and put its payload in line."""
        more = extra or {}
        index = -1
        if data is not None:
            known = self._shared.get((compartment, data)) if share else None
            if known is not None:
                more["sh"] = known
            else:
                index = len(self.payloads)
                self.payloads.append(Payload(compartment, data, source))
                if share and len(data) <= SHARED_PAYLOAD:
                    self._shared[compartment, data] = artifact.number
        if artifact.exact:
            more["x"] = 1
        artifact.more = more
        self.entries.append(
            [
                r.ARTIFACT,
                artifact.number,
                r.KIND_CODE[artifact.kind],
                r.CLASS_CODE[compartment],
                -1 if artifact.made_by is None else artifact.made_by.number,
                -1 if artifact.text is None else len(artifact.text),
                index,
                more,
            ]
        )

    def _keep_attrs(self, run: Run, attrs: dict[str, Any]) -> None:
        parent = run.parent.attrs if run.parent is not None else {}
        kept = {
            k: {"$parent": 1} if k in parent and parent[k] == v else v
            for k, v in attrs.items()
            if v
        }
        if kept:
            self._meta_runs.setdefault(str(run.number), {}).update(kept)

    def drain(self) -> tuple[list[list[Any]], list[Payload]]:
        """Take what was added since the last call, with the sealed block of attributes."""
        meta: dict[str, Any] = {}
        if self._meta_runs:
            meta["runs"] = self._meta_runs
        if self._meta_artifacts:
            meta["artifacts"] = self._meta_artifacts
        if self.count == 0 and self.head and self.entries:
            meta["names"] = self.head
        if meta:
            self._meta_runs, self._meta_artifacts = {}, {}
            self.entries.append([r.META, len(self.payloads)])
            self.payloads.append(Payload("meta", encode_json(meta)))
        entries, payloads = self.entries[:], self.payloads[:]
        self.entries.clear()
        self.payloads.clear()
        return entries, payloads

    def settled(self, numbers: dict[int, int]) -> None:
        """Learn the global numbers of document payloads: local place -> number."""
        for artifact in self._waiting:
            place = -(artifact.payload or 0) - 1
            artifact.payload = numbers.get(place, artifact.payload)
        self._waiting.clear()


def message_run(message_id: str) -> int | None:
    """The run that a message id of LangChain's names, ``lc_run--<uuid>`` with or without suffix."""
    if not message_id.startswith("lc_run--"):
        return None
    digits = message_id[8:44].replace("-", "")
    try:
        return int(digits, 16) if len(digits) == 32 else None
    except ValueError:
        return None


def source_name(fields: dict[str, Any]) -> str:
    """What a document came from, as its metadata says; else its id; else its content's digest."""
    metadata = fields.get("metadata")
    if type(metadata) is dict:
        for key in MAX_SOURCES_FIELD:
            value = metadata.get(key)
            if type(value) is Typed:
                value = value.value
            if type(value) is str and value:
                return value
    name = fields.get("id")
    return str(name) if name else "content:" + str(fields.get("page_content"))


def _is_score(key: str, value: Any) -> bool:
    return type(value) is float and any(word in key.lower() for word in _SCORES)
