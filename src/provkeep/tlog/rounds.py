"""One round over the anchors of a log: each is offered the newest head that it has not seen.

What came of it is remembered in the user's configuration at once; the proofs are returned, to be
recorded by whoever may write the log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from provkeep.errors import AnchorConflictError, AnchorError, ProvkeepError
from provkeep.model.records import FORMAT, Pending, b64
from provkeep.tlog.anchor import Anchor, Offer, Proof, deliver
from provkeep.tlog.anchorbook import AnchorBook, State
from provkeep.tlog.checkpoint import Checkpoint, LogPublicKey
from provkeep.tlog.heads import View

RECORD = "anchor"  # the kind of record in which a proof stands


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of offering a head to one anchor."""

    anchor: str
    kind: str
    size: int  # records of the head
    proof: Proof | None = None  # None when it had this head already, or failed
    error: ProvkeepError | None = None


def offer_all(
    book: AnchorBook,
    view: View,
    public: LogPublicKey,
    *,
    now_us: Callable[[], int],
    pause: Callable[[float], bool],
) -> list[Outcome]:
    """Offer the newest signed head to every anchor, one after the other.

    Args:
        book: the anchors.
        view: the log.
        public: its key.
        now_us: the clock.
        pause: waits so many seconds before another attempt; True when there is no more time.

    Raises:
        CheckpointError: the log has signed nothing yet.
        AnchorFileError, OSError: what came of it cannot be remembered.
    """
    head = view.newest_head(public)
    outcomes = []
    for name, state in book.states().items():
        anchor = book.anchor(name)
        last = _last(name, state)
        if last is not None and (last.size, last.root) == (head.size, head.root):
            if state.failures:
                book.remember(name, failures=0, problem="")
            outcomes.append(Outcome(anchor=name, kind=anchor.kind, size=head.size))
            continue
        seen = 0 if last is None else last.size
        offer = Offer(head=head, public=public, view=view, last=seen, now_us=now_us())
        outcomes.append(_offer(book, anchor, offer, state, pause))
    return outcomes


def _offer(
    book: AnchorBook, anchor: Anchor, offer: Offer, state: State, pause: Callable[[float], bool]
) -> Outcome:
    size, name = offer.head.size, anchor.name
    try:
        proof = _deliver(anchor, offer, pause)
    except ProvkeepError as error:
        problem = error.problem if isinstance(error, AnchorError) else str(error)
        failures = state.failures + 1
        book.remember(name, failures=failures, problem=problem, tried_us=offer.now_us)
        return Outcome(anchor=name, kind=anchor.kind, size=size, error=error)
    book.remember(name, proof=proof, recorded=False, failures=0, problem="", tried_us=offer.now_us)
    return Outcome(anchor=name, kind=anchor.kind, size=size, proof=proof)


def _deliver(anchor: Anchor, offer: Offer, pause: Callable[[float], bool]) -> Proof:
    try:
        return deliver(anchor, offer, pause)
    except AnchorConflictError:
        head = offer.view.newest_head(offer.public)
        if head.size <= offer.head.size:
            raise
    # Another process of ours has signed and submitted a later head meanwhile.
    return deliver(anchor, replace(offer, head=head), pause)


def unrecorded(book: AnchorBook) -> dict[str, Pending]:
    """Return the records of proofs that do not stand in the log yet, by the anchor's name."""
    return {
        name: proof_record(name, book.anchors[name]["type"], state.proof)
        for name, state in book.states().items()
        if state.proof is not None and not state.recorded
    }


def proof_record(name: str, kind: str, proof: Proof) -> Pending:
    """Return the record that says what an anchor gave; see docs/FORMAT.md."""
    body: dict[str, Any] = {
        "k": RECORD,
        "v": FORMAT,
        "at": proof.at_us,
        "anchor": name,
        "type": kind,
        "note": proof.note,
    }
    if proof.token:
        body["token"] = b64(proof.token)
    return Pending(body, [])


def _last(name: str, state: State) -> Checkpoint | None:
    """The head that the anchor saw last, as far as is remembered."""
    if state.proof is None:
        return None
    try:
        return state.proof.stated(name)
    except AnchorError:
        return None
