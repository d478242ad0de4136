"""Words of a text with their places in it, and the runs of words that two texts share.

A prompt template indents, numbers, re-wraps, quotes, JSON-encodes or HTML-escapes what it is
given. The words survive all of that, so containment is decided on words. Escapes are decoded in
place, padded to their own length, so that a word's offset is always an offset in the text as given;
a text and its escaped copy have the same words.
Nothing here reads a clock, a file or a database.
"""

from __future__ import annotations

import html
import re
import threading
import unicodedata
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Final, NamedTuple

SHINGLE_WORDS: Final = 4
"""Words per shingle: the shortest run that is looked up rather than searched for."""

MAX_CHARS: Final = 2_000_000
"""Characters of one text whose words are examined."""

MAX_WORDS: Final = 200_000
"""Words of one text that are examined."""

MAX_PLACES: Final = 16
"""Places of one shingle, or of one text, in a target that are told apart."""

CACHE_CHARS: Final = 3_000_000
"""Characters of texts whose words are kept; about five bytes of memory for each."""

TEXT_CHARS: Final = 200
"""What a text costs besides its characters, in characters: a question is mostly this."""

# What one comparison may cost on hostile input; an ordinary one needs a thousandth of it.
_MAX_CANDIDATES: Final = 200_000
_MAX_COMPARED_WORDS: Final = 4_000_000
_FEW: Final = 4  # shared shingles that are looked for one by one

# Scripts written without spaces: one character is one word. Thai, Lao, Tibetan, Myanmar, Khmer,
# kana, bopomofo, Han and its extensions, half-width kana. Hangul is written with spaces.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u312f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
_FILLER: Final = "\0"  # pads a decoded character to the length of its escape
_IS_UNSPACED: Final = re.compile(rf"[{_UNSPACED}]")
_ASCII_WORD: Final = re.compile(r"[A-Za-z0-9]+")
_WORD: Final = re.compile(
    rf"[{_UNSPACED}]\0*|[^\W_{_UNSPACED}]+(?:\0+[^\W_{_UNSPACED}]*)*", re.UNICODE
)

# A run of backslashes counts as one: text escaped twice, once or never has the same words. Runs are
# matched possessively and from their start only, so that a long one is read once.
_BACKSLASHED: Final = re.compile(
    r"""(?<!\\)(?:
        (?P<blank>(?:\\++[nrtbf"'/])+)
      | \\++u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\++u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})
      | \\++(?:u(?P<u4>[0-9a-fA-F]{4})|x(?P<x2>[0-9a-fA-F]{2})|U(?P<u8>[0-9a-fA-F]{8}))
    )""",
    re.VERBOSE,
)
_ENTITY: Final = re.compile(r"&\0*(?:amp;)*(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,31}\d*);")
_LINE_NUMBER: Final = re.compile(r"^[ \t>|#*\[(\-]*(\d{1,6})(?=[\s.):\]|,\-]|$)", re.MULTILINE)
_MAY_BE_NUMBERED: Final = re.compile(r"(?:\A|\n|\\n)(?:[ \t>|#*\[(\-]|&gt;)*\d")


def _decode_backslashed(match: re.Match[str]) -> str:
    """The escape's character, or blanks, at the escape's own length."""
    size = match.end() - match.start()
    if (blank := match["blank"]) is not None:
        return ("\n" if "n" in blank else " ").ljust(size)
    if match["high"] is not None:
        high, low = int(match["high"], 16), int(match["low"], 16)
        code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
    else:
        code = int(match["u4"] or match["x2"] or match["u8"], 16)
    return (chr(code) if code <= 0x10FFFF else " ").ljust(size, _FILLER)


def _decode_entity(match: re.Match[str]) -> str:
    """The entity's characters at its own length; an unknown name stays as it stands."""
    entity = f"&{match[1]};"
    decoded = html.unescape(entity)
    return match[0] if decoded == entity else decoded.ljust(len(match[0]), _FILLER)


def is_border(edge: str, outside: str) -> bool:
    """Return whether a word ends between ``edge`` and the two characters outwards of it.

    A number does not end at a point or comma that a digit follows.
    """
    if not outside or not (edge.isalnum() or edge == "_"):
        return True
    near = outside[0]
    if _IS_UNSPACED.match(edge) or _IS_UNSPACED.match(near):
        return True
    if near.isalnum() or near == "_" or unicodedata.combining(near):
        return False
    return not (edge.isdigit() and near in ".," and outside[1:].isdigit())


