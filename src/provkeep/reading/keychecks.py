"""Do the keys that are there agree with the log? No key is opened: only their numbers are read.

A key that a record names is in the key file, or an erase record says that it is gone, and then it
is not there. The key file is no part of the log and goes on changing, so before anything is called
missing or back again, what happened since is looked at.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from provkeep.errors import StoreError
from provkeep.reading.findings import Findings
from provkeep.reading.frozen import is_still
from provkeep.store.keyfile import KeyNumbers, keys_path
from provkeep.store.sqlite import SqliteStore

PATIENCE_S: Final = 2.0  # an erasure takes so long from its record to the end of its keys, at most
STEP_S: Final = 0.1
MAX_LISTED: Final = 100_000  # missing keys that are looked into
PAGE_BITS: Final = 12
PAGE: Final = 1 << PAGE_BITS  # numbers are kept in pages of so many bytes
RUN: Final = 64  # numbers that are put in at once where they follow each other

_ONES: Final = b"\1" * RUN

Range = tuple[int, int]


class Numbers:
    """A set of numbers, a byte each in pages: four million keys take four megabytes."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def add(self, numbers: Iterable[int]) -> None:
        """Put some in; the negative are none."""
        ordered = sorted(numbers)
        for at in range(0, len(ordered), RUN):
            some = ordered[at : at + RUN]
            first, last = some[0], some[-1]
            page = first >> PAGE_BITS
            if last - first == len({*some}) - 1 and page == last >> PAGE_BITS and page >= 0:
                start = first & PAGE - 1  # all that there are between the first and the last
                self._page(page)[start : start + last - first + 1] = _ONES[: last - first + 1]
                continue
            for number in some:
                if number >= 0:
                    self._page(number >> PAGE_BITS)[number & PAGE - 1] = 1

    def _page(self, at: int) -> bytearray:
        page = self._pages.get(at)
        if page is None:
            page = self._pages[at] = bytearray(PAGE)
        return page

    def __iter__(self) -> Iterator[int]:
        """In order."""
        return self.minus(Numbers())

    def minus(self, other: Numbers) -> Iterator[int]:
        """Those that the other set does not have, in order."""
        for at in sorted(self._pages):
            mine, theirs = self._pages[at], other._pages.get(at)
            if theirs is not None:
                both = int.from_bytes(mine, "little") & ~int.from_bytes(theirs, "little")
                mine = bytearray(both.to_bytes(PAGE, "little"))
            place = mine.find(1)
            while place >= 0:
                yield (at << PAGE_BITS) + place
                place = mine.find(1, place + 1)


class KeyUse:
    """The numbers of the keys that records name, and of those that they say are gone."""

    def __init__(self) -> None:
        self.used = Numbers()
        self._gone: list[Range] = []
        self.newest = -1  # erase record
        self.records = 0

    def meet_keys(self, seq: int, numbers: Iterable[int]) -> None:
        """Take in the keys that the records up to this one name."""
        self.records = seq + 1
        self.used.add(numbers)

    def meet(self, seq: int, fields: dict[str, Any]) -> None:
        """Take what one record of a right shape says."""
        self.records = seq + 1
        self.used.add([key[1] for key in fields.get("keys", ())])
        if fields.get("k") == "erase":
            gone = fields.get("gone")
            if isinstance(gone, list) and all(type(n) is int for n in gone):
                self._gone += zip(gone[::2], gone[1::2], strict=False)
                self.newest = seq

    def gone(self) -> list[Range]:
        """Ranges of erased keys, in order."""
        return sorted(self._gone)


def check_keys(path: Path, use: KeyUse, out: Findings) -> None:
    """Compare the key file beside a store with what its records say.

    Args:
        path: the database.
        use: filled with its records.
        out: gets the findings; nothing at all where no key file is beside the store, as with a
            copy of the log alone.
    """
    where = keys_path(path)
    if not where.is_file():
        return
    until = time.monotonic() + PATIENCE_S
    gone = use.gone()
    try:
        while True:
            there, back, erased = _read(where, gone)
            if not back or time.monotonic() >= until:
                break
            time.sleep(STEP_S)  # an erasure is under way: its record comes before its keys go
        absent = use.used.minus(there)
        missing = list(islice(_among(absent, gone, inside=False), MAX_LISTED))
        if missing:
            later = _gone_later(path, use.records)
            missing = list(_among(missing, later, inside=False))
    except StoreError as error:
        cause = type(error.__cause__ or error).__name__
        out.warning("keys-unread", "key file", f"the key file cannot be read ({cause})")
        return
    for number in missing:
        sentence = "a record names it, it is not there, and no erase record says why"
        out.error("key-missing", f"data key {number}", sentence)
    for number in back:
        sentence = "it was erased, and it is there: an old key file was put back"
        out.error("key-back", f"data key {number}", sentence)
    if not back and use.newest > erased:
        sentence = (
            "its keys are deleted; a reader held back the last of their bytes in the log file"
        )
        out.warning("erasure-pending", f"record {use.newest}", sentence)


def _read(where: Path, gone: list[Range]) -> tuple[Numbers, list[int], int]:
    """The keys that are there, those of them that should not be, and what was erased."""
    there = Numbers()
    with contextlib.closing(KeyNumbers(where, still=is_still(where) is not None)) as keys:
        for some in keys.all():
            there.add(some)
        back = list(_among(there, gone, inside=True)) if gone else []
        return there, back, keys.erased_through()


def _among(numbers: Iterable[int], ranges: list[Range], *, inside: bool) -> Iterator[int]:
    """Those of some numbers, in order, that are inside of ranges, in order; or outside."""
    at = 0
    for number in numbers:
        while at < len(ranges) and ranges[at][1] < number:
            at += 1
        if (at < len(ranges) and ranges[at][0] <= number) == inside:
            yield number


def _gone_later(path: Path, records: int) -> list[Range]:
    """What erase records say that came after the state that was checked."""
    use = KeyUse()
    with contextlib.closing(SqliteStore(path, read_only=True)) as store:
        for seq, body in store.records(records):
            with contextlib.suppress(ValueError, AttributeError, TypeError, LookupError):
                use.meet(seq, orjson.loads(body))
    return use.gone()
