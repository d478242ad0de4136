"""What LlamaIndex's own values look like as snapshots: nodes, messages, tool outputs, responses.

Everything is read field by field. Nothing is dumped, compared or turned into a string by its own
code, because ``str(StreamingResponse)`` consumes the user's stream and ``model_dump`` of an event
has changed what it was asked to show.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, Final

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.base.response.schema import (
    AsyncStreamingResponse,
    PydanticResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine.types import AgentChatResponse, StreamingAgentChatResponse
from llama_index.core.memory import BaseMemory
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.schema import (
    BaseNode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TransformComponent,
)
from llama_index.core.tools import BaseTool, ToolOutput
from workflows import Context, Workflow
from workflows.events import Event

from provkeep.llamaindex.usage import field, template_text
from provkeep.model.snapshot import register, snapshot
from provkeep.model.values import Memo, Part, Typed

STREAMS: Final = (StreamingResponse, AsyncStreamingResponse, StreamingAgentChatResponse)
ANSWERS: Final = (Response, PydanticResponse, AgentChatResponse)

_ROLES: Final = {  # LlamaIndex's word -> the record's; others stand as they are
    "user": "human",
    "assistant": "ai",
    "chatbot": "ai",
    "model": "ai",
    "developer": "system",
    "function": "tool",
}
_SOURCE_KEYS: Final = ("source", "file_path", "file_name", "url", "path")
_MEDIA: Final = ("image_resource", "audio_resource", "video_resource")
_TOOL_KEYS: Final = frozenset({"tool_calls", "tool_call_id"})
_NOT_KEPT: Final = frozenset({"raw", "ctx", "memory"})  # of workflow events: live objects
_RESULT: Final = "_result"


def register_all() -> None:
    """Teach the snapshot function LlamaIndex's types; later ones are looked at first."""
    for machine in (
        BaseLLM,
        BaseMemory,
        BaseRetriever,
        BaseQueryEngine,
        TransformComponent,
        CallbackManager,
        Context,
        Workflow,
    ):
        register(machine, _machine)
    register(BaseTool, _tool)
    register(BasePromptTemplate, lambda v, m, d: Typed(type(v).__name__, template_text(v)))
    register(BaseNode, lambda v, m, d: node_part(v, None, m, d))
    register(NodeWithScore, lambda v, m, d: node_part(v.node, v.score, m, d))
    register(ChatMessage, _message)
    register(ChatResponse, lambda v, m, d: snapshot(v.message, m, d + 1))
    register(CompletionResponse, lambda v, m, d: v.text)
    register(ToolOutput, lambda v, m, d: tool_part(v, None, m, d))
    register(QueryBundle, _query)
    register(Event, _event)
    for answer in ANSWERS:
        register(answer, lambda v, m, d: snapshot(v.response, m, d + 1))
    for stream in STREAMS:
        register(stream, lambda v, m, d: Typed(type(v).__name__, "a stream"))


def _machine(value: Any, memo: Memo, depth: int) -> Typed:
    """A part of the program, not of what it works on."""
    return Typed(type(value).__name__, None)


def _tool(value: Any, memo: Memo, depth: int) -> Typed:
    metadata = value.metadata
    return Typed(type(value).__name__, {"name": metadata.name, "about": metadata.description})


def _query(value: QueryBundle, memo: Memo, depth: int) -> Any:
    others = value.custom_embedding_strs
    if others or value.image_path:
        said = {"query": value.query_str, "embedded": list(others or ()), "image": value.image_path}
        return Typed("QueryBundle", said)
    return value.query_str


# -- nodes ----------------------------------------------------------------------------------------


def node_text(node: BaseNode) -> str:
    """The text of a node without its metadata."""
    text = node.__dict__.get("text")
    if type(text) is str:
        return text
    resource = node.__dict__.get("text_resource")
    text = None if resource is None else resource.text
    return text if type(text) is str else ""


def node_part(node: BaseNode, score: Any, memo: Memo, depth: int) -> Part:
    """A node as a document: the same part as before while the node says the same."""
    key = id(node)
    number = None if score is None else float(score)
    text, metadata = node_text(node), node.metadata
    held = memo.get(key)
    if held is not None and held[0] is node:
        for known, known_score, known_metadata in held[1]:
            if (
                known_score == number
                and known.fields["page_content"] == text
                and known_metadata == metadata
            ):
                part: Part = known
                return part
    plain: dict[str, Any] = snapshot(dict(metadata), memo, depth + 1)
    said: dict[str, Any] = {**plain} if type(plain) is dict else {"metadata": plain}
    related = node.relationships.get(NodeRelationship.SOURCE)
    origin = related if isinstance(related, RelatedNodeInfo) else None
    source = next((said[k] for k in _SOURCE_KEYS if said.get(k)), None)
    if source is None and origin is not None:  # a parser fills in the metadata only later
        source = said["source"] = memo.get(("source", origin.node_id), (origin.node_id,))[0]
    if source is not None:
        memo["source", node.node_id] = (source, None)
    if number is not None:
        said["score" if "score" not in said else "node_score"] = number
    fields: dict[str, Any] = {"id": node.node_id, "page_content": text, "metadata": said}
    fields["hash"] = node.hash
    if origin is not None:
        fields["ref_doc_id"], fields["ref_doc_hash"] = origin.node_id, origin.hash
    for name in _MEDIA:
        media = node.__dict__.get(name)
        if media is not None:
            fields[name] = snapshot(media, memo, depth + 1)
    for name in ("index_id", "image", "image_path", "image_url"):
        value = node.__dict__.get(name)
        if value:
            fields[name] = snapshot(value, memo, depth + 1)
    part = Part("document", type(node).__name__, fields)
    before = held[1][-3:] if held is not None and held[0] is node else []
    memo[key] = (node, [*before, (part, number, plain)])
    return part


