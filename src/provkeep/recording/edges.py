"""Where a new artifact came from, as far as its content can say.

A leaf run that transforms (a model, a tool, a retriever) explains what it returns by what it was
given; that needs no edge of its own. Glue (a template, a lambda, the code of a node) is explained
by content: the same text, or text that stands in it. What is found that way makes an artifact
*exact*: lineage walks the edges found and no others. Only where nothing is found does the shape of
the chain speak, and the reader says so.

Texts compete for the characters of a new one: what stands in it only where a better match stands
already (a chunk's overlap with the chunk that was used, a word that the question says too) is no
cause of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from provkeep.model.records import BASIS_CODE, DERIVED
from provkeep.model.values import Part
from provkeep.recording.containment import MIN_TEXT, Containment, Target, short_in
from provkeep.recording.parts import MAKERS, Artifact, Run

MAX_CANDIDATES: Final = 2_000  # texts probed for one new text
MAX_ELSEWHERE: Final = 500  # documents and tool results of other branches that are probed
MAX_SHORT_HITS: Final = 3  # a short string that stands more often says nothing
DENSE: Final = 20  # unless it is at least one in so many characters
SHORT_CHARS: Final = 2
LEAST_FREE: Final = 24  # characters not yet explained that are worth another look
FULL_PERMILLE: Final = 950
PART_PERMILLE: Final = 200
PART_CHARS: Final = 120
TITLE_CHARS: Final = 8  # shorter metadata is not recognised
ROPE_CHARS: Final = 64  # shorter runs are written out rather than referred to
GROUNDS: Final = frozenset({"document", "tool_result"})

Write = Callable[[list[Any]], None]
Spans = list[tuple[int, int, int, int]]  # target start, end, source start, end
Piece = tuple[int, int, Artifact, int, int]  # target start, end, cause, its start, end


class _Claim(NamedTuple):
    """That a text stands in the new one."""

    full: bool
    chars: int  # of the new text
    text: str
    found: Containment
    spans: Spans


class Explainer:
    """Finds the derivations of one trace's artifacts and writes them as entries."""

    def __init__(self, write: Write, wake: Callable[[Artifact], None]) -> None:
        self._write, self._wake = write, wake
        self.by_text: dict[str, list[Artifact]] = {}
        self._grounds: list[Artifact] = []  # documents and tool results of the whole trace

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
            self._wake(cause)
        effect.causes.append(cause)
        entry: list[Any] = [DERIVED, cause.number, effect.number, BASIS_CODE[basis]]
        if coverage >= 0 or spans:
            entry += [coverage, [n for span in spans for n in span]]
        self._write(entry)

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
            return _Match(self, artifact, text, shown).pieces if shown else []
        if same:
            for cause in same:
                self.link(cause, artifact, "content")
            artifact.exact = True
            last = same[-1]
            return [(0, len(text), last, 0, len(text))] if last.text is not None else []
        match = _Match(self, artifact, text, [*shown, *_candidates(run, leaf)])
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
            spans = _flat(target.quotations(ground.text or ""))
            if spans:
                self.link(ground, answer, "contained", -1, spans)


