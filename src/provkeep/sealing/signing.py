"""Ed25519 signatures over canonical JSON, each for one purpose only.

Whoever signs here is a person or an office: an admin who names recipients and grants, a reader
who stands by an access. The log signs its checkpoints in ``tlog.checkpoint``. Follows RFC 8032.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from provkeep.model.canonical import canonical

SEED_BYTES: Final = 32
PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


def new_seed() -> bytes:
    """Make an Ed25519 seed, 32 bytes."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def verifying_key(seed: bytes) -> bytes:
    """The public key of a seed, 32 bytes."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def sign(seed: bytes, purpose: str, fields: Mapping[str, Any]) -> bytes:
    """Sign fields for a purpose, such as ``"provkeep/grant/1"``; returns 64 bytes."""
    return Ed25519PrivateKey.from_private_bytes(seed).sign(_message(purpose, fields))


def is_signed(public: bytes, purpose: str, fields: Mapping[str, Any], signature: bytes) -> bool:
    """Did the holder of this key sign these fields for this purpose? Total: never raises."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _message(purpose, fields))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _message(purpose: str, fields: Mapping[str, Any]) -> bytes:
    return purpose.encode() + b"\n" + canonical(dict(fields))
