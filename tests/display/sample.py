"""An agent run of some forty steps as the recorder would write it, and labels that mean harm."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from provkeep.model.graph import Edge, Graph, Node, Span

START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
TRACE = "t7f3a"
HOSTILE = (
    "<script>alert(1)</script>",
    "]]></title><!-- & \"quoted\" 'too' -->",
    "nul \x00 esc \x1b[31m bell \x07 c1 \x9b del \x7f",
    "right \u202eto left\u202c mark \u200f",
    "שלום עולם مرحبا بالعالم",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 料金表 \uff46\uff55\uff4c\uff4c",
    "lone \ud800 surrogate \ufffe \uffff",
    "z" + "\u0301" * 400 + "algo",
    "long " + "x" * 10_000,
    '%%{init: {}}%% end; click A href "javascript:alert(1)" #quot; | ] ) }',
    "line\nbreak\r\n\tand tab\u2028sep",
    "",
)
_FILES = (
    ("policy-2026.pdf", "confidential"),
    ("faq.md", "public"),
    ("ticket-8812.eml", "pii"),
    ("crm:acct/77", "restricted"),
)


class Builder:
    """Collects nodes and edges; times are seconds after the start of the trace."""

    def __init__(self, trace: str = TRACE, at: int = START_NS) -> None:
        self.trace, self.at = trace, at
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self._order = 0

    def _next(self) -> int:
        self._order += 1
        return self._order

    def run(
        self,
        kind: str,
        label: str,
        start: float,
        end: float,
        used: Iterable[str] = (),
        **more: Any,
    ) -> str:
        order = self._next()
        flow = more.pop("flow", True)
        node = Node(
            id=f"{self.trace}.r{order}",
            type="run",
            kind=kind,
            label=label,
            trace=self.trace,
            order=order,
            start_ns=self.at + round(start * 1e9),
            end_ns=self.at + round(end * 1e9),
            status=more.pop("status", "ok"),
            **more,
        )
        self.nodes.append(node)
        for cause in used:
            self.edge("used", cause, node.id, "observed", flow=flow)
        return node.id

    def artifact(self, kind: str, label: str, at: float | None, **more: Any) -> str:
        order = self._next()
        made_by, causes = more.pop("made_by", None), more.pop("causes", ())
        members = more.pop("members", ())
        node = Node(
            id=f"{self.trace}.a{order}",
            type="artifact",
            kind=kind,
            label=label,
            trace=self.trace,
            order=order,
            start_ns=None if at is None else self.at + round(at * 1e9),
            **more,
        )
        self.nodes.append(node)
        if made_by:
            self.edge("generated", made_by, node.id, "observed")
        for cause in causes:
            self.edge("derived", cause, node.id, "contained", coverage_permille=412)
        for member in members:
            self.edge("member", member, node.id, "structural")
        return node.id

    def edge(self, type_: str, cause: str, effect: str, basis: str, **more: Any) -> None:
        if more.get("coverage_permille"):
            more.setdefault(
                "spans", (Span(target_start=0, target_end=9, source_start=4, source_end=13),)
            )
        self.edges.append(Edge(type=type_, cause=cause, effect=effect, basis=basis, **more))

    def graph(self) -> Graph:
        return Graph(self.nodes, self.edges)


def agent_run() -> tuple[Graph, str]:
    """Return the graph of an agent that retrieves, calls tools and answers, and its answer's id."""
    b = Builder()
    actor = Node(id="u.alice", type="actor", kind="user", label="alice@acme (analyst)")
    index = Node(id="s.index", type="source", kind="index", label="FAISS index v12 (4 docs)")
    sources = {
        label: Node(id=f"s.{n}", type="source", kind="file", label=label, labels=(mark,))
        for n, (label, mark) in enumerate(_FILES)
    }
    b.nodes += [actor, index, *sources.values()]
    question = b.artifact("message", "human", 0.0, size=41, attrs={"role": "human"})
    b.edge("attributed", actor.id, question, "observed")
    chain = b.run("chain", "AgentExecutor", 0.0, 9.2, used=[question], flow=False)
    memory = b.artifact("data", "chat history (6 msgs)", None, size=2210)

    def retrieve(at: float, query: str, number: int, files: list[int], offset: int) -> list[str]:
        run = b.run("retriever", f"VectorRetriever #{number}", at, at + 0.4, used=[query])
        b.edge("used", index.id, run, "observed")
        out = []
        for place, file in enumerate(files):
            label, mark = _FILES[file]
            chunk = b.artifact(
                "document",
                f"{label} ¶{place + offset}",
                at + 0.4,
                made_by=run,
                labels=(mark,),
                size=900,
                compartment="document",
            )
            b.edge("derived", sources[label].id, chunk, "id")
            out.append(chunk)
        return out

    def ask(at: float, number: int, causes: list[str], size: int, parts: list[str]) -> str:
        marks = ("confidential", "pii", "public", "restricted")
        prompt = b.artifact(
            "prompt",
            f"Prompt gpt-4o #{number}",
            at,
            causes=causes,
            size=size,
            labels=marks,
        )
        group = b.artifact("composite", "messages", at, members=[prompt, *parts])
        run = b.run("model", "gpt-4o", at + 0.05, at + 1.4, used=[group])
        return b.artifact(
            "message",
            f"Response #{number}",
            at + 1.4,
            made_by=run,
            size=180 * number,
            labels=marks,
            attrs={"role": "ai"},
        )

    def call(at: float, name: str, request: str, result: str, status: str = "ok") -> str:
        wanted = b.artifact("tool_call", f"{name}(…)", at, causes=[request])
        run = b.run("tool", name, at + 0.05, at + 0.4, used=[wanted], status=status)
        kind = "error" if status == "error" else "tool_result"
        return b.artifact(kind, result, at + 0.45, made_by=run, size=88)

    chunks = retrieve(1.0, question, 1, [0, 1, 2, 3], 1)
    first = ask(1.5, 1, [*chunks, memory], 1210, [question])
    looked_up = call(3.0, "crm_lookup", first, "crm_lookup result")
    more = retrieve(3.6, looked_up, 2, [1, 2, 3, 0], 4)
    second = ask(4.1, 2, [*more, looked_up, memory], 1300, [question, first])
    b.artifact("note", "PII: 2 e-mail addresses → external LLM", 4.2, causes=[second])
    sent = call(5.6, "send_email", second, "ToolException", status="error")
    b.artifact("note", "BLOCK send_email: role analyst", 5.7, causes=[sent])
    last = retrieve(6.2, second, 3, [2, 3, 0, 1], 7)
    third = ask(6.8, 3, [*last, looked_up], 1390, [question, second])
    answer = b.artifact("text", "Final answer", 9.1, size=312, labels=("restricted", "pii"))
    b.edge("derived", third, answer, "content", coverage_permille=1000)
    b.edge("generated", chain, answer, "observed", flow=False)
    b.artifact("note", "clearance: output needs “restricted”", 9.3, causes=[answer])
    return b.graph(), answer


