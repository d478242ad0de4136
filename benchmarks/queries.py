"""What recording a LlamaIndex query costs: no handler, a no-op handler and provkeep, in turn.

Made like ``record.py``: each round makes the same queries under each of the three, one after the
other, a cost is a difference within a round, and what is printed is the median of the rounds with
its quartiles. An event is one call that the dispatcher makes to a listener: a span that is entered,
left or dropped, or an event.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ToolCallBlock
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode
from llama_index_instrumentation import get_dispatcher
from prose import DOCUMENTS, prose
from record import EVENTS_PER_ROUND, GROWTH_EVENTS, ROUNDS, Clocks, writer_seconds
from setting import machine, private_home, quartiles, stored_bytes

ANSWER: Final = "Branch 2 takes goods back within 5 days of purchase, if you bring the receipt."
QUESTION: Final = "Within how many days does branch 2 take goods back?"
TOOL_CALLS: Final = 3

# llama-index-workflows calls inspect.getmembers() on every agent, a pydantic object.
warnings.filterwarnings("ignore", module="pydantic|inspect|llama_index")


class Noop:
    """What any listener costs LlamaIndex: it is called, and returns."""

    def __init__(self) -> None:
        self.open_spans: dict[str, Any] = {}
        self.heard = self.spans = 0

    def span_enter(self, *_: Any, **__: Any) -> None:
        self.heard += 1

    def span_exit(self, *_: Any, **__: Any) -> None:
        self.heard += 1
        self.spans += 1

    span_drop = handle = span_enter

    def close(self) -> None:
        return None

    def capture_propagation_context(self) -> dict[str, Any]:
        return {}

    def restore_propagation_context(self, context: dict[str, Any]) -> None:
        return None


class Shelf(BaseRetriever):
    """Returns four nodes of 1 KB: always of the same texts, or new ones each time."""

    def __init__(self, new: bool) -> None:
        self._seeds = count() if new else None
        super().__init__()

    def _retrieve(self, query_bundle: Any) -> list[NodeWithScore]:
        seed = 0 if self._seeds is None else next(self._seeds)
        return [NodeWithScore(node=_node(seed, n), score=0.9) for n in range(DOCUMENTS)]


def _node(seed: int, n: int) -> TextNode:
    name = f"page-{seed}-{n}.txt"
    made = TextNode(
        text=prose(n, seed),
        id_=f"node-{name}",
        metadata={"file_path": name},
    )
    made.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=name, hash="1")
    return made


class Told(CustomLLM):
    """Answers at once."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="told-1", context_window=100_000)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=ANSWER)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return iter([CompletionResponse(text=ANSWER, delta=ANSWER)])


def query(*, new: bool) -> Callable[[], Any]:
    """Retrieve, compact, ask the model once."""
    synthesizer = get_response_synthesizer(llm=Told())
    engine = RetrieverQueryEngine(Shelf(new), response_synthesizer=synthesizer)
    return lambda: engine.query(QUESTION)


def agent() -> Callable[[], Any]:
    """A function-calling agent with three tool calls, each run on a new event loop."""

    def say(messages: Any, *_: Any, **__: Any) -> ChatMessage:
        told = sum(m.role == MessageRole.TOOL for m in messages)
        if told == TOOL_CALLS:
            return ChatMessage(role="assistant", content=ANSWER)
        call = ToolCallBlock(
            tool_call_id=f"call-{told}", tool_name="look_up", tool_kwargs={"order": told}
        )
        return ChatMessage(role="assistant", blocks=[TextBlock(text="Let me look."), call])

    def look_up(order: int) -> str:
        """Look up an order."""
        return f"Order {order} was sent on Monday and has not been opened since."

    llm = MockFunctionCallingLLM(response_generator=say, is_chat_model=True)
    made = FunctionAgent(tools=[look_up], llm=llm, streaming=False)

    async def run() -> Any:
        return await made.run(QUESTION)

    return lambda: asyncio.run(run())


WORKLOADS: Final[dict[str, tuple[Callable[[], Callable[[], Any]], str]]] = {
    "query": (lambda: query(new=False), "RetrieverQueryEngine over four nodes of 1 KB"),
    "query-new": (lambda: query(new=True), "the same, four new nodes each time"),
    "agent": (agent, "FunctionAgent with three tool calls"),
}


@dataclass(slots=True, kw_only=True)
class Measured:
    """One workload's figures; microseconds and bytes are per event."""

    workload: str
    made_of: str
    events: int
    rounds: int
    bare_cpu_us: tuple[float, float, float] = (0.0, 0.0, 0.0)
    caller_cpu_us: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    caller_above_noop_us: tuple[float, float, float] = (0.0, 0.0, 0.0)
    process_cpu_us: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    wall_us: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    writer_cpu_us: tuple[float, float, float] = (0.0, 0.0, 0.0)
    bytes_per_event: float = 0.0


def heard_by(*listeners: Any) -> None:
    """Have exactly these listen."""
    dispatcher: Any = get_dispatcher()
    dispatcher.span_handlers = list(listeners)
    dispatcher.event_handlers = list(listeners)


