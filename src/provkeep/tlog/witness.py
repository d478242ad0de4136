"""A C2SP witness over HTTP: it checks that the log only grew, and cosigns its head.

Follows https://c2sp.org/tlog-witness. A witness remembers the largest head it has cosigned, so a
log that was rewritten or cut gets no cosignature any more, whoever holds its key.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from provkeep.errors import AnchorConflictError, AnchorError, CheckpointError
from provkeep.tlog.anchor import TIMEOUT_S, Offer, Proof
from provkeep.tlog.checkpoint import Checkpoint
from provkeep.tlog.cosignature import WitnessKey, cosigned_at
from provkeep.tlog.post import Answer, post

SIZE_TYPE: Final = "text/x.tlog.size"  # of the body of a 409
_SIZE: Final = re.compile(rb"(0|[1-9][0-9]{0,18})\n?")
_DASH: Final = "\u2014 "


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessAnchor:
    """One witness: see ``tlog.anchor.Anchor``."""

    name: str
    url: str  # its submission prefix
    key: WitnessKey
    timeout_s: float = TIMEOUT_S
    kind: str = "witness"

    def submit(self, offer: Offer) -> Proof:
        """Have the head cosigned, with a proof that it continues what the witness saw last."""
        head = offer.head
        old = min(offer.last, head.size)
        answer = self._ask(offer, old)
        said = _SIZE.fullmatch(answer.body) if answer.status == 409 else None
        if said is not None and answer.content_type.split(";")[0].strip() == SIZE_TYPE:
            seen = int(said[1])
            if seen > head.size:
                problem = f"it has cosigned {seen} records, this log signs {head.size}"
                raise AnchorConflictError(self.name, f"{problem}: cut, rolled back, or another")
            if seen != old:
                answer = self._ask(offer, seen)
        if answer.status in (409, 422):
            problem = "it refuses: what it cosigned before is not how this log begins"
            raise AnchorConflictError(self.name, problem)
        if answer.status != 200:
            raise AnchorError(self.name, _refusal(answer), again=answer.status >= 500)
        try:
            lines = answer.body.decode().splitlines(keepends=True)
        except UnicodeDecodeError as error:
            raise AnchorError(self.name, "its answer is not UTF-8") from error
        ours = [line for line in lines if line.startswith(f"{_DASH}{self.key.name} ")]
        return Proof(note=head.note + "".join(ours), at_us=offer.now_us)

    def _ask(self, offer: Offer, old: int) -> Answer:
        hashes = offer.view.consistency(old, offer.head.size)
        proof = "".join(f"{b64encode(each).decode()}\n" for each in hashes)
        body = f"old {old}\n{proof}\n{offer.head.note}".encode()
        url = f"{self.url.rstrip('/')}/add-checkpoint"
        return post(self.name, url, body, "text/plain; charset=utf-8", timeout_s=self.timeout_s)

    def check(self, proof: Proof) -> int | None:
        """Return when the witness cosigned."""
        try:
            at = cosigned_at(proof.note, self.key)
        except CheckpointError as error:
            raise AnchorError(self.name, error.problem) from error
        if at is None:
            raise AnchorError(self.name, "it did not cosign this head with the key that is known")
        return at

    def held(self) -> Iterator[Checkpoint | None]:
        """Nothing that could be read from here."""
        return iter(())


def _refusal(answer: Answer) -> str:
    if answer.status == 404:
        return "it does not know this log; give its operator the log's public key (log.pub)"
    if answer.status == 403:
        return "it knows this log by another key; give its operator the new one (log.pub)"
    return f"it answered with status {answer.status}"