def hostile() -> Graph:
    """Return a graph whose ids, kinds, labels, marks and attributes all mean harm."""
    nodes = [
        Node(
            id=f"h{n}.{text[:40]}",
            type=("run", "artifact", "source", "actor")[n % 4],
            kind=text[:60] if n % 2 else ("chain", "message")[n % 4 // 2],
            label=text,
            trace="t\x00<",
            order=n,
            start_ns=START_NS + n if n % 3 else None,
            status=text[:30],
            labels=(text, "pii"),
            attrs={text: text},
        )
        for n, text in enumerate(HOSTILE)
    ]
    pairs = itertools.pairwise(nodes)
    edges = [Edge(type="used", cause=a.id, effect=b.id, basis="id") for a, b in pairs]
    return Graph(nodes, edges)


def long_run(steps: int) -> Graph:
    """Return a conversation of ``steps`` rows in which every call sees a window of history."""
    b = Builder()
    said: list[str] = []
    at = 0.0
    while len(b.nodes) < steps:
        said.append(b.artifact("message", "human", at, attrs={"role": "human"}, size=12))
        chain = b.run("chain", "RunnableSequence", at, at + 2, used=said[-1:], flow=False)
        group = b.artifact("composite", "messages", at, members=said[-6:])
        run = b.run("model", "gpt-4o", at, at + 1.5, used=[group])
        said.append(b.artifact("message", "ai", at + 1.5, made_by=run, attrs={"role": "ai"}))
        b.edge("generated", chain, said[-1], "observed", flow=False)
        at += 3
    return b.graph()
