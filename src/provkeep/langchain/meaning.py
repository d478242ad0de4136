"""What a callback means: names, kinds and statuses that LangChain and LangGraph only imply."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from langchain_core.runnables.config import var_child_runnable_config

_CONTROL: Final = {
    "GraphInterrupt": "interrupted",
    "GraphDrained": "interrupted",
    "ParentCommand": "ok",
}
FALLBACKS: Final = "RunnableWithFallbacks"  # the name of a run that tries one step after another
MAX_KEPT: Final = 256  # runs remembered before those that were abandoned are dropped
_GRAPHS: Final = ("langgraph", "langchain_create_agent")  # values of ``ls_integration``


class Stream:
    """When the chunks of one model call came, in nanoseconds since 1970, and their characters."""

    __slots__ = ("chunks", "last")

    def __init__(self) -> None:
        self.chunks: list[tuple[int, int]] = []
        self.last: Any = None  # the chunk that came last


def forget(kept: dict[UUID, Any], is_open: Callable[[int], bool]) -> None:
    """Drop what is kept of runs that are over."""
    for run_id in [run_id for run_id in list(kept) if not is_open(run_id.int)]:
        kept.pop(run_id, None)


def running_inside() -> UUID | None:
    """The run whose code is running now, as far as LangChain's context says."""
    config = var_child_runnable_config.get()
    manager = config.get("callbacks") if config else None
    found = getattr(manager, "parent_run_id", None)
    return found if isinstance(found, UUID) else None


def is_late(inputs: Any) -> bool:
    """Is this what a streaming chain says before it has seen its input?"""
    if type(inputs) is not dict or len(inputs) != 1:
        return False
    text = inputs.get("input")
    return type(text) is str and not text


def graph_kind(name: str, parent: UUID | None, metadata: dict[str, Any]) -> str:
    """Is a chain a graph, a node of one, or just a chain?"""
    if "langgraph_node" in metadata:
        return "node" if metadata["langgraph_node"] == name else "chain"
    return "graph" if parent is None and metadata.get("ls_integration") in _GRAPHS else "chain"


def name_of(serialized: dict[str, Any] | None) -> str | None:
    """A component's name, as its description says."""
    if not serialized:
        return None
    name = serialized.get("name")
    if not name and serialized.get("id"):
        name = serialized["id"][-1]
    return name if isinstance(name, str) else None


def status_of(error: BaseException) -> str:
    """How a run ended that raised this; LangGraph also raises to pause and to hand over."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt):
        return "cancelled"
    for kind in type(error).__mro__:
        if kind.__name__ in _CONTROL and kind.__module__ == "langgraph.errors":
            return _CONTROL[kind.__name__]
    return "error"


_graph_classes: Final[dict[type, type]] = {}


def for_graphs(cls: type) -> type:
    """``cls``, or its subclass that LangGraph tells of interrupts, when LangGraph is loaded."""
    if "langgraph" not in sys.modules:
        return cls
    found = _graph_classes.get(cls)
    if found is None:
        try:
            from langgraph.callbacks import GraphCallbackHandler
        except ImportError:  # an older LangGraph
            found = cls
        else:
            found = (
                cls
                if issubclass(cls, GraphCallbackHandler)
                else type(cls.__name__, (cls, GraphCallbackHandler), {"__doc__": cls.__doc__})
            )
        _graph_classes[cls] = found
    return found
