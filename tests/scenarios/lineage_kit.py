"""What the lineage scenarios share: documents that say who they are, models that say what they are
told to, and a story that records a run and asks where its answer came from.
"""

from __future__ import annotations

import random
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from pydantic import Field

import provkeep
from provkeep.langchain import ProvenanceHandler
from provkeep.model import events as ev
from provkeep.model import records as r
from provkeep.model.graph import Graph
from provkeep.model.values import decode, encode_json
from provkeep.reading.paths import unnamed
from provkeep.reading.unsealing import text_of
from provkeep.recording.recorder import settle
from provkeep.trail import Lineage, Trail

CUT_TRACES, CUT_NODES = 6, 8  # of how many the lineage is compared, after each story
_SYLLABLES = [a + b for a, b in zip("bcdfgklmnprstvz", "aeiouaeiouaeiou", strict=True)]


def words(seed: str, count: int = 60) -> str:
    """Sentences that no other seed gives."""
    chance = random.Random(seed)
    out = ["".join(chance.choices(_SYLLABLES, k=3)) for _ in range(count)]
    return " ".join(out).capitalize() + "."


def document(name: str, text: str | None = None, **metadata: Any) -> Document:
    """A document from ``name``, with a text of its own."""
    return Document(
        page_content=words(name) if text is None else text,
        metadata={"source": name, **metadata},
    )


class Retriever(BaseRetriever):
    """Finds what it was given, in new objects each time, as a database would."""

    documents: list[Document]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return [d.model_copy(deep=True) for d in self.documents]


def retriever(*names: str) -> Retriever:
    """A retriever of the documents of these names."""
    return Retriever(documents=[document(name) for name in names])


class Model(BaseChatModel):
    """Says what ``say`` makes of the messages; remembers every prompt it was given."""

    say: Callable[[list[BaseMessage]], AIMessage | str]
    prompts: list[list[BaseMessage]] = Field(default_factory=list)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.prompts.append(list(messages))
        said = self.say(messages)
        message = said if isinstance(said, AIMessage) else AIMessage(said)
        return ChatResult(generations=[ChatGeneration(message=message.model_copy(deep=True))])

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[tool.name for tool in tools if hasattr(tool, "name")])

    @property
    def _llm_type(self) -> str:
        return "told"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"name": "told"}


def model(*answers: AIMessage | str) -> Model:
    """A model that gives these answers in turn, the last one again and again."""
    waiting = list(answers) or ["I would say so, on the whole."]

    def say(_: list[BaseMessage]) -> AIMessage | str:
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return Model(say=say)


def calling(name: str, call_id: str, **args: Any) -> AIMessage:
    """A message that calls one tool."""
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": call_id}])


def fresh(text: str) -> str:
    """The same characters in another object, as they come from a network."""
    return "".join(list(text))


