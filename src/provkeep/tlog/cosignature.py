"""Cosignatures of witnesses: who else has seen a tree head, and when.

A cosignature says that, at a time, this was the largest head of the log that its witness had
seen, and that it continued all smaller ones. Follows https://c2sp.org/tlog-cosignature, the
Ed25519 type; a witness with an ML-DSA-44 key only is not read.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from provkeep.errors import CheckpointError
from provkeep.tlog.checkpoint import KEY_BYTES, KEY_ID_BYTES, parse_note, split_vkey

MAX_SECONDS = 2**63 - 1

_TYPE = b"\x04"  # cosignature/v1 with Ed25519
_TIME_BYTES = 8
_BLOB_BYTES = _TIME_BYTES + 64


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """The name of a witness and the key it cosigns with; known from its operator."""

    name: str
    key: bytes  # Ed25519 public key, 32 bytes

    @property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(name || 0x0A || 0x04 || key)."""
        return sha256(self.name.encode() + b"\n" + _TYPE + self.key).digest()[:KEY_ID_BYTES]

    def vkey(self) -> str:
        """Return the key as one line, ``name+keyid+base64(0x04 || key)``."""
        return f"{self.name}+{self.key_id.hex()}+{b64encode(_TYPE + self.key).decode()}"

    @classmethod
    def from_vkey(cls, text: str) -> WitnessKey:
        """Read the line that a witness's operator publishes.

        Raises:
            CheckpointError: not a verifier key, of another type, or its id is not its own.
        """
        name, hex_id, blob = split_vkey(text)
        if blob[:1] != _TYPE or len(blob) != 1 + KEY_BYTES:
            raise CheckpointError(name, "the witness key is not of type 4 (Ed25519 cosignature)")
        found = cls(name, blob[1:])
        if hex_id != found.key_id.hex():
            raise CheckpointError(name, f"the witness key states id {hex_id!r}, not its own")
        return found


def cosigned_at(note: str, witness: WitnessKey) -> int | None:
    """Return when a witness cosigned a checkpoint, in seconds since 1970.

    Args:
        note: a checkpoint with its signature lines.
        witness: whose cosignature is looked for; those of others are ignored.

    Returns:
        the newest time, or None when this witness has not cosigned it.

    Raises:
        CheckpointError: the note is malformed, or a line in this witness's name is not good.

    Source: https://c2sp.org/tlog-cosignature, "Ed25519 signed message".
    """
    text, signatures = parse_note(note)
    newest: int | None = None
    verifier = Ed25519PublicKey.from_public_bytes(witness.key)
    for each in signatures:
        if (each.name, each.key_id) != (witness.name, witness.key_id):
            continue
        if len(each.signature) != _BLOB_BYTES:
            raise CheckpointError(witness.name, "its cosignature has not 72 bytes")
        seconds = int.from_bytes(each.signature[:_TIME_BYTES], "big")
        if seconds > MAX_SECONDS:
            raise CheckpointError(witness.name, "its cosignature is of no possible time")
        try:
            verifier.verify(each.signature[_TIME_BYTES:], _message(text, seconds))
        except InvalidSignature as error:
            problem = "its cosignature is bad: the head, the time or the key differs"
            raise CheckpointError(witness.name, problem) from error
        newest = max(seconds, newest or 0)
    return newest


def _message(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()
