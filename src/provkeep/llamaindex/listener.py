"""The listener: what LlamaIndex's dispatcher says, said as events.

One plain object is both span handler and event handler; the dispatcher asks for no base class. It
runs inline on the caller's thread and never raises: the dispatcher would swallow the exception and
nobody would know, so what fails is counted by the recorder and told when it is flushed.
"""

from __future__ import annotations

import threading
import time
import uuid
from inspect import BoundArguments
from typing import Any, Final

from provkeep.llamaindex import scopes
from provkeep.llamaindex.models import Models, remember, text_of
from provkeep.llamaindex.runs import Runs
from provkeep.llamaindex.snapshots import (
    register_all,
)
from provkeep.llamaindex.spans import (
    AGENTS_OWN,
    PLUMBING,
    Span,
    hands_on,
    kind_of,
    name_of,
    role_of,
    run_id,
    status_of,
)
from provkeep.llamaindex.streams import Streams, stream_in
from provkeep.llamaindex.talks import Talks
from provkeep.model.events import NOTHING, RunId
from provkeep.model.snapshot import snapshot
from provkeep.recording.ambient import outer_run
from provkeep.recording.recorder import Recorder, Scope

register_all()

FRAMEWORK: Final = "llamaindex"  # by which other adapters know whom they ask
MAX_OPEN: Final = 50_000  # spans that began and never ended; the oldest is forgotten
_UUID: Final = 37  # "-" and a UUID at the end of a span's id
_SILENT: Final = frozenset(  # events that repeat what spans say, or summarise it
    {
        "QueryStartEvent",
        "QueryEndEvent",
        "RetrievalStartEvent",
        "RetrievalEndEvent",
        "SynthesizeStartEvent",
        "SynthesizeEndEvent",
        "GetResponseStartEvent",
        "GetResponseEndEvent",
        "GetMessageResponseStartEvent",
        "GetMessageResponseEndEvent",
        "LLMPredictEndEvent",
        "LLMStructuredPredictStartEvent",
        "LLMStructuredPredictInProgressEvent",
        "LLMStructuredPredictEndEvent",
        "EmbeddingStartEvent",
        "SparseEmbeddingStartEvent",
        "StreamChatStartEvent",
        "StreamChatDeltaReceivedEvent",
        "StreamChatEndEvent",
        "StreamChatErrorEvent",
        "SpanDropEvent",
        "WorkflowStepOutputEvent",
        "WorkflowRunOutputEvent",
    }
)


