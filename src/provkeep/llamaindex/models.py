"""Model calls: the template, the prompt it made, the call, and what was answered.

A call begins for the record when its prompt is known, which an inner event says. Whatever the
number of methods that hand it on, it is one run.
"""

from __future__ import annotations

import time
import uuid
from typing import Any, Final

from llama_index.core.base.llms.types import ChatResponse, CompletionResponse

from provkeep.llamaindex.snapshots import STREAMS
from provkeep.llamaindex.spans import Span
from provkeep.llamaindex.usage import answered_by, template_text, usage_of
from provkeep.model.events import NOTHING, Event, RunEnded, RunStarted, TokensStreamed
from provkeep.model.snapshot import snapshot
from provkeep.model.tools import tool_names
from provkeep.model.values import Part
from provkeep.recording.recorder import Recorder

MAX_ANSWERS: Final = 256  # answers of inner runs that a run remembers
_QUIET: Final = frozenset({"formatted"})  # arguments of a call that only steer it


class Models:
    """Says model calls to the recorder."""

    def __init__(self, recorder: Recorder, *, tokens: bool) -> None:
        self._recorder = recorder
        self._tokens = tokens

    def _say(self, event: Event, span: Span) -> None:
        self._recorder.record(event, span.scope)

    # -- before the call -------------------------------------------------------------------------

    def templated(self, span: Span, template: Any, arguments: Any) -> None:
        """A template is about to be filled in: a run of its own, ended when the prompt is known."""
        if span.started or span.prompt_run is not None:
            return
        given: dict[str, Any] = {**template.kwargs, **(arguments or {})}
        words = template_text(template)
        texts = [v for v in given.values() if type(v) is str]
        history = [m[1] for m in words or () if type(m) is list and type(m[1]) is str]
        found = self._recalled(span, texts + history)
        inputs = {k: v if type(v) is str else snapshot(v, span.memo) for k, v in given.items()}
        kept = [a for a in found if any(a in text for text in history)]
        if kept:
            inputs["history"] = kept
        rid = span.prompt_run = uuid.uuid4().int
        self._say(
            RunStarted(
                run_id=rid,
                parent_id=span.parent_rid,
                at_ns=time.time_ns(),
                kind="prompt",
                name=type(template).__name__,
                inputs=inputs,
                attrs={"template": words} if words else {},
            ),
            span,
        )

    def begins(self, span: Span, event: Any) -> None:
        """The prompt is known, as the outermost method says it."""
        if span.prompt_span is not None:
            return
        span.prompt_span = event.span_id
        messages = getattr(event, "messages", None)
        if messages is None:
            given: Any = event.prompt
            texts = [given] if type(given) is str else []
        else:
            given = snapshot(list(messages), span.memo)
            texts = [p.fields["content"] for p in given if type(p) is Part]
        if span.prompt_run is not None:
            made = given if messages is None else Part("prompt", "messages", {"messages": given})
            now = time.time_ns()
            self._say(RunEnded(run_id=span.prompt_run, at_ns=now, outputs=made), span)
        else:
            self._recalled(span, [t for t in texts if type(t) is str])
        span.at_ns = time.time_ns()
        settings = event.model_dict if type(event.model_dict) is dict else {}
        model = settings.get("model_name") or settings.get("model")
        attrs: dict[str, Any] = {"settings": snapshot(settings, span.memo)}
        asked = {k: v for k, v in event.additional_kwargs.items() if k not in _QUIET and v}
        if asked:
            attrs["asked"] = snapshot(asked, span.memo)
        if span.parent is not None and span.parent.agent is not None:
            attrs["agent"] = span.parent.agent
        offered = tool_names(event.additional_kwargs, settings)
        self.starts(span, given, attrs, model if model != "unknown" else None, offered)

    def starts(
        self,
        span: Span,
        given: Any,
        attrs: dict[str, Any],
        model: Any = None,
        tools: tuple[str, ...] = (),
    ) -> None:
        """The call itself begins."""
        span.started = True
        module = type(span.instance).__module__.split(".")
        provider = module[2] if module[:2] == ["llama_index", "llms"] and len(module) > 2 else None
        self._say(
            RunStarted(
                run_id=span.rid,
                parent_id=span.parent_rid,
                at_ns=span.at_ns,
                kind="model",
                name=span.name,
                inputs=given,
                attrs=attrs,
                model=model if type(model) is str else None,
                provider=provider,
                tools=tools,
            ),
            span,
        )

    def _recalled(self, span: Span, texts: list[str]) -> list[str]:
        """Earlier answers of this conversation that stand in these texts, recorded as recalled."""
        if span.talk is None or not span.talk.answers:
            return []
        found: list[str] = span.talk.found_in(texts)
        told = span.root.told
        fresh = [a for a in found if a not in told]
        if fresh:
            told.update(fresh)
            rid, now = uuid.uuid4().int, time.time_ns()
            value: Any = fresh if len(fresh) > 1 else fresh[0]
            self._say(
                RunStarted(
                    run_id=rid, parent_id=span.parent_rid, at_ns=now, kind="chain", name="history"
                ),
                span,
            )
            self._say(RunEnded(run_id=rid, at_ns=now, inputs=value, outputs=value), span)
        return found

    # -- during and after it ---------------------------------------------------------------------

    def streamed(self, span: Span, response: Any) -> None:
        """A chunk came. It repeats all before it, so the latest is enough."""
        span.partial = response
        if self._tokens:
            if span.chunks is None:
                span.chunks = []
            delta = getattr(response, "delta", None)
            size = len(delta) if type(delta) is str else 0
            span.chunks.append((time.time_ns(), size))

    def said_tokens(self, span: Span) -> None:
        """Tell when each chunk came."""
        chunks, span.chunks = span.chunks, None
        if chunks:
            first = chunks[0][0]
            spread = tuple([(at - first, size) for at, size in chunks])
            self._say(TokensStreamed(run_id=span.rid, at_ns=first, chunks=spread), span)

    def ends(self, span: Span, result: Any) -> str | None:
        """A call was answered; return the text of the answer."""
        self.said_tokens(span)
        response = span.response if span.response is not None else result
        if isinstance(response, STREAMS):
            response = None
        made = snapshot(response, span.memo) if response is not None else NOTHING
        if type(made) is Part and "tool_calls" in made.fields:
            span.root.calls.extend(made.fields["tool_calls"])
        model, finish = answered_by(response)
        self._say(
            RunEnded(
                run_id=span.rid,
                at_ns=time.time_ns(),
                outputs=made,
                usage=usage_of(response),
                finish=finish,
                model=model,
            ),
            span,
        )
        return text_of(response)


def text_of(response: Any) -> str | None:
    """The text of a model's answer."""
    if isinstance(response, ChatResponse):
        return response.message.content
    if isinstance(response, CompletionResponse):
        return response.text
    return response if type(response) is str else None


def remember(span: Span, text: str | None) -> None:
    """Let what comes later in the run above know what this one answered."""
    if span.parent is not None and text and len(span.parent.answers) < MAX_ANSWERS:
        span.parent.answers.append(text)
