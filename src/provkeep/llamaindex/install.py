"""Attaching to LlamaIndex's root dispatcher, once per store however often it is asked for.

Handlers are removed by identity: the dispatcher's lists compare by value, and two handlers that
say nothing are equal.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.callbacks.schema import CBEventType
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.span import active_span_id

from provkeep.llamaindex.listener import FRAMEWORK, Listener
from provkeep.masking import Mask
from provkeep.model.events import RunId
from provkeep.recording import ambient
from provkeep.recording.recorder import Recorder, Scope, recorder_for

ENVIRONMENT: Final = "PROVKEEP_LLAMAINDEX"  # path of the database; read when this is imported

_lock = threading.Lock()
_listening: dict[Path, tuple[Listener, list[Attachment]]] = {}


class Attachment:
    """One reason to listen; the last one to go stops it. See :func:`instrument`."""

    def __init__(
        self, path: str | os.PathLike[str], scope: Scope, options: dict[str, bool]
    ) -> None:
        recorder = recorder_for(path)
        self.scope = scope
        self._recorder = recorder
        self._attached = True
        with _lock:
            held = _listening.get(recorder.path)
            if held is None:
                listener = Listener(recorder, scope, **options)
                _listening[recorder.path] = listener, [self]
                dispatcher: Any = get_dispatcher()
                dispatcher.add_span_handler(listener)
                dispatcher.add_event_handler(listener)
            else:
                listener = held[0]
                held[1].append(self)
                listener.scope = scope
            self.listener = listener
        recorder.acquire()

    def __repr__(self) -> str:
        state = "attached to" if self._attached else "detached from"
        return f"<provkeep {state} LlamaIndex: {self._recorder.path.name}>"

    def __enter__(self) -> Attachment:
        """Use as a context manager: detaches at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Detach."""
        self.detach()

    def flush(self, timeout: float | None = 60.0) -> None:
        """Wait until everything heard so far is committed, signed and pinned.

        Raises:
            RecordingError: something was lost, or could not be written yet; it says what.
        """
        self.listener.settle()
        self._recorder.flush(timeout)

    def detach(self) -> None:
        """Stop listening, unless somebody else asked for it too; idempotent.

        Raises:
            RecordingError: something was lost, or could not be written yet; it says what.
        """
        with _lock:
            if not self._attached:
                return
            self._attached = False
            listener, reasons = _listening[self._recorder.path]
            reasons[:] = [r for r in reasons if r is not self]
            if reasons:
                listener.scope = reasons[-1].scope
            else:
                del _listening[self._recorder.path]
                dispatcher: Any = get_dispatcher()
                dispatcher.span_handlers = [
                    h for h in dispatcher.span_handlers if h is not listener
                ]
                dispatcher.event_handlers = [
                    h for h in dispatcher.event_handlers if h is not listener
                ]
        if reasons:
            listener.settle()
        else:
            listener.stop()
        self._recorder.release()


def instrument(
    path: str | os.PathLike[str],
    *,
    actor: str | None = None,
    session: str | None = None,
    subject: str | None = None,
    application: str | None = None,
    version: str | None = None,
    tokens: bool = False,
    vectors: bool = False,
    durability: str = "trace",
    mask: Mask | Sequence[Mask] | None = None,
    payloads: bool = True,
) -> Attachment:
    """Record everything LlamaIndex does in this process into the store at ``path``.

    Use as ``with instrument("audit.db"):`` or call it and keep the result for ``.detach()``. Asking
    twice for one store records once; the names given last hold until that one is detached.

    Args:
        path: the database; made on first use, with its keys (see README).
        actor: who answers for the runs, such as an e-mail address; sealed.
        session: conversation id; by default one for each chat engine. See also :func:`scope`.
        subject: the person the runs are about, the unit of erasure; sealed.
        application: name of the application; sealed.
        version: its version; sealed.
        tokens: record when each streamed chunk came and how long it was.
        vectors: record the vectors that embedding models return.
        durability: ``"trace"``: safe from a killed process when the outermost call returns,
            committed then or soon after; ``"batch"``: committed soon after; ``"strict"``: on disk
            when it returns. LlamaIndex lets no listener stop a call, so a failure is told by
            ``flush()`` and ``detach()``; to stop calls, see :func:`guard`.
        mask: replaces what must not be stored, before it is sealed: a masker of
            ``provkeep.masking``, a function from text to text, or several. Names (actor, session,
            subject, components) and ids are not masked.
        payloads: False records no text at all: what ran, when, and what came from what.

    Raises:
        ProvkeepError: the store cannot be opened or made.
    """
    names = {
        "actor": actor,
        "session": session,
        "subject": subject,
        "application": application,
        "version": version,
    }
    said = {k: str(v) for k, v in names.items() if v is not None}
    scope = Scope(durability, said, mask=mask, payloads=payloads)
    return Attachment(path, scope, {"tokens": tokens, "vectors": vectors})


def attached() -> Listener | None:
    """The listener that was attached last, or None."""
    with _lock:
        held = next(reversed(_listening.values()), None)
    return None if held is None else held[0]


def current_run(recorder: Recorder) -> RunId | None:
    """The open LlamaIndex run that the caller's code is part of, as ``recorder`` knows it."""
    active = active_span_id.get()
    held = _listening.get(recorder.path)
    span = held[0].open_spans.get(active) if held is not None and active is not None else None
    while span is not None and not span.started:  # a model call whose prompt is still to come
        span = span.parent
    return span.rid if span is not None and recorder.knows(span.rid) else None


ambient.register(FRAMEWORK, current_run)


class ProvenanceHandler(BaseCallbackHandler):
    """The same as :func:`instrument`, for code that wants a callback handler.

    For ``CallbackManager([handler])``, ``Settings.callback_manager`` or
    ``llama_index.core.global_handler``. The old callbacks see neither tools nor workflows, so what
    they say is not recorded: making a handler attaches to the dispatcher, which says it all.

    Args:
        path: the database.
        options: as for :func:`instrument`.
    """

    def __init__(self, path: str | os.PathLike[str], **options: Any) -> None:
        everything = list(CBEventType)
        super().__init__(event_starts_to_ignore=everything, event_ends_to_ignore=everything)
        self._attachment = instrument(path, **options)

    def __repr__(self) -> str:
        return f"<ProvenanceHandler {self._attachment!r}>"

    def __copy__(self) -> ProvenanceHandler:
        return self

    def __deepcopy__(self, memo: Any) -> ProvenanceHandler:
        return self

    def __enter__(self) -> ProvenanceHandler:
        """Use as a context manager: closes at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def flush(self, timeout: float | None = 60.0) -> None:
        """Wait until everything heard so far is committed, signed and pinned.

        Raises:
            RecordingError: something was lost, or could not be written yet; it says what.
        """
        self._attachment.flush(timeout)

    def close(self) -> None:
        """Detach; idempotent."""
        self._attachment.detach()

    detach = close

    def on_event_start(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        parent_id: str = "",
        **kwargs: Any,
    ) -> str:
        """Nothing: the dispatcher says it."""
        return event_id

    def on_event_end(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        **kwargs: Any,
    ) -> None:
        """Nothing: the dispatcher says it."""

    def start_trace(self, trace_id: str | None = None) -> None:
        """Nothing: the dispatcher says it."""

    def end_trace(
        self, trace_id: str | None = None, trace_map: dict[str, list[str]] | None = None
    ) -> None:
        """Nothing: the dispatcher says it."""


if os.environ.get(ENVIRONMENT):
    instrument(os.environ[ENVIRONMENT])
