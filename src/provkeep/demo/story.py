"""The story the demo tells: record, ask, draw, read, verify, forge, catch.

Everything it makes, keys included, goes into one folder: PROVKEEP_HOME points there while it runs,
so nothing reaches the configuration of whoever runs it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from provkeep.demo.app import manual_agent, manual_chain
from provkeep.demo.corpus import pages, passages
from provkeep.demo.engine import manual_engine
from provkeep.demo.forgery import forge
from provkeep.display.rows import in_order
from provkeep.display.tables import table
from provkeep.langchain import ProvenanceHandler
from provkeep.llamaindex import instrument
from provkeep.reading.answers import clock
from provkeep.reading.verify import Report
from provkeep.sealing.home import HOME_VARIABLE
from provkeep.trail import Lineage, Trail
from provkeep.trail import open as open_trail

QUESTION: Final = "What happens when a byte is changed, and who gets to read the database?"
ERRAND: Final = "What does verify compare, and how long is that page?"
LOOKUP: Final = "What does the pin make visible, and where is it?"
ACTOR: Final = "demo@example.com"
PURPOSE: Final = "provkeep demo"
QUOTES_SHOWN: Final = 4
STEPS_SHOWN: Final = frozenset({"model", "tool", "tool_call", "tool_result"})

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo made and found. Paths are gone when it was told not to keep them."""

    folder: Path
    database: Path
    home: Path
    document: Path
    picture: Path
    question: str
    answer: str
    sources: tuple[str, ...]
    verified: bool  # the log as recorded
    caught: bool  # the forged copy was found out, and the log as recorded was not accused
    findings: tuple[str, ...]  # about the forged copy
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def run_demo(
    folder: Path | None = None, *, say: Say, keep: bool = True, width: int = 100
) -> DemoResult:
    """Run it all once.

    Args:
        folder: where the files go, new or empty; by default a new temporary folder.
        say: prints a text of one or several lines.
        keep: leave the files there.
        width: columns of what is printed.
    """
    begun = time.monotonic()
    where = Path(tempfile.mkdtemp(prefix="provkeep-demo-")) if folder is None else folder.absolute()
    where.mkdir(parents=True, exist_ok=True)
    database, home = where / "audit.db", where / "home"
    document, picture = where / "lineage.json", where / "lineage.svg"
    try:
        with _home(home):
            answer, errand, lookup = _record(database, say)
            with open_trail(database) as trail:
                lineage = _trace_back(trail, answer, say, width)
                _ask_agent(trail, errand, say, width)
                _ask_index(trail, lookup, say, width)
                _hand_on(lineage, document, picture, say)
                _who_read(trail, say, width)
            verified, findings = _prove(database, lineage, where / "forged", say)
        seconds = round(time.monotonic() - begun, 2)
        if keep:
            say(
                f"Done in {seconds:.1f} s. Everything is in {where}\n"
                "(the keys too, since this is a demo: your own never stand beside the database).\n"
                "Ask it yourself:\n"
                f"   export {HOME_VARIABLE}={home}\n"
                f"   provkeep runs {database}"
            )
        else:
            say(f"Done in {seconds:.1f} s. The files are removed again.")
        return DemoResult(
            folder=where,
            database=database,
            home=home,
            document=document,
            picture=picture,
            question=QUESTION,
            answer=answer,
            sources=tuple(source.name for source in lineage.sources()),
            verified=verified,
            caught=verified and bool(findings),
            findings=findings,
            seconds=seconds,
        )
    finally:
        if not keep:
            for made in (*where.glob("audit.db*"), document, picture):
                made.unlink(missing_ok=True)
            for made in (home, where / "forged", *([where] if folder is None else [])):
                shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _home(path: Path) -> Iterator[None]:
    before = os.environ.get(HOME_VARIABLE)
    os.environ[HOME_VARIABLE] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ[HOME_VARIABLE]
        else:
            os.environ[HOME_VARIABLE] = before


def _record(database: Path, say: Say) -> tuple[str, str, str]:
    say(
        "1. RECORD  a LangChain chain and agent, and a LlamaIndex query engine, over provkeep's"
        " manual\n"
        f"   {len(pages())} pages in {len(passages())} passages. No language model:"
        " ExtractiveChatModel copies the sentences that fit best.\n"
    )
    with instrument(database, actor=ACTOR, application=PURPOSE):
        lookup = str(manual_engine().query(LOOKUP))
    with ProvenanceHandler(database, actor=ACTOR, application=PURPOSE) as handler:
        errand = manual_agent().invoke(ERRAND, config={"callbacks": [handler]})
        answer = manual_chain().invoke(QUESTION, config={"callbacks": [handler]})
    say(f"   asked:    {QUESTION}\n   answered: {_wrapped(answer, '             ')}\n")
    return answer, errand, lookup


