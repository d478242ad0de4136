"""Records of one mold: what many bodies have in common, so that each need not be taken apart.

A recorder that serves one program writes the same record over and over, but for ids, times,
lengths, tags and hashes. A *mold* is made of a body that ``shapes`` found nothing wrong with. It is
a regular expression for everything that differs from that body only where ``shapes`` and
``store.index`` let any value stand: in whole numbers, and in base64 of the same length. So a body
that fits is canonical and of a known shape as well, and makes the same index rows but for the
values that are taken out of it. A body that fits no mold says nothing; it is looked at by itself.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

import orjson

from provkeep.model import records as r
from provkeep.model.canonical import canonical
from provkeep.reading.frozen import Row
from provkeep.reading.shapes import MORE
from provkeep.store.index import Gathered, gather, tags

MAX_BODY: Final = 16_384  # bytes; a larger one is worth no mold
MAX_MOLDS: Final = 128
MAX_COUNTED: Final = 4_096  # outlines that are counted at a time
WORTH: Final = 64  # bodies of an outline without a mold before it gets one: making it costs as much
MAX_OF_AN_OUTLINE: Final = 8

_INT: Final = rb"(?:0|-?[1-9][0-9]{0,14}+)"  # stays below 2**53
_BASE64: Final = re.compile(r"[A-Za-z0-9_-]{16,}")
_WORDS: Final = b"-_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LOOSE: Final = {  # where in an entry any number, text or list of its type may stand
    r.RUN: {5, 6, 7},
    r.END: {2, 4},
    r.ARTIFACT: {5, 7},
    r.DERIVED: {4, 5},
    r.USED: {2},
    r.NOTE: {2},
    r.LINK: {1},
    r.SOURCE: {1},
    r.FINAL: {1, 3},  # which artifact is the answer, is in the index
    MORE: {2},
}

Fit = tuple["Mold", tuple[bytes, ...]]  # a body's mold, and what stands in the body's own places


class Mold:
    """What the first records of traces of one shape have in common.

    Args:
        fields: of a record with payloads, of a known shape, and from which an index follows.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        said = gather(fields)
        self._groups = 0
        self.end: int | None = None  # the group that says when the root run ended
        self.across: list[int] = []  # groups that are entries which cross traces
        parts = [
            _spelled(name) + b":" + self._member(name, value)
            for name, value in sorted(fields.items())
        ]
        self.fit = re.compile(b"\\{" + b",".join(parts) + b"\\}", re.DOTALL).fullmatch
        self.payloads = len(fields["p"])
        hashes = [[None, place] for _, place in fields["p"]]
        self.hashes = orjson.dumps(hashes).replace(b"null", b'"%b"')  # to be filled in
        self.keys = slice(-4 - len(fields["keys"]), -4)  # groups that are numbers of data keys
        self.said = said.status, said.kind, said.name
        self.counts = said.runs, said.errors, said.answer
        self.head = self.keys.start - 1 if "h" in fields else None

    # -- how the expression is made --------------------------------------------------------------

    def _group(self, part: bytes) -> bytes:
        self._groups += 1
        return b"(" + part + b")"

    def _member(self, name: str, value: Any) -> bytes:
        if name == "e":
            return b"\\[" + b",".join(map(self._entry, value)) + b"\\]"
        if name == "h":
            return self._group(_loose(value))
        if name == "keys":
            return b"\\[" + b",".join(map(self._key, value)) + b"\\]"
        if name == "p":  # compared with the payloads that are there, as a whole
            return self._group(b".{%d}" % len(_json(value)))
        if name == "p0":
            return self._group(b"[1-9][0-9]{0,14}")
        if name == "t":
            return b'"' + self._group(b"[0-9a-f]{32}") + b'"'
        if name == "t0":
            return b'"' + self._group(b"(?:0|[1-9][0-9]{0,18})") + b'"'
        return _spelled(value)

    def _key(self, key: list[Any]) -> bytes:
        number = self._group(_INT)
        return b"\\[%d,%b,%b\\]" % (key[0], number, _loose(key[2]))

    def _entry(self, entry: list[Any]) -> bytes:
        tag = entry[0]
        crosses = (
            tag in (r.LINK, r.SOURCE)
            or (tag == r.FINAL and entry[3])
            or (tag == r.ARTIFACT and {"g", "src"} & entry[7].keys())
        )
        loose = _LOOSE.get(tag, set())
        if tag == r.END and entry[3] == "error":  # what it counts is in the index
            loose = loose - {4}
        parts = [(_loose if at in loose else _spelled)(each) for at, each in enumerate(entry)]
        if tag == r.END and entry[1] == 0:
            self.end = self._groups
            parts[2] = self._group(parts[2])
        whole = b"\\[" + b",".join(parts) + b"\\]"
        if not crosses:
            return whole
        self.across.append(self._groups)
        return self._group(whole)