class Listener:
    """Hears every span and event of the process, for one recorder.

    Args:
        recorder: takes what is heard.
        scope: names and durability of the traces that begin.
        tokens: record when each streamed chunk came.
        vectors: record the vectors that embedding models return.
    """

    def __init__(
        self, recorder: Recorder, scope: Scope, *, tokens: bool = False, vectors: bool = False
    ) -> None:
        self.recorder, self.scope = recorder, scope
        self.open_spans: dict[str, Span] = {}  # the dispatcher's shutdown looks here
        self.live = True
        self._models = Models(recorder, tokens=tokens)
        self._runs = Runs(recorder, vectors=vectors)
        self._streams = Streams()
        self._talks = Talks()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<provkeep listener for {self.recorder.path.name}>"

    def close(self) -> None:
        """The dispatcher shuts down."""
        self._settle()

    def capture_propagation_context(self) -> dict[str, Any]:
        """Nothing of ours crosses processes."""
        return {}

    def restore_propagation_context(self, context: dict[str, Any]) -> None:
        """Nothing of ours crosses processes."""

    # -- what the dispatcher calls ---------------------------------------------------------------

    def span_enter(
        self,
        id_: str,
        bound_args: BoundArguments,
        instance: Any = None,
        parent_id: str | None = None,
        tags: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A decorated method is called."""
        if self.live:
            try:
                self._enter(id_, bound_args, instance, parent_id, tags)
            except Exception as error:  # noqa: BLE001  # a framework calls us; its program goes on
                self._failed(error)

    def span_exit(
        self,
        id_: str,
        bound_args: BoundArguments,
        instance: Any = None,
        result: Any = None,
        **kwargs: Any,
    ) -> None:
        """It returned."""
        span = self.open_spans.get(id_)
        if span is not None and self.live:
            try:
                self._exit(span, id_, result)
            except Exception as error:  # noqa: BLE001  # a framework calls us; its program goes on
                self._failed(error)

    def span_drop(
        self,
        id_: str,
        bound_args: BoundArguments,
        instance: Any = None,
        err: BaseException | None = None,
        **kwargs: Any,
    ) -> None:
        """It raised."""
        span = self.open_spans.get(id_)
        if span is not None and self.live:
            try:
                if span.id != id_:
                    self.open_spans.pop(id_, None)
                else:
                    self._fail(span, err)
            except Exception as error:  # noqa: BLE001  # a framework calls us; its program goes on
                self._failed(error)

    def handle(self, event: Any, **kwargs: Any) -> None:
        """Something happened."""
        name = type(event).__name__
        if name not in _SILENT and self.live:
            try:
                self._heard(event, name)
            except Exception as error:  # noqa: BLE001  # a framework calls us; its program goes on
                self._failed(error)

    async def ahandle(self, event: Any, **kwargs: Any) -> None:
        """The same, where an integration awaits its handlers."""
        self.handle(event)

    # -- spans -----------------------------------------------------------------------------------

    def _enter(
        self,
        id_: str,
        bound: BoundArguments,
        instance: Any,
        parent_id: str | None,
        tags: dict[str, Any] | None,
    ) -> None:
        spans = self.open_spans
        parent = spans.get(parent_id) if parent_id is not None else None
        outer = outer_run(FRAMEWORK, self.recorder)
        streams = self._streams
        if streams.gone:
            self._settle()
        if streams:
            reader = streams.owner()
            if reader is not None and (parent is None or not parent.below(reader)):
                parent, outer = reader, reader.outer
        label = id_[:-_UUID]
        method = label.rpartition(".")[2]
        role = "step" if instance is None else role_of(type(instance))
        between = parent is not None and self._between(outer, parent)
        if parent is not None:
            if method in PLUMBING or (not between and hands_on(parent, instance, role, method)):
                spans[id_] = parent
                parent.ids.append(id_)
                return
        elif method in PLUMBING:
            return
        span = Span(id_, run_id(id_), parent, instance, role, method)
        span.at_ns, span.outer = time.time_ns(), outer
        if between:
            span.parent_rid = outer
        span.kind = kind = kind_of(role, method)
        if parent is None:
            self._begin_trace(span, parent_id)
        else:
            span.memo, span.scope = parent.memo, parent.scope
        if role == "chat":
            span.talk = self._talks.of(instance)
        elif role == "writer" and parent is not None:
            parent.writer = span
        elif role == "step":
            held = getattr(bound.arguments.get("ev"), "__dict__", {})
            call, span.agent = held.get("tool_id"), held.get("current_agent_name")
            span.call_id = call if type(call) is str and method == "call_tool" else None
            if parent is not None and parent.role in ("agent", "workflow"):
                span.kind = kind = "node"
                if parent.role == "agent" and label.startswith(AGENTS_OWN):
                    span.hide()
        spans[id_] = span
        if len(spans) > MAX_OPEN:
            spans.pop(next(iter(spans)), None)
        span.name = name_of(kind, role, label, instance)
        if kind != "model" and not span.hidden:
            self._runs.starts(span, bound, tags)

    def _between(self, outer: RunId | None, parent: Span) -> bool:
        """Has another framework's run begun inside ``parent``, and called what begins now?"""
        return (
            outer is not None
            and outer != parent.outer
            and self.recorder.together(outer, parent.root.rid)
        )

    def _begin_trace(self, span: Span, parent_id: str | None) -> None:
        scope = self.scope
        inner = scopes.current()
        names = {**scope.names, **inner} if inner else scope.names
        if span.role == "chat" and "session" not in names:
            names = {**names, "session": self._talks.of(span.instance).session}
        span.scope = scope if names is scope.names else scope.named(names)
        span.parent_rid = span.outer
        if span.parent_rid is None and parent_id is not None:
            span.parent_rid = run_id(parent_id)

    def _ensure_started(self, span: Span) -> None:
        """A call whose prompt nobody said begins without one."""
        if not span.started:
            self._models.starts(span, NOTHING, {})

    def _exit(self, span: Span, id_: str, result: Any) -> None:
        stream = stream_in(result)
        if stream is not None:
            self._streams.watch(stream, span)
        if span.id != id_:
            if stream is None:
                self.open_spans.pop(id_, None)
            return
        if stream is not None:
            with self._lock:
                writer = span.writer
                span.waits = writer is None or not writer.ended
            if span.waits:
                self._ensure_started(span)
                return
            if span.error is not None:
                self._fail(span, span.error)
                return
            result = getattr(result, "response", None)
        if span.role == "writer":
            self._written(span)
        elif span.kind == "model":
            self._ensure_started(span)
            remember(span, self._models.ends(span, result))
            self._forget(span)
        else:
            self._end(span, result)

    def _end(self, span: Span, result: Any) -> None:
        """A run that is no model call returned."""
        self._forget(span)
        if not span.hidden:
            self._runs.ends(span, result)
        elif span.call_id is not None:
            self._runs.refused_call(span, result)

    def _fail(self, span: Span, error: BaseException | None, said: Any = NOTHING) -> None:
        """A run raised; ``said`` is what a stream had given until then."""
        if span.ended:
            return
        if span.hidden:
            self._forget(span)
            return
        if span.prompt_run is not None and span.prompt_span is None:
            self._runs.fails(span, status_of(error), error, rid=span.prompt_run)
        self._ensure_started(span)
        self._models.said_tokens(span)
        outputs = said if span.partial is None else snapshot(span.partial, span.memo)
        self._forget(span)
        self._runs.fails(span, status_of(error), error, outputs=outputs)
        if span.role == "writer" and span.parent is not None:
            chat = span.parent
            with self._lock:
                waits = chat.waits and not chat.ended
                chat.error = error
            if waits:
                self._fail(chat, error)

    def _forget(self, span: Span) -> None:
        span.ended, span.waits = True, False
        for id_ in span.ids:
            self.open_spans.pop(id_, None)
        span.instance = None

    # -- streams ---------------------------------------------------------------------------------

    def _stream_ended(self, span: Span, response: Any) -> None:
        """The last chunk of a model's stream came, so what waited for it returns too."""
        span.response = response
        text = self._models.ends(span, None)
        remember(span, text)
        self._forget(span)
        for above in self._waiting(span):
            self._end(above, text)

    def _stream_failed(self, span: Span, error: BaseException) -> None:
        said = text_of(span.partial)
        self._fail(span, error)
        for above in self._waiting(span):
            self._fail(above, error, NOTHING if said is None else said)

    def _waiting(self, span: Span) -> list[Span]:
        """The runs above that returned this stream, innermost first, up to one that is written."""
        out: list[Span] = []
        here = span.parent
        while here is not None and here.waits and not here.ended and here.writer is None:
            out.append(here)
            here = here.parent
        return out

    def _written(self, writer: Span) -> None:
        """A chat's stream has been written into its memory: the chat returns."""
        text = getattr(writer.instance, "response", None)
        self._end(writer, None)
        chat = writer.parent
        if chat is None:
            return
        with self._lock:
            waits = chat.waits and not chat.ended
            if waits:
                chat.waits = False
        if waits:
            self._end(chat, text)

    def _settle(self) -> None:
        """End the runs whose stream was thrown away unread or half read."""
        gone = self._streams.gone
        while gone:
            span = gone.popleft()
            if span.ended or not span.waits:
                continue
            partial = span.partial
            outputs = snapshot(partial, span.memo) if partial is not None else NOTHING
            self._models.said_tokens(span)
            self._forget(span)
            self._runs.fails(span, "cancelled", outputs=outputs)

    # -- events ----------------------------------------------------------------------------------

    def _heard(self, event: Any, name: str) -> None:
        span_id = event.span_id
        span = self.open_spans.get(span_id) if span_id is not None else None
        if span is None:
            if span_id is None:
                span = Span(name, uuid.uuid4().int, None, None, "event", name)
                span.outer = outer_run(FRAMEWORK, self.recorder)
                self._begin_trace(span, None)
                self._runs.alone(span, event, name)
            return
        if span.kind == "model":
            if name in ("LLMChatInProgressEvent", "LLMCompletionInProgressEvent"):
                if span.prompt_span == span_id:
                    self._models.streamed(span, event.response)
                return
            if name in ("LLMChatStartEvent", "LLMCompletionStartEvent"):
                self._models.begins(span, event)
                return
            if name in ("LLMChatEndEvent", "LLMCompletionEndEvent"):
                if span.prompt_span == span_id and not span.ended:
                    if span.waits:
                        self._stream_ended(span, event.response)
                    else:
                        span.response = event.response
                return
            if name == "LLMPredictStartEvent":
                self._models.templated(span, event.template, event.template_args)
                return
            if name == "ExceptionEvent":
                if span.prompt_span == span_id and span.waits:
                    self._stream_failed(span, event.exception)
                return
        if name == "SpanCancelledEvent":
            span.cancelled = True
        elif name in ("EmbeddingEndEvent", "SparseEmbeddingEndEvent"):
            self._runs.embedded(span, event)
        else:
            self._runs.happened(span, event, name)

    # -- the end ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """End what was thrown away; called before a flush."""
        try:
            self._settle()
        except Exception as error:  # noqa: BLE001  # counted, told by the flush that follows
            self._failed(error)

    def stop(self) -> None:
        """Hear nothing more: what is open will not be heard to end, and is recorded so."""
        self.settle()
        self.live = False
        spans = dict.fromkeys(reversed(list(self.open_spans.values())))
        self.open_spans.clear()
        for span in spans:
            if span.started and not span.ended and not span.hidden:
                span.ended = True
                try:
                    self._runs.fails(span, "unfinished")
                except Exception as error:  # noqa: BLE001  # counted, told at flush
                    self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.recorder.fail(error)
