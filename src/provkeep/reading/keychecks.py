"""Do the keys that are there agree with the log? No key is opened: only their numbers are read.

A key that a record names is in the key file, or an erase record says that it is gone, and then it
is not there. The key file is no part of the log and goes on changing, so before anything is called
missing or back again, what happened since is looked at.
"""

from __future__ import annotations

import contextlib
import time
from array import array
from collections.abc import Iterator, Sequence
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
MAX_NUMBER: Final = 2**62

Range = tuple[int, int]


class KeyUse:
    """The numbers of the keys that records name, and of those that they say are gone."""

    def __init__(self) -> None:
        self._used = array("q")
        self._gone: list[Range] = []
        self.newest = -1  # erase record
        self.records = 0

    def meet(self, seq: int, fields: dict[str, Any]) -> None:
        """Take what one record says; total on whatever stands there."""
        self.records = seq + 1
        for key in fields.get("keys", ()):
            if 0 <= key[1] < MAX_NUMBER:
                self._used.append(key[1])
        if fields.get("k") == "erase":
            gone = fields.get("gone")
            if isinstance(gone, list) and all(type(n) is int for n in gone):
                self._gone += zip(gone[::2], gone[1::2], strict=False)
                self.newest = seq

    def gone(self) -> list[Range]:
        """Ranges of erased keys, in order."""
        return sorted(self._gone)

    def used(self) -> Iterator[int]:
        """Numbers of keys that records name, in order, each once."""
        last = -1
        for number in sorted(self._used):
            if number != last:
                yield number
            last = number


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
    try:
        while True:
            numbers, erased = _read(where)
            back = _among(numbers, use.gone())
            if not back or time.monotonic() >= until:
                break
            time.sleep(STEP_S)  # an erasure is under way: its record comes before its keys go
        missing = _missing(use, numbers)
        if missing:
            later = _gone_later(path, use.records)
            missing = [n for n in missing if not _among([n], later)]
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


def _read(where: Path) -> tuple[array[int], int]:
    with contextlib.closing(KeyNumbers(where, still=is_still(where) is not None)) as keys:
        return array("q", keys.all()), keys.erased_through()


def _among(numbers: Sequence[int], ranges: list[Range]) -> list[int]:
    """Those of some numbers, in order, that are in ranges, in order."""
    found, at = [], 0
    for number in numbers:
        while at < len(ranges) and ranges[at][1] < number:
            at += 1
        if at < len(ranges) and ranges[at][0] <= number:
            found.append(number)
    return found


def _missing(use: KeyUse, numbers: Sequence[int]) -> list[int]:
    there = iter(numbers)
    here = next(there, MAX_NUMBER)
    absent = []
    for number in use.used():
        while here < number:
            here = next(there, MAX_NUMBER)
        if here != number:
            absent.append(number)
    gone = set(_among(absent, use.gone()))
    return [number for number in absent if number not in gone]


def _gone_later(path: Path, records: int) -> list[Range]:
    """What erase records say that came after the state that was checked."""
    use = KeyUse()
    with contextlib.closing(SqliteStore(path, read_only=True)) as store:
        for seq, body in store.records(records):
            with contextlib.suppress(ValueError, AttributeError, TypeError, LookupError):
                use.meet(seq, orjson.loads(body))
    return use.gone()
