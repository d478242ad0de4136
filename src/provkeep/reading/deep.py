"""Every payload opened with the keys at hand: does it hold what its record committed to?

Nothing that was opened is returned, shown or kept, so that this is no access to a text and leaves
no access record. It needs the reader's keys, which plain verification never touches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from provkeep.errors import ErasedError, SealingError, UnknownKeyError, UnsealError
from provkeep.reading.findings import Finding, Findings
from provkeep.reading.unsealing import Opener
from provkeep.store.base import Store

PAGE = 512  # payloads whose numbers are read at a time


def open_all(
    store: Store,
    opener: Opener,
    *,
    start: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, tuple[Finding, ...]]:
    """Open every payload of records from ``start`` on; return how many opened, and what did not.

    Args:
        store: the store.
        opener: with the keys of as many compartments as are held.
        start: number of a record.
        progress: called with payloads done and in all.
    """
    out, opened, done = Findings(), 0, 0
    erased: Counter[int] = Counter()  # payloads, by erase record
    foreign: Counter[str] = Counter()
    total = store.query("SELECT count(*) FROM payload WHERE seq>=?", (start,))[0][0]
    for number in _numbers(store, start):
        done += 1
        try:
            opener.payload(number)
            opened += 1
        except UnknownKeyError as error:
            foreign[error.key_id] += 1
        except ErasedError as error:
            erased[error.record] += 1
        except UnsealError as error:
            if opener.is_key_gone(number):
                sentence = "its data key is not there, and no erase record says why"
                out.error("key-missing", f"payload {number}", sentence)
            else:
                out.error("payload-sealed", f"payload {number}", error.problem)
        except SealingError as error:
            out.error("payload-sealed", f"payload {number}", type(error).__name__)
        if progress is not None and not done % PAGE:
            progress(done, total)
    for record, count in sorted(erased.items()):
        out.info("erased", f"record {record}", f"{count} payloads are gone, as it says")
    for key, count in sorted(foreign.items()):
        sentence = f"{count} payloads are sealed to it; they were compared by their hashes only"
        out.warning("key-not-held", f"key {key}", sentence)
    if progress is not None:
        progress(done, done)
    return opened, out.result()


def _numbers(store: Store, start: int) -> Iterator[int]:
    last = -(2**63)
    sql = "SELECT id FROM payload WHERE id>? AND seq>=? ORDER BY id LIMIT ?"
    while rows := store.query(sql, (last, start, PAGE)):
        for (number,) in rows:
            yield number
        last = rows[-1][0]
