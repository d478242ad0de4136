"""What a span is: its place among the others, its kind and its name.

LlamaIndex opens a span for every decorated method, so one query passes through ``query`` and
``_query``, one model call through ``predict``, ``chat`` and ``complete``. Spans that only hand on
to another method of the same object are one run here.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from typing import Any, Final

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.chat_engine.types import BaseChatEngine, StreamingAgentChatResponse
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.tools import BaseTool
from llama_index.core.types import BaseOutputParser
from workflows import Workflow

from provkeep.llamaindex.refusal import PolicyBlocked
from provkeep.model.values import Memo
from provkeep.recording.recorder import Scope

MODEL_CALLS: Final = frozenset(
    f"{prefix}{name}"
    for name in (
        "predict",
        "stream",
        "chat",
        "complete",
        "stream_chat",
        "stream_complete",
        "chat_with_tools",
        "stream_chat_with_tools",
    )
    for prefix in ("", "a")
)
EMBED_CALLS: Final = ("get_", "aget_")
PLUMBING: Final = frozenset(  # spans that say nothing a record needs
    {
        "split_text",
        "split_text_metadata_aware",
        "_prepare_chat_with_tools",
        "run_jobs",
        "batch_gather",
        "worker",
    }
)
AGENTS_OWN: Final = ("BaseWorkflowAgent.", "AgentWorkflow.")  # whose steps are an agent's inside
MAX_CALLS: Final = 64  # tool calls of a trace that may still be matched with the tool's run
_ROLES: Final[tuple[tuple[type, str], ...]] = (
    (BaseLLM, "llm"),
    (BaseEmbedding, "embedding"),
    (BaseRetriever, "retriever"),
    (BaseQueryEngine, "query"),
    (BaseTool, "tool"),
    (BaseChatEngine, "chat"),
    (BaseSynthesizer, "synthesizer"),
    (BaseOutputParser, "parser"),
    (StreamingAgentChatResponse, "writer"),
)
_roles: dict[type, str] = {}


def role_of(kind: type) -> str:
    """What an instance of this class does; learned once per class."""
    role = _roles.get(kind)
    if role is None:
        if len(_roles) > 2_000:  # programs make classes while they run
            _roles.clear()
        role = _roles[kind] = _find_role(kind)
    return role


def _find_role(kind: type) -> str:
    names = {base.__name__ for base in kind.__mro__}
    if "StructuredLLM" in names:  # asks another model and parses what it says
        return "other"
    if issubclass(kind, Workflow):
        return "agent" if names & {"BaseWorkflowAgent", "AgentWorkflow"} else "workflow"
    if kind.__module__.startswith("llama_index") and "BaseSparseEmbedding" in names:
        return "embedding"
    return next((role for base, role in _ROLES if issubclass(kind, base)), "other")


class Span:
    """One run while it is open, and what later spans of its trace need to know of it."""

    __slots__ = (
        "agent",
        "answers",
        "answers_call",
        "at_ns",
        "call_id",
        "calls",
        "cancelled",
        "chunks",
        "ended",
        "error",
        "hidden",
        "id",
        "ids",
        "instance",
        "kind",
        "memo",
        "method",
        "model",
        "name",
        "outer",
        "parent",
        "parent_rid",
        "partial",
        "prompt_run",
        "prompt_span",
        "response",
        "rid",
        "role",
        "root",
        "scope",
        "started",
        "talk",
        "told",
        "waits",
        "writer",
    )

    def __init__(
        self, id_: str, rid: int, parent: Span | None, instance: Any, role: str, method: str
    ) -> None:
        self.id, self.rid, self.parent, self.instance = id_, rid, parent, instance
        self.ids = [id_]  # the framework's spans that are this run
        self.role, self.method = role, method
        self.parent_rid: int | None = None if parent is None else parent.rid
        self.root: Span = self if parent is None else parent.root
        self.outer: int | None = None  # the run of another framework that was current as it began
        self.at_ns = 0
        self.name = self.kind = ""
        self.memo: Memo = {}
        self.scope: Scope
        self.started = self.ended = self.cancelled = False
        inside_step = parent is not None and parent.role == "step"
        self.call_id: str | None = parent.call_id if parent is not None and inside_step else None
        self.model: str | None = None
        self.error: BaseException | None = None
        self.answers: list[str] = []  # texts that runs below it answered with
        self.agent: str | None = None  # which of several agents this step is of
        self.answers_call = False  # a tool has run inside it
        self.hidden = False  # the inside of an agent: what it calls are runs of the agent
        self.calls: deque[dict[str, Any]] = deque(maxlen=MAX_CALLS)  # asked for, not yet made
        self.talk: Any = None if parent is None else parent.talk  # the conversation it is part of
        self.told: set[str] = set()  # earlier answers of the conversation already recorded here
        # Of a model call:
        self.prompt_run: int | None = None
        self.prompt_span: str | None = None  # the span that said the prompt, and will say the end
        self.response: Any = None
        self.partial: Any = None  # the latest chunk of a stream, which holds all before it
        self.chunks: list[tuple[int, int]] | None = None
        # Of a span that returned a stream:
        self.waits = False  # its value is a stream not yet consumed
        self.writer: Span | None = None  # the span that writes the stream into a chat's memory

    def hide(self) -> None:
        """Stand for the run above, which knows every value that passes through this one."""
        if self.parent is not None:
            self.hidden = self.started = True
            self.rid, self.parent_rid = self.parent.rid, self.parent.parent_rid
            self.answers = self.parent.answers

    def below(self, other: Span) -> bool:
        """Is this span ``other``, or inside it?"""
        here: Span | None = self
        while here is not None:
            if here is other:
                return True
            here = here.parent
        return False


def hands_on(parent: Span, instance: Any, role: str, method: str) -> bool:
    """Is a span of this method only the inside of its parent's call on the same object?"""
    if instance is None or parent.instance is not instance:
        return False
    if method == parent.method:
        return True
    if role == "llm":
        return method in MODEL_CALLS and parent.method in MODEL_CALLS
    if role == "tool":
        return True
    return method[0] == "_" and method[:2] != "__"


def kind_of(role: str, method: str) -> str:
    """The kind of run that a method of something with this role is."""
    if role == "llm":
        return "model" if method in MODEL_CALLS else "chain"
    if role == "embedding":
        return "embedding" if method.lstrip("_").startswith(EMBED_CALLS) else "chain"
    if role == "retriever":
        return "retriever"
    if role == "tool":
        return "tool"
    if role == "parser":
        return "parser" if "parse" in method else "chain"
    if role == "agent" and method == "run":
        return "agent"
    if role == "workflow" and method == "run":
        return "graph"
    return "chain"


def run_id(span_id: str) -> int:
    """The number in a span's id; one derived from the id when it holds none."""
    try:
        return int(span_id[-36:].replace("-", ""), 16)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_OID, span_id).int


def name_of(kind: str, role: str, label: str, instance: Any) -> str:
    """What a run is called."""
    if role == "tool":
        name = getattr(getattr(instance, "metadata", None), "name", None)
        return name if type(name) is str else type(instance).__name__
    if kind in ("model", "embedding", "retriever", "agent", "graph"):
        return type(instance).__name__
    return label


def status_of(error: BaseException | None) -> str:
    """How a run ended that raised this."""
    if isinstance(error, PolicyBlocked):
        return "blocked"
    if type(error).__name__ == "WaitingForEvent":  # a tool asks a person, and will run again
        return "interrupted"
    if isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt):
        return "cancelled"
    return "error"
