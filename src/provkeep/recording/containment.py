"""Which characters of a target text come from which characters of a source text.

A target is a prompt, a context string or an answer; a source is a document, a tool result or an
earlier string. Pure functions without I/O, cheap enough for the recorder's writer thread: a source
that stands verbatim in its target costs a few ``str.find`` calls; otherwise runs of words are
looked up in an index of the target's words, built once per ``Target``.

What is found: text that was indented, quoted, numbered, re-wrapped, changed in case, escaped for
JSON, Python or HTML, cut off, or split by an inserted line. What is not: paraphrase, translation,
and a short excerpt of a long source. Of texts beyond the limits in ``tokens`` only the front is
examined, unless they match verbatim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from typing import Final

from provkeep.recording.tokens import (
    MAX_PLACES,
    SHINGLE_WORDS,
    Index,
    Run,
    TokenCache,
    Tokens,
    has_numbered_lines,
    is_border,
)

MIN_TEXT: Final = 24
"""Characters (without outer whitespace) below which ``contained`` refuses a source."""

MIN_COVERAGE_PERMILLE: Final = 200
MIN_RUN_CHARS: Final = 120
"""``contained`` accepts at this coverage, or when one run of the source is this long."""

RUN_WORDS: Final = 8
"""Shortest run that counts towards containment; half the words of a source shorter than twice it,
but never fewer than ``SHINGLE_WORDS``."""

QUOTATION_WORDS: Final = 5
QUOTATION_CHARS: Final = 20
WHOLE_ANSWER_CHARS: Final = 8
"""A shorter answer is a quotation when all of it, at least this long, stands in the source."""

_MAX_SHORT_HITS: Final = 100_000  # places looked at for one short string
_NEARLY_ALL_PERMILLE: Final = 950  # below it, numbered lines are tried without their numbers
_PROBE_CHARS: Final = 32
_TOO_SHORT: Final = 6  # a text this many times shorter than a source holds no fifth of it
_FEW_WORDS: Final = 40  # a source of no more is looked up run by run before an index is made
_PROBES: Final = 16  # words of a source looked for before any text is cut into words
_PROBE_WORD: Final = re.compile("[A-Za-z0-9]{4,}")  # what no escape changes
_LOOKED_AT: Final = 20_000  # characters of a source that probes are taken from

# A gap between runs is compared word by word when it is this short, in this many words of target.
_GAP_WORDS: Final = 32
_GAP_WINDOW_WORDS: Final = 96
_MAX_GAPS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Characters of a target and the characters of a source they come from.

    Half-open ranges in Python code points. The two may differ in length when the target is escaped.
    """

    target_start: int
    target_end: int
    source_start: int
    source_end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Containment:
    """How much of a source stands in a target, and where.

    Attributes:
        coverage_permille: share of the source found in the target, by characters of its words.
        verbatim: every span has the same characters in the target and in the source.
        spans: sorted by ``target_start``, not overlapping in the target. One part of the source may
            have several spans when it stands in the target several times.
    """

    coverage_permille: int
    verbatim: bool
    spans: tuple[Span, ...]


def contained(target: str, source: str) -> Containment | None:
    """Return how ``source`` stands in ``target``, or None when no good part of it does.

    Use ``Target`` to compare one target with several sources.
    """
    return Target(target).contained(source)


def quotations(answer: str, source: str) -> tuple[Span, ...]:
    """Return the spans of ``answer`` whose words stand in ``source``, sorted by their start.

    A quotation is a maximal run of at least 5 words and 20 characters; longer ones win where they
    overlap in the answer. A shorter answer counts when all its words, at least 8 characters, stand
    in the source. A span runs from its first word to its last, without outer punctuation.
    """
    return Target(answer).quotations(source)


def short_in(target: str, short: str) -> tuple[Span, ...]:
    """Return where ``short`` stands in ``target`` verbatim and as whole words, 16 places at most.

    "42" is found in "42 mg" but not in "421", "42.5" or "3,42". That a short string stands
    somewhere proves nothing alone: the caller needs the structure of the trace to support it.
    """
    spans: list[Span] = []
    at = target.find(short) if short else -1
    for _ in range(_MAX_SHORT_HITS):
        if at < 0 or len(spans) == MAX_PLACES:
            break
        end = at + len(short)
        before, after = target[max(0, at - 2) : at][::-1], target[end : end + 2]
        whole = is_border(short[0], before) and is_border(short[-1], after)
        if whole:
            spans.append(
                Span(
                    target_start=at,
                    target_end=end,
                    source_start=0,
                    source_end=len(short),
                )
            )
        at = target.find(short, end if whole else at + 1)
    return tuple(spans)


