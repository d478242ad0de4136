"""Keys open for whom they were sealed, where they were sealed, or not at all."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from provkeep.errors import SealingError, UnknownKeyError, UnsealError
from provkeep.sealing import keyring as module
from provkeep.sealing.envelope import data_key_commitment
from provkeep.sealing.keyring import (
    COMPARTMENTS,
    CompartmentKeys,
    EpochKey,
    Keyring,
    Recipient,
    RecipientSet,
    fingerprint,
    new_epoch,
    open_epoch,
    unwrap_checked,
    unwrap_data_key,
    wrap_data_key,
)

VECTORS = Path(__file__).parents[1] / "vectors"
STORE, OTHER_STORE = bytes(16), bytes(range(16))
KEYS = CompartmentKeys.generate()
EPOCHS = new_epoch(KEYS.public(), STORE)
DATA_KEY = bytes(range(32))


def vectors(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / name).read_text())
    return loaded


def reopen(epoch: EpochKey, private: bytes, **changes: Any) -> bytes:
    place = {"store_id": STORE, "compartment": epoch.compartment, "epoch_id": epoch.id, **changes}
    return open_epoch(epoch.sealed, private, **place)


def test_every_compartment_opens_its_own_epoch_key() -> None:
    assert tuple(EPOCHS) == COMPARTMENTS
    for name, epoch in EPOCHS.items():
        assert reopen(epoch, KEYS.private[name]) == epoch.key
        assert len(epoch.id) == 16
    assert len({epoch.key for epoch in EPOCHS.values()}) == len(COMPARTMENTS)


@pytest.mark.parametrize(
    "change", [{"store_id": OTHER_STORE}, {"compartment": "output"}, {"epoch_id": bytes(16)}]
)
def test_an_epoch_key_moved_elsewhere_does_not_open(change: dict[str, Any]) -> None:
    with pytest.raises(UnsealError, match="another key, store, compartment or epoch"):
        reopen(EPOCHS["prompt"], KEYS.private["prompt"], **change)


def test_an_epoch_key_opens_for_its_compartment_only() -> None:
    with pytest.raises(UnsealError):
        reopen(EPOCHS["prompt"], KEYS.private["output"])


def test_an_altered_epoch_key_does_not_open() -> None:
    sealed = EPOCHS["prompt"].sealed
    place: dict[str, Any] = {
        "store_id": STORE,
        "compartment": "prompt",
        "epoch_id": EPOCHS["prompt"].id,
    }
    other = bytes([sealed[0] ^ 1]) + sealed[1:]
    for lie in (sealed[:-1], sealed + b"\x00", sealed[:10], b"", other, bytes(80)):
        with pytest.raises(UnsealError):
            open_epoch(lie, KEYS.private["prompt"], **place)


def test_an_epoch_key_of_another_length_is_refused() -> None:
    """Whoever may write the store can seal anything to a public key."""
    private = X25519PrivateKey.from_private_bytes(KEYS.private["prompt"])
    info = b"provkeep/epoch/1" + STORE + b"prompt" + bytes(16)
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    for length in (0, 16, 33):
        sealed = suite.encrypt(bytes(length), private.public_key(), info)
        with pytest.raises(UnsealError, match="32 bytes"):
            open_epoch(
                sealed,
                KEYS.private["prompt"],
                store_id=STORE,
                compartment="prompt",
                epoch_id=bytes(16),
            )


def test_the_library_is_hpke_as_rfc_9180_published_it() -> None:
    """The published key schedule opens under the public interface.

    The published ciphertext carries associated data, which that interface does not take, so the
    same plaintext is sealed with the published key and nonce and without any.
    """
    v = {
        name: bytes.fromhex(value)
        for name, value in vectors("rfc9180.json").items()
        if name != "origin"
    }
    assert AESGCM(v["key"]).encrypt(v["base_nonce"], v["pt"], v["aad"]) == v["ct"]
    ciphertext = AESGCM(v["key"]).encrypt(v["base_nonce"], v["pt"], b"")
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    private = X25519PrivateKey.from_private_bytes(v["skRm"])
    assert private.public_key().public_bytes_raw() == v["pkRm"]
    assert suite.decrypt(v["enc"] + ciphertext, private, v["info"]) == v["pt"]


def test_an_independent_implementation_opens_an_epoch_key() -> None:
    pyhpke = pytest.importorskip("pyhpke")
    suite = pyhpke.CipherSuite.new(
        pyhpke.KEMId.DHKEM_X25519_HKDF_SHA256, pyhpke.KDFId.HKDF_SHA256, pyhpke.AEADId.AES256_GCM
    )
    private = X25519PrivateKey.from_private_bytes(KEYS.private["tool"])
    epoch = EPOCHS["tool"]
    info = b"provkeep/epoch/1" + STORE + b"tool" + epoch.id
    recipient = suite.create_recipient_context(
        epoch.sealed[:32], pyhpke.KEMKey.from_pyca_cryptography_key(private), info=info
    )
    assert recipient.open(epoch.sealed[32:]) == epoch.key


def test_key_wrap_equals_rfc_3394() -> None:
    v = vectors("rfc3394.json")
    kek, key, wrapped = (bytes.fromhex(v[name]) for name in ("kek", "key", "wrapped"))
    assert wrap_data_key(kek, key) == wrapped
    assert unwrap_data_key(kek, wrapped) == key
    for case in v["nist"]:
        kek, wrapped = bytes.fromhex(case["kek"]), bytes.fromhex(case["wrapped"])
        assert unwrap_data_key(kek, wrapped).hex() == case["key"]


@pytest.mark.parametrize("case", vectors("rfc3394.json")["refused"])
def test_wrapped_keys_that_nist_calls_false_are_refused(case: dict[str, str]) -> None:
    with pytest.raises(UnsealError, match="altered"):
        unwrap_data_key(bytes.fromhex(case["kek"]), bytes.fromhex(case["wrapped"]))


def test_an_exchanged_data_key_is_noticed_by_its_commitment() -> None:
    """The epoch key wraps it correctly, but the log committed to another one."""
    epoch_key, commitment = EPOCHS["prompt"].key, data_key_commitment(DATA_KEY)
    wrapped = wrap_data_key(epoch_key, DATA_KEY)
    assert unwrap_checked(epoch_key, wrapped, commitment) == DATA_KEY
    exchanged = wrap_data_key(epoch_key, bytes(32))
    assert unwrap_data_key(epoch_key, exchanged) == bytes(32)
    with pytest.raises(UnsealError, match="exchanged"):
        unwrap_checked(epoch_key, exchanged, commitment)


def test_a_data_key_does_not_unwrap_with_another_epoch_key_or_altered() -> None:
    wrapped = wrap_data_key(EPOCHS["prompt"].key, DATA_KEY)
    with pytest.raises(UnsealError):
        unwrap_data_key(EPOCHS["output"].key, wrapped)
    for lie in (wrapped[:-8], b"", bytes(40), wrapped[:-1] + bytes([wrapped[-1] ^ 1])):
        with pytest.raises(UnsealError):
            unwrap_data_key(EPOCHS["prompt"].key, lie)


def test_keys_of_the_wrong_size_are_refused() -> None:
    for epoch_key, data_key in ((bytes(16), DATA_KEY), (bytes(32), DATA_KEY[:16])):
        with pytest.raises(ValueError, match="32 bytes"):
            wrap_data_key(epoch_key, data_key)
    with pytest.raises(ValueError, match="32 bytes"):
        unwrap_data_key(bytes(16), bytes(40))
    with pytest.raises(ValueError, match="16 bytes"):
        new_epoch(KEYS.public(), b"short")
    with pytest.raises(ValueError, match="16 bytes"):
        Keyring(KEYS, b"short")


def test_a_keyring_opens_what_it_holds_and_names_what_it_lacks() -> None:
    some = Keyring(CompartmentKeys({"prompt": KEYS.private["prompt"]}), STORE)
    prompt, output = EPOCHS["prompt"], EPOCHS["output"]
    assert some.open_epoch("prompt", prompt.id, prompt.sealed) == prompt.key
    with pytest.raises(UnknownKeyError, match=f"output/{output.id.hex()}.*holds: prompt") as caught:
        some.open_epoch("output", output.id, output.sealed)
    assert caught.value.held == some.held == ("prompt",)


def test_a_keyring_opens_an_epoch_key_once_and_only_when_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = []

    def counting(sealed: bytes, private: bytes, **place: Any) -> bytes:
        opened.append(place["compartment"])
        return open_epoch(sealed, private, **place)

    monkeypatch.setattr(module, "open_epoch", counting)
    ring, epoch = Keyring(KEYS, STORE), EPOCHS["meta"]
    assert opened == []
    for _ in range(3):
        assert ring.open_epoch("meta", epoch.id, epoch.sealed) == epoch.key
    assert opened == ["meta"]


def test_an_altered_epoch_key_is_not_answered_from_memory() -> None:
    ring, epoch = Keyring(KEYS, STORE), EPOCHS["meta"]
    ring.open_epoch("meta", epoch.id, epoch.sealed)
    with pytest.raises(UnsealError):
        ring.open_epoch("meta", epoch.id, epoch.sealed[:-1] + b"\x00\x00")


def test_public_halves_come_back_from_json() -> None:
    public = KEYS.public()
    assert RecipientSet.from_json(json.loads(json.dumps(public.to_json()))) == public


GOOD = {"suite": "x25519", "public": b64encode(bytes(32)).decode()}


@pytest.mark.parametrize(
    "lie",
    [
        None,
        [],
        {},
        {"prompt": None},
        {"diary": GOOD},
        {"prompt": {**GOOD, "suite": "rot13"}},
        {"prompt": {**GOOD, "public": "AAAA"}},
        {"prompt": {**GOOD, "public": "%%"}},
        {"prompt": {**GOOD, "public": None}},
        {"prompt": {**GOOD, "extra": 1}},
        {"prompt": {"suite": "x25519"}},
    ],
)
def test_malformed_public_halves_are_refused(lie: object) -> None:
    with pytest.raises(SealingError, match="malformed"):
        RecipientSet.from_json(lie)


def test_a_public_key_that_anyone_can_open_is_not_sealed_to() -> None:
    """A point of low order gives every sender the same shared secret."""
    weak = RecipientSet({"prompt": Recipient("x25519", bytes(32))})
    with pytest.raises(SealingError, match="prompt"):
        new_epoch(weak, STORE)


def test_private_halves_cannot_exist_malformed() -> None:
    for private in ({}, {"diary": bytes(32)}, {"prompt": bytes(31)}):
        with pytest.raises(ValueError, match=r"compartments are|32 bytes"):
            CompartmentKeys(private)


def test_keys_show_in_no_repr() -> None:
    ring = Keyring(KEYS, STORE)
    ring.open_epoch("meta", EPOCHS["meta"].id, EPOCHS["meta"].sealed)
    for shown in (repr(KEYS), repr(ring), repr(EPOCHS["meta"]), str(EPOCHS)):
        for secret in (*KEYS.private.values(), EPOCHS["meta"].key):
            assert repr(secret)[2:-1] not in shown
            assert secret.hex() not in shown


def test_fingerprints_match_equals_within_one_domain_and_one_key() -> None:
    key, other = bytes(32), bytes(range(32))
    assert fingerprint(key, "source", b"x") == fingerprint(key, "source", b"x")
    assert len(fingerprint(key, "source", b"x")) == 12
    different = [
        fingerprint(key, "source", b"x"),
        fingerprint(key, "source", b"y"),
        fingerprint(key, "actor", b"x"),
        fingerprint(key, "sourc", b"ex"),
        fingerprint(other, "source", b"x"),
    ]
    assert len(set(different)) == len(different)
    with pytest.raises(ValueError, match="32 bytes"):
        fingerprint(b"guessable", "source", b"x")