def _trace_back(trail: Trail, answer: str, say: Say, width: int) -> Lineage:
    say("2. ASK  where did that answer come from?\n")
    lineage = trail.lineage()
    assert isinstance(lineage, Lineage)  # noqa: S101  # Trail.lineage_type
    graph = trail.graph()
    retrieved = len(list(graph.of("artifact", "document")))
    sources = lineage.sources()
    rows = [
        [s.name, s.basis, f"{sum(q.end - q.start for q in s.quotations)} characters"]
        for s in sources
    ]
    say(_indented(table(["SOURCE", "BASIS", "QUOTED IN THE ANSWER"], rows, width=width - 3)))
    reached = sum(len(s.documents) for s in sources)
    say(f"\n   {retrieved} passages were retrieved, {reached} reached the model.\n")
    text = trail.text(lineage.focus, purpose=PURPOSE)
    quotes = [(s.name, q) for s in sources for q in s.quotations]
    for name, q in sorted(quotes, key=lambda x: x[1].start - x[1].end)[:QUOTES_SHOWN]:
        said = _wrapped(f"“{text[q.start : q.end]}”", "     ")
        say(f"   {name}, characters {q.document_start} to {q.document_end}:\n     {said}")
    say("\n3. LINEAGE  causes above effects; kinds, names and sizes, but never a text\n")
    say(_indented(lineage.to_text(width=width - 3)) + "\n")
    return lineage


def _ask_agent(trail: Trail, errand: str, say: Say, width: int) -> None:
    agent = next(t for t in trail.runs() if t.name == "ManualAgent")
    say(f"4. AGENT  asked:    {ERRAND}")
    say(f"          answered: {_wrapped(errand, '                    ')}\n")
    graph = trail.lineage(agent).graph
    steps = [graph.nodes[i] for i in in_order(graph) if graph.nodes[i].kind in STEPS_SHOWN]
    rows = [[n.kind.replace("_", " "), n.label, n.status] for n in steps]
    say(_indented(table(["STEP OR PART", "WHAT", "STATUS"], rows, width=width - 3)))
    say(f"\n   sources: {', '.join(s.name for s in trail.sources(agent))}\n")


def _ask_index(trail: Trail, lookup: str, say: Say, width: int) -> None:
    query = next(t for t in trail.runs() if t.name == "RetrieverQueryEngine.query")
    say(f"5. LLAMAINDEX  asked:    {LOOKUP}")
    say(f"               answered: {_wrapped(lookup, '                         ')}\n")
    sources = trail.sources(query)
    rows = [[s.name, s.basis, len(s.quotations)] for s in sources]
    say(_indented(table(["SOURCE", "BASIS", "QUOTATIONS"], rows, width=width - 3)))
    page = sources[0].name
    reached = ", ".join(t.name for t in trail.impact(page).reached)
    say(f"\n   {page} reached, in both frameworks: {reached}\n")


def _hand_on(lineage: Lineage, document: Path, picture: Path, say: Say) -> None:
    lineage.to_json(document)
    lineage.to_svg(picture)
    nodes, links = len(lineage.graph.nodes), len(lineage.graph.edges)
    say(
        f"6. HAND ON  {document.name}: {nodes} nodes, {links} links, no texts;"
        f" {picture.name}: the same as a picture\n"
    )


def _who_read(trail: Trail, say: Say, width: int) -> None:
    say("7. WHO READ  each reading was committed to the log before anything was opened\n")
    rows = [[clock(a.at_us), a.actor, a.purpose, a.what] for a in trail.accesses()]
    say(_indented(table(["AT (UTC)", "READER", "PURPOSE", "OPENED"], rows, width=width - 3)) + "\n")


def _prove(
    database: Path, lineage: Lineage, folder: Path, say: Say
) -> tuple[bool, tuple[str, ...]]:
    say("8. VERIFY  is the record still what was written?\n")
    with open_trail(database) as trail:
        report = trail.verify()
    say(_report(report) + "\n")
    quoted = next(s for s in lineage.sources() if s.quotations)
    document = lineage.graph.nodes[quoted.quotations[0].document]
    forged = forge(database, document, folder)
    say(
        f"9. FORGE  in a copy, change one byte of the sealed document {document.label}:"
        f" 0x{forged.before:02x} to 0x{forged.after:02x} at offset {forged.offset}\n"
    )
    with open_trail(forged.path) as trail:
        accused = trail.verify()
    say(_report(accused) + "\n")
    findings = tuple(f"{f.place}: {f.sentence}" for f in accused.findings)
    return bool(report), () if accused else findings


def _report(report: Report) -> str:
    first = repr(report).partition("\n")[0].strip("<>").removeprefix("Report ")
    return _indented(f"{first}\n{report.table()}" if report.findings else first)


def _indented(text: str) -> str:
    return textwrap.indent(text, "   ")


def _wrapped(text: str, begin: str) -> str:
    return textwrap.fill(
        text, 96, initial_indent=begin, subsequent_indent=begin, break_on_hyphens=False
    ).lstrip()
