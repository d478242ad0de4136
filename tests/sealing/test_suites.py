"""Both suites open for whom and for what they were sealed, and mixed stores open whole."""

import pytest

from provkeep.sealing import suites
from provkeep.sealing.keyring import CompartmentKeys, Keyring, RecipientSet, new_epoch
from provkeep.sealing.suites import HYBRID, SUITE, SUITES

STORE = bytes(16)


@pytest.mark.parametrize("suite", SUITES)
def test_what_is_sealed_opens_for_its_key_and_purpose_only(suite: str) -> None:
    private, other = suites.generate(suite), suites.generate(suite)
    public = suites.public_of(private)
    assert (len(private), len(public)) == (
        SUITES[suite].private_bytes,
        SUITES[suite].public_bytes,
    )
    sealed = suites.seal_to(suite, public, b"key", b"for this")
    assert suites.open_with(private, sealed, b"for this") == b"key"
    for key, blob, info in (
        (other, sealed, b"for this"),
        (private, sealed, b"for that"),
        (private, sealed[:-1], b"for this"),
        (private, b"", b"for this"),
        (private, bytes([sealed[0] ^ 1]) + sealed[1:], b"for this"),
    ):
        with pytest.raises(ValueError):
            suites.open_with(key, blob, info)


def test_the_hybrid_needs_both_of_its_keys() -> None:
    """Exchanging either half of the private key leaves it closed."""
    private, other = suites.generate(HYBRID), suites.generate(HYBRID)
    sealed = suites.seal_to(HYBRID, suites.public_of(private), b"key", b"i")
    for half in (private[:64] + other[64:], other[:64] + private[64:]):
        with pytest.raises(ValueError):
            suites.open_with(half, sealed, b"i")


def test_keys_of_no_suite_are_refused() -> None:
    with pytest.raises(ValueError, match="suites are"):
        suites.generate("rot13")
    with pytest.raises(ValueError, match="a private key has"):
        suites.suite_of(bytes(33))
    for suite, size in ((SUITE, 1216), (HYBRID, 32), (HYBRID, 0)):
        with pytest.raises(ValueError, match="public key of suite"):
            suites.check_public(suite, bytes(size))


def test_one_store_may_mix_suites() -> None:
    mixed = {
        **CompartmentKeys.generate(SUITE).private,
        "document": suites.generate(HYBRID),
        "output": suites.generate(HYBRID),
    }
    keys = CompartmentKeys(mixed)
    assert RecipientSet.from_json(keys.public().to_json()) == keys.public()
    assert CompartmentKeys.from_json(keys.to_json()) == keys
    ring = Keyring(keys, STORE)
    for name, epoch in new_epoch(keys.public(), STORE).items():
        assert epoch.suite == (HYBRID if name in ("document", "output") else SUITE)
        assert ring.open_epoch(name, epoch.id, epoch.sealed) == epoch.key
