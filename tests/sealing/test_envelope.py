"""An envelope opens under one key, in one place, unaltered, or not at all."""

import hmac
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from provkeep.errors import UnsealError
from provkeep.sealing.envelope import (
    COMMITMENT_BYTES,
    HEADER_BYTES,
    data_key_commitment,
    hkdf_expand,
    open_with_payload_key,
    payload_key,
    seal,
    unseal,
)
from provkeep.sealing.padding import padded_length

VECTORS = Path(__file__).parents[1] / "vectors"
KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
PLAINTEXT = b"dose: 5 mg"
CONTEXT = b"record-1/prompt/0"
ENVELOPE = seal(PLAINTEXT, data_key=KEY, context=CONTEXT)


def vectors(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((VECTORS / name).read_text())["cases"]
    return cases


def test_an_envelope_moved_to_another_context_does_not_open() -> None:
    """The place of a payload is authenticated with it."""
    assert unseal(ENVELOPE, data_key=KEY, context=CONTEXT) == PLAINTEXT
    with pytest.raises(UnsealError, match="moved"):
        unseal(ENVELOPE, data_key=KEY, context=b"record-2/prompt/0")


def test_an_envelope_does_not_open_under_another_data_key() -> None:
    with pytest.raises(UnsealError, match="another key"):
        unseal(ENVELOPE, data_key=OTHER_KEY, context=CONTEXT)


def test_a_bit_flipped_anywhere_is_noticed() -> None:
    for at in range(len(ENVELOPE)):
        for bit in (0x01, 0x80):
            lie = bytearray(ENVELOPE)
            lie[at] ^= bit
            with pytest.raises(UnsealError):
                unseal(bytes(lie), data_key=KEY, context=CONTEXT)


def test_a_cut_or_lengthened_envelope_is_refused() -> None:
    for length in range(len(ENVELOPE)):
        with pytest.raises(UnsealError):
            unseal(ENVELOPE[:length], data_key=KEY, context=CONTEXT)
    with pytest.raises(UnsealError):
        unseal(ENVELOPE + b"\x00", data_key=KEY, context=CONTEXT)


def gf_mul(x: int, y: int) -> int:
    """Multiply in GCM's field (NIST SP 800-38D, section 6.3); bit 0 is the leftmost."""
    z = 0
    for i in range(127, -1, -1):
        if (y >> i) & 1:
            z ^= x
        x = (x >> 1) ^ (0xE1 << 120 if x & 1 else 0)
    return z


def gf_inverse(x: int) -> int:
    result, power = 1 << 127, x
    for _ in range(127):  # x ** (2**128 - 2)
        power = gf_mul(power, power)
        result = gf_mul(result, power)
    return result


def gcm_for_two_keys(first: bytes, second: bytes, nonce: bytes, aad: bytes) -> bytes:
    """Build three blocks and a tag that bare AES-GCM accepts under both keys.

    Solves for the last block: with hash keys H and masks S of both AES keys, GHASH_1 + S_1 =
    GHASH_2 + S_2 is linear in it. Dodis et al., "Fast Message Franking" (2018), section 3.
    """

    def block(key: bytes, data: bytes) -> int:
        encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        return int.from_bytes(encryptor.update(data), "big")

    def parts(data: bytes) -> list[int]:
        filled = data.ljust(-(-len(data) // 16) * 16, b"\x00")
        return [int.from_bytes(filled[at : at + 16], "big") for at in range(0, len(filled), 16)]

    lengths = (8 * len(aad)) << 64 | 8 * 48
    known = [*parts(aad), *parts(b"two texts in one envelope:right?"[:32])]

    def tag_without_last(key: bytes) -> tuple[int, int]:
        h = block(key, bytes(16))
        y = 0
        for each in [*known, 0]:
            y = gf_mul(y ^ each, h)
        y = gf_mul(y ^ lengths, h)
        return y ^ block(key, nonce + b"\x00\x00\x00\x01"), gf_mul(h, h)

    tag1, square1 = tag_without_last(first)
    tag2, square2 = tag_without_last(second)
    last = gf_mul(tag1 ^ tag2, gf_inverse(square1 ^ square2))
    tag = tag1 ^ gf_mul(last, square1)
    return b"two texts in one envelope:right?" + last.to_bytes(16, "big") + tag.to_bytes(16, "big")


def test_a_ciphertext_made_for_two_keys_opens_under_neither_of_two_commitments() -> None:
    """AES-GCM alone accepts it under both keys; the commitment can name only one of them."""
    nonce = bytes(12)
    keys = payload_key(KEY, CONTEXT), payload_key(OTHER_KEY, CONTEXT)
    ciphertext = gcm_for_two_keys(keys[0][:32], keys[1][:32], nonce, CONTEXT)
    texts = [AESGCM(key[:32]).decrypt(nonce, ciphertext, CONTEXT) for key in keys]
    assert texts[0] != texts[1], "the attack on bare AES-GCM works"

    honest = [seal(b"", data_key=key, context=CONTEXT) for key in (KEY, OTHER_KEY)]
    for genuine, wrong_key in zip(honest, (OTHER_KEY, KEY), strict=True):
        envelope = genuine[:COMMITMENT_BYTES] + nonce + ciphertext
        with pytest.raises(UnsealError, match="commitment"):
            unseal(envelope, data_key=wrong_key, context=CONTEXT)


def test_a_payload_key_cannot_be_forged_to_reveal_another_text() -> None:
    """Whoever made a ciphertext for two keys may know both, and still can reveal only one."""
    nonce = bytes(12)
    mine, forged = payload_key(KEY, CONTEXT), payload_key(OTHER_KEY, CONTEXT)
    ciphertext = gcm_for_two_keys(mine[:32], forged[:32], nonce, CONTEXT)
    commitment = seal(b"", data_key=KEY, context=CONTEXT)[:COMMITMENT_BYTES]
    for lie in (forged, forged[:32] + mine[32:], mine[:32] + forged[32:], forged[:32] + commitment):
        with pytest.raises(UnsealError, match="commitment"):
            open_with_payload_key(commitment + nonce + ciphertext, lie, CONTEXT)


def test_a_payload_key_reveals_its_own_payload_and_no_other() -> None:
    second = seal(b"another", data_key=KEY, context=b"record-1/prompt/1")
    revealed = payload_key(KEY, CONTEXT)
    assert open_with_payload_key(ENVELOPE, revealed, CONTEXT) == PLAINTEXT
    for envelope, context in ((second, b"record-1/prompt/1"), (second, CONTEXT), (ENVELOPE, b"")):
        with pytest.raises(UnsealError, match="commitment"):
            open_with_payload_key(envelope, revealed, context)


def test_padding_of_another_program_is_refused() -> None:
    key = payload_key(KEY, CONTEXT)
    ciphertext = AESGCM(key[:32]).encrypt(bytes(12), bytes(16), CONTEXT)
    with pytest.raises(UnsealError, match="padding"):
        open_with_payload_key(ENVELOPE[:COMMITMENT_BYTES] + bytes(12) + ciphertext, key, CONTEXT)


@given(st.binary(max_size=2000), st.binary(max_size=80))
def test_what_was_sealed_comes_back(plaintext: bytes, context: bytes) -> None:
    envelope = seal(plaintext, data_key=KEY, context=context)
    assert unseal(envelope, data_key=KEY, context=context) == plaintext
    assert len(envelope) == HEADER_BYTES + padded_length(len(plaintext) + 1) + 16


def test_sealing_twice_gives_two_envelopes_and_a_fixed_nonce_gives_one() -> None:
    assert seal(PLAINTEXT, data_key=KEY, context=CONTEXT) != ENVELOPE
    once, again = (seal(PLAINTEXT, data_key=KEY, context=CONTEXT, nonce=bytes(12)) for _ in "ab")
    assert once == again


def test_contexts_cannot_be_shifted_into_each_other() -> None:
    """The context's length is part of the derivation."""
    assert (
        len({payload_key(KEY, c) for c in (b"", b"\x00", b"a", b"ab", b"\x00\x00\x00\x01a")}) == 5
    )


def test_format_1_is_the_construction_that_the_module_describes() -> None:
    """Written out once more with other tools, as a second verifier would."""
    nonce = bytes(range(12))
    info = b"provkeep/payload/1" + len(CONTEXT).to_bytes(4, "big") + CONTEXT
    key = HKDFExpand(SHA256(), 64, info).derive(KEY)
    padded = PLAINTEXT + b"\x80" + bytes(5)
    expected = (
        sha256(b"provkeep/commitment/1" + key + CONTEXT).digest()
        + nonce
        + AESGCM(key[:32]).encrypt(nonce, padded, CONTEXT)
    )
    assert seal(PLAINTEXT, data_key=KEY, context=CONTEXT, nonce=nonce) == expected
    assert payload_key(KEY, CONTEXT) == key == hkdf_expand(KEY, info, 64)


@pytest.mark.parametrize("case", vectors("rfc5869.json"))
def test_key_derivation_equals_rfc_5869(case: dict[str, Any]) -> None:
    prk, info = bytes.fromhex(case["prk"]), bytes.fromhex(case["info"])
    assert hkdf_expand(prk, info, case["length"]).hex() == case["okm"]


@pytest.mark.parametrize("case", vectors("aes_gcm_nist.json"))
def test_the_library_is_aes_256_gcm_as_nist_published_it(case: dict[str, Any]) -> None:
    key, iv, pt, aad = (bytes.fromhex(case[name]) for name in ("key", "iv", "pt", "aad"))
    assert AESGCM(key).encrypt(iv, pt, aad).hex() == case["ct"] + case["tag"]


def test_a_data_key_is_fixed_by_its_commitment() -> None:
    assert data_key_commitment(KEY) == hmac.digest(KEY, b"provkeep/data-key/1", "sha256")
    assert data_key_commitment(KEY) != data_key_commitment(OTHER_KEY)


@pytest.mark.parametrize(
    "misuse",
    [
        lambda: seal(b"", data_key=KEY[:-1], context=b""),
        lambda: seal(b"", data_key=KEY + b"\x00", context=b""),
        lambda: seal(b"", data_key=KEY, context=b"", nonce=bytes(11)),
        lambda: unseal(ENVELOPE, data_key=b"", context=CONTEXT),
        lambda: open_with_payload_key(ENVELOPE, bytes(32), CONTEXT),
        lambda: data_key_commitment(b""),
        lambda: hkdf_expand(KEY, b"", 0),
        lambda: hkdf_expand(KEY, b"", 255 * 32 + 1),
    ],
)
def test_a_key_or_nonce_of_the_wrong_size_is_refused(misuse: Callable[[], bytes]) -> None:
    """HMAC would take a key of any length, and pad two of them into one."""
    with pytest.raises(ValueError, match="bytes"):
        misuse()
