"""The two ways in which keys are sealed to a public key: HPKE with X25519, or hybrid post-quantum.

``x25519`` is RFC 9180 base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM.
``mlkem768-x25519`` puts ML-KEM-768 (FIPS 203) beside X25519, so that whoever breaks one of them
still has to break the other. Keys are raw bytes here, and a suite is told by their length:

    suite             private                          public                    encapsulated
    x25519            32                               32                        32
    mlkem768-x25519   96: ML-KEM seed (64) || X25519   1216: 1184 || 32          1120
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

SUITE: Final = "x25519"
HYBRID: Final = "mlkem768-x25519"
X25519_KEY_BYTES: Final = 32
MLKEM_SEED_BYTES: Final = 64
MLKEM_PUBLIC_BYTES: Final = 1184


@dataclass(frozen=True, slots=True)
class Kind:
    """Sizes of one suite, and its HPKE."""

    private_bytes: int
    public_bytes: int
    hpke: Suite


SUITES: Final = {
    SUITE: Kind(32, 32, Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)),
    HYBRID: Kind(96, 1216, Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)),
}


def check_public(suite: str, public: bytes) -> None:
    """Raise ValueError unless ``public`` can be a key of ``suite``."""
    if suite not in SUITES:
        raise ValueError(f"this version seals to {', '.join(SUITES)} keys, not to {suite!r}")
    wanted = SUITES[suite].public_bytes
    if len(public) != wanted:
        raise ValueError(f"a public key of suite {suite} has {wanted} bytes, got {len(public)}")


def suite_of(private: bytes) -> str:
    """The suite of a private key, told by its length; ValueError when there is none."""
    for name, kind in SUITES.items():
        if len(private) == kind.private_bytes:
            return name
    sizes = " or ".join(f"{kind.private_bytes} bytes ({name})" for name, kind in SUITES.items())
    raise ValueError(f"a private key has {sizes}, got {len(private)} bytes")


def generate(suite: str = SUITE) -> bytes:
    """Make a private key.

    Raises:
        ValueError: there is no such suite.
    """
    if suite not in SUITES:
        raise ValueError(f"suites are {', '.join(SUITES)}; got {suite!r}")
    x25519 = X25519PrivateKey.generate().private_bytes_raw()
    if suite == SUITE:
        return x25519
    return MLKEM768PrivateKey.generate().private_bytes_raw() + x25519


def public_of(private: bytes) -> bytes:
    """The public half of a private key of either suite."""
    suite = suite_of(private)
    x25519 = X25519PrivateKey.from_private_bytes(private[-X25519_KEY_BYTES:]).public_key()
    if suite == SUITE:
        return x25519.public_bytes_raw()
    mlkem = MLKEM768PrivateKey.from_seed_bytes(private[:MLKEM_SEED_BYTES]).public_key()
    return mlkem.public_bytes_raw() + x25519.public_bytes_raw()


def seal_to(suite: str, public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Seal bytes to a public key: encapsulated key || ciphertext.

    Args:
        suite: a name of ``SUITES``.
        public: of that suite.
        plaintext: any bytes.
        info: what it is for; it opens for nothing else.

    Raises:
        ValueError: the public key is none, or one that anyone could open.
    """
    check_public(suite, public)
    x25519 = X25519PublicKey.from_public_bytes(public[-X25519_KEY_BYTES:])
    key: Any = x25519
    if suite == HYBRID:
        mlkem = MLKEM768PublicKey.from_public_bytes(public[:MLKEM_PUBLIC_BYTES])
        key = MLKEM768X25519PublicKey(mlkem, x25519)
    return SUITES[suite].hpke.encrypt(plaintext, key, info)


def open_with(private: bytes, sealed: bytes, info: bytes) -> bytes:
    """Open what ``seal_to`` gave.

    Raises:
        ValueError: sealed to another key, of another suite, for something else, or altered.
    """
    suite = suite_of(private)
    x25519 = X25519PrivateKey.from_private_bytes(private[-X25519_KEY_BYTES:])
    key: Any = x25519
    if suite == HYBRID:
        mlkem = MLKEM768PrivateKey.from_seed_bytes(private[:MLKEM_SEED_BYTES])
        key = MLKEM768X25519PrivateKey(mlkem, x25519)
    try:
        return SUITES[suite].hpke.decrypt(sealed, key, info)
    except InvalidTag as error:
        raise ValueError("sealed to another key or for something else, or altered") from error
