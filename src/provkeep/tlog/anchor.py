"""Anchors: places and parties outside the store that hold, cosign or time-stamp tree heads.

What a log key alone can rewrite, an anchor still remembers. All of them answer to one small
protocol. Submitting may take seconds and fail: it is done on a thread of its own
(``recording.anchoring``) or by ``provkeep anchor run``, never by whoever records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from provkeep.errors import AnchorError, CheckpointError
from provkeep.tlog.checkpoint import Checkpoint, LogPublicKey, parse_checkpoint
from provkeep.tlog.heads import Head, View

ATTEMPTS: Final = 3
WAITS_S: Final = (1.0, 4.0)  # before the second attempt, and before the third
TIMEOUT_S: Final = 10.0  # for one exchange with a server, from its beginning to its end
MAX_TOKEN: Final = 32_768  # bytes; a record has room for 65,535


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What an anchor gave for one tree head. Only ``Anchor.check`` says whether it is good."""

    note: str  # the checkpoint that was anchored; a witness's cosignature is its last line
    at_us: int  # when it came, by the clock of this machine
    token: bytes = b""  # of a time-stamping authority: its response, RFC 3161, DER

    def stated(self, anchor: str) -> Checkpoint:
        """Return the head that it speaks of.

        Raises:
            AnchorError: the note is no checkpoint.
        """
        try:
            return parse_checkpoint(self.note)
        except CheckpointError as error:
            raise AnchorError(anchor, f"its proof is of no checkpoint ({error.problem})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A head to be anchored, and the log it is of."""

    head: Head
    public: LogPublicKey
    view: View  # for consistency proofs
    last: int = 0  # records that the anchor saw last time, as far as is known
    now_us: int = 0


class Anchor(Protocol):
    """A place or party outside the store."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    @property
    def kind(self) -> str:
        """Witness, timestamp, file or pin."""

    def submit(self, offer: Offer) -> Proof:
        """Have a head anchored.

        Raises:
            AnchorError: it cannot be reached, or refused.
            AnchorConflictError: it has seen another history, or a longer one.
        """

    def check(self, proof: Proof) -> int | None:
        """Return when the head was anchored by the anchor's own clock, in seconds, if it says so.

        Raises:
            AnchorError: this anchor gave no such proof.
            MissingExtraError: a package is needed to tell.
        """

    def held(self) -> Iterator[Checkpoint | None]:
        """The heads that the anchor holds, where they can be read from here; None for what is none.

        Raises:
            AnchorError: it should be readable and is not.
        """


def deliver(anchor: Anchor, offer: Offer, pause: Callable[[float], bool]) -> Proof:
    """Submit, again after a while if it may pass by itself, and check what came back.

    Args:
        anchor: where to.
        offer: what.
        pause: waits so many seconds; True when there is no more time.

    Raises:
        AnchorError: as ``Anchor.submit`` and ``Anchor.check``, of the last attempt.
    """
    for wait in (*WAITS_S[: ATTEMPTS - 1], None):
        try:
            proof = anchor.submit(offer)
            anchor.check(proof)
            return proof
        except AnchorError as error:
            if not error.again or wait is None or pause(wait):
                raise
    raise AssertionError("the last attempt returns or raises")
