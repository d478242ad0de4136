"""What LangChain's own values look like as snapshots: messages, documents, prompt values, results.

Frameworks go on changing their objects (ids are filled in later), so a part taken before is used
again only while its object still says the same.
"""

from __future__ import annotations

from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.messages.base import TextAccessor
from langchain_core.outputs import LLMResult
from langchain_core.prompt_values import ChatPromptValue

from provkeep.model.snapshot import register, snapshot
from provkeep.model.values import Memo, Part, Typed

_ATOMS = frozenset({str, int, bool, type(None)})


def _fields(value: Any, memo: Memo, depth: int) -> dict[str, Any]:
    fields = {
        k: v if type(v) in _ATOMS else snapshot(v, memo, depth + 1)
        for k, v in value.__dict__.items()
    }
    extra = getattr(value, "__pydantic_extra__", None)
    if extra:
        more = snapshot(extra, memo, depth + 1)
        fields.update(more if type(more) is dict else {"extra": more})
    return fields


def _unchanged(part: Part, fields: dict[str, Any]) -> bool:
    try:
        return bool(part.fields == fields)
    except Exception:  # noqa: BLE001  # a value's own comparison failed: take it anew
        return False


def _message(value: BaseMessage, memo: Memo, depth: int) -> Part:
    held = memo.get(id(value))
    if held is not None and held[0] is value and _unchanged(held[1], value.__dict__):
        part: Part = held[1]
        return part
    part = Part("message", type(value).__name__, _fields(value, memo, depth))
    memo[id(value)] = (value, part)
    return part


def _document(value: Document, memo: Memo, depth: int) -> Part:
    held = memo.get(id(value))
    fields = _fields(value, memo, depth)
    fields.pop("type", None)
    if held is not None and held[0] is value and _unchanged(held[1], fields):
        part: Part = held[1]
        return part
    part = Part("document", type(value).__name__, fields)
    memo[id(value)] = (value, part)
    return part


def _chat_prompt(value: ChatPromptValue, memo: Memo, depth: int) -> Any:
    messages = [snapshot(m, memo, depth + 1) for m in value.messages]
    if any(type(m) is not Part for m in messages):
        return Typed(f"{type(value).__module__}.{type(value).__qualname__}", messages)
    return Part("prompt", type(value).__name__, {"messages": messages})


def _plain_text(value: str, memo: Memo, depth: int) -> str:
    return str.__str__(value)


def register_all() -> None:
    """Teach the snapshot function LangChain's types."""
    register(TextAccessor, _plain_text)  # a str that can be called, for old code's sake
    register(BaseMessage, _message)
    register(Document, _document)
    register(ChatPromptValue, _chat_prompt)


def model_result(response: LLMResult, memo: Memo) -> tuple[Any, dict[str, Any]]:
    """What a model returned, and what it said about it.

    Returns:
        The one generation (a message part or a text), or the list of all of them; and attributes:
        ``generation_info`` of each, ``llm_output``.
    """
    values: list[Any] = []
    infos: list[Any] = []
    for generations in response.generations:
        for generation in generations:
            message = getattr(generation, "message", None)
            values.append(snapshot(message if message is not None else generation.text, memo))
            if generation.generation_info:
                infos.append(snapshot(generation.generation_info, memo))
    attrs: dict[str, Any] = {}
    if infos:
        attrs["generation_info"] = infos
    if response.llm_output:
        attrs["llm_output"] = snapshot(response.llm_output, memo)
    return (values[0] if len(values) == 1 else values), attrs


def usage_of(value: Any, attrs: dict[str, Any]) -> tuple[int | None, int | None, int | None] | None:
    """Tokens in, out and in all, as the final message or the provider says; None when unknown."""
    said: list[Any] = []
    for part in value if type(value) is list else [value]:
        if type(part) is Part:
            said.append(part.fields.get("usage_metadata"))
            said.append(_inner(part.fields.get("response_metadata"), "token_usage", "usage"))
    said.append(_inner(attrs.get("llm_output"), "token_usage", "usage"))
    for usage in said:
        if type(usage) is dict:
            numbers = (
                _number(usage, "input_tokens", "prompt_tokens"),
                _number(usage, "output_tokens", "completion_tokens"),
                _number(usage, "total_tokens"),
            )
            if numbers != (None, None, None):
                return numbers
    return None


def _inner(value: Any, *keys: str) -> Any:
    return next((value[k] for k in keys if k in value), None) if type(value) is dict else None


def _number(usage: dict[str, Any], *keys: str) -> int | None:
    value = _inner(usage, *keys)
    return value if type(value) is int and 0 <= value < 2**53 else None


def answered_by(value: Any, attrs: dict[str, Any]) -> tuple[str | None, str | None]:
    """The model that answered and why it stopped, where the answer says so."""
    part = value[0] if type(value) is list and value else value
    meta = part.fields.get("response_metadata") if type(part) is Part else None
    infos = attrs.get("generation_info") or [None]
    model = _inner(meta, "model_name", "model")
    if type(model) is not str:
        model = _inner(attrs.get("llm_output"), "model_name", "model")
    words = ("finish_reason", "stop_reason", "done_reason")
    finish = _inner(meta, *words) or _inner(infos[0], *words)
    return (
        model if type(model) is str else None,
        finish if type(finish) is str else None,
    )