def counted(call: Callable[[], Any]) -> tuple[int, int]:
    """Spans and events of one call, the second."""
    noop = Noop()
    heard_by(noop)
    call()
    spans, events = noop.spans, heard(call, noop)
    heard_by()
    return noop.spans - spans, events


def heard(call: Callable[[], Any], noop: Noop) -> int:
    """Events of one call, while ``noop`` listens."""
    before = noop.heard
    call()
    return noop.heard - before


def _run(call: Callable[[], Any], calls: int, flush: Callable[[], Any] | None) -> Clocks:
    """Make ``calls`` calls; wall ends with the last return, CPU when everything is stored."""
    writer = writer_seconds() if flush else 0.0
    process, caller, wall = time.process_time(), time.thread_time(), time.perf_counter()
    for _ in range(calls):
        call()
    wall = time.perf_counter() - wall
    caller = time.thread_time() - caller
    if flush:
        flush()
        writer = writer_seconds() - writer
    return Clocks(caller, time.process_time() - process, writer, wall)


def measure(name: str, folder: Path, *, rounds: int, share: float) -> Measured:
    """Measure one workload; ``share`` scales the number of calls."""
    from provkeep.llamaindex import instrument

    make, made_of = WORKLOADS[name]
    call, noop = make(), Noop()
    heard_by(noop)
    call()
    call()
    events = heard(call, noop)
    result = Measured(workload=name, made_of=made_of, events=events, rounds=rounds)
    calls = max(1, round(share * EVENTS_PER_ROUND / events))
    path = folder / f"{name}.db"
    heard_by()
    ours = instrument(path, actor="alice@example.com")
    kinds: dict[str, tuple[tuple[Any, ...], Callable[[], Any] | None]] = {
        "none": ((), None),
        "no-op": ((noop,), None),
        "provkeep": ((ours.listener,), ours.flush),
    }
    seen: dict[str, list[Clocks]] = {kind: [] for kind in kinds}
    for listeners, flush in kinds.values():
        heard_by(*listeners)
        _run(call, max(1, calls // 4), flush)
    for _ in range(rounds):
        for kind, (listeners, flush) in kinds.items():
            heard_by(*listeners)
            seen[kind].append(_run(call, calls, flush))
    per_event = 1e6 / (calls * events)
    result.bare_cpu_us = quartiles(a.caller * per_event for a in seen["none"])
    for kind in ("no-op", "provkeep"):
        pairs = list(zip(seen[kind], seen["none"], strict=True))
        result.caller_cpu_us[kind] = quartiles((a.caller - b.caller) * per_event for a, b in pairs)
        result.process_cpu_us[kind] = quartiles(
            (a.process - b.process) * per_event for a, b in pairs
        )
        result.wall_us[kind] = quartiles((a.wall - b.wall) * per_event for a, b in pairs)
    result.caller_above_noop_us = quartiles(
        (a.caller - b.caller) * per_event
        for a, b in zip(seen["provkeep"], seen["no-op"], strict=True)
    )
    result.writer_cpu_us = quartiles(a.writer * per_event for a in seen["provkeep"])
    growth = max(2, round(share * GROWTH_EVENTS / events))
    heard_by(ours.listener)
    size = stored_bytes(path)
    _run(call, growth, ours.flush)
    result.bytes_per_event = (stored_bytes(path) - size) / (growth * events)
    ours.detach()
    heard_by()
    return result


def _three(values: tuple[float, float, float]) -> str:
    low, middle, high = values
    return f"{middle:.0f} ({low:.0f}-{high:.0f})"


def table(results: list[Measured]) -> str:
    """The figures as a Markdown table."""
    head = (
        "workload",
        "events",
        "without a handler, CPU us",
        "no-op handler adds",
        "provkeep adds, calling thread",
        "of it above the no-op",
        "provkeep adds, whole process",
        "of it the writer",
        "added wall us",
        "bytes",
    )
    rows = [head, tuple("---" for _ in head)]
    for m in results:
        rows.append(
            (
                m.workload,
                str(m.events),
                _three(m.bare_cpu_us),
                _three(m.caller_cpu_us["no-op"]),
                _three(m.caller_cpu_us["provkeep"]),
                _three(m.caller_above_noop_us),
                _three(m.process_cpu_us["provkeep"]),
                _three(m.writer_cpu_us),
                _three(m.wall_us["provkeep"]),
                f"{m.bytes_per_event:.0f}",
            )
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="a few calls, to see that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dir", type=Path, help="where the databases are made, for the time being")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.workloads) - set(WORKLOADS))
    if unknown:
        parser.error(f"no such workload: {', '.join(unknown)}")
    results = []
    with tempfile.TemporaryDirectory(dir=given.dir) as folder, private_home():
        for name in given.workloads or WORKLOADS:
            rounds, share = (2, 0.05) if given.quick else (given.rounds, 1.0)
            results.append(measure(name, Path(folder), rounds=rounds, share=share))
            print(f"measured: {name}", file=sys.stderr)
    if given.json:
        document = {"machine": machine(), "results": [asdict(m) for m in results]}
        print(json.dumps(document, indent=2))
    else:
        print(f"{machine()}\n\nAll figures per event; median (quartiles).\n\n{table(results)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