class Story:
    """Records into one store and asks it questions."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        self.handler = ProvenanceHandler(path, actor="alice@example.com", **options)
        self.events: list[ev.Event] = []
        record = self.handler._record

        def listen(event: ev.Event, scope: Any) -> None:
            self.events.append(event)
            record(event, scope)

        self.handler._record = listen

    def config(self, thread: str | None = None, **more: Any) -> RunnableConfig:
        config: RunnableConfig = {"callbacks": [self.handler], **more}  # type: ignore[typeddict-item]
        if thread is not None:
            config["configurable"] = {"thread_id": thread, **config.get("configurable", {})}
        return config

    def trail(self) -> Trail:
        self.handler.flush()
        return provkeep.open(self.path)

    def lineage(self, trace: int = -1) -> Lineage:
        """Of the answer of the ``trace``-th trace, in order of time."""
        with self.trail() as trail:
            found = trail.lineage(self.traces()[trace])
            assert isinstance(found, Lineage)
            return found

    def traces(self) -> list[str]:
        self.handler.flush()
        with self._connection() as conn:
            return [bytes(t).hex() for (t,) in conn.execute("SELECT tid FROM trace ORDER BY id")]

    def sources(self, trace: int = -1) -> set[str]:
        """Names of the sources of an answer."""
        return {s.name for s in self.lineage(trace).sources()}

    def basis(self, name: str, trace: int = -1) -> str:
        (found,) = [s for s in self.lineage(trace).sources() if s.name == name]
        return found.basis

    def came_from(self, trace: int = -1, *kinds: str) -> set[str]:
        """Texts of what the answer came from that was neither composed by glue nor is a document:
        human inputs, models' messages, tools' results.
        """
        with self.trail() as trail:
            graph = trail.lineage(self.traces()[trace]).graph
            wanted = [
                node.id
                for node in graph.of("artifact")
                if node.kind in (kinds or ("message", "text", "tool_result"))
                and is_ground(graph, node.id)
            ]
            return {text_of(value) for value in trail.values(wanted, purpose="test").values()}

    def stored(self) -> int:
        """Bytes of records and payloads."""
        self.handler.flush()
        with self._connection() as conn:
            bodies = conn.execute("SELECT sum(length(body)) FROM record").fetchone()[0]
            payloads = conn.execute(
                "SELECT coalesce(sum(length(data)), 0) FROM payload"
            ).fetchone()[0]
            return int(bodies + payloads)

    def _connection(self) -> Any:
        settle(self.path)
        return _Closing(self.path)

    def check(self) -> None:
        """What holds of every story: values open and are exact, the index agrees with lineage."""
        check_values(self)
        check_index(self)
        check_lineages(self)


def is_ground(graph: Graph, node: str) -> bool:
    """Does content begin here: made by a model or a tool, or come in from outside?"""
    inward = [e for e in graph.into.get(node, ()) if e.flow and e.type != "attributed"]
    if any(e.type == "generated" for e in inward):
        return True
    return not inward


class _Closing:
    def __init__(self, path: Path) -> None:
        self.conn = sqlite3.connect(path)

    def __enter__(self) -> sqlite3.Connection:
        return self.conn

    def __exit__(self, *_: object) -> None:
        self.conn.close()


def check_index(story: Story) -> None:
    """``xref.reach`` says what the lineage of the answer says, for every trace on its own."""
    tids = story.traces()
    with story.trail() as trail, story._connection() as conn:
        for tid in tids:
            rows = conn.execute(
                "SELECT s.tag, x.reach FROM xref x JOIN source s ON s.id = x.source"
                " JOIN trace t ON t.id = x.trace WHERE t.tid = ?",
                (bytes.fromhex(tid),),
            ).fetchall()
            trace = trail._paths.trace(tid)
            if trace.answer < 0:
                continue
            part = trail.graph(tid).upstream(trace.artifact_id(trace.answer))
            expected = {
                n.attrs["source"] for n in part.of("artifact", "document") if "source" in n.attrs
            }
            reached = {f"s.{r.b64(tag)}" for tag, reach in rows if reach}
            assert reached == expected, f"trace {tid}: index and lineage disagree"


def check_lineages(story: Story) -> None:
    """A lineage is cut from the records as it is from the whole graph: of answers, and of some."""
    with story.trail() as trail:
        for tid in story.traces()[-CUT_TRACES:]:
            joined = trail._paths.join(tid, unnamed)
            whole = joined.whole()
            trace = trail._paths.trace(tid)
            ids = [trace.artifact_id(n) for n in trace.items] + [
                trace.run_id(n) for n in trace.runs
            ]
            some = ids[:: max(1, len(ids) // CUT_NODES)]
            for focus in {*some, *([trace.artifact_id(trace.answer)] if trace.answer >= 0 else ())}:
                part = joined.upstream(focus)
                found, slow = Lineage(part, joined.whole, focus), whole.upstream(focus)
                assert len(found) == len(slow), focus
                assert found.path == whole.walk(focus, upstream=True), focus
                assert found.graph.nodes == slow.nodes, focus
                assert found.graph.edges == slow.edges, focus
                assert found.sources() == Lineage(whole, whole, focus).sources(), focus


def check_values(story: Story) -> None:
    """Every artifact opens, and what a run was given or returned is what passed by."""
    story.handler.flush()
    with story.trail() as trail:
        runs: dict[str, tuple[Any, Any]] = {}
        for tid in story.traces():
            trace = trail._paths.trace(tid)
            ids = [trace.artifact_id(n) for n in trace.items]
            values = trail.values(ids, purpose="test") if ids else {}
            for run in trace.runs.values():
                given = [values[trace.artifact_id(n)] for n in run.used]
                made = [values[trace.artifact_id(n)] for n in run.result.get("out", ())]
                runs[run.uuid] = (given, made)
    for event in story.events:
        run_id = str(uuid.UUID(int=event.run_id))
        if isinstance(event, ev.RunStarted) and event.inputs not in (ev.NOTHING, None):
            if event.call_id and runs[run_id][0] and _is_call(runs[run_id][0][0]):
                assert plain(runs[run_id][0][0])["args"] == plain(event.inputs)
                continue
            assert runs[run_id][0], f"input of {event.name} is not kept"
            assert_same(runs[run_id][0][0], event.inputs, f"input of {event.name}")
        elif isinstance(event, ev.RunEnded) and event.outputs not in (ev.NOTHING, None):
            assert runs[run_id][1], f"output of {run_id} is not kept"
            assert_same(runs[run_id][1][0], event.outputs, "output")


def _is_call(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "tool_call"


def assert_same(stored: Any, snapshot: Any, what: str) -> None:
    left, right = plain(stored), plain(snapshot)
    assert left == right, f"{what}: stored {left!r}, passed by {right!r}"


def plain(value: Any) -> Any:
    """A snapshot, or a stored value, without what a message leaves unsaid.

    A message is known again by what it says: its id, its name and what its provider said of it may
    have been filled in later.
    """
    return _bare(decode(encode_json(value)))


def _bare(value: Any) -> Any:
    if isinstance(value, list):
        return [_bare(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "$part" in value:
        fields = value["fields"]
        if value["$part"] == "prompt":
            return _bare(fields["messages"])
        return _bare(fields)
    if "content" in value and "type" in value:
        keep = ("content", "type", "tool_calls", "tool_call_id")
        return {k: _bare(value[k]) for k in keep if value.get(k)}
    return {k: _bare(v) for k, v in value.items()}


def joined(documents: Sequence[Document]) -> str:
    return "\n\n".join(d.page_content for d in documents)