class _Match:
    """One new text against the texts it may be made of."""

    def __init__(
        self, owner: Explainer, artifact: Artifact, text: str, candidates: Iterable[Artifact]
    ) -> None:
        self._link, self._artifact, self._text = owner.link, artifact, text
        self._target = Target(text)
        self._covered = bytearray(len(text))
        self._seen: dict[str, list[Artifact]] = {}
        self.pieces: list[Piece] = []
        documents: list[Artifact] = []
        for cause in candidates:
            for theirs in cause.texts():
                self._seen.setdefault(theirs, []).append(cause)
            if cause.kind == "document":
                documents.append(cause)
            if len(self._seen) >= MAX_CANDIDATES:
                break
        short, rest = self._long(self._seen)
        for theirs in sorted(short, key=len, reverse=True):
            self._short(theirs)
        if rest and self.free() >= LEAST_FREE:
            self._excerpts(rest)
        if documents and self.free() >= TITLE_CHARS:
            self._titles([d for d in documents if d not in artifact.causes])
        if not artifact.causes and len(text) < MIN_TEXT:
            self._inside([*rest, *short])

    def free(self) -> int:
        """Characters that nothing explains yet."""
        return self._covered.count(0)

    def elsewhere(self, grounds: list[Artifact]) -> None:
        """What glue has from outside its sight, such as a variable it shares with another step."""
        found: dict[str, list[Artifact]] = {}
        alone = not self._artifact.causes
        for ground in grounds:
            theirs = ground.text or ""
            if theirs not in self._seen and (alone or theirs.strip() in self._text):
                found.setdefault(theirs, []).append(ground)
        self._seen.update(found)
        self._long(found)

    def _long(self, texts: Iterable[str]) -> tuple[list[str], list[str]]:
        """Accept the longer texts that stand here; return the short ones and those that do not."""
        claims: list[_Claim] = []
        short: list[str] = []
        rest: list[str] = []
        for theirs in texts:
            if len(theirs) < MIN_TEXT:
                short.append(theirs)
                continue
            found = self._target.contained(theirs)
            if found is None:
                (rest if len(theirs.strip()) >= MIN_TEXT else short).append(theirs)
                continue
            spans = _flat(found.spans)
            chars = sum(s[1] - s[0] for s in spans)
            full = found.coverage_permille >= FULL_PERMILLE
            claims.append(_Claim(full, chars, theirs, found, spans))
        if len(claims) > 1:
            claims.sort(key=lambda c: (c.full, c.chars), reverse=True)
        accepted: set[tuple[tuple[int, int], ...]] = set()
        for claim in claims:
            places = tuple([(s[0], s[1]) for s in claim.spans])
            if accepted and places not in accepted and not self._adds(claim):
                continue
            accepted.add(places)
            self._accept(claim.text, claim.found.coverage_permille, claim.spans)
            cause = self._seen[claim.text][-1]
            if claim.found.verbatim and cause.text is not None:
                self.pieces.extend(
                    (s[0], s[1], cause, s[2], s[3])
                    for s in claim.spans
                    if s[1] - s[0] >= ROPE_CHARS
                )
        return short, rest

    def _adds(self, claim: _Claim) -> bool:
        """Does it stand where no better match does?"""
        free, size = self._free_in(claim.spans), len(claim.text.strip())
        if claim.full:
            return 2 * free >= size
        return free >= PART_CHARS or 1000 * free >= PART_PERMILLE * size

    def _free_in(self, spans: Spans) -> int:
        return sum(self._covered.count(0, s[0], s[1]) for s in spans)

    def _accept(self, theirs: str, coverage: int, spans: Spans) -> None:
        for cause in self._seen[theirs]:
            self._link(cause, self._artifact, "contained", coverage, spans)
        self._cover(spans)

    def _cover(self, spans: Spans) -> None:
        for start, end, *_ in spans:
            self._covered[start:end] = b"\1" * (end - start)

    def _short(self, theirs: str) -> None:
        if len(theirs) < SHORT_CHARS and not theirs.isdigit():
            return
        spans = [s for s in _flat(short_in(self._text, theirs)) if self._free_in([s])]
        few = len(spans) <= MAX_SHORT_HITS or DENSE * len(spans) * len(theirs) >= len(self._text)
        if spans and few:
            self._accept(theirs, 1000, spans)

    def _excerpts(self, rest: list[str]) -> None:
        """Short excerpts of long texts, in what is not explained yet."""
        found: list[tuple[int, str, Spans]] = []
        for theirs in rest:
            spans = [
                s
                for s in _flat(self._target.quotations(theirs))
                if 2 * self._free_in([s]) >= s[1] - s[0]
            ]
            chars = self._free_in(spans)
            if chars >= LEAST_FREE or (chars and 2 * chars >= len(self._text)):
                found.append((chars, theirs, spans))
        found.sort(key=lambda f: f[0], reverse=True)
        accepted: set[tuple[tuple[int, int], ...]] = set()
        for chars, theirs, spans in found:
            places = tuple([(s[0], s[1]) for s in spans])
            if places in accepted or 2 * self._free_in(spans) >= chars:
                accepted.add(places)
                self._accept(theirs, -1, spans)

    def _titles(self, documents: list[Artifact]) -> None:
        """A document of which only the metadata was written out, such as its title."""
        values: dict[str, list[Artifact]] = {}
        for document in documents:
            for value in _metadata(document):
                values.setdefault(value, []).append(document)
        for value, holders in values.items():
            spans = [s for s in _flat(short_in(self._text, value)) if self._free_in([s])]
            if spans and len(holders) == 1 and holders[0] not in self._artifact.causes:
                told = {v for cause in self._artifact.causes for v in _metadata(cause)}
                if value not in told:
                    self._link(holders[0], self._artifact, "contained")
                    self._cover(spans)

    def _inside(self, texts: list[str]) -> None:
        """A short text that stands in a longer one: a word of an answer, a field of a record."""
        short = self._text
        if len(short) < SHORT_CHARS and not short.isdigit():
            return
        for theirs in texts:
            if len(theirs) > len(short):
                hits = short_in(theirs, short)
                if 0 < len(hits) <= MAX_SHORT_HITS:
                    place = (0, len(short), hits[0].target_start, hits[0].target_end)
                    self._accept(theirs, -1, [place])


def _metadata(artifact: Artifact) -> Iterator[str]:
    """Strings of a document's metadata that say which document it is: titles, names, addresses."""
    fields = artifact.value.fields if type(artifact.value) is Part else {}
    metadata = fields.get("metadata")
    if artifact.kind == "document" and type(metadata) is dict:
        for value in metadata.values():
            if type(value) is str and len(value) >= TITLE_CHARS and not value.isalpha():
                yield value


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


def _flat(spans: Iterable[Any]) -> Spans:
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
