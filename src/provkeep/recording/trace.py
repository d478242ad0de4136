"""One open trace: events in, entries and plaintext payloads out.

Used by the writer thread only. What is kept in memory is what later events of the same trace may
refer to; it goes when the trace is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from provkeep.masking import Masks
from provkeep.model import events as ev
from provkeep.model import records as r
from provkeep.model.canonical import MAX_INT
from provkeep.model.values import encode_json
from provkeep.recording.clear import clean, finish_word, is_model_name
from provkeep.recording.edges import upstream
from provkeep.recording.intake import Intake
from provkeep.recording.masked import Masking
from provkeep.recording.parts import Artifact, Run
from provkeep.recording.sheet import Sheet
from provkeep.recording.ties import Ties
from provkeep.sealing.sealer import DataKey, Payload

MAX_ANSWERS: Final = 64  # parts of an output that are looked at to find its answer


def says(call: Artifact, arguments: Any) -> bool:
    """Does a tool call say these very arguments?"""
    return bool(call.key[0] == "c" and call.key[2] == encode_json(arguments))


class How(Protocol):
    """What a trace keeps of its texts; ``recorder.Scope`` is one."""

    masks: Masks | None
    payloads: bool


class Trace:
    """The state of one trace while events of it may still come."""

    def __init__(
        self, number: int, ties: Ties, head: dict[str, str], how: How | None = None
    ) -> None:
        self.tid = f"{number:032x}"
        self.head = head  # names of session, actor, subject, application
        self.t0_ns = 0
        self.runs: dict[int, Run] = {}
        self.open = 0
        self.finished = False  # the root has ended and the last record says so
        self.count = 0  # records committed
        self.keys: dict[str, DataKey] = {}
        self.bare = how is not None and not how.payloads
        self.masking = Masking(how.masks) if how is not None and how.masks is not None else None
        self._holds = False  # what ``release`` lets go of
        self._sheet = Sheet(bare=self.bare)
        self._intake = Intake(self._sheet, ties, head, self.runs)
        self._meta_runs: dict[str, Any] = {}
        self._errors: set[int] = set()
        self._last_model: Run | None = None
        self._ties = ties

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Nothing more is expected: let go of values and artifacts.

        Runs and artifacts refer to each other. So they go now, and not with Python's next full
        collection, which has to look at every object of the program to find them. What comes all
        the same is recorded; what it came from is no longer known.
        """
        if self._holds:
            self._holds = False
            for run in self.runs.values():
                run.release()
            self._intake.release()

    @property
    def ties(self) -> Ties:
        """What ties it to other traces; replaced when the store is opened anew."""
        return self._ties

    @ties.setter
    def ties(self, ties: Ties) -> None:
        self._ties = ties
        self._intake.tie(ties)

    @property
    def entries(self) -> list[list[Any]]:
        """What was added since the last record."""
        return self._sheet.entries

    # -- events ------------------------------------------------------------------------------

    def feed(self, event: ev.Event) -> None:
        """Take one event in."""
        self._holds = True
        if not self.t0_ns:
            self.t0_ns = event.at_ns
        self._sheet.now = self._since(event.at_ns)
        if self.masking is not None:
            event = self.masking.event(event)
        _FEED[type(event)](self, event)

    def _since(self, at_ns: int) -> int:
        """Nanoseconds since the trace began; of a clock that jumped, as far as a body can say."""
        return max(-MAX_INT, min(MAX_INT, at_ns - self.t0_ns))

    def _begin(self, rid: int, parent: Run | None, kind: str, name: str, at_ns: int) -> Run:
        run = Run(len(self.runs), rid, parent, kind, clean(name))
        self.runs[rid] = run
        self.open += 1
        uuid = r.b64(rid.to_bytes(16, "big"))
        above = -1 if parent is None else parent.number
        entry = [r.RUN, run.number, kind, run.name, above, self._since(at_ns), uuid, run.options]
        self._sheet.entries.append(entry)
        return run

    def _started(self, event: ev.RunStarted) -> None:
        if event.run_id in self.runs:
            return
        parent = self.runs.get(event.parent_id) if event.parent_id is not None else None
        run = self._begin(event.run_id, parent, event.kind, event.name, event.at_ns)
        more = run.options
        run.slot = event.slot
        if event.slot is not None:
            more["sl"] = r.b64(self._ties.slot(event.slot))
        if event.model:
            more["mo"] = clean(event.model)
        if event.provider:
            more["pr"] = clean(event.provider)
        if event.tools:
            self._intake.called.offered(event.tools)
        if event.kind == "tool":
            self._intake.called.offered((event.name,))
        if event.parent_id is not None and parent is None:
            more["dp"] = r.b64(event.parent_id.to_bytes(16, "big"))
        if event.inputs is not ev.NOTHING:
            call = self._intake.joins.calls.get(event.call_id) if event.call_id else None
            if call is not None:
                self._use(run, call)
            if call is None or not says(call, event.inputs):  # else they stand in the call already
                self._use(run, self._intake.place(event.inputs, run, out=False))
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

    @staticmethod
    def _use(run: Run, artifact: Artifact | None) -> None:
        if artifact is not None:
            run.used.append(artifact)
            run.closure = None

    def _late_inputs(self, run: Run, value: Any) -> None:
        if value is ev.NOTHING or run.used:
            return
        self._use(run, self._intake.place(value, run, out=False))
        if run.used:
            self._sheet.entries.append([r.USED, run.number, [a.number for a in run.used]])
            if run.parent is None:
                self._intake.adopt(run.used[0])

    def _end(self, run: Run, event: ev.RunEnded | ev.RunFailed, status: str) -> dict[str, Any]:
        more: dict[str, Any] = {}
        if event.outputs is not ev.NOTHING:
            artifact = self._intake.place(event.outputs, run, out=True)
            if artifact is not None:
                run.outs.append(artifact)
                more["out"] = [artifact.number]
        self._close(run, event.at_ns, status, more)
        if event.attrs:
            self._keep_attrs(run, dict(event.attrs))
        return more

    def _close(self, run: Run, at_ns: int, status: str, more: dict[str, Any]) -> None:
        if not run.ended:
            run.ended, run.closure = True, None
            self.open -= 1
        self._sheet.entries.append([r.END, run.number, self._since(at_ns), status, more])

    def _ended(self, event: ev.RunEnded) -> None:
        run = self._run_of(event, event.name or "unknown")
        if run.ended:
            return
        self._late_inputs(run, event.inputs)
        more = self._end(run, event, "ok")
        exact: dict[str, Any] = {}
        if event.usage is not None:
            more["tk"] = [-1 if n is None else n for n in event.usage]
        if event.finish:
            more["fr"] = finish_word(event.finish)
            if more["fr"] != event.finish:
                exact["finish_reason"] = event.finish
        if event.model:
            if is_model_name(event.model):
                more["mo"] = event.model
            else:
                exact["answered_by"] = event.model
        if exact:
            self._keep_attrs(run, exact)

    def _failed(self, event: ev.RunFailed) -> None:
        run = self._run_of(event, "unknown")
        if run.ended:
            return
        self._late_inputs(run, event.inputs)
        more = self._end(run, event, event.status)
        if event.error is ev.NOTHING:
            return
        if event.error_key is not None:
            if event.error_key in self._errors:
                return
            self._errors.add(event.error_key)
        error = self._intake.place(event.error, run, out=True)
        if error is not None:
            more["er"] = error.number
            run.outs.append(error)
        if event.status == "error":
            more["o"] = 1

    def _run_of(self, event: ev.RunEnded | ev.RunFailed, name: str) -> Run:
        """The run that ends; where its start never came, a run that says so."""
        run = self.runs.get(event.run_id)
        if run is None:
            run = self._begin(event.run_id, None, "chain", name, event.at_ns)
            run.options["orphan"] = 1
        return run

    def _noted(self, event: ev.Noted) -> None:
        run = self.runs.get(event.run_id)
        if run is not None:
            compartment = "tool" if run.kind == "tool" else "prompt"
            data = None if event.data is None else encode_json(event.data)
            self._note(run, clean(event.name), compartment, data)

    def _tokens(self, event: ev.TokensStreamed) -> None:
        run = self.runs.get(event.run_id)
        if run is not None:
            self._note(run, "tokens", "output", encode_json([list(c) for c in event.chunks]))

    def _note(self, run: Run, name: str, compartment: str, data: bytes | None) -> None:
        number = -1
        if data is not None:
            artifact = self._sheet.new("note", None, run, None)
            self._sheet.write(artifact, compartment, data)
            number = artifact.number
        self._sheet.entries.append([r.NOTE, run.number, self._sheet.now, name, number])

    def close_open(self, at_ns: int) -> None:
        """End the runs that the framework never ended."""
        for run in list(self.runs.values()):
            if not run.ended:
                status, here = "unfinished", run.parent
                while here is not None:
                    if here.attrs.get("$status") == "cancelled":
                        status = "cancelled"
                    here = here.parent
                self._close(run, at_ns, status, {})

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
        answer = None if output is None else answer_of(output)
        reached: dict[int, None] = {}
        if answer is not None:
            for artifact in upstream([answer]):
                if artifact.kind == "document" and artifact.payload is not None:
                    reached[artifact.payload] = None
        self._intake.lists.give(self._last_model)
        self._intake.state.give(output)
        self._sheet.entries.append(
            [
                r.FINAL,
                -1 if output is None else output.number,
                -1 if answer is None else answer.number,
                sorted(reached),
            ]
        )

    # -- what goes into a record ---------------------------------------------------------------

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
        documents = self._intake.documents
        if self.bare:
            self._meta_runs, documents.scores = {}, {}
        if self._meta_runs:
            meta["runs"], self._meta_runs = self._meta_runs, {}
        if documents.scores:
            meta["artifacts"], documents.scores = documents.scores, {}
        if self.count == 0 and self.head and self._sheet.entries:
            meta["names"] = self.head
        if meta:
            self._sheet.entries.append([r.META, self._sheet.payload("meta", encode_json(meta))])
        documents.drained()
        return self._sheet.drain()

    def settled(self, numbers: dict[int, int]) -> None:
        """What was drained last is committed, under these numbers (place -> payload), or lost."""
        self._intake.documents.settled(numbers)