def decoded(text: str) -> str:
    """Return ``text`` with its escapes decoded and every character in its place.

    Undone, once or nested: JSON and Python backslash escapes, HTML entities. The result has the
    length of ``text`` (or ``MAX_CHARS``); a decoded escape is padded with blanks or NUL.
    """
    text = text[:MAX_CHARS]
    if "\\" in text:
        text = _BACKSLASHED.sub(_decode_backslashed, text)
    if "&" in text:
        text = _ENTITY.sub(_decode_entity, text)
    return text


def has_numbered_lines(text: str) -> bool:
    """Return whether two lines or more of ``text``, as given or escaped, seem to open in a number.

    A cheap first look: it may say yes where no line does.
    """
    return len(list(islice(_MAY_BE_NUMBERED.finditer(text[:MAX_CHARS]), 2))) == 2


def _word_pattern(plain: str) -> re.Pattern[str]:
    return _ASCII_WORD if plain.isascii() and _FILLER not in plain else _WORD


class Tokens:
    """The words of one text: hashes of the words, and where each starts and ends.

    A word is known by Python's 64-bit keyed string hash; two different words are taken for the
    same about once in 10**19 comparisons, and only within one process.

    Attributes:
        words: hash of each word, its case folded.
    """

    def __init__(self, text: str, *, skip_line_numbers: bool = False) -> None:
        """Read the words of ``text``; optionally without the number that opens a line."""
        self._text = text
        self._skipped: frozenset[int] = frozenset()
        plain = decoded(text)
        if skip_line_numbers:
            self._skipped = frozenset(m.start(1) for m in _LINE_NUMBER.finditer(plain))
            found = [plain[start:end] for start, end in self._ranges(plain)]
        else:
            found = _word_pattern(plain).findall(plain)[:MAX_WORDS]
        if _FILLER in plain:
            found = [word.replace(_FILLER, "") for word in found]
        self.words = array("q", map(hash, map(str.casefold, found)))

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def starts(self) -> array[int]:
        """Where each word starts, in characters of the text as given."""
        return self._bounds[0]

    @cached_property
    def ends(self) -> array[int]:
        """Where each word ends, exclusive."""
        return self._bounds[1]

    @property
    def examined_permille(self) -> int:
        """Share of the text that was examined: below 1000 past the limits."""
        if len(self._text) <= MAX_CHARS and len(self) + len(self._skipped) < MAX_WORDS:
            return 1000
        return 1000 * (self.ends[-1] if self.ends else 0) // len(self._text)

    @cached_property
    def _bounds(self) -> tuple[array[int], array[int]]:
        # Most sources are not in most targets, so places are found only for those that are.
        starts, ends = array("i"), array("i")
        for start, end in self._ranges(decoded(self._text)):
            starts.append(start)
            ends.append(end)
        return starts, ends

    def _ranges(self, plain: str) -> Iterator[tuple[int, int]]:
        for match in islice(_word_pattern(plain).finditer(plain), MAX_WORDS):
            if match.start() not in self._skipped:
                yield match.span()

    @cached_property
    def shingles(self) -> array[int]:
        """Hash of the ``SHINGLE_WORDS`` words that begin at each word."""
        shifted = [islice(self.words, n, None) for n in range(SHINGLE_WORDS)]
        return array("q", map(hash, zip(*shifted, strict=False)))

    def all_places(self, shingle: int) -> Iterator[int]:
        """At which words a shingle begins."""
        shingles, at = self.shingles, -1
        for _ in range(shingles.count(shingle)):
            at = shingles.index(shingle, at + 1)
            yield at

    @cached_property
    def places(self) -> dict[int, list[int]]:
        """Where each shingle begins; of one that repeats, the first ``MAX_PLACES`` words."""
        places: dict[int, list[int]] = {}
        for at, shingle in enumerate(self.shingles):
            held = places.get(shingle)
            if held is None:
                places[shingle] = [at]
            elif len(held) < MAX_PLACES:
                held.append(at)
        return places

    def holds(self, other: Tokens, start: int, count: int) -> bool:
        """Do ``count`` words of ``other`` from ``start`` on stand here in a row?"""
        size = self.words.itemsize
        wanted = other.words[start : start + count].tobytes()
        at = self._raw.find(wanted)
        while at >= 0 and at % size:
            at = self._raw.find(wanted, at + 1)
        return at >= 0

    @cached_property
    def _raw(self) -> bytes:
        return self.words.tobytes()

    def find(self, needle: Tokens, most: int = MAX_PLACES) -> list[int]:
        """Return the word positions, ``most`` at most, where all words of ``needle`` stand."""
        size = self.words.itemsize
        haystack, wanted = self._raw, needle.words.tobytes()
        found: list[int] = []
        at = haystack.find(wanted) if wanted else -1
        while at >= 0 and len(found) < most:
            aligned = at % size == 0
            if aligned:
                found.append(at // size)
            at = haystack.find(wanted, at + (len(wanted) if aligned else 1))
        return found


class Run(NamedTuple):
    """A sequence of words that two texts share: its length and its start in each, in words."""

    size: int
    source: int
    target: int


class Index:
    """Where each shingle of a target stands, so that many sources can be looked up in it."""

    def __init__(self, words: Tokens) -> None:
        """Index ``words``; of a shingle that repeats, the first ``MAX_PLACES`` places are kept."""
        self.words = words
        self._places = words.places

    def runs(self, source: Tokens, least: int) -> list[Run]:
        """Return the shared runs of ``least`` words or more, longest first.

        Each is maximal: it cannot be extended either way. They may overlap. ``least`` is at least
        ``SHINGLE_WORDS``. On hostile input the search stops early, with what it has found.
        """
        places = self._places
        both = places.keys() & source.shingles  # an array: as a set it is ten times as large
        if not both:
            return []
        ours, theirs = source.words, self.words.words
        if len(both) > _FEW:
            shared = [
                (at, shingle) for at, shingle in enumerate(source.shingles) if shingle in both
            ]
        else:
            shared = sorted((at, shingle) for shingle in both for at in source.all_places(shingle))
        ends: dict[int, int] = {}  # by diagonal (source minus target): where its last run ended
        found: list[Run] = []
        candidates = compared = 0
        for at, shingle in shared:
            for place in places[shingle]:
                candidates += 1
                if ends.get(at - place, 0) > at:
                    continue
                before = _equal_before(ours, at, theirs, place)
                after = _equal_after(ours, at, theirs, place)
                compared += before + after
                ends[at - place] = at + after
                if before + after >= least:
                    found.append(Run(before + after, at - before, place - before))
            if candidates > _MAX_CANDIDATES or compared > _MAX_COMPARED_WORDS:
                break
        found.sort(key=lambda run: (-run.size, run.target, run.source))
        return found


def _equal_after(a: array[int], i: int, b: array[int], j: int) -> int:
    """How many words are equal from positions ``i`` and ``j`` on."""
    most, count, step = min(len(a) - i, len(b) - j), 0, 32
    while count < most:
        stop = min(count + step, most)
        if a[i + count : i + stop] == b[j + count : j + stop]:
            count, step = stop, min(step * 2, 4096)
        elif step > 32:
            step = 32
        else:
            while a[i + count] == b[j + count]:
                count += 1
            break
    return count


def _equal_before(a: array[int], i: int, b: array[int], j: int) -> int:
    """How many words are equal going back from just before ``i`` and ``j``."""
    count = 0
    while count < i and count < j and a[i - count - 1] == b[j - count - 1]:
        count += 1
    return count


class TokenCache:
    """Words of texts that come again and again, the least recently used dropped first.

    Bounded by what its texts cost; safe to share between threads.
    """

    def __init__(self, limit_chars: int = CACHE_CHARS) -> None:
        self._limit = limit_chars
        self._held = 0
        self._tokens: OrderedDict[str, Tokens] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def held_chars(self) -> int:
        """What the texts held cost: their characters, and ``TEXT_CHARS`` for each."""
        return self._held

    def __call__(self, text: str) -> Tokens:
        """Return the words of ``text``, read now or remembered."""
        with self._lock:
            if (tokens := self._tokens.get(text)) is not None:
                self._tokens.move_to_end(text)
                return tokens
        tokens = Tokens(text)
        cost = len(text) + TEXT_CHARS
        if cost > self._limit // 4:  # one huge text must not push out all others
            return tokens
        with self._lock:
            if text not in self._tokens:
                self._tokens[text] = tokens
                self._held += cost
            while self._held > self._limit:
                dropped, _ = self._tokens.popitem(last=False)
                self._held -= len(dropped) + TEXT_CHARS
        return tokens