class Molds:
    """The molds that were made so far."""

    def __init__(self) -> None:
        self._of: dict[bytes, list[Mold]] = {}  # by outline
        self._count = 0
        self._without: dict[bytes, int] = {}  # how many bodies of an outline fitted no mold
        self._last: Mold | None = None

    def fit(self, bodies: Sequence[Any]) -> list[Fit]:
        """The leading ones of some stored bodies that fit a mold each."""
        fits: list[Fit] = []
        mold = self._last
        for body in bodies:
            if mold is None or type(body) is not bytes:
                break
            match = mold.fit(body)
            if match is None:  # mostly, the next one is like the last
                mold = next((m for m in self._of.get(_outline(body), ()) if m.fit(body)), None)
                match = None if mold is None else mold.fit(body)
                if mold is None or match is None:
                    break
                self._last = mold
            fits.append((mold, match.groups()))
        return fits

    def learn(self, body: bytes, fields: dict[str, Any]) -> None:
        """Count a body that fits none, and make a mold of it when there are many like it.

        Args:
            body: found to be canonical.
            fields: of a trace's record, found to be of a known shape and to make index rows.
        """
        if fields["n"] != 0 or "p" not in fields or len(body) > MAX_BODY:
            return
        outline = _outline(body)
        count = self._without.get(outline, 0) + 1
        if len(self._without) >= MAX_COUNTED:
            self._without.clear()
        self._without[outline] = count
        molds = self._of.get(outline, [])
        if count < WORTH or len(molds) >= MAX_OF_AN_OUTLINE or self._count >= MAX_MOLDS:
            return
        del self._without[outline]
        made = Mold(fields)
        if made.fit(body) is not None:
            self._of.setdefault(outline, []).append(made)
            self._last = made
            self._count += 1


def key_numbers(fits: Sequence[Fit]) -> list[int]:
    """The data keys that bodies name."""
    return _numbers(chain.from_iterable([found[mold.keys] for mold, found in fits]))


def trace_rows(fits: Sequence[Fit], first: int) -> list[Row]:
    """The rows of ``trace`` that bodies make, with ids from ``first`` on.

    Raises:
        ValueError, TypeError: a tag is not base64, or a time is not spelled as a number.
    """
    began = _numbers([found[-1] for _, found in fits])
    took = _numbers([b"null" if m.end is None else found[m.end] for m, found in fits])
    ended = [None if dt is None else (t0 + dt) // 1000 for t0, dt in zip(began, took, strict=True)]
    ids = range(first, first + len(fits))
    heads = [b"{}" if mold.head is None else found[mold.head] for mold, found in fits]
    return [
        (number, unhexlify(found[-2]), t0 // 1000, end, *m.said, *tags, *m.counts)
        for number, (m, found), t0, end, tags in zip(
            ids, fits, began, ended, map(_tags, heads), strict=True
        )
    ]


def gathered(fits: Sequence[Fit], first: int) -> list[tuple[Gathered, int]]:
    """What of bodies crosses traces, with ids from ``first`` on. May raise what ``gather`` does."""
    return [
        (gather({"t": "", "t0": 0, "p0": int(found[-3]), "e": _entries(mold, found)}), number)
        for number, (mold, found) in enumerate(fits, first)
        if mold.across
    ]


def _entries(mold: Mold, found: tuple[bytes, ...]) -> Any:
    return orjson.loads(b"[%b]" % b",".join([found[at] for at in mold.across]))


def _numbers(spelled: Iterable[bytes]) -> list[Any]:
    return orjson.loads(b"[%b]" % b",".join(spelled))  # type: ignore[no-any-return]


def _outline(body: bytes) -> bytes:
    """A body without letters and digits: most bodies of one mold have the same."""
    return body.translate(None, _WORDS)


def _json(value: Any) -> bytes:
    return canonical({"": value})[len(b'{"":') : -1]


def _spelled(value: Any) -> bytes:
    """Matches this value and no other."""
    return re.escape(_json(value))


def _loose(value: Any) -> bytes:
    """Matches this value, and others with numbers and base64 in the same places."""
    if type(value) is dict:
        members = (_spelled(name) + b":" + _loose(v) for name, v in sorted(value.items()))
        return b"\\{" + b",".join(members) + b"\\}"
    if type(value) is list:
        return b"\\[" + b",".join(map(_loose, value)) + b"\\]"
    if type(value) is int:
        return _INT
    if type(value) is str and _BASE64.fullmatch(value):
        return b'"[A-Za-z0-9_-]{%d}"' % len(value)
    return _spelled(value)


@lru_cache(maxsize=1_024)
def _tags(head: bytes) -> tuple[bytes | None, ...]:
    return tags(orjson.loads(head) or {})
