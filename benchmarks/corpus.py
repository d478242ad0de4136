"""A large store, made of events without a framework: searches, agents, conversations, a hub.

The recorder itself makes it (matching, sealing, index, log), in one process and with
``durability="batch"``. What stands in it follows from ``SEED`` and the number of runs alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from prose import prose

from provkeep.model import records as r
from provkeep.model.events import NOTHING, RunEnded, RunStarted
from provkeep.model.values import Part
from provkeep.reading.access import Appender, Desk
from provkeep.recording.recorder import Recorder, Scope
from provkeep.sealing.grants import ACCESS_PURPOSE, sign_body
from provkeep.sealing.home import load_recorder_config
from provkeep.sealing.keyring import fingerprint
from provkeep.sealing.principals import new_principal
from provkeep.store.sqlite import SqliteStore

SEED: Final = 20_251
HUB_SHARE: Final = 0.145  # of all traces: 20,000 of 138,000
AGENTS: Final = 0.10  # shares of all traces; the rest are single questions
LOOPS: Final = 0.02
TURNS: Final = 0.20
STEPS: Final = 3  # searches of an agent
LOOP_STEPS: Final = 10
TURNS_KEPT: Final = 5  # turns of a conversation
FILES_OF: Final = 4  # documents (chunks) of one file
CHUNK_CHARS: Final = 400
BATCH: Final = 500  # access records in one commit
HUB: Final = "handbook.pdf"


@dataclass(slots=True)
class Made:
    """What was built."""

    traces: int = 0
    runs: int = 0
    hub_traces: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    accesses: int = 0
    hub_accesses: int = 0


@dataclass(slots=True)
class _Talk:
    """A conversation that goes on."""

    name: str
    history: list[Part] = field(default_factory=list)
    turns: int = 0


class Builder:
    """Records traces until there are enough runs."""

    def __init__(self, path: Path, runs: int) -> None:
        self.path, self.runs = path, runs
        self.made = Made()
        self._chance = Random(SEED)
        self._documents = max(200, runs // 25)
        self._texts: dict[int, str] = {}
        self._talks: list[_Talk] = []
        self._recorder = Recorder(path)
        self._scopes = [Scope("batch", {"actor": f"user{i}@example.com"}) for i in range(500)]
        self._scope = self._scopes[0]
        self._now = time.time_ns()

    def build(self, progress: Callable[[int, int], None]) -> Made:
        """Record everything, then close."""
        wall, cpu = time.perf_counter(), time.process_time()
        made, chance = self.made, self._chance
        while made.runs < self.runs:
            self._now += chance.randrange(10**6, 10**9)
            self._scope = chance.choice(self._scopes)
            kind = chance.random()
            if kind < AGENTS:
                self._agent(STEPS)
            elif kind < AGENTS + LOOPS:
                self._agent(LOOP_STEPS)
            else:
                self._question(self._talk() if kind > 1 - TURNS else None)
            made.traces += 1
            if not made.traces % 500:
                progress(made.runs, self.runs)
        self._recorder.close()
        made.seconds, made.cpu_s = time.perf_counter() - wall, time.process_time() - cpu
        return made

    # -- events --------------------------------------------------------------------------------

    def _start(self, kind: str, name: str, parent: int | None, inputs: Any, **more: Any) -> int:
        rid = self._chance.getrandbits(128)
        self._now += 1000
        self.made.runs += 1
        event = RunStarted(
            run_id=rid,
            parent_id=parent,
            at_ns=self._now,
            kind=kind,
            name=name,
            inputs=inputs,
            **more,
        )
        self._recorder.record(event, self._scope)
        return rid

    def _end(self, rid: int, outputs: Any = NOTHING) -> None:
        self._now += 1000
        self._recorder.record(RunEnded(run_id=rid, at_ns=self._now, outputs=outputs), self._scope)

    def _leaf(self, kind: str, name: str, parent: int, inputs: Any, outputs: Any) -> Any:
        self._end(self._start(kind, name, parent, inputs), outputs)
        return outputs

    def _found(self, many: int, *, first: bool = True) -> list[Part]:
        """Documents of a search: some popular, most not, and in some traces the hub."""
        chance = self._chance
        numbers = {int(self._documents * chance.random() ** 3) + 1 for _ in range(many)}
        if first and chance.random() < HUB_SHARE:
            numbers.pop()
            numbers.add(0)
            self.made.hub_traces += 1
        return [self._document(n) for n in sorted(numbers)]

    def _document(self, number: int) -> Part:
        text = self._texts.get(number)
        if text is None:
            words = prose(number, edition=1)[:CHUNK_CHARS]
            text = self._texts[number] = f"Rule {number}: {words}"
        source = HUB if number == 0 else f"file-{number // FILES_OF}.txt"
        fields = {"id": f"d{number}", "metadata": {"source": source}, "page_content": text}
        return Part("document", "Document", fields)

    def _message(self, kind: str, text: str, calls: list[Any] | None = None) -> Part:
        fields = {
            "content": text,
            "type": kind,
            "id": f"m{self._chance.getrandbits(64):016x}",
            "additional_kwargs": {},
            "response_metadata": {},
        }
        if calls is not None:
            fields["tool_calls"] = calls
        return Part("message", {"human": "HumanMessage", "ai": "AIMessage"}.get(kind, kind), fields)

    def _answer(self, documents: list[Part]) -> Part:
        """An answer that quotes one of them."""
        quoted = self._chance.choice(documents).fields["page_content"]
        return self._message("ai", f"According to the terms: {quoted[:120]}")

    # -- traces ----------------------------------------------------------------------------------

    def _talk(self) -> _Talk:
        if len(self._talks) < 20:
            self._talks.append(_Talk(f"talk {self._chance.getrandbits(40):x}"))
            return self._talks[-1]
        return self._chance.choice(self._talks)

    def _question(self, talk: _Talk | None) -> None:
        """chain(retriever, prompt, model, parser): five runs."""
        asked = f"Customer {self.made.traces} asks: how long may I bring it back?"
        session = talk.name if talk is not None else None
        root = self._start("chain", "RunnableSequence", None, {"question": asked}, session=session)
        documents = self._found(self._chance.randint(4, 8))
        self._leaf("retriever", "Shelf", root, asked, documents)
        context = "\n\n".join(d.fields["page_content"] for d in documents)
        system = self._message("SystemMessage", f"Answer from this alone:\n{context}")
        history = talk.history if talk is not None else []
        question = self._message("human", asked)
        messages = [system, *history, question]
        prompt = Part("prompt", "ChatPromptValue", {"messages": messages})
        given = {"context": context, "question": asked}
        self._leaf("prompt", "ChatPromptTemplate", root, given, prompt)
        answer = self._leaf("model", "Scripted", root, messages, self._answer(documents))
        text = self._leaf("parser", "StrOutputParser", root, answer, answer.fields["content"])
        self._end(root, text)
        if talk is not None:
            talk.history += [question, answer]
            talk.turns += 1
            if talk.turns >= TURNS_KEPT:
                self._talks.remove(talk)

    def _agent(self, steps: int) -> None:
        """graph((node, model), (node, tool, retriever), …): 5 * steps + 3 runs."""
        asked = self._message("human", f"Customer {self.made.traces} asks: what may I bring back?")
        messages = [asked]
        root = self._start("graph", "LangGraph", None, {"messages": list(messages)})
        documents: list[Part] = []
        for step in range(steps + 1):
            node = self._start("node", "model", root, {"messages": list(messages)})
            if step < steps:
                number = f"c{self._chance.getrandbits(48):x}"
                call = {"name": "search", "args": {"page": step}, "id": number, "type": "tool_call"}
                said = self._message("ai", "", [call])
            else:
                said = self._answer(documents)
            self._leaf("model", "Scripted", node, list(messages), said)
            self._end(node, {"messages": [said]})
            messages.append(said)
            if step == steps:
                break
            node = self._start("node", "tools", root, {"messages": list(messages)})
            tool = self._start("tool", "search", node, {"page": step}, call_id=number)
            found = self._found(1 if steps > STEPS else 2, first=not step)
            search = self._start("retriever", "Shelf", tool, f"page {step}")
            self._end(search, found)
            documents += found
            result = self._message("ToolMessage", "\n".join(self._text_of(found)))
            result.fields["tool_call_id"] = number
            self._end(tool, result)
            self._end(node, {"messages": [result]})
            messages.append(result)
        self._end(root, {"messages": list(messages)})

    @staticmethod
    def _text_of(documents: list[Part]) -> list[str]:
        return [str(d.fields["page_content"]) for d in documents]


def add_accesses(path: Path, count: int, made: Made) -> None:
    """Record ``count`` readings, one in ten of them of the hub, as the reader would."""
    store = SqliteStore(path, read_only=True)
    tags = [row[0] for row in store.query("SELECT tag FROM source ORDER BY id LIMIT 2000")]
    tids = [bytes(row[0]).hex() for row in store.query("SELECT tid FROM trace LIMIT 2000")]
    desk = Desk.of(load_recorder_config(store.store_id))
    store.close()
    readers = [new_principal(f"auditor{i}@example.com") for i in range(40)]
    key, chance, at = desk.fingerprint_key or b"", Random(SEED), time.time_ns() // 1000
    hub = fingerprint(key, "source", HUB.encode())
    with closing(Appender(path, lambda: desk)) as out:
        pending: list[r.Pending] = []
        for i in range(count):
            sources = {chance.choice(tags): 0 for _ in range(chance.randint(1, 6))}
            if i % 10 == 0:
                sources[hub] = 1
                made.hub_accesses += 1
            reader, tid = chance.choice(readers), chance.choice(tids)
            body = {
                "k": "access",
                "v": r.FORMAT,
                "at": at + i,
                "by": r.b64(reader.public.id),
                "key": r.b64(reader.public.verify_key),
                "what": "payload",
                "t": tid,
                "a": [f"{tid}.a0"],
                "src": [[r.b64(tag), reach] for tag, reach in sources.items()],
            }
            record = out.seal(body, {"actor": reader.name, "purpose": f"complaint {i}"})
            said = record.body
            said["sig"] = sign_body(said, desk.store_id, reader.seed, ACCESS_PURPOSE)
            pending.append(record)
            if len(pending) == BATCH or i == count - 1:
                out.append(pending)
                pending = []
    made.accesses = count