# -- messages and tools ---------------------------------------------------------------------------


def _message(value: ChatMessage, memo: Memo, depth: int) -> Part:
    part = _message_part(value, memo, depth)
    held = memo.get(id(value))
    if held is not None and held[0] is value and held[1].fields == part.fields:
        known: Part = held[1]
        return known
    memo[id(value)] = (value, part)
    return part


def _message_part(value: ChatMessage, memo: Memo, depth: int) -> Part:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    plain = True
    for block in value.blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, ToolCallBlock):
            given = snapshot(block.tool_kwargs, memo, depth + 1)
            calls.append({"id": block.tool_call_id, "name": block.tool_name, "args": given})
        else:
            plain = False
    content: Any = "\n".join(texts)
    if not plain:
        content = [
            {"type": "text", "text": b.text}
            if isinstance(b, TextBlock)
            else snapshot(b, memo, depth + 1)
            for b in value.blocks
            if not isinstance(b, ToolCallBlock)
        ]
    role = str(getattr(value.role, "value", value.role))
    fields: dict[str, Any] = {"type": _ROLES.get(role, role), "content": content}
    more = value.additional_kwargs
    if more:
        if not calls and more.get("tool_calls"):
            calls = [c for c in map(_older_call, list(more["tool_calls"])) if c is not None]
        call_id = more.get("tool_call_id")
        if call_id is not None:
            fields["tool_call_id"] = str(call_id)
        rest = {k: snapshot(v, memo, depth + 1) for k, v in more.items() if k not in _TOOL_KEYS}
        if rest:
            fields["additional_kwargs"] = rest
    if calls:
        fields["tool_calls"] = calls
    return Part("message", "ChatMessage", fields)


def _older_call(call: Any) -> dict[str, Any] | None:
    """A tool call as integrations put it into ``additional_kwargs``: OpenAI's shape."""
    function = field(call, "function")
    name = field(function, "name") or field(call, "name")
    if name is None:
        return None
    given = field(function, "arguments")
    if type(given) is str:
        with contextlib.suppress(ValueError):
            given = json.loads(given)
    return {"id": field(call, "id"), "name": name, "args": snapshot(given)}


def tool_part(value: ToolOutput, call_id: str | None, memo: Memo, depth: int) -> Part:
    """What a tool returned, as the message that a model will read."""
    texts = [b.text for b in value.blocks if isinstance(b, TextBlock)]
    fields: dict[str, Any] = {"type": "tool", "content": "\n".join(texts)}
    if call_id is not None:
        fields["tool_call_id"] = call_id
    if value.is_error:
        fields["status"] = "error"
    raw = value.raw_output
    if type(raw) in (dict, list) or hasattr(type(raw), "model_fields"):
        fields["artifact"] = snapshot(raw, memo, depth + 1)
    return Part("message", "ToolOutput", fields)


# -- workflow events ------------------------------------------------------------------------------


def _held(event: Event) -> dict[str, Any]:
    """What a workflow event holds: its fields and what was put into it besides."""
    held = dict(event.__dict__)
    for name, private in (event.__pydantic_private__ or {}).items():
        if name == "_data" and type(private) is dict:
            held.update(private)
        elif private is not None:
            held[name.lstrip("_")] = private
    return {k: v for k, v in held.items() if v is not None and k not in _NOT_KEPT}


def _event(value: Event, memo: Memo, depth: int) -> Typed:
    held = _held(value)
    call = held.get("tool_id")
    said: dict[str, Any] = {}
    for name, item in held.items():
        if isinstance(item, ToolOutput) and type(call) is str:
            said[name] = tool_part(item, call, memo, depth + 1)
        else:
            said[name] = snapshot(item, memo, depth + 1)
    return Typed(type(value).__name__, said)


def arguments_of_start(arguments: dict[str, Any]) -> dict[str, Any]:
    """What a workflow was started with, out of its start event."""
    event = arguments.get("start_event")
    return _held(event) if isinstance(event, Event) else arguments


def result_of(event: Any) -> Any:
    """What a workflow returned: the result inside its stop event; of an agent, its message."""
    private = getattr(event, "__pydantic_private__", None) or {}
    result = private.get(_RESULT)
    if result is None:
        return event
    response = result.__dict__.get("response") if isinstance(result, Event) else None
    if isinstance(response, ChatMessage) and not result.__dict__.get("structured_response"):
        return response
    return result
