"""What a call was given: which of its arguments are worth keeping, and as what."""

from __future__ import annotations

from inspect import BoundArguments
from typing import Any, Final

from llama_index.core.schema import BaseNode, NodeRelationship, NodeWithScore

from provkeep.llamaindex.snapshots import node_text
from provkeep.llamaindex.spans import Span
from provkeep.model.snapshot import snapshot

NOT_KEPT: Final = frozenset(  # arguments that steer the program, or repeat what is kept elsewhere
    {
        "self",
        "ctx",
        "init_state",
        "tags",
        "callback_manager",
        "show_progress",
        "verbose",
        "memory",
        "on_stream_end_fn",
        "additional_source_nodes",
        "llm",
    }
)


def arguments_of(bound: BoundArguments) -> dict[str, Any]:
    """The arguments of a call that are worth keeping, by name."""
    given: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if value is None or name in NOT_KEPT:
            continue
        if name in ("kwargs", "kwds", "prompt_args", "llm_kwargs") and isinstance(value, dict):
            given.update((k, v) for k, v in value.items() if v is not None)
        elif name != "args" or value:
            given[name] = value
    return given


def inputs_of(span: Span, given: dict[str, Any]) -> Any:
    """The arguments as a snapshot: one alone stands for itself."""
    if span.role == "synthesizer" and "nodes" in given:
        given["nodes"] = _told_apart(span, given["nodes"])
    if len(given) == 1:
        return snapshot(next(iter(given.values())), span.memo)
    return {k: v if type(v) is str else snapshot(v, span.memo, 1) for k, v in given.items()}


def call_of(span: Span, given: dict[str, Any]) -> str | None:
    """The id of the tool call that a tool's run answers: the step's, or the one that fits it."""
    if span.call_id is not None:
        return span.call_id
    calls = span.root.calls
    for call in calls:
        if call.get("name") == span.name and call.get("args") == given:
            calls.remove(call)
            return str(call.get("id"))
    return None


def _told_apart(span: Span, nodes: Any) -> Any:
    """The nodes, those that only carry an earlier answer of this trace as the text they are.

    Sub-question and multi-step engines wrap answers in nodes that no file and no index has.
    """
    answers = span.parent.answers if span.parent is not None else []
    if not answers or type(nodes) is not list:
        return nodes
    out: list[Any] = []
    for item in nodes:
        node = item.node if isinstance(item, NodeWithScore) else item
        if isinstance(node, BaseNode) and not node.metadata and _rootless(node):
            text = node_text(node)
            if any(answer in text for answer in answers):
                out.append(text)
                continue
        out.append(item)
    return out


def _rootless(node: BaseNode) -> bool:
    return NodeRelationship.SOURCE not in node.relationships
