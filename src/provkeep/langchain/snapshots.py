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

from provkeep.model.values import Memo, Part, register, snapshot

_ATOMS = frozenset({str, int, bool, type(None)})


def _fields(value: Any, memo: Memo, depth: int) -> dict[str, Any]:
    fields = {
        k: v if type(v) in _ATOMS else snapshot(v, memo, depth + 1)
        for k, v in value.__dict__.items()
    }
    extra = getattr(value, "__pydantic_extra__", None)
    if extra:
        fields.update(snapshot(extra, memo, depth + 1))
    return fields


def _message(value: BaseMessage, memo: Memo, depth: int) -> Part:
    held = memo.get(id(value))
    if held is not None and held[0] is value and held[1].fields == value.__dict__:
        part: Part = held[1]
        return part
    part = Part("message", type(value).__name__, _fields(value, memo, depth))
    memo[id(value)] = (value, part)
    return part


def _document(value: Document, memo: Memo, depth: int) -> Part:
    held = memo.get(id(value))
    fields = _fields(value, memo, depth)
    fields.pop("type", None)
    if held is not None and held[0] is value and held[1].fields == fields:
        part: Part = held[1]
        return part
    part = Part("document", type(value).__name__, fields)
    memo[id(value)] = (value, part)
    return part


def _chat_prompt(value: ChatPromptValue, memo: Memo, depth: int) -> Part:
    messages = [snapshot(m, memo, depth + 1) for m in value.messages]
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
    parts = value if type(value) is list else [value]
    for part in parts:
        usage = part.fields.get("usage_metadata") if type(part) is Part else None
        if type(usage) is dict:
            return _usage(usage, "input_tokens", "output_tokens")
    output = attrs.get("llm_output")
    usage = output.get("token_usage") or output.get("usage") if type(output) is dict else None
    if type(usage) is dict:
        return _usage(usage, "prompt_tokens", "completion_tokens")
    return None


def _usage(
    usage: dict[str, Any], taken: str, made: str
) -> tuple[int | None, int | None, int | None]:
    def number(key: str) -> int | None:
        value = usage.get(key)
        return value if type(value) is int and 0 <= value < 2**53 else None

    return number(taken), number(made), number("total_tokens")


def answered_by(value: Any, attrs: dict[str, Any]) -> tuple[str | None, str | None]:
    """The model that answered and why it stopped, where the answer says so."""
    part = value[0] if type(value) is list and value else value
    meta = part.fields.get("response_metadata") if type(part) is Part else None
    if type(meta) is not dict:
        meta = {}
    infos = attrs.get("generation_info") or [{}]
    info = infos[0] if type(infos[0]) is dict else {}
    model = meta.get("model_name") or meta.get("model")
    finish = (
        meta.get("finish_reason") or meta.get("stop_reason") or info.get("finish_reason") or None
    )
    return (
        model if type(model) is str else None,
        finish if type(finish) is str else None,
    )
