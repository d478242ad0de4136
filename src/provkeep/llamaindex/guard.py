"""A gate before a model, a tool, a query engine or a retriever.

LlamaIndex's dispatcher hides whatever a handler raises, so no listener can stop a call. A guard
stands in front of the object itself: it asks a predicate before the body runs, records a refusal
and raises. Under ``durability="strict"`` it also records what it lets through, on disk, before the
body runs: no evidence, no call.
"""

from __future__ import annotations

import copy
import inspect
import os
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.tools import BaseTool
from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR
from llama_index_instrumentation.span import active_span_id

from provkeep.errors import ProvkeepError, RecordingError
from provkeep.llamaindex import scopes
from provkeep.llamaindex.install import attached
from provkeep.llamaindex.refusal import PolicyBlocked
from provkeep.llamaindex.spans import Span
from provkeep.model.events import RunEnded, RunFailed, RunStarted
from provkeep.model.snapshot import snapshot
from provkeep.recording.recorder import Recorder, Scope, recorder_for

T = TypeVar("T")

_GATED: Final[tuple[tuple[type, str, tuple[str, ...]], ...]] = (
    (
        BaseLLM,
        "model",
        tuple(a + s + m for a in ("", "a") for s in ("", "stream_") for m in ("chat", "complete")),
    ),
    (BaseTool, "tool", ("__call__", "call", "acall")),
    (BaseQueryEngine, "chain", ("query", "aquery")),
    (BaseRetriever, "retriever", ("retrieve", "aretrieve")),
)
_inside: ContextVar[frozenset[int]] = ContextVar("provkeep_guards", default=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a predicate decides about: these are the program's own objects, not copies."""

    kind: str  # "model", "tool", "chain" (a query engine) or "retriever"
    name: str
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def guard(
    target: T,
    predicate: Callable[[Call], bool],
    *,
    path: str | os.PathLike[str] | None = None,
    durability: str | None = None,
) -> T:
    """Return a stand-in for ``target`` that asks ``predicate`` before every call.

    The stand-in shares everything with ``target`` and has its class, so it goes wherever the
    original went; the original stays unguarded. A call that goes on to another method of the same
    object is asked about once.

    Args:
        target: a model, tool, query engine or retriever.
        predicate: is this call allowed? An exception it raises counts as no.
        path: the store to record in; by default that of the recorder attached last.
        durability: with ``"strict"``, a call is made only once the disk holds the record of it;
            by default that of the recorder attached last.

    Returns:
        The stand-in. Its calls raise :class:`PolicyBlocked`, or, under strict durability, the
        ``ProvkeepError`` that says why there is no evidence.

    Raises:
        TypeError: ``target`` is none of these.
    """
    for base, kind, methods in _GATED:
        if isinstance(target, base):
            return _stand_in(target, _Gate(predicate, kind, path, durability), methods)
    raise TypeError(
        f"guard() takes a LlamaIndex model, tool, query engine or retriever,"
        f" not {type(target).__name__}"
    )


def _stand_in(target: T, gate: _Gate, methods: tuple[str, ...]) -> T:
    kind: Any = type(target)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    bodies = {n: _gated(getattr(kind, n), n, gate) for n in methods if hasattr(kind, n)}
    guarded = type(kind)(kind.__name__, (kind,), {**names, "__doc__": kind.__doc__, **bodies})
    model_copy = getattr(target, "model_copy", None)
    made: T = model_copy() if callable(model_copy) else copy.copy(target)
    object.__setattr__(made, "__class__", guarded)
    return made


def _gated(body: Any, method: str, gate: _Gate) -> Any:
    if inspect.iscoroutinefunction(body):

        async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
            before = gate.enter(self, method, args, kwargs)
            try:
                return await body(self, *args, **kwargs)
            finally:
                _inside.set(before)

        made: Any = acall
    else:

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            before = gate.enter(self, method, args, kwargs)
            try:
                return body(self, *args, **kwargs)
            finally:
                _inside.set(before)

        made = call
    made.__name__, made.__doc__ = method, getattr(body, "__doc__", None)
    setattr(made, DISPATCHER_SPAN_DECORATED_ATTR, True)  # the body has its span already
    return made


class _Gate:
    """One predicate and where its decisions are recorded."""

    def __init__(
        self,
        predicate: Callable[[Call], bool],
        kind: str,
        path: str | os.PathLike[str] | None,
        durability: str | None,
    ) -> None:
        self._predicate, self._kind = predicate, kind
        self._path = path
        self._durability = durability
        if durability is not None:
            Scope(durability)  # says what is wrong with the word

    def enter(
        self, target: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> frozenset[int]:
        """Let a call pass, or record the refusal and raise; return what to restore after it."""
        before = _inside.get()
        if id(self) not in before:
            name = _name(target)
            self._decide(Call(kind=self._kind, name=name, method=method, args=args, kwargs=kwargs))
            _inside.set(before | {id(self)})
        return before

    def _decide(self, call: Call) -> None:
        cause: Exception | None = None
        reason = "its guard does not allow it"
        try:
            allowed = bool(self._predicate(call))
        except Exception as error:  # noqa: BLE001  # a guard that fails lets nothing through
            allowed, cause = False, error
            reason = f"its guard raised {type(error).__name__}"
        recorder, scope, span = self._place()
        if allowed:
            if scope.durability == "strict":
                self._passed(call, recorder, scope, span)
            return
        refusal = PolicyBlocked(call.kind, call.name, reason)
        refusal.__cause__ = cause
        if recorder is not None:
            try:
                self._refused(call, recorder, scope, span, refusal)
            except ProvkeepError as error:  # it stays refused, with or without a record
                refusal.__cause__ = refusal.__cause__ or error
                recorder.fail(error)
        raise refusal

    def _place(self) -> tuple[Recorder | None, Scope, Span | None]:
        """Where to record, as whom, and inside which run."""
        listener = attached()
        recorder = None if listener is None else listener.recorder
        if self._path is not None:
            recorder = recorder_for(self._path)
        held = None if listener is None or listener.recorder is not recorder else listener
        base = Scope() if held is None else held.scope
        active = active_span_id.get()
        span = held.open_spans.get(active) if held is not None and active is not None else None
        while span is not None and not span.started:  # its prompt is still to come
            span = span.parent
        names = base.names if span is None else span.scope.names
        scope = base.named({**names, **(scopes.current() or {})})
        scope.durability = self._durability or base.durability
        return recorder, scope, span

    def _passed(
        self, call: Call, recorder: Recorder | None, scope: Scope, span: Span | None
    ) -> None:
        """A trace of its own, because only a trace that has ended is known to be on disk."""
        if recorder is None:
            raise RecordingError(0, 0, "strict durability, and no store to record in")
        rid, now = uuid.uuid4().int, time.time_ns()
        inside = {} if span is None else {"inside": str(uuid.UUID(int=span.root.rid))}
        recorder.record(_start(rid, None, now, call, {"guard": "allowed", **inside}), scope)
        recorder.record(RunEnded(run_id=rid, at_ns=time.time_ns()), scope)

    def _refused(
        self,
        call: Call,
        recorder: Recorder,
        scope: Scope,
        span: Span | None,
        refusal: PolicyBlocked,
    ) -> None:
        rid, now = uuid.uuid4().int, time.time_ns()
        parent = None if span is None else span.rid
        recorder.record(_start(rid, parent, now, call, {"guard": "refused"}), scope)
        if span is not None:
            span.memo[id(refusal)] = (refusal, None)  # alive while its address is its name
        recorder.record(
            RunFailed(
                run_id=rid,
                at_ns=time.time_ns(),
                status="blocked",
                error=snapshot(refusal),
                error_key=id(refusal),
            ),
            scope,
        )


def _start(rid: int, parent: int | None, now: int, call: Call, attrs: dict[str, Any]) -> RunStarted:
    given: dict[str, Any] = {k: snapshot(v) for k, v in call.kwargs.items() if v is not None}
    if call.args:
        given["args"] = snapshot(list(call.args))
    value = next(iter(given.values())) if len(given) == 1 else given
    if type(value) is list and len(value) == 1:
        value = value[0]
    return RunStarted(
        run_id=rid,
        parent_id=parent,
        at_ns=now,
        kind=call.kind,
        name=call.name,
        inputs=value,
        attrs={**attrs, "method": call.method},
    )


def _name(target: Any) -> str:
    name = getattr(getattr(target, "metadata", None), "name", None)
    return name if isinstance(target, BaseTool) and type(name) is str else type(target).__name__