_FEED: Final[dict[type, Callable[[Trace, Any], None]]] = {
    ev.RunStarted: Trace._started,
    ev.RunEnded: Trace._ended,
    ev.RunFailed: Trace._failed,
    ev.Noted: Trace._noted,
    ev.TokensStreamed: Trace._tokens,
}


def answer_of(output: Artifact) -> Artifact:
    """What a trace's output says: the text or message that the rest of it led to.

    Of a conversation, its last message. What a later step was given and made nothing of is left
    behind. An output of several that do not lead to each other (parallel branches) is an answer as
    a whole.
    """
    parts: list[Artifact] = []
    waiting, seen = [output], {output}
    while waiting and len(parts) < MAX_ANSWERS:
        here = waiting.pop()
        inner = here.members
        if here.keys and here.keys[0][0] == "m":
            inner = inner[-1:]
            if inner and inner[0].keys:  # a conversation that was taken whole
                inner = inner[0].members[-1:]
        elif here.text and here.kind in ("message", "text", "tool_result"):
            parts.append(here)
        waiting.extend(a for a in inner if a not in seen)
        seen.update(inner)
    made = [a for a in parts if a.made_by is not None and not a.taken and "ext" not in a.more]
    parts = made or parts
    if len(parts) > 1:
        below = {a: set(upstream([a])) for a in parts}
        parts = [a for a in parts if not any(a in below[b] for b in parts if b is not a)] or parts
    if len(parts) > 1:
        parts = [a for a in parts if not any(_passed_over(a, b) for b in parts)] or parts
    return parts[0] if len(parts) == 1 else output


def _passed_over(artifact: Artifact, later: Artifact) -> bool:
    """Was it given to a step that made ``later``, and is no part of that?"""
    step = later.made_by
    while step is not None and artifact is not later:
        if artifact in step.given():
            return True
        step = step.parent
    return False
