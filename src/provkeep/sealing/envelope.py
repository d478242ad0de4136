"""Seal one payload: AES-256-GCM under a key of its own, with a commitment to that key.

An envelope opens under one key and in one context only, and its payload key can be handed out
to reveal this payload and no other. Nothing here stores or loads a key. Format 1 is

    commitment (32) || nonce (12) || AES-256-GCM ciphertext || tag (16)

    payload key (64) = HKDF-Expand-SHA256(data key, "provkeep/payload/1" || len(context) || context)
    commitment       = SHA-256("provkeep/commitment/1" || payload key || context)

with the first half of the payload key as the AES key, the context as associated data, its length
in 4 bytes big-endian, and the plaintext padded (``padding``). AES-GCM alone lets one ciphertext
open under two keys; the commitment hashes the whole payload key, so that even the holder of a
payload key cannot reveal a second text. Follows RFC 5869, section 2.3 and NIST SP 800-38D.
"""

from __future__ import annotations

import hmac
import os
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from provkeep.errors import UnsealError
from provkeep.sealing.padding import MIN_PADDED_BYTES, pad, unpad

ENVELOPE_FORMAT = 1
DATA_KEY_BYTES = 32
PAYLOAD_KEY_BYTES = 64
COMMITMENT_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
HEADER_BYTES = COMMITMENT_BYTES + NONCE_BYTES

_PAYLOAD_INFO = b"provkeep/payload/1"
_COMMITMENT_PREFIX = b"provkeep/commitment/1"
_DATA_KEY_PREFIX = b"provkeep/data-key/1"
_HASH = "sha256"
_HASH_BYTES = 32
_MAX_EXPAND_BLOCKS = 255


def seal(plaintext: bytes, *, data_key: bytes, context: bytes, nonce: bytes | None = None) -> bytes:
    """Encrypt one payload and bind it to its place.

    Args:
        plaintext: the payload; its length is hidden up to Padmé rounding.
        data_key: 32 random bytes.
        context: says which payload of which record this is; use each context once per data key.
        nonce: 12 bytes, random unless a test fixes it.

    Returns:
        The envelope, 60 bytes longer than the padded plaintext.
    """
    key = payload_key(data_key, context)
    if nonce is None:
        nonce = os.urandom(NONCE_BYTES)
    elif len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes, got {len(nonce)}")
    ciphertext = AESGCM(key[:32]).encrypt(nonce, pad(plaintext), context)
    return _commitment(key, context) + nonce + ciphertext


def unseal(envelope: bytes, *, data_key: bytes, context: bytes) -> bytes:
    """Check an envelope and return its plaintext.

    Raises:
        UnsealError: another data key or context, or the envelope was altered or cut.
    """
    return open_with_payload_key(envelope, payload_key(data_key, context), context)


def open_with_payload_key(envelope: bytes, payload_key64: bytes, context: bytes) -> bytes:
    """Open one revealed envelope with its own payload key, 64 bytes, and no other key.

    Raises:
        UnsealError: the payload key is not the one this envelope was sealed with, another
            context, or the envelope was altered or cut.
    """
    if len(payload_key64) != PAYLOAD_KEY_BYTES:
        raise ValueError(f"a payload key has {PAYLOAD_KEY_BYTES} bytes, got {len(payload_key64)}")
    if len(envelope) < HEADER_BYTES + MIN_PADDED_BYTES + TAG_BYTES:
        raise UnsealError("envelope", f"it is cut off, with {len(envelope)} bytes")
    commitment, nonce = (
        envelope[:COMMITMENT_BYTES],
        envelope[COMMITMENT_BYTES:HEADER_BYTES],
    )
    if not hmac.compare_digest(commitment, _commitment(payload_key64, context)):
        raise UnsealError(
            "envelope",
            "its commitment names another key or context; it was moved or altered",
        )
    try:
        padded = AESGCM(payload_key64[:32]).decrypt(nonce, envelope[HEADER_BYTES:], context)
    except InvalidTag as error:
        raise UnsealError("envelope", "its ciphertext, nonce or tag was altered") from error
    return unpad(padded)


def payload_key(data_key: bytes, context: bytes) -> bytes:
    """Return the 64 bytes that open the payload of this context, to reveal it alone."""
    if len(data_key) != DATA_KEY_BYTES:
        raise ValueError(f"a data key has {DATA_KEY_BYTES} bytes, got {len(data_key)}")
    info = _PAYLOAD_INFO + len(context).to_bytes(4, "big") + context
    # hkdf_expand(data_key, info, 64) written out: this runs for every payload
    first = hmac.digest(data_key, info + b"\x01", _HASH)
    return first + hmac.digest(data_key, first + info + b"\x02", _HASH)


def data_key_commitment(data_key: bytes) -> bytes:
    """Return the 32 bytes that fix which data key a record was sealed with.

    They stand in the log and tell nothing about the key.
    """
    if len(data_key) != DATA_KEY_BYTES:
        raise ValueError(f"a data key has {DATA_KEY_BYTES} bytes, got {len(data_key)}")
    return hmac.digest(data_key, _DATA_KEY_PREFIX, _HASH)


def hkdf_expand(key: bytes, info: bytes, length: int) -> bytes:
    """Return ``length`` bytes of HKDF-Expand with SHA-256.

    Source: RFC 5869, section 2.3; checked against ``tests/vectors/rfc5869.json``.
    """
    blocks = -(-length // _HASH_BYTES)
    if not 0 < blocks <= _MAX_EXPAND_BLOCKS:
        raise ValueError(f"HKDF-Expand gives 1 to {255 * _HASH_BYTES} bytes, got {length}")
    block, output = b"", b""
    for counter in range(1, blocks + 1):
        block = hmac.digest(key, block + info + bytes((counter,)), _HASH)
        output += block
    return output[:length]


def _commitment(key: bytes, context: bytes) -> bytes:
    # the key has a fixed length, so that key || context reads one way only
    return sha256(_COMMITMENT_PREFIX + key + context).digest()
