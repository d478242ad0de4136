"""Where a new artifact came from, as far as its content can say.

A leaf run that transforms (a model, a tool, a retriever) explains what it returns by what it was
given; that needs no edge of its own. Glue (a template, a lambda, the code of a node) is explained
by content: the same text, or text that stands in it. What is found that way makes an artifact
*exact*: lineage walks the edges found and no others. Only where nothing is found does the shape of
the chain speak, and the reader says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from provkeep.model.records import BASIS_CODE, DERIVED
from provkeep.recording.containment import Target
from provkeep.recording.match import LEAST_FREE, Match, Piece, Spans, spans_of
from provkeep.recording.parts import MAKERS, Artifact, Run
from provkeep.recording.sheet import Sheet

MAX_ELSEWHERE: Final = 500  # documents and tool results of other branches that are probed
GROUNDS: Final = frozenset({"document", "tool_result"})


class Explainer:
    """Finds the derivations of one trace's artifacts and writes them as entries."""

    def __init__(self, sheet: Sheet) -> None:
        self._sheet = sheet
        self.by_text: dict[str, list[Artifact]] = {}
        self._grounds: list[Artifact] = []  # documents and tool results of the whole trace

    def release(self) -> None:
        """Nothing more will be explained: let go of what it would have been explained by."""
        self.by_text.clear()
        self._grounds.clear()

    def register(self, artifact: Artifact) -> None:
        """Make an artifact's text known to later ones."""
        for text in artifact.texts():
            self.by_text.setdefault(text, []).append(artifact)
        if artifact.kind in GROUNDS and artifact.text is not None:
            self._grounds.append(artifact)

    def link(
        self,
        cause: Artifact,
        effect: Artifact,
        basis: str,
        coverage: int = -1,
        spans: Spans = (),  # type: ignore[assignment]  # an empty default
    ) -> None:
        """Write one ``derived`` edge."""
        if cause.number < 0:
            self._sheet.wake(cause)
        effect.causes.append(cause)
        entry: list[Any] = [DERIVED, cause.number, effect.number, BASIS_CODE[basis]]
        if coverage >= 0 or spans:
            entry += [coverage, [n for span in spans for n in span]]
        self._sheet.entries.append(entry)

    def explain(
        self,
        artifact: Artifact,
        run: Run | None,
        *,
        out: bool,
        same: list[Artifact],
        shown: Iterable[Artifact] = (),
    ) -> list[Piece]:
        """Find what a new artifact's content came from; return its verbatim pieces.

        Args:
            artifact: just made, not yet registered.
            run: who made it: the run that returned it, or the one whose code passed it on.
            out: it was returned, rather than passed to a child.
            same: what has the very same text and can be meant.
            shown: what it may hold besides: a tool's artifact.
        """
        text = artifact.text
        if run is None or text is None:
            return []
        leaf = out and not run.children
        if leaf and run.kind in MAKERS:
            if run.kind == "model":
                self._quote(artifact, text, run)
            return Match(self.link, artifact, text, shown).pieces if shown else []
        if same:
            for cause in same:
                self.link(cause, artifact, "content")
            artifact.exact = True
            last = same[-1]
            return [(0, len(text), last, 0, len(text))] if last.text is not None else []
        match = Match(self.link, artifact, text, [*shown, *_candidates(run, leaf)])
        if not leaf and self._grounds and match.free() >= LEAST_FREE:
            match.elsewhere(self._grounds[-MAX_ELSEWHERE:])
        artifact.exact = bool(artifact.causes)
        return match.pieces

    def _quote(self, answer: Artifact, text: str, run: Run) -> None:
        """Which spans of a model's answer stand in a document or tool result it was given."""
        target: Target | None = None
        for ground in grounds_of(run.used):
            if target is None:
                target = Target(text)
            spans = spans_of(target.quotations(ground.text or ""))
            if spans:
                self.link(ground, answer, "contained", -1, spans)


def _candidates(run: Run, leaf: bool) -> Iterator[Artifact]:
    """What the code of a run has by now: its inputs and what its children returned."""
    seen: set[Artifact] = set()
    begin = run.used if leaf else [*run.used, *(a for child in run.children for a in child.outs)]
    for start in begin:
        if start not in seen:
            for artifact in start.leaves():
                if artifact not in seen:
                    seen.add(artifact)
                    yield artifact


def causes_of(artifact: Artifact) -> list[Artifact]:
    """Direct causes of an artifact as lineage walks them."""
    out = artifact.causes + artifact.members
    run = artifact.made_by
    if run is None or artifact.exact:
        return out
    out = out + run.used
    for child in run.children:
        out.extend(a for a in child.outs if a.number < artifact.number)
    return out


def upstream(start: Iterable[Artifact]) -> Iterator[Artifact]:
    """Everything that ``start`` came from within its trace, itself included."""
    stack, seen = list(start), set()
    while stack:
        here = stack.pop()
        if here in seen:
            continue
        seen.add(here)
        yield here
        stack.extend(causes_of(here))


def grounds_of(used: list[Artifact]) -> list[Artifact]:
    """Documents and tool results upstream of what a run was given, oldest first."""
    found = [a for a in upstream(used) if a.kind in GROUNDS and a.text]
    found.sort(key=lambda a: a.number)
    return found
