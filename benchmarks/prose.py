"""The documents that the workloads retrieve; needs no framework."""

from __future__ import annotations

from functools import lru_cache
from random import Random
from typing import Final

DOCUMENTS: Final = 4
DOCUMENT_CHARS: Final = 1_000
_COMMON: Final = (
    "the of and to in a for that with on as by at from or which an are be has may must not when"
    " customer receipt shop order price parcel delivery address invoice warranty repair leather"
    " sole lace heel box label stamp clerk counter Monday evening letter reason colour size pair"
    " sample voucher refund exchange damage water season courier weight form signature account"
    " bring send keep show ask pay open return write wait choose wear wash check find lose call"
    " new old wet torn early late whole single second usual written proper local empty heavy"
)


@lru_cache(maxsize=8 * DOCUMENTS)
def prose(number: int, edition: int = 0) -> str:
    """Common words that hardly repeat themselves, after one sentence that an answer may quote."""
    vocabulary = _COMMON.split()
    chance = Random(f"{edition}/{number}")
    text = f"Branch {number} takes goods back within {number + 3} days of purchase. "
    while len(text) < DOCUMENT_CHARS:
        words = [chance.choice(vocabulary) for _ in range(chance.randint(7, 15))]
        text += " ".join(words).capitalize() + ". "
    return text[:DOCUMENT_CHARS]