class Target:
    """A text to be compared with many sources; its words are read once, and only when needed."""

    def __init__(self, text: str) -> None:
        """Take the text; nothing is computed yet."""
        self.text = text

    def verbatim(self, source: str) -> Containment | None:
        """Return how all of ``source`` stands in this text character by character, or None."""
        bare = source.strip()
        if len(bare) < MIN_TEXT or not (spans := _verbatim(self.text, source, bare)):
            return None
        return Containment(coverage_permille=1000, verbatim=True, spans=spans)

    def contained(self, source: str) -> Containment | None:
        """Return how ``source`` stands in this text, or None when no good part of it does."""
        if found := self.verbatim(source):
            return found
        bare = source.strip()
        if len(bare) < MIN_TEXT:
            return None
        if not self._worth_reading(bare):
            return None
        words = _words_of(source)
        if len(words) <= _FEW_WORDS and not self._shares_run(words):
            return None
        coverage, spans = _match(self._index, words)
        if coverage < _NEARLY_ALL_PERMILLE and self._unnumbered is not None:
            other = _match(self._unnumbered, words)
            coverage, spans = other if other[0] > coverage else (coverage, spans)
        if not spans:
            return None
        verbatim = all(
            self.text[span.target_start : span.target_end]
            == source[span.source_start : span.source_end]
            for span in spans
        )
        return Containment(coverage_permille=coverage, verbatim=verbatim, spans=spans)

    def _worth_reading(self, bare: str) -> bool:
        """Could a good part of ``bare`` be in this text? A cheap look before words are read."""
        if len(self.text) < MIN_RUN_CHARS and len(self.text) * _TOO_SHORT < len(bare):
            return False
        words = _PROBE_WORD.findall(bare, 0, _LOOKED_AT)
        if len(words) < _PROBES // 4:
            return all(word.casefold() in self._folded for word in words)
        probes = words[:: max(1, len(words) // _PROBES)]
        found = sum(word.casefold() in self._folded for word in probes)
        short = len(bare) < MIN_RUN_CHARS
        return found * (2 if short else 8) >= len(probes)

    def quotations(self, source: str) -> tuple[Span, ...]:
        """Return the spans of this text whose words stand in ``source``, sorted by their start."""
        answer = self._words
        if not answer or not (words := _words_of(source)):
            return ()
        few = len(answer) < QUOTATION_CHARS  # the places of many words are not worth finding
        chars = answer.ends[-1] - answer.starts[0] if few else QUOTATION_CHARS
        if len(answer) < QUOTATION_WORDS or chars < QUOTATION_CHARS:
            places = words.find(answer, 1) if chars >= WHOLE_ANSWER_CHARS else []
            return _spans(answer, words, [Run(len(answer), at, 0) for at in places])
        if len(words) <= _FEW_WORDS and not self._holds_run(words, QUOTATION_WORDS):
            return ()
        runs = _apart(self._index.runs(words, QUOTATION_WORDS), len(answer), QUOTATION_WORDS)
        return tuple(
            span
            for span in _spans(answer, words, runs)
            if span.target_end - span.target_start >= QUOTATION_CHARS
        )

    def _shares_run(self, source: Tokens) -> bool:
        """Does a run of a short source's words stand here? Sooner said than an index is made."""
        if self._unnumbered is not None:
            return True
        return self._holds_run(source, _least(len(source)))

    def _holds_run(self, source: Tokens, least: int) -> bool:
        return any(self._words.holds(source, at, least) for at in range(len(source) - least + 1))

    @cached_property
    def _words(self) -> Tokens:
        return Tokens(self.text)

    @cached_property
    def _folded(self) -> str:
        return self.text.casefold()

    @cached_property
    def _index(self) -> Index:
        return Index(self._words)

    @cached_property
    def _unnumbered(self) -> Index | None:
        """The index without the numbers that open lines; None when lines are not numbered."""
        if not has_numbered_lines(self.text):
            return None
        return Index(Tokens(self.text, skip_line_numbers=True))


_words_of = TokenCache()


def _verbatim(target: str, source: str, bare: str) -> tuple[Span, ...]:
    """The places of ``source``, else of ``bare`` (the source stripped), character by character."""
    # A piece of the middle is looked for first: missing it is much faster than missing the whole.
    middle = max(0, (len(bare) - _PROBE_CHARS) // 2)
    if len(bare) > len(target) or bare[middle : middle + _PROBE_CHARS] not in target:
        return ()
    wanted, offset = source, 0
    at = target.find(wanted)
    if at < 0 and bare != source:
        wanted, offset = bare, source.index(bare)
        at = target.find(wanted)
    spans: list[Span] = []
    while at >= 0 and len(spans) < MAX_PLACES:
        end = at + len(wanted)
        spans.append(
            Span(
                target_start=at,
                target_end=end,
                source_start=offset,
                source_end=offset + len(wanted),
            )
        )
        at = target.find(wanted, end)
    return tuple(spans)


def _least(count: int) -> int:
    """How many words in a row a source of ``count`` words must share."""
    return min(count, max(SHINGLE_WORDS, min(RUN_WORDS, (count + 1) // 2)))


def _match(index: Index, source: Tokens) -> tuple[int, tuple[Span, ...]]:
    """Coverage in permille and spans of ``source`` by its words; ``(0, ())`` when too little."""
    count = len(source)
    if count < SHINGLE_WORDS:
        runs = [Run(count, 0, at) for at in index.words.find(source)]
    else:
        least = _least(count)
        runs = _apart(index.runs(source, least), len(index.words), least, source_words=count)
        if runs:
            runs += _between(runs, index.words, source)
    if not runs:
        return 0, ()
    covered = _marked(count, ((run.source, run.size) for run in runs))
    chars = sum(_word_chars(source, start, end) for start, end in _stretches(covered, 1))
    coverage = chars * source.examined_permille // _word_chars(source, 0, count)
    longest = max(
        source.ends[run.source + run.size - 1] - source.starts[run.source] for run in runs
    )
    if coverage < MIN_COVERAGE_PERMILLE and longest < MIN_RUN_CHARS:
        return 0, ()
    return coverage, _spans(index.words, source, runs)


def _apart(
    runs: Iterable[Run], target_words: int, least: int, source_words: int | None = None
) -> list[Run]:
    """The runs, cut so that none overlap in the target; earlier ones win.

    With ``source_words``, a run that adds nothing of the source is dropped, unless it is another
    place of a run just as long: a header that all chunks share belongs to each chunk's own place.
    """
    taken = bytearray(target_words)
    told = bytearray(source_words or 0)
    kept: list[Run] = []
    repeats: list[Run] = []
    for run in runs:
        if (cut := _free_part(run, taken, least)) is None:
            continue
        if source_words is not None:
            if told.find(0, cut.source, cut.source + cut.size) < 0:
                repeats.append(cut)
                continue
            told[cut.source : cut.source + cut.size] = b"\1" * cut.size
        taken[cut.target : cut.target + cut.size] = b"\1" * cut.size
        kept.append(cut)
    whole = {(run.size, run.source) for run in kept}
    for run in repeats:
        if (run.size, run.source) in whole and _free_part(run, taken, run.size):
            taken[run.target : run.target + run.size] = b"\1" * run.size
            kept.append(run)
    return kept


def _free_part(run: Run, taken: bytearray, least: int) -> Run | None:
    """The first part of the run whose place in the target is free, if it has ``least`` words."""
    end = run.target + run.size
    start = taken.find(0, run.target, end)
    if start < 0:
        return None
    stop = taken.find(1, start, end)
    size = (end if stop < 0 else stop) - start
    return Run(size, run.source + start - run.target, start) if size >= least else None


def _between(runs: list[Run], target: Tokens, source: Tokens) -> list[Run]:
    """Shorter runs in small gaps of the source, close to the gap's neighbours in the target."""
    after = {run.source + run.size: run for run in reversed(runs)}
    before = {run.source: run for run in reversed(runs)}
    taken = _marked(len(target), ((run.target, run.size) for run in runs))
    covered = _marked(len(source), ((run.source, run.size) for run in runs))
    found: list[Run] = []
    for start, end in list(_stretches(covered, 0))[:_MAX_GAPS]:
        left, right = after.get(start), before.get(end)
        if end - start > _GAP_WORDS:
            continue
        if left is not None:
            low = left.target + left.size
            high = min(low + _GAP_WINDOW_WORDS, right.target if right else len(target))
        elif right is not None:
            low, high = max(0, right.target - _GAP_WINDOW_WORDS), right.target
        else:
            continue
        gap, window = source.words[start:end], target.words[low : max(low, high)]
        least = min(2, end - start) if left and right else 2
        for i, j, size in SequenceMatcher(None, gap, window, autojunk=False).get_matching_blocks():
            if size >= least and taken.find(1, low + j, low + j + size) < 0:
                found.append(Run(size, start + i, low + j))
                taken[low + j : low + j + size] = b"\1" * size
    return found


def _marked(size: int, ranges: Iterable[tuple[int, int]]) -> bytearray:
    """One byte per word, 1 within the ranges (start, length)."""
    marks = bytearray(size)
    for start, length in ranges:
        marks[start : start + length] = b"\1" * length
    return marks


def _stretches(marks: bytearray, mark: int) -> Iterator[tuple[int, int]]:
    """The maximal ranges (start, end) of words with that mark."""
    start = marks.find(mark)
    while start >= 0:
        end = marks.find(1 - mark, start)
        end = len(marks) if end < 0 else end
        yield start, end
        start = marks.find(mark, end)


def _word_chars(words: Tokens, start: int, end: int) -> int:
    """Characters of the words from ``start`` to ``end``, without what stands between them."""
    return sum(words.ends[start:end]) - sum(words.starts[start:end])


def _spans(target: Tokens, source: Tokens, runs: Iterable[Run]) -> tuple[Span, ...]:
    """The runs in characters, sorted by their start in the target."""
    return tuple(
        Span(
            target_start=target.starts[run.target],
            target_end=target.ends[run.target + run.size - 1],
            source_start=source.starts[run.source],
            source_end=source.ends[run.source + run.size - 1],
        )
        for run in sorted(runs, key=lambda run: run.target)
    )
