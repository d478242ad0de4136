"""A second key signs what the specification says, and a verifier takes nothing else for it."""

import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from hashlib import sha256

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from provkeep.errors import CheckpointError, LogKeyError
from provkeep.tlog import mldsa
from provkeep.tlog.checkpoint import LogKey, verify_checkpoint
from provkeep.tlog.mldsa import (
    SecondKey,
    SecondPublicKey,
    cosigned_message,
    log_key,
    read_keys,
    second_lines,
    verify_second,
)

ORIGIN = "provkeep/00112233445566778899aabbccddeeff"
SEED = bytes(range(32))
SECOND = SecondKey.from_seed(ORIGIN, SEED)
KEY = log_key(ORIGIN, bytes(32), SEED)
ROOT = sha256(b"root").digest()
NOTE = KEY.sign_checkpoint(5, ROOT)


def blob_of(note: str) -> bytes:
    """Key id, time and signature of the last line."""
    return b64decode(note[:-1].rpartition(" ")[2])


def with_blob(blob: bytes, name: str = ORIGIN) -> str:
    """The note with another last line."""
    first = NOTE[: NOTE[:-1].rindex("\n") + 1]
    return f"{first}\u2014 {name} {b64encode(blob).decode()}\n"


def test_the_message_is_the_one_of_the_specification_byte_by_byte():
    message = cosigned_message("w", 1, "log", 258, bytes([0xAB]) * 32)
    assert message.hex() == (
        "737562747265652f76310a00"  # subtree/v1\n\0
        "0177"  # cosigner_name
        "0000000000000001"  # timestamp
        "036c6f67"  # log_origin
        "0000000000000000"  # start
        "0000000000000102" + "ab" * 32  # end
    )


def test_a_checkpoint_bears_both_signatures_ed25519_first():
    text, _, lines = NOTE.partition("\n\n")
    assert text == f"{ORIGIN}\n5\n{b64encode(ROOT).decode()}"
    first, second = lines.splitlines()
    assert f"{text}\n\n{first}\n" == LogKey.from_seed(ORIGIN, bytes(32)).sign_checkpoint(5, ROOT)
    dash, name, encoded = second.split(" ")
    blob = b64decode(encoded)
    public = MLDSA44PrivateKey.from_seed_bytes(SEED).public_key()
    raw = public.public_bytes_raw()
    assert (dash, name) == ("\u2014", ORIGIN)
    assert len(blob) == 4 + 8 + 2420
    assert blob[:4] == sha256(ORIGIN.encode() + b"\n\x06" + raw).digest()[:4]
    assert blob[4:12] == bytes(8), "no statement of time"
    origin = bytes([len(ORIGIN)]) + ORIGIN.encode()
    message = b"subtree/v1\n\0" + origin + bytes(8) + origin + bytes(8)
    public.verify(blob[12:], message + (5).to_bytes(8, "big") + ROOT)
    assert (
        SECOND.public.vkey() == f"{ORIGIN}+{blob[:4].hex()}+{b64encode(bytes([6]) + raw).decode()}"
    )


def test_either_signature_verifies_beside_the_other():
    assert verify_checkpoint(NOTE, KEY.public).size == 5
    verify_second(NOTE, SECOND.public)


def test_a_time_that_a_cosigner_states_is_part_of_what_it_signed():
    signature = MLDSA44PrivateKey.from_seed_bytes(SEED).sign(
        cosigned_message(ORIGIN, 1_700_000_000, ORIGIN, 5, ROOT)
    )
    head = SECOND.public.key_id
    verify_second(with_blob(head + (1_700_000_000).to_bytes(8, "big") + signature), SECOND.public)
    with pytest.raises(CheckpointError, match="bad signature"):
        verify_second(with_blob(head + bytes(8) + signature), SECOND.public)


