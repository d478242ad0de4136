"""What may stand in the clear: names of components, and words from fixed lists.

What a model, a server or a person said is a payload. Where a question needs a word of it (why a
model stopped, who a message is from), the word stands in the clear only if it is one that everybody
says; else it is ``other``, and the exact word is sealed.
"""

from __future__ import annotations

import re
from typing import Final

MAX_NAME: Final = 200  # characters of a component's name kept in the clear
OTHER: Final = "other"

# Of OpenAI, Anthropic, Google, Bedrock, Cohere, Mistral, Ollama, llama.cpp, vLLM, Hugging Face.
FINISHES: Final = frozenset(
    [
        "abort",
        "aborted",
        "blocked",
        "blocklist",
        "cancelled",
        "canceled",
        "complete",
        "completed",
        "content_filter",
        "content_filtered",
        "context_length",
        "end_turn",
        "eos",
        "eos_token",
        "error",
        "error_limit",
        "error_toxic",
        "finish_reason_unspecified",
        "function_call",
        "guardrail_intervened",
        "image_safety",
        "incomplete",
        "insufficient_system_resource",
        "language",
        "length",
        "load",
        "malformed_function_call",
        "malformed_model_output",
        "malformed_tool_use",
        "max_length",
        "max_output_tokens",
        "max_tokens",
        "model_context_window_exceeded",
        "model_length",
        "none",
        "null",
        "other",
        "pause_turn",
        "prohibited_content",
        "recitation",
        "refusal",
        "repetition",
        "safety",
        "spii",
        "stop",
        "stop_sequence",
        "stop_token",
        "success",
        "timeout",
        "tool_call",
        "tool_calls",
        "tool_use",
        "too_many_tool_calls",
        "unexpected_tool_call",
        "unknown",
        "unload",
    ]
)
ROLES: Final = frozenset(
    [
        "ai",
        "AIMessageChunk",
        "assistant",
        "chat",
        "ChatMessageChunk",
        "chatbot",
        "developer",
        "function",
        "FunctionMessageChunk",
        "human",
        "HumanMessageChunk",
        "model",
        "remove",
        "system",
        "SystemMessageChunk",
        "tool",
        "ToolMessageChunk",
        "user",
    ]
)
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")


def clean(name: object) -> str:
    """A component's name as it may stand in the clear."""
    text = str(name)[:MAX_NAME]
    return text.encode("utf-8", "replace").decode()


def finish_word(said: str) -> str:
    """Why a model stopped, in lower case; ``other`` when the word is not a known one."""
    word = said.lower()
    return word if word in FINISHES else OTHER


def role_word(said: str) -> str:
    """Who a message is from; ``other`` when the word is not a known one."""
    return said if said in ROLES else OTHER


def is_model_name(said: str) -> bool:
    """Has what a server calls itself the shape of a model's name? No spaces, no sentences."""
    return _MODEL.fullmatch(said) is not None
