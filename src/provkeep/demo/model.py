"""A chat model without a language model: it copies the sentences that fit the question best.

It stands where a real model would, so that the demo needs no network and no weights, and so that
every word of an answer has a place in a document. It never writes a sentence of its own, except to
say that it found none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from provkeep.demo.search import Index, best, words

NOTHING_FOUND: Final = "The passages do not say."
SHORTEST: Final = 4  # words of a sentence worth copying
_FENCE: Final = re.compile(r"^```.*?^```\n?", re.DOTALL | re.MULTILINE)
_SENTENCE: Final = re.compile(r"(?<=[.?!])\s+(?=[A-Z`])|\n{2,}")
_HEADING: Final = re.compile(r"^(#+ |\[\d+\] )")
_PAGE: Final = re.compile(r"[\w-]+\.md\b")


class ExtractiveChatModel(BaseChatModel):
    """Copies sentences from what it is given; calls tools by the words of their descriptions."""

    sentences: int = 2  # at most so many in an answer

    @property
    def _llm_type(self) -> str:
        return "extractive"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": "extractive-1", "sentences": self.sentences}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params.update({"ls_provider": "provkeep-demo", "ls_model_name": "extractive-1"})
        return params

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools, as to any chat model."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        tools: Sequence[dict[str, Any]] = (),
        **kwargs: Any,
    ) -> ChatResult:
        question = next((m.text for m in reversed(messages) if isinstance(m, HumanMessage)), "")
        call = _next_call(question, messages, tools)
        text = "" if call else self._answer(question, messages)
        read, said = sum(len(m.text.split()) for m in messages), len(text.split())
        message = AIMessage(
            text,
            tool_calls=[call] if call else [],
            usage_metadata={
                "input_tokens": read,  # words: this model has no tokens
                "output_tokens": said,
                "total_tokens": read + said,
            },
            response_metadata={
                "model_name": "extractive-1",
                "finish_reason": "tool_calls" if call else "stop",
            },
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _answer(self, question: str, messages: list[BaseMessage]) -> str:
        given = [m for m in messages if isinstance(m, SystemMessage | ToolMessage)]
        results = [m for m in given if isinstance(m, ToolMessage)]
        found = list(dict.fromkeys(s for m in results or given for s in sentences(m.text)))
        chosen = best(Index(found).scores(question), self.sentences)
        return " ".join(found[n] for n in chosen) or NOTHING_FOUND


def sentences(text: str) -> list[str]:
    """The sentences of a text in Markdown, each on one line; code and headings are left out."""
    out = []
    for piece in _SENTENCE.split(_FENCE.sub("", text)):
        line = " ".join(piece.split())
        long_enough = len(line.split()) >= SHORTEST
        if long_enough and line.endswith((".", "!")) and not _HEADING.match(line):
            out.append(line)
    return out


def _next_call(
    question: str, messages: list[BaseMessage], tools: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """The first tool not called yet that the question is about, if there is one."""
    called = {c["name"] for m in messages if isinstance(m, AIMessage) for c in m.tool_calls}
    for tool in (t["function"] for t in tools):
        about = set(words(tool["description"])) & set(words(question))
        if tool["name"] in called or not about:
            continue
        arguments = _arguments(tool, question, messages)
        if arguments is not None:
            number = len(called) + 1
            return {"name": tool["name"], "args": arguments, "id": f"call_{number}"}
    return None


def _arguments(
    tool: dict[str, Any], question: str, messages: list[BaseMessage]
) -> dict[str, Any] | None:
    """A ``page`` is one that stands in the messages, any other argument the question."""
    out = {}
    for name in tool["parameters"]["properties"]:
        if name == "page":
            named = [p for m in messages for p in _PAGE.findall(m.text)]
            if not named:
                return None
            out[name] = named[0]
        else:
            out[name] = question
    return out