LIES = {
    "absent": lambda blob: LogKey.from_seed(ORIGIN, bytes(32)).sign_checkpoint(5, ROOT),
    "of another size": lambda blob: NOTE.replace(f"{ORIGIN}\n5\n", f"{ORIGIN}\n6\n"),
    "of another root": lambda blob: NOTE.replace(
        b64encode(ROOT).decode(), b64encode(bytes(32)).decode()
    ),
    "of another key": lambda blob: log_key(ORIGIN, bytes(32), bytes(32)).sign_checkpoint(5, ROOT),
    "of another key in its name": lambda blob: with_blob(
        blob[:4] + blob_of(log_key(ORIGIN, bytes(32), bytes(32)).sign_checkpoint(5, ROOT))[4:]
    ),
    "one bit less": lambda blob: with_blob(blob[:-1] + bytes([blob[-1] ^ 1])),
    "cut": lambda blob: with_blob(blob[:-1]),
    "longer": lambda blob: with_blob(blob + b"\0"),
    "without its time": lambda blob: with_blob(blob[:4] + blob[12:]),
    "of another time": lambda blob: with_blob(blob[:4] + bytes(7) + b"\1" + blob[12:]),
    "of no possible time": lambda blob: with_blob(blob[:4] + b"\xff" * 8 + blob[12:]),
    "a time only": lambda blob: with_blob(blob[:12]),
    "in another name": lambda blob: with_blob(blob, "elsewhere"),
    "good, and bad again": lambda blob: (
        NOTE + with_blob(blob[:-1] + bytes([blob[-1] ^ 1]))[:-1].rpartition("\n")[2] + "\n"
    ),
    "of another log": lambda blob: log_key("other", bytes(32), SEED).sign_checkpoint(5, ROOT),
    "no note": lambda blob: "no note",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_second_signature_that_is_not_the_keys_own_is_refused(lie):
    with pytest.raises(CheckpointError):
        verify_second(LIES[lie](blob_of(NOTE)), SECOND.public)


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(0, 2**63 - 1),
    root=st.binary(min_size=32, max_size=32),
    seed=st.binary(min_size=32, max_size=32),
)
def test_what_is_signed_verifies_for_this_key_and_head_only(size, root, seed):
    key = log_key(ORIGIN, bytes(32), seed)
    assert key.second is not None
    note = key.sign_checkpoint(size, root)
    verify_second(note, key.second.public)
    message = cosigned_message(ORIGIN, 0, ORIGIN, size + 1, root)
    with pytest.raises(InvalidSignature):
        MLDSA44PublicKey.from_public_bytes(key.second.public.key).verify(
            blob_of(note)[12:], message
        )


def test_keys_are_told_apart_by_their_type_wherever_they_stand():
    first, later = KEY.public, LogKey.from_seed(ORIGIN, bytes([1]) * 32).public
    ed25519, second = f"{first.vkey()}\n{later.vkey()}", SECOND.public.vkey()
    for text in (f"{ed25519}\n{second}\n", f"{first.vkey()}\n{second}\n{later.vkey()}"):
        keys = read_keys(text)
        assert (keys.ed25519, keys.second) == ((first, later), SECOND.public)
        assert keys.vkeys() == f"{ed25519}\n{second}"
        assert second_lines(text) == [second]
    assert read_keys(ed25519).second is None
    assert second_lines(ed25519) == []
    assert second_lines("no key") == []


OTHER = SecondKey.from_seed(ORIGIN, bytes(32)).public.vkey()
MALFORMED = {
    "no key": "no key",
    "nothing": "",
    "two second keys": f"{KEY.public.vkey()}\n{SECOND.public.vkey()}\n{OTHER}",
    "a second key of another log": (
        f"{KEY.public.vkey()}\n{SecondKey.from_seed('other', SEED).public.vkey()}"
    ),
    "another id": SECOND.public.vkey().replace(SECOND.public.key_id.hex(), "00000000"),
    "too short": f"{ORIGIN}+00000000+{b64encode(bytes([6]) + bytes(32)).decode()}",
    "a name that is too long": f"{'x' * 256}+00000000+{b64encode(bytes([6]) * 1313).decode()}",
    "an unknown type": f"{ORIGIN}+00000000+{b64encode(bytes([7]) * 33).decode()}",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_lines_that_are_no_keys_of_one_log_are_refused(name):
    with pytest.raises(CheckpointError):
        read_keys(MALFORMED[name])


def test_an_ed25519_key_is_no_second_key():
    with pytest.raises(CheckpointError, match="not an ML-DSA-44 key"):
        SecondPublicKey.from_vkey(KEY.public.vkey())
    with pytest.raises(ValueError, match="1312 bytes"):
        SecondPublicKey(ORIGIN, bytes(32))
    with pytest.raises(ValueError, match="same origin"):
        LogKey.generate("other", SECOND)
    with pytest.raises(ValueError, match="32 bytes"):
        SECOND.signature_line(1, b"")


def test_a_key_survives_its_seed_and_shows_it_nowhere():
    made = SecondKey.generate(ORIGIN)
    assert SecondKey.from_seed(ORIGIN, made.seed()).public == made.public
    assert made.seed().hex() not in repr(made)
    assert made.public != SecondKey.generate(ORIGIN).public


@pytest.fixture
def without_mldsa(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A `cryptography` that has no ML-DSA."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.mldsa", None)
    mldsa._supported.cache_clear()
    yield
    monkeypatch.undo()
    mldsa._supported.cache_clear()


def test_an_older_library_is_named_when_a_second_key_is_asked_for_and_not_before(without_mldsa):
    first = log_key(ORIGIN, bytes(32), None)
    assert read_keys(first.public.vkey()).ed25519 == (first.public,)
    assert verify_checkpoint(NOTE, first.public).size == 5
    for asked in (
        lambda: SecondKey.generate(ORIGIN),
        lambda: log_key(ORIGIN, bytes(32), SEED),
        lambda: read_keys(f"{first.public.vkey()}\n{SECOND.public.vkey()}"),
        lambda: verify_second(NOTE, SECOND.public),
    ):
        with pytest.raises(LogKeyError, match="pip install --upgrade cryptography"):
            asked()
