"""Which keys signed the log that a bundle is from, as far as the caller's trust leads to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from provkeep.errors import CheckpointError, LogKeyError, ProofError
from provkeep.export.bundle import Bundle
from provkeep.model.records import LOG_KEY
from provkeep.reading import shapes
from provkeep.reading.findings import Findings
from provkeep.tlog.checkpoint import Checkpoint, LogPublicKey
from provkeep.tlog.keychain import KeyChain, Rotation
from provkeep.tlog.merkle import check_consistency
from provkeep.tlog.mldsa import LogKeys, SecondPublicKey, read_keys
from provkeep.tlog.pin import Pin


@dataclass(frozen=True, slots=True)
class Signers:
    """The keys of a log, one after the other, and the heads that each signed for the next."""

    chain: KeyChain
    rotations: tuple[Rotation, ...] = ()
    second: SecondPublicKey | None = None  # signs each checkpoint besides

    def check(self, bundle: Bundle, head: Checkpoint, out: Findings) -> None:
        """Does the signed tree begin with what each replaced key had signed?"""
        for rotation in self.rotations:
            place = f"record {rotation.size}"
            proof = bundle.consistency.get(rotation.size)
            if proof is None:
                sentence = "nothing leads from what the old key signed to the checkpoint"
                out.error("key-rotation", place, sentence)
                continue
            try:
                check_consistency(rotation.size, rotation.root, head.size, head.root, proof)
            except ProofError as error:
                out.error("key-rotation", place, error.problem)


def find_signers(
    bundle: Bundle, key: LogPublicKey | str | None, pin: Pin | None, out: Findings
) -> Signers | None:
    """Follow the log's changes of keys; None when nothing is known from outside.

    Args:
        bundle: its record 0 and its changes of keys are read, and not yet believed.
        key: as for ``verify_bundle``.
        pin: likewise.
        out: gets what does not fit.
    """
    known = _given(key, pin, out)
    given = known.ed25519
    if not given:
        return None
    bodies = {each.seq: shapes.parse(each.body) for each in bundle.records}
    changes = {n: b for n, b in bodies.items() if isinstance(b, dict) and b.get("k") == LOG_KEY}
    chain = KeyChain(_first(bodies.get(0)) or given[0] if changes else given[0])
    rotations = []
    for seq, fields in changes.items():
        try:
            rotations.append(chain.rotate(seq, fields))
        except CheckpointError as error:
            out.error("key-rotation", f"record {seq}", error.problem)
    _hold_against(chain, given, pin, out)
    return Signers(chain, tuple(rotations), known.second)


def _given(key: LogPublicKey | str | None, pin: Pin | None, out: Findings) -> LogKeys:
    """The keys that the caller trusts, the log's first in front."""
    if key is None and pin is None:
        sentence = "name the log's public key (log.pub), or a pin, which holds it"
        out.error("no-key", "public key", sentence)
        return LogKeys(())
    try:
        given = read_keys(key) if isinstance(key, str) else LogKeys((key,) if key else ())
    except CheckpointError as error:
        out.error("no-key", "public key", f"the one that was given is none: {error.problem}")
        return LogKeys(())
    except LogKeyError as error:
        out.error("no-key", "public key", error.problem)
        return LogKeys(())
    if pin is None:
        sentence = "that the key signed no other history is not shown; a pin would show it"
        out.warning("unpinned", "pin", sentence)
    if given.ed25519:
        return given
    if pin is None:
        sentence = "a second key alone was given: name the log's Ed25519 key (type 1), or a pin"
        out.error("no-key", "public key", sentence)
        return given
    return LogKeys((LogPublicKey.from_vkey(pin.vkey),), given.second)


def _first(fields: Any) -> LogPublicKey | None:
    try:
        return LogPublicKey.from_vkey(fields["vkey"])
    except (LookupError, TypeError, AttributeError, CheckpointError):
        return None


def _hold_against(
    chain: KeyChain, given: Sequence[LogPublicKey], pin: Pin | None, out: Findings
) -> None:
    """Is what the caller trusts among the keys that signed, each in its time?"""
    keys = chain.keys
    if given[0] not in keys:
        sentence = "none of the keys that signed the log is the one that was given"
        out.error("checkpoint-unknown-signer", "the log's keys", sentence)
    elif given[0] != keys[0] and pin is None:
        sentence = (
            "a later key of this log was given: whoever holds it could have written what came"
            " before it as well; give the first key too, or a pin"
        )
        out.warning("key-not-first", "public key", sentence)
    for later in given[1:]:
        if later not in keys:
            sentence = (
                f"the log has come to sign with {later.key_id.hex()}, and this bundle is signed"
                " with a key before it, which may have been stolen since: ask for a newer bundle"
            )
            out.warning("key-rotation", "public key", sentence)
    if pin is None:
        return
    ends = [*chain.since[1:], 2**63]
    for pinned, since, end in zip(keys, chain.since, ends, strict=True):
        if pinned.vkey() == pin.vkey and since <= pin.size < end:
            return
    sentence = f"the key that it remembers is not the one that signed {pin.size} records"
    out.error("pin-mismatch", "pin", sentence)
