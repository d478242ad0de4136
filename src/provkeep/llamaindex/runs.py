"""Runs that are no model calls, said to the recorder: how they begin, end and fail."""

from __future__ import annotations

import sys
import time
import uuid
from inspect import BoundArguments
from typing import Any, Final

from provkeep.llamaindex.arguments import arguments_of, call_of, inputs_of
from provkeep.llamaindex.models import remember
from provkeep.llamaindex.snapshots import arguments_of_start, result_of, tool_part
from provkeep.llamaindex.spans import Span
from provkeep.model.events import NOTHING, Event, Noted, RunEnded, RunFailed, RunStarted
from provkeep.model.snapshot import snapshot
from provkeep.recording.recorder import Recorder

_EVENT_BASE: Final = frozenset({"timestamp", "id_", "span_id", "tags"})
NO_SUCH_TOOL: Final = "unknown tool"
_WRAPPER_DEPTH: Final = 12  # frames between us and the dispatcher's wrapper, at most


class Runs:
    """Says runs to the recorder."""

    def __init__(self, recorder: Recorder, *, vectors: bool) -> None:
        self._recorder, self._vectors = recorder, vectors

    def _say(self, event: Event, span: Span) -> None:
        self._recorder.record(event, span.scope)

    def starts(self, span: Span, bound: BoundArguments, tags: dict[str, Any] | None) -> None:
        """A decorated method was called."""
        span.started = True
        instance, kind = span.instance, span.kind
        attrs: dict[str, Any] = {}
        if tags:
            kept = {k: v for k, v in tags.items() if not k.startswith("llamaindex.step.")}
            attrs["tags"] = snapshot(kept, span.memo)
        arguments = arguments_of(bound)
        if kind == "tool":
            span.call_id = call_of(span, arguments)
            if span.parent is not None:
                span.parent.answers_call = True
        if kind in ("agent", "graph"):
            arguments = arguments_of_start(arguments)
        given = inputs_of(span, arguments)
        self._say(
            RunStarted(
                run_id=span.rid,
                parent_id=span.parent_rid,
                at_ns=span.at_ns,
                kind=kind,
                name=span.name,
                inputs=NOTHING if given == {} else given,
                attrs=attrs,
                model=_model_name(instance) if kind == "embedding" else None,
                call_id=span.call_id if kind == "tool" else None,
            ),
            span,
        )

    def ends(self, span: Span, result: Any) -> None:
        """It returned."""
        kind, role = span.kind, span.role
        outputs: Any = NOTHING
        if kind == "embedding":
            outputs = snapshot(result, span.memo) if self._vectors else NOTHING
        elif role == "tool" and hasattr(result, "raw_output"):
            outputs = tool_part(result, span.call_id, span.memo, 0)
        elif result is not None:
            if kind in ("agent", "graph"):
                result = result_of(result)
            outputs = snapshot(result, span.memo)
        now = time.time_ns()
        if span.cancelled:
            self.fails(span, "cancelled", outputs=outputs)
            return
        if result is None and role == "step":
            waiting = _waited_for()
            if waiting is not None:
                self.noted(span, "interrupt", snapshot(waiting, span.memo))
                self.fails(span, "interrupted")
                return
        text = outputs if type(outputs) is str else None
        remember(span, text)
        if role == "chat" and span.talk is not None:
            span.talk.answered(text)
        attrs: dict[str, Any] = {}
        nodes = getattr(result, "source_nodes", None) if role in ("query", "chat") else None
        if type(nodes) is list and nodes:
            attrs["source_nodes"] = [[n.node.node_id, n.score] for n in nodes]
        self._say(RunEnded(run_id=span.rid, at_ns=now, outputs=outputs, attrs=attrs), span)

    def fails(
        self,
        span: Span,
        status: str,
        error: BaseException | None = None,
        *,
        outputs: Any = NOTHING,
        rid: int | None = None,
    ) -> None:
        """It raised, was cancelled, or waits; ``rid`` names a run beside the span's own."""
        key = None
        if error is not None:
            key = id(error)
            span.memo[key] = (error, None)  # alive while its address is its name
        self._say(
            RunFailed(
                run_id=span.rid if rid is None else rid,
                at_ns=time.time_ns(),
                status=status,
                error=NOTHING if error is None else snapshot(error),
                error_key=key,
                outputs=outputs,
            ),
            span,
        )

    def refused_call(self, span: Span, result: Any) -> None:
        """An agent answers a call of a tool it does not have; no tool has run."""
        output: Any = getattr(result, "__dict__", {}).get("tool_output")
        if output is None or span.answers_call or not output.is_error:
            return
        rid, now = uuid.uuid4().int, time.time_ns()
        self._say(
            RunStarted(
                run_id=rid,
                parent_id=span.rid,
                at_ns=span.at_ns,
                kind="tool",
                name=NO_SUCH_TOOL,
                inputs=snapshot(output.raw_input, span.memo),
                attrs={"tool": str(output.tool_name)},  # the model's word, not a tool's name
                call_id=span.call_id,
            ),
            span,
        )
        said = tool_part(output, span.call_id, span.memo, 0)
        failed = RunFailed(run_id=rid, at_ns=now, status="error", outputs=said)
        self._say(failed, span)

    def embedded(self, span: Span, event: Any) -> None:
        """Texts were embedded; a run of its own where no embedding span says so."""
        if span.kind == "embedding":
            return
        instance = span.instance
        rid, now = uuid.uuid4().int, time.time_ns()
        self._say(
            RunStarted(
                run_id=rid,
                parent_id=span.rid,
                at_ns=now,
                kind="embedding",
                name=type(instance).__name__,
                inputs=list(event.chunks),
                model=_model_name(instance),
            ),
            span,
        )
        made = snapshot(event.embeddings, span.memo) if self._vectors else NOTHING
        self._say(RunEnded(run_id=rid, at_ns=now, outputs=made), span)

    def noted(self, span: Span, name: str, data: Any) -> None:
        """Something worth keeping happened in a run."""
        self._say(Noted(run_id=span.rid, at_ns=time.time_ns(), name=name, data=data), span)

    def happened(self, span: Span, event: Any, name: str) -> None:
        """An event that no other rule knows: all its fields are kept."""
        fields = getattr(event, "__dict__", {})
        kept = {k: v for k, v in fields.items() if k not in _EVENT_BASE}
        self.noted(span, name, snapshot(kept, span.memo))

    def alone(self, span: Span, event: Any, name: str) -> None:
        """An event outside any span is a small trace of its own."""
        now = time.time_ns()
        parent = span.parent_rid
        self._say(
            RunStarted(run_id=span.rid, parent_id=parent, at_ns=now, kind="chain", name=name), span
        )
        self.happened(span, event, name)
        self._say(RunEnded(run_id=span.rid, at_ns=now), span)


def _model_name(instance: Any) -> str | None:
    name = getattr(instance, "model_name", None)
    return name if type(name) is str and name != "unknown" else None


def _waited_for() -> Any:
    """What a workflow step waits for, when it returned only to be run again.

    The dispatcher is told of an ordinary return; the step's own wrapper keeps the reason in a
    variable of its closure, and the wrapper stands on the stack.
    """
    frame = sys._getframe(1)
    for _ in range(_WRAPPER_DEPTH):
        if frame.f_code.co_name == "async_wrapper" and "func" in frame.f_locals:
            func = frame.f_locals["func"]
            cells = dict(zip(func.__code__.co_freevars, func.__closure__ or (), strict=False))
            cell = cells.get("captured_waiting")
            waiting = None if cell is None else cell.cell_contents
            add = getattr(waiting, "add", None)
            return getattr(add, "waiter_event", None) or add
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None
