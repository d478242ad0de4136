"""Where a new artifact came from, as far as its content can say.

A leaf run that transforms (a model, a tool, a retriever) explains what it returns by what it was
given; that needs no edge of its own. Glue (a template, a lambda, the code of a node) is explained
by content: the same text, or text that stands in it. What is found that way makes an artifact
*exact*: lineage walks the edges found and no others. Only where nothing is found does the shape of
the chain speak, and the reader says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from provkeep.model.records import BASIS_CODE, DERIVED
from provkeep.recording.containment import MIN_TEXT, Target, short_in
from provkeep.recording.parts import MAKERS, Artifact, Run, common_depth

MAX_CANDIDATES: Final = 2_000  # texts probed for one new text
MAX_SHORT_HITS: Final = 3  # a short string that stands more often says nothing
SHORT_CHARS: Final = 2
EXCERPT_PERMILLE: Final = 500  # share of a new text that must stand in a longer one
ROPE_CHARS: Final = 64  # shorter runs are written out rather than referred to
GROUNDS: Final = frozenset({"document", "tool_result"})

Write = Callable[[list[Any]], None]
Piece = tuple[int, int, Artifact, int, int]  # target start, end, cause, its start, end


class Explainer:
    """Finds the derivations of one trace's artifacts and writes them as entries."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._by_text: dict[str, list[Artifact]] = {}
        self._grounds: list[Artifact] = []  # documents and tool results of the whole trace

    def register(self, artifact: Artifact) -> None:
        """Make an artifact's text known to later ones."""
        if artifact.text is not None:
            self._by_text.setdefault(artifact.text, []).append(artifact)
            if artifact.kind in GROUNDS:
                self._grounds.append(artifact)

    def link(
        self,
        cause: Artifact,
        effect: Artifact,
        basis: str,
        coverage: int = -1,
        spans: Iterable[tuple[int, int, int, int]] = (),
    ) -> None:
        """Write one ``derived`` edge."""
        effect.causes.append(cause)
        flat = [n for span in spans for n in span]
        entry: list[Any] = [DERIVED, cause.number, effect.number, BASIS_CODE[basis]]
        if coverage >= 0 or flat:
            entry += [coverage, flat]
        self._write(entry)

    def explain(self, artifact: Artifact, run: Run | None, *, out: bool) -> list[Piece]:
        """Find what a new artifact's content came from; return its verbatim pieces.

        Args:
            artifact: just made, not yet registered.
            run: who made it: the run that returned it, or the one whose code passed it on.
            out: it was returned, rather than passed to a child.
        """
        text = artifact.text
        if run is None or text is None:
            return []
        leaf = out and not run.children
        if leaf and run.kind in MAKERS:
            if run.kind == "model":
                self._quote(artifact, run)
            return []
        same = self._same(artifact, run, leaf)
        if same:
            for cause in same:
                self.link(cause, artifact, "content")
            artifact.exact = True
            return [(0, len(text), same[-1], 0, len(text))]
        candidates = list(self._candidates(run, leaf))[:MAX_CANDIDATES]
        pieces = self._contained(artifact, candidates)
        if not artifact.causes and not leaf:
            known = {c.number for c in candidates}
            others = [g for g in self._grounds if g.number not in known]
            pieces = self._contained(artifact, others[-MAX_CANDIDATES:])
        artifact.exact = bool(artifact.causes)
        return pieces

    def _same(self, artifact: Artifact, run: Run, leaf: bool) -> list[Artifact]:
        """The nearest artifacts with the very same text; all of them where they are equally near."""
        found = self._by_text.get(artifact.text or "")
        if not found:
            return []
        if leaf:
            given = run.given()
            fits = [a for a in found if a.number in given]
        else:
            fits = found
        if len(fits) < 2:
            return fits
        depths = [common_depth(a.made_by, run) for a in fits]
        best = max(depths)
        near = [a for a, depth in zip(fits, depths, strict=True) if depth == best]
        alike = [a for a in near if a.kind == "document"]
        return alike if alike and near[-1].kind == "document" else near[-1:]

    def _candidates(self, run: Run, leaf: bool) -> Iterator[Artifact]:
        seen: set[int] = set()
        begin = list(run.used)
        if not leaf:
            for child in run.children:
                begin.extend(child.outs)
        for start in begin:
            for artifact in start.leaves():
                if artifact.number not in seen:
                    seen.add(artifact.number)
                    if artifact.text is not None:
                        yield artifact

    def _contained(self, artifact: Artifact, candidates: list[Artifact]) -> list[Piece]:
        text = artifact.text or ""
        target = Target(text)
        pieces: list[Piece] = []
        longer: list[Artifact] = []
        for cause in candidates:
            theirs = cause.text or ""
            if len(theirs) < MIN_TEXT:
                if len(theirs) >= SHORT_CHARS or theirs.isdigit():
                    hits = short_in(text, theirs)
                    if 0 < len(hits) <= MAX_SHORT_HITS:
                        self.link(cause, artifact, "contained", 1000, _flat(hits))
                continue
            if len(theirs) > len(text):
                longer.append(cause)
            found = target.contained(theirs)
            if found is None:
                continue
            spans = _flat(found.spans)
            self.link(cause, artifact, "contained", found.coverage_permille, spans)
            if found.verbatim:
                pieces.extend(
                    (s[0], s[1], cause, s[2], s[3]) for s in spans if s[1] - s[0] >= ROPE_CHARS
                )
        if not artifact.causes and len(text) >= MIN_TEXT:
            for cause in longer:
                spans = _flat(target.quotations(cause.text or ""))
                inside = sum(end - start for start, end, _, _ in spans)
                if inside * 1000 >= EXCERPT_PERMILLE * len(text):
                    self.link(cause, artifact, "contained", -1, spans)
        return pieces

    def _quote(self, answer: Artifact, run: Run) -> None:
        """Which spans of a model's answer stand in a document or tool result it was given."""
        target: Target | None = None
        for ground in grounds_of(run.used):
            if target is None:
                target = Target(answer.text or "")
            spans = target.quotations(ground.text or "")
            if spans:
                self.link(ground, answer, "contained", -1, _flat(spans))


def _flat(spans: Iterable[Any]) -> list[tuple[int, int, int, int]]:
    return [(s.target_start, s.target_end, s.source_start, s.source_end) for s in spans]


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
        if here.number in seen:
            continue
        seen.add(here.number)
        yield here
        stack.extend(causes_of(here))


def grounds_of(used: list[Artifact]) -> list[Artifact]:
    """Documents and tool results upstream of what a run was given, oldest first."""
    found = [a for a in upstream(used) if a.kind in GROUNDS and a.text]
    found.sort(key=lambda a: a.number)
    return found


def rope(text: str, pieces: list[Piece]) -> list[Any] | None:
    """Write a text as pieces of other artifacts and what stands between them; None if none fit."""
    if not pieces:
        return None
    out: list[Any] = []
    at = 0
    for start, end, cause, theirs, their_end in sorted(pieces, key=lambda p: (p[0], -p[1])):
        if start < at:
            continue
        if start > at:
            out.append(text[at:start])
        out.append([cause.number, theirs, their_end])
        at = end
    if at < len(text):
        out.append(text[at:])
    return out
