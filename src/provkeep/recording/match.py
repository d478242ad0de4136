"""One new text against the texts it may be made of.

Texts compete for its characters: what stands in it only where a better match stands already (a
chunk's overlap with the chunk that was used, a word that the question says too) is no cause of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any, Final

from provkeep.model.values import Part
from provkeep.recording.containment import MIN_TEXT, Containment, Span, Target, short_in
from provkeep.recording.parts import Artifact

MAX_CANDIDATES: Final = 2_000  # texts probed for one new text
MAX_SHORT_HITS: Final = 3  # a short string that stands more often says nothing
DENSE: Final = 20  # unless it is at least one in so many characters
SHORT_CHARS: Final = 2
WHOLE_BLOCK: Final = 512  # a verbatim block this long need not be read again for near matches
LEAST_FREE: Final = 24  # characters not yet explained that are worth another look
FULL_PERMILLE: Final = 950
PART_PERMILLE: Final = 200
PART_CHARS: Final = 120
NEAR_TIE: Final = 800  # permille of a handed text's part that what one's own steps returned needs
TITLE_CHARS: Final = 8  # shorter metadata is not recognised
ROPE_CHARS: Final = 64  # shorter runs are written out rather than referred to

_CUT: Final = "\n\nhere5a block1was7cut2out\n\n"  # words that no text has in this order

Spans = list[tuple[int, int, int, int]]  # target start, end, source start, end
Piece = tuple[int, int, Artifact, int, int]  # target start, end, cause, its start, end
Link = Callable[..., None]  # (cause, effect, basis, coverage, spans)
Claim = tuple[bool, int, str, Containment, Spans]  # all of it; characters here; the text
Excerpt = tuple[int, str, Spans]  # characters, text, spans
_strength = itemgetter(0, 1)


class Match:
    """What a new text is made of, linked as it is found.

    Args:
        link: writes an edge.
        artifact: the new one.
        text: of it.
        candidates: what it may be made of.
    """

    def __init__(
        self, link: Link, artifact: Artifact, text: str, candidates: Iterable[Artifact]
    ) -> None:
        self._link, self._artifact, self._text = link, artifact, text
        self._target = Target(text)
        self._near: Remainder
        self._covered = bytearray(len(text))  # 1 for each character that is explained
        self._some = False
        self._seen: dict[str, list[Artifact]] = {}
        self.pieces: list[Piece] = []
        documents: list[Artifact] = []
        for cause in candidates:
            for theirs in cause.texts():
                if theirs in self._seen:
                    self._seen[theirs].append(cause)
                else:
                    self._seen[theirs] = [cause]
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
            known = set(artifact.causes)
            self._titles([d for d in documents if d not in known])
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
            if theirs not in self._seen and (self._is_new(theirs.strip()) or alone):
                found.setdefault(theirs, []).append(ground)
        self._seen.update(found)
        self._long(found)

    def _is_new(self, theirs: str) -> bool:
        """Does it stand here where something is not explained yet?"""
        at = self._text.find(theirs) if theirs else -1
        while at >= 0:
            end = at + len(theirs)
            if self._covered.find(0, at, end) >= 0:
                return True
            at = self._text.find(theirs, end)
        return False

    def _long(self, texts: Iterable[str]) -> tuple[list[str], list[str]]:
        """Accept the longer texts that stand here; return the short ones and those that do not."""
        claims: list[Claim] = []
        short: list[str] = []
        rest: list[str] = []
        handed: set[str] = set()  # of these, a part stands here
        for theirs in texts:
            if len(theirs) < MIN_TEXT:
                short.append(theirs)
            elif found := self._target.verbatim(theirs):
                claims.append(_claim(theirs, found, spans_of(found.spans)))
            else:
                (rest if len(theirs.strip()) >= MIN_TEXT else short).append(theirs)
        if rest:
            explained = bytearray(self._covered)
            for *_, spans in claims:
                _mark(explained, spans)
            near = self._near = Remainder(self._text, explained)
            others, rest = rest, []
            for theirs in others:
                if (found := near.contained(theirs)) is None:
                    rest.append(theirs)
                    continue
                full, chars, _, _, spans = _claim(theirs, found, near.places(found.spans))
                if not full:
                    if self._is_own(theirs):
                        chars = chars * 1000 // NEAR_TIE
                    else:
                        handed.add(theirs)
                claims.append((full, chars, theirs, found, spans))
        if len(claims) > 1:
            claims.sort(key=_strength, reverse=True)
        own = self._quoted([t for t in rest if self._is_own(t)]) if handed else []
        accepted: set[tuple[bool, bool, tuple[tuple[int, int], ...]]] = set()
        for full, chars, theirs, found, spans in claims:
            if own and theirs in handed and _within(own, spans) * 1000 >= chars * NEAR_TIE:
                self._take(own)
                own = []
            # Nothing tells candidates apart that are equal in this.
            equal = (full, theirs in handed, tuple([s[:2] for s in spans]))
            if equal not in accepted:
                if self._some and not self._adds(full, len(theirs), spans):
                    continue
                accepted.add(equal)
            self._accept(theirs, found.coverage_permille, spans)
            cause = self._seen[theirs][-1]
            if found.verbatim and cause.text is not None:
                for start, end, begin, stop in spans:
                    if end - start >= ROPE_CHARS:
                        self.pieces.append((start, end, cause, begin, stop))
        return short, rest

    def _is_own(self, theirs: str) -> bool:
        """Did a step inside the run that made the new text return this, rather than be handed it?

        A text that was made of the same documents elsewhere holds the same parts, and more.
        """
        run = self._artifact.made_by
        if run is None:
            return False
        makers = [cause.made_by for cause in self._seen[theirs]]
        return any(m is not None and m is not run and m.inside(run) for m in makers)

    def _adds(self, full: bool, size: int, spans: Spans) -> bool:
        """Does it stand where no better match does?"""
        free = self._free_in(spans)
        if full:
            return 2 * free >= size
        return free >= PART_CHARS or 1000 * free >= PART_PERMILLE * size

    def _free_in(self, spans: Spans) -> int:
        count = self._covered.count
        return sum([count(0, s[0], s[1]) for s in spans])

    def _accept(self, theirs: str, coverage: int, spans: Spans) -> None:
        for cause in self._seen[theirs]:
            self._link(cause, self._artifact, "contained", coverage, spans)
        self._cover(spans)

    def _cover(self, spans: Spans) -> None:
        self._some = True
        _mark(self._covered, spans)

    def _short(self, theirs: str) -> None:
        if len(theirs) < SHORT_CHARS and not theirs.isdigit():
            return
        spans = [s for s in spans_of(short_in(self._text, theirs)) if self._free_in([s])]
        few = len(spans) <= MAX_SHORT_HITS or DENSE * len(spans) * len(theirs) >= len(self._text)
        if spans and few:
            self._accept(theirs, 1000, spans)

    def _excerpts(self, rest: list[str]) -> None:
        """Short excerpts of long texts, in what is not explained yet."""
        self._take(self._quoted(rest))

    def _quoted(self, rest: list[str]) -> list[Excerpt]:
        found: list[Excerpt] = []
        for theirs in rest:
            spans = [
                s
                for s in self._near.places(self._near.quotations(theirs))
                if 2 * self._free_in([s]) >= s[1] - s[0]
            ]
            chars = self._free_in(spans)
            if chars >= LEAST_FREE or (chars and 2 * chars >= len(self._text)):
                found.append((chars, theirs, spans))
        found.sort(key=self._weight, reverse=True)
        return found

    def _weight(self, excerpt: Excerpt) -> int:
        chars, theirs, _ = excerpt
        return chars * 1000 // NEAR_TIE if self._is_own(theirs) else chars

    def _take(self, found: list[Excerpt]) -> None:
        accepted: set[tuple[bool, tuple[tuple[int, int], ...]]] = set()
        for chars, theirs, spans in found:  # nothing tells those apart that are equal in this
            equal = self._is_own(theirs), tuple([(s[0], s[1]) for s in spans])
            if equal in accepted or 2 * self._free_in(spans) >= chars:
                accepted.add(equal)
                self._accept(theirs, -1, spans)

    def _titles(self, documents: list[Artifact]) -> None:
        """A document of which only the metadata was written out, such as its title."""
        values: dict[str, list[Artifact]] = {}
        for document in documents:
            for value in _metadata(document):
                values.setdefault(value, []).append(document)
        for value, holders in values.items():
            spans = [s for s in spans_of(short_in(self._text, value)) if self._free_in([s])]
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


class Remainder(Target):
    """A text without the long blocks that are explained, to be compared with what is only near.

    A prompt is mostly the documents that stand in it; whether a question stands there too, more or
    less, is decided on what is left.
    """

    def __init__(self, text: str, explained: bytearray) -> None:
        """Leave out the blocks of ``text`` that are marked as explained."""
        self._pieces: list[tuple[int, int]] = []  # where a piece starts here, and how far it moved
        kept: list[str] = []
        at = here = 0
        begin = explained.find(1)
        while begin >= 0:
            end = explained.find(0, begin)
            end = len(text) if end < 0 else end
            if end - begin >= WHOLE_BLOCK:
                self._pieces.append((here, at - here))
                kept.append(text[at:begin])
                here += begin - at + len(_CUT)
                at = end
            begin = explained.find(1, end)
        self._pieces.append((here, at - here))
        super().__init__(_CUT.join([*kept, text[at:]]) if at else text)

    def places(self, spans: Iterable[Span]) -> Spans:
        """Spans in the whole text of what was found here."""
        found: Spans = []
        for start, end, begin, stop in spans_of(spans):
            move = next(m for here, m in reversed(self._pieces) if here <= start)
            found.append((start + move, end + move, begin, stop))
        return found


def _mark(marks: bytearray, spans: Spans) -> None:
    for start, end, *_ in spans:
        marks[start:end] = b"\1" * (end - start)


def _claim(theirs: str, found: Containment, spans: Spans) -> Claim:
    full = found.coverage_permille >= FULL_PERMILLE
    return full, _chars(spans), theirs, found, spans


def _metadata(artifact: Artifact) -> Iterator[str]:
    """Strings of a document's metadata that say which document it is: titles, names, addresses."""
    fields = artifact.value.fields if type(artifact.value) is Part else {}
    metadata = fields.get("metadata")
    if artifact.kind == "document" and type(metadata) is dict:
        for value in metadata.values():
            if type(value) is str and len(value) >= TITLE_CHARS and not value.isalpha():
                yield value


def _chars(spans: Spans) -> int:
    return sum([s[1] - s[0] for s in spans])


def _within(found: list[Excerpt], spans: Spans) -> int:
    """How many characters of these spans the excerpts explain."""
    marks = bytearray(max([s[1] for s in spans]))
    for _, _, theirs in found:
        for start, end, *_ in theirs:
            end = min(end, len(marks))
            marks[start:end] = b"\1" * (end - start)
    return sum([marks.count(1, s[0], s[1]) for s in spans])


def spans_of(spans: Iterable[Any]) -> Spans:
    """Spans as entries spell them."""
    return [(s.target_start, s.target_end, s.source_start, s.source_end) for s in spans]


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
