"""The callback handler: LangChain's and LangGraph's callbacks, said as events.

A synchronous handler that runs inline, so that order is kept under asyncio. It never raises into
the user's program, except under ``durability="strict"`` when the evidence cannot be written.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult

from provkeep.errors import ProvkeepError
from provkeep.langchain.meaning import (
    FALLBACKS,
    MAX_KEPT,
    Stream,
    for_graphs,
    forget,
    graph_kind,
    is_late,
    name_of,
    running_inside,
    status_of,
)
from provkeep.langchain.snapshots import answered_by, model_result, register_all, usage_of
from provkeep.masking import Mask
from provkeep.model.events import (
    NOTHING,
    Noted,
    RunEnded,
    RunFailed,
    RunId,
    RunStarted,
    TokensStreamed,
)
from provkeep.model.snapshot import snapshot
from provkeep.model.tools import tool_names
from provkeep.model.values import Memo
from provkeep.recording.ambient import outer_run, register
from provkeep.recording.buffer import Scope

if TYPE_CHECKING:
    from provkeep.recording.recorder import Recorder

register_all()

FRAMEWORK: Final = "langchain"  # by which other adapters know whom they ask
_F = TypeVar("_F", bound=Callable[..., Any])
_SESSION_KEYS = ("thread_id", "session_id", "conversation_id")
_CHAIN_KINDS = {"prompt": "prompt", "parser": "parser", "llm": "model"}
_ASYNC_LLM_START = AsyncCallbackManager.on_llm_start.__code__


def _guarded(callback: _F) -> _F:
    """A callback that hands its own failures to the recorder."""

    @wraps(callback)
    def run(self: ProvenanceHandler, *args: Any, **kwargs: Any) -> None:
        try:
            callback(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  # a framework calls us; its program goes on
            self._failed(error)

    return cast(_F, run)


class ProvenanceHandler(BaseCallbackHandler):
    """Records every run it hears of into the store at ``path``.

    Args:
        path: the database; made on first use, with its keys (see README).
        actor: who answers for the runs, such as an e-mail address; sealed.
        session: conversation id; by default LangGraph's ``thread_id``, or ``session_id`` or
            ``conversation_id`` of the run's metadata.
        subject: the person the runs are about, the unit of erasure; sealed.
        application: name of the application; sealed.
        version: its version; sealed.
        tokens: record when each streamed chunk came and how long it was.
        durability: ``"trace"``: safe from a killed process when the root run returns, committed
            then or soon after; ``"batch"``: committed soon after; ``"strict"``: on disk when the
            root run returns, or the run fails.
        mask: replaces what must not be stored, before it is sealed: a masker of
            ``provkeep.masking``, a function from text to text, or several. Names (actor, session,
            subject, components) and ids are not masked.
        payloads: False records no text at all: what ran, when, and what came from what.

    Raises:
        ProvkeepError: the store cannot be opened or made.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> ProvenanceHandler:
        """Become LangGraph's kind of handler too, when LangGraph is in use."""
        return cast(ProvenanceHandler, super().__new__(for_graphs(cls)))

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        actor: str | None = None,
        session: str | None = None,
        subject: str | None = None,
        application: str | None = None,
        version: str | None = None,
        tokens: bool = False,
        durability: str = "trace",
        mask: Mask | Sequence[Mask] | None = None,
        payloads: bool = True,
    ) -> None:
        names = {
            "actor": actor,
            "session": session,
            "subject": subject,
            "application": application,
            "version": version,
        }
        said = {k: str(v) for k, v in names.items() if v is not None}
        self._scope = Scope(durability, said, mask=mask, payloads=payloads)
        self.raise_error = durability == "strict"
        self.tokens = tokens
        # Cryptography and SQLite are loaded where recording begins, not where this is imported.
        from provkeep.recording.recorder import recorder_for

        self._recorder: Recorder = recorder_for(path)
        self._recorder.acquire()
        self._record = self._recorder.record
        self._streams: dict[UUID, Stream] = {}
        self._fallbacks: dict[UUID, UUID | None] = {}  # open ones, with their parents
        self._closed = False

    def __repr__(self) -> str:
        return f"<ProvenanceHandler {self._recorder.path.name}>"

    def __copy__(self) -> ProvenanceHandler:
        return self

    def __deepcopy__(self, memo: Any) -> ProvenanceHandler:
        return self

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def run_inline(self) -> bool:  # type: ignore[override]  # a property where the base has a flag
        """Inline, so that order is kept; but see langchain#39633 for text models under asyncio.

        There, one inline handler makes LangChain skip all others, so this one is inline only if
        another is.
        """
        frame = sys._getframe(1)
        if frame.f_code.co_name == "<listcomp>" and frame.f_back is not None:
            frame = frame.f_back
        if frame.f_code is not _ASYNC_LLM_START:
            return True
        handlers = frame.f_locals["self"].handlers
        return any(h.run_inline for h in handlers if not isinstance(h, ProvenanceHandler))

    def flush(self, timeout: float | None = 60.0) -> None:
        """Wait until everything heard so far is committed, signed and pinned.

        Raises:
            RecordingError: something was lost, or could not be written yet; it says what.
        """
        self._recorder.flush(timeout)

    def close(self) -> None:
        """Flush and let go of the store; idempotent. A run that comes later opens it again."""
        if not self._closed:
            self._closed = True
            self._recorder.release()

    def __enter__(self) -> ProvenanceHandler:
        """Use as a context manager: closes at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    # -- helpers -------------------------------------------------------------------------------

    def _failed(self, error: Exception) -> None:
        if self.raise_error and isinstance(error, ProvkeepError):
            raise error
        self._recorder.fail(error)

    def _start(
        self,
        kind: str,
        name: str,
        run_id: UUID,
        parent_run_id: UUID | None,
        inputs: Any,
        memo: Memo,
        tags: list[str] | None,
        metadata: dict[str, Any] | None,
        more: dict[str, Any],
        *,
        call_id: str | None = None,
        model: str | None = None,
        provider: str | None = None,
        tools: tuple[str, ...] = (),
    ) -> None:
        if self._recorder.knows(run_id.int):
            return  # another handler, or this one a second time, has said so
        now = time.time_ns()
        attrs = more
        if self._fallbacks:
            around = self._fallback_around(parent_run_id)
            if name == FALLBACKS:
                self._fallbacks[run_id] = parent_run_id
            if around is not None:
                parent_run_id, attrs["parent"] = around, "inferred"
        elif name == FALLBACKS:
            self._fallbacks[run_id] = parent_run_id
        slot = session = retry = None
        if metadata:
            attrs["metadata"] = snapshot(metadata, memo)
            for key in _SESSION_KEYS:
                if isinstance(metadata.get(key), str | int | UUID):
                    session = str(metadata[key])
                    break
            if kind == "chain":
                kind = graph_kind(name, parent_run_id, metadata)
        if tags:
            attrs["tags"] = snapshot(tags)
            for tag in tags:
                if tag[:8] == "map:key:":
                    slot = tag[8:]
                elif tag[:14] == "retry:attempt:":
                    retry = tag[14:]
        parent = None if parent_run_id is None else parent_run_id.int
        outer = outer_run(FRAMEWORK, self._recorder)
        if outer is not None and (parent is None or self._between(outer, parent)):
            parent = outer
        self._record(
            RunStarted(
                run_id=run_id.int,
                parent_id=parent,
                at_ns=now,
                kind=kind,
                name=name,
                inputs=inputs,
                attrs=attrs,
                slot=slot,
                model=model,
                provider=provider,
                session=session,
                tools=tools,
                call_id=call_id,
            ),
            self._scope,
        )
        if outer is not None:
            self._memo(run_id)["outer", run_id.int] = (outer, None)
        if retry is not None:
            self._record(Noted(run_id=run_id.int, at_ns=now, name="retry", data=retry), self._scope)

    def _between(self, outer: RunId, parent: RunId) -> bool:
        """Has another framework's run begun inside ``parent``, and called what begins now?"""
        held = self._recorder.memo(parent).get(("outer", parent))
        known = None if held is None else held[0]
        return outer != known and self._recorder.together(outer, parent)

    def _fallback_around(self, parent: UUID | None) -> UUID | None:
        """The fallback that runs this, which LangChain puts beside it instead (langchain#36072)."""
        if len(self._fallbacks) > MAX_KEPT:
            forget(self._fallbacks, self._recorder.knows)
        around = running_inside()
        return around if around in self._fallbacks and self._fallbacks[around] == parent else None

    def _end(self, run_id: UUID, outputs: Any, **more: Any) -> None:
        self._record(
            RunEnded(run_id=run_id.int, at_ns=time.time_ns(), outputs=outputs, **more), self._scope
        )

    def _error(
        self, error: BaseException, run_id: UUID, kwargs: dict[str, Any], outputs: Any = NOTHING
    ) -> None:
        status = status_of(error)
        memo = self._memo(run_id)
        new = id(error) not in memo
        memo[id(error)] = (error, None)  # alive while its address is its name
        if status == "ok":  # a hand-over to a parent graph is a return, not a failure
            self._end(run_id, snapshot(error.args, {}))
            return
        if status == "interrupted":
            if new:
                self._note(run_id, "interrupt", error.args[0] if error.args else None)
            if any(tag[:11] == "graph:step:" for tag in kwargs.get("tags") or ()):
                self._pause(kwargs.get("parent_run_id"))
        elif status == "cancelled":
            for stream in [i for i in self._streams if self._memo(i) is memo]:
                self._said_tokens(stream)  # a cancelled model never ends
        self._record(
            RunFailed(
                run_id=run_id.int,
                at_ns=time.time_ns(),
                status=status,
                error=NOTHING if status == "interrupted" else snapshot(error, {}),
                error_key=id(error),
                outputs=outputs,
                inputs=_given(kwargs.get("inputs"), memo),
            ),
            self._scope,
        )

    def _pause(self, run_id: UUID | None) -> None:
        """Remember that a graph waits for somebody: it will end normally, with its state so far."""
        if run_id is not None:
            memo = self._memo(run_id)
            memo.setdefault("paused", (set(), None))[0].add(run_id)

    def _note(self, run_id: UUID, name: str, data: Any) -> None:
        memo = self._memo(run_id)
        last = memo.get(("note", run_id))
        if last is not None and last[0] is data and last[1][0] == name and last[1][1] is not self:
            return  # another handler on the same path has said so
        memo["note", run_id] = (data, (name, self))
        given = snapshot(data, memo)
        self._record(
            Noted(run_id=run_id.int, at_ns=time.time_ns(), name=name, data=given), self._scope
        )

    def _memo(self, run_id: UUID | None) -> Memo:
        return self._recorder.memo(None if run_id is None else run_id.int)

    # -- chains ----------------------------------------------------------------------------------

    @_guarded
    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A chain, prompt, parser, lambda, graph or node begins."""
        memo = self._memo(parent_run_id)
        name = kwargs.get("name") or name_of(serialized) or "chain"
        kind = _CHAIN_KINDS.get(kwargs.get("run_type") or "", "chain")
        more = {"serialized": snapshot(serialized, memo)} if serialized else {}
        if is_late(inputs):
            given, more["inputs"] = NOTHING, {"input": ""}
        else:
            given = snapshot(inputs, memo)
        self._start(kind, name, run_id, parent_run_id, given, memo, tags, metadata, more)

    @_guarded
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain returned."""
        self._fallbacks.pop(run_id, None)
        memo = self._memo(run_id)
        given = _given(kwargs.get("inputs"), memo)
        made = NOTHING if outputs is None else snapshot(outputs, memo)
        paused = memo.get("paused")
        if paused is not None and run_id in paused[0]:
            now = time.time_ns()
            self._record(
                RunFailed(run_id=run_id.int, at_ns=now, status="interrupted", outputs=made),
                self._scope,
            )
            return
        self._end(run_id, made, inputs=given)

    @_guarded
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain raised, or a graph used an exception for control flow."""
        self._fallbacks.pop(run_id, None)
        self._error(error, run_id, kwargs)

    # -- models ----------------------------------------------------------------------------------

    @_guarded
    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A chat model is called."""
        given = messages[0] if len(messages) == 1 else messages
        self._model_start(serialized, given, run_id, parent_run_id, tags, metadata, kwargs)

    @_guarded
    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A text model is called."""
        given = prompts[0] if len(prompts) == 1 else prompts
        self._model_start(serialized, given, run_id, parent_run_id, tags, metadata, kwargs)

    def _model_start(
        self,
        serialized: dict[str, Any] | None,
        given: Any,
        run_id: UUID,
        parent_run_id: UUID | None,
        tags: list[str] | None,
        metadata: dict[str, Any] | None,
        kwargs: dict[str, Any],
    ) -> None:
        memo = self._memo(parent_run_id)
        more = {k: snapshot(v, memo) for k, v in kwargs.items() if v and k != "name"}
        if serialized:
            more["serialized"] = snapshot(serialized, memo)
        meta = metadata or {}
        params = kwargs.get("invocation_params") or {}
        asked = meta.get("ls_model_name") or params.get("model") or params.get("model_name")
        self._start(
            "model",
            kwargs.get("name") or name_of(serialized) or "model",
            run_id,
            parent_run_id,
            snapshot(given, memo),
            memo,
            tags,
            metadata,
            more,
            model=asked if isinstance(asked, str) else None,
            provider=meta.get("ls_provider"),
            tools=tool_names(params, kwargs.get("options")),
        )

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A chunk came; noted only when tokens are asked for."""
        if not self.tokens:
            return
        chunk = kwargs.get("chunk")
        stream = self._streams.get(run_id)
        if stream is None:
            if len(self._streams) > MAX_KEPT:
                forget(self._streams, self._recorder.knows)
            stream = self._streams[run_id] = Stream()
        elif chunk is not None and chunk is stream.last:
            return  # this handler stands twice in the list
        stream.last = chunk
        stream.chunks.append((time.time_ns(), len(token) if isinstance(token, str) else 0))

    def _said_tokens(self, run_id: UUID) -> None:
        stream = self._streams.pop(run_id, None)
        if stream is not None:
            first = stream.chunks[0][0]
            spread = tuple([(at - first, size) for at, size in stream.chunks])
            self._record(TokensStreamed(run_id=run_id.int, at_ns=first, chunks=spread), self._scope)

    @_guarded
    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """A model answered."""
        self._said_tokens(run_id)
        made, attrs = model_result(response, self._memo(run_id))
        model, finish = answered_by(made, attrs)
        usage = usage_of(made, attrs)
        self._end(run_id, made, attrs=attrs, usage=usage, finish=finish, model=model)

    @_guarded
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A model call failed; what it had said so far is kept."""
        self._said_tokens(run_id)
        response = kwargs.get("response")
        outputs = NOTHING
        if isinstance(response, LLMResult) and any(response.generations):
            outputs = model_result(response, self._memo(run_id))[0]
        self._error(error, run_id, kwargs, outputs)

    # -- retrievers and tools ----------------------------------------------------------------------

    @_guarded
    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A retriever is asked."""
        memo = self._memo(parent_run_id)
        name = kwargs.get("name") or name_of(serialized) or "retriever"
        more = {"serialized": snapshot(serialized, memo)} if serialized else {}
        given = snapshot(query, memo)
        self._start("retriever", name, run_id, parent_run_id, given, memo, tags, metadata, more)

    @_guarded
    def on_retriever_end(
        self, documents: Sequence[Document], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A retriever returned documents."""
        self._end(run_id, snapshot(list(documents), self._memo(run_id)))

    @_guarded
    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever raised."""
        self._error(error, run_id, kwargs)

    @_guarded
    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A tool is called."""
        memo = self._memo(parent_run_id)
        given = snapshot(inputs if inputs is not None else input_str, memo)
        name = kwargs.get("name") or name_of(serialized) or "tool"
        more = {"serialized": snapshot(serialized, memo)} if serialized else {}
        call = kwargs.get("tool_call_id")
        self._start(
            "tool",
            name,
            run_id,
            parent_run_id,
            given,
            memo,
            tags,
            metadata,
            more,
            call_id=call if isinstance(call, str) else None,
        )

    @_guarded
    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool returned."""
        self._end(run_id, snapshot(output, self._memo(run_id)))

    @_guarded
    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool raised."""
        self._error(error, run_id, kwargs)

    # -- the rest --------------------------------------------------------------------------------

    @_guarded
    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The program said something of its own."""
        self._note(run_id, name, data)

    @_guarded
    def on_retry(self, retry_state: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A text model is tried again."""
        self._note(run_id, "retry", getattr(retry_state, "attempt_number", None))

    def _graph_event(self, name: str, event: Any) -> None:
        if event.run_id is not None:
            self._note(event.run_id, name, event)

    @_guarded
    def on_interrupt(self, event: Any) -> None:
        """A graph stopped to wait for somebody."""
        self._pause(event.run_id)
        self._graph_event("interrupt", event)

    @_guarded
    def on_resume(self, event: Any) -> None:
        """A graph goes on where it stopped."""
        self._graph_event("resume", event)


def _current_run(recorder: Recorder) -> RunId | None:
    """The open LangChain run that the caller's code is part of, as ``recorder`` knows it."""
    found = running_inside()
    return found.int if found is not None and recorder.knows(found.int) else None


register(FRAMEWORK, _current_run)


def _given(late: Any, memo: Memo) -> Any:
    """The input that a streaming chain learns only as it ends, if this is one."""
    return NOTHING if late is None or is_late(late) else snapshot(late, memo)
