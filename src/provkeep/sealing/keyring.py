"""The keys of a store: compartments, epochs and data keys.

A recorder holds the public halves (``RecipientSet``) and makes an epoch key for each compartment;
a reader holds private halves (``Keyring``) and opens what they were sealed to. Nothing here reads
a file or a database: ``home`` and the store do. Follows RFC 9180 (HPKE, base mode) and RFC 3394
(AES key wrap).
"""

from __future__ import annotations

import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap,
    aes_key_wrap,
)

from provkeep.errors import SealingError, UnknownKeyError, UnsealError
from provkeep.sealing import suites
from provkeep.sealing.envelope import DATA_KEY_BYTES, data_key_commitment
from provkeep.sealing.suites import SUITE

COMPARTMENTS = ("prompt", "output", "document", "tool", "meta")
EPOCH_KEY_BYTES = 32
EPOCH_ID_BYTES = 16
STORE_ID_BYTES = 16
WRAPPED_KEY_BYTES = DATA_KEY_BYTES + 8
FINGERPRINT_BYTES = 12

_EPOCH_INFO = b"provkeep/epoch/1"


@dataclass(frozen=True, slots=True)
class Recipient:
    """The public half of one compartment."""

    suite: str
    public: bytes  # 32 bytes for x25519, 1216 for mlkem768-x25519

    def __post_init__(self) -> None:
        suites.check_public(self.suite, self.public)


@dataclass(frozen=True, slots=True)
class RecipientSet:
    """Whom a recorder seals to: the public half of each compartment."""

    recipients: Mapping[str, Recipient]

    def __post_init__(self) -> None:
        _check_compartments(self.recipients)
        object.__setattr__(self, "recipients", MappingProxyType(dict(self.recipients)))

    def to_json(self) -> dict[str, dict[str, str]]:
        """Return a value for JSON: compartment -> suite and public key in base64."""
        return {
            name: {"suite": each.suite, "public": b64encode(each.public).decode()}
            for name, each in self.recipients.items()
        }

    @classmethod
    def from_json(cls, value: Any) -> RecipientSet:
        """Read what ``to_json`` gave.

        Raises:
            SealingError: malformed, an unknown compartment or an unknown suite.
        """
        try:
            recipients = {}
            for name, fields in dict(value).items():
                if fields.keys() != {"suite", "public"}:
                    raise ValueError(f"compartment {name!r} needs exactly suite and public")
                public = b64decode(fields["public"], validate=True)
                recipients[name] = Recipient(fields["suite"], public)
            return cls(recipients)
        except (ValueError, TypeError, AttributeError) as error:
            raise SealingError(
                f"the recipients' public keys are malformed ({error}); restore the recorder's"
                " configuration from the one that 'init' wrote"
            ) from error


@dataclass(frozen=True, slots=True)
class CompartmentKeys:
    """Private halves of some or all compartments. They show in no repr."""

    private: Mapping[str, bytes] = field(repr=False)  # raw; the suite is told by the length

    def __post_init__(self) -> None:
        _check_compartments(self.private)
        for key in self.private.values():
            suites.suite_of(key)
        object.__setattr__(self, "private", MappingProxyType(dict(self.private)))

    @classmethod
    def generate(cls, suite: str = SUITE) -> CompartmentKeys:
        """Make a new key pair for every compartment, of a suite of ``suites.SUITES``."""
        return cls({name: suites.generate(suite) for name in COMPARTMENTS})

    @property
    def held(self) -> tuple[str, ...]:
        """The compartments that these keys open."""
        return tuple(self.private)

    def to_json(self) -> dict[str, dict[str, str]]:
        """Return a value for JSON, as key files and grants hold it: it is secret."""
        return {
            name: {"suite": suites.suite_of(key), "key": b64encode(key).decode()}
            for name, key in self.private.items()
        }

    @classmethod
    def from_json(cls, value: Any) -> CompartmentKeys:
        """Read what ``to_json`` gave; ValueError when it is malformed."""
        if not isinstance(value, dict):
            raise ValueError("private must name compartments")
        keys = {}
        for name, fields in value.items():
            if not isinstance(fields, dict) or fields.keys() != {"suite", "key"}:
                raise ValueError("a compartment needs exactly suite and key")
            if not isinstance(fields["key"], str):
                raise ValueError("the key of a compartment is not a text")
            keys[name] = b64decode(fields["key"], validate=True)
            if fields["suite"] != suites.suite_of(keys[name]):
                raise ValueError(f"the key of {name} is not of the suite that stands there")
        return cls(keys)

    def public(self) -> RecipientSet:
        """Return the public halves, which is all that a recorder needs."""
        return RecipientSet(
            {
                name: Recipient(suites.suite_of(key), suites.public_of(key))
                for name, key in self.private.items()
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochKey:
    """A key that wraps data keys for a period, and its sealed form for the store."""

    id: bytes  # 16 random bytes
    compartment: str
    key: bytes = field(repr=False)  # 32 bytes, never stored
    sealed: bytes = field(repr=False)  # HPKE: encapsulated key || ciphertext
    suite: str = SUITE


def new_epoch(recipients: RecipientSet, store_id: bytes) -> dict[str, EpochKey]:
    """Make an epoch key for every recipient and seal it to them.

    Args:
        recipients: public halves by compartment.
        store_id: 16 bytes; a sealed epoch key opens for this store only.

    Raises:
        SealingError: a public key is not a usable one.
    """
    epochs = {}
    for name, recipient in recipients.recipients.items():
        epoch_id, key = os.urandom(EPOCH_ID_BYTES), os.urandom(EPOCH_KEY_BYTES)
        sealed = seal_epoch(recipient, key, store_id=store_id, compartment=name, epoch_id=epoch_id)
        epochs[name] = EpochKey(
            id=epoch_id, compartment=name, key=key, sealed=sealed, suite=recipient.suite
        )
    return epochs


def seal_epoch(
    recipient: Recipient, key: bytes, *, store_id: bytes, compartment: str, epoch_id: bytes
) -> bytes:
    """Seal an epoch key, 32 bytes, to a compartment's public half.

    Raises:
        SealingError: the public key is not a usable one.
    """
    info = _epoch_info(store_id, compartment, epoch_id)
    try:
        return suites.seal_to(recipient.suite, recipient.public, key, info)
    except ValueError as error:
        raise SealingError(
            f"the public key of compartment {compartment!r} cannot be sealed to; restore the"
            " recorder's configuration from the one that 'init' wrote"
        ) from error


def open_epoch(
    sealed: bytes, private: bytes, *, store_id: bytes, compartment: str, epoch_id: bytes
) -> bytes:
    """Open a sealed epoch key with the compartment's private half, raw.

    Raises:
        UnsealError: sealed to another key, store, compartment or epoch, or altered.
    """
    info = _epoch_info(store_id, compartment, epoch_id)
    try:
        key = suites.open_with(private, sealed, info)
    except ValueError as error:
        raise UnsealError(
            f"epoch key {compartment}/{epoch_id.hex()}",
            "it is sealed to another key, store, compartment or epoch, or was altered; where keys"
            " were rotated since these were handed out, ask for a new grant",
        ) from error
    if len(key) != EPOCH_KEY_BYTES:
        raise UnsealError(
            f"epoch key {compartment}/{epoch_id.hex()}",
            f"it does not have {EPOCH_KEY_BYTES} bytes",
        )
    return key


def wrap_data_key(epoch_key: bytes, data_key: bytes) -> bytes:
    """Wrap a 32-byte data key with a 32-byte epoch key; returns 40 bytes (RFC 3394)."""
    if len(epoch_key) != EPOCH_KEY_BYTES or len(data_key) != DATA_KEY_BYTES:
        raise ValueError("an epoch key and a data key have 32 bytes each")
    return aes_key_wrap(epoch_key, data_key)


def unwrap_data_key(epoch_key: bytes, wrapped: bytes) -> bytes:
    """Unwrap a data key; prefer ``unwrap_checked`` where the log holds its commitment.

    Raises:
        UnsealError: wrapped with another epoch key, or altered.
    """
    if len(epoch_key) != EPOCH_KEY_BYTES:
        raise ValueError(f"an epoch key has {EPOCH_KEY_BYTES} bytes, got {len(epoch_key)}")
    if len(wrapped) != WRAPPED_KEY_BYTES:
        raise UnsealError("data key", f"a wrapped key has {WRAPPED_KEY_BYTES} bytes, it differs")
    try:
        return aes_key_unwrap(epoch_key, wrapped)
    except InvalidUnwrap as error:
        raise UnsealError("data key", "wrapped with another epoch key, or altered") from error


def unwrap_checked(epoch_key: bytes, wrapped: bytes, commitment: bytes) -> bytes:
    """Unwrap a data key and check that it is the one the log committed to.

    Raises:
        UnsealError: wrapped with another epoch key, altered, or exchanged for another data key.
    """
    data_key = unwrap_data_key(epoch_key, wrapped)
    if not hmac.compare_digest(data_key_commitment(data_key), commitment):
        raise UnsealError("data key", "it is not the one the log committed to; it was exchanged")
    return data_key


class Keyring:
    """The private halves a reader holds, opening epoch keys when they are first asked for."""

    __slots__ = ("_keys", "_opened", "_retired", "_store_id")

    def __init__(
        self,
        keys: CompartmentKeys,
        store_id: bytes,
        retired: Mapping[str, Sequence[bytes]] | None = None,
    ) -> None:
        if len(store_id) != STORE_ID_BYTES:
            raise ValueError(f"a store id has {STORE_ID_BYTES} bytes, got {len(store_id)}")
        self._keys, self._store_id = keys, store_id
        # private halves from before a rotation, each where no repr shows it
        self._retired = [
            CompartmentKeys({name: half}) for name, old in (retired or {}).items() for half in old
        ]
        # keyed by the sealed bytes as well: an altered copy must fail, not be answered from here
        self._opened: dict[tuple[str, bytes, bytes], bytes] = {}

    @property
    def held(self) -> tuple[str, ...]:
        """The compartments that this keyring opens."""
        return self._keys.held

    def open_epoch(self, compartment: str, epoch_id: bytes, sealed: bytes) -> bytes:
        """Return the epoch key, 32 bytes, opening it at most once.

        Raises:
            UnknownKeyError: the compartment's private half is not held.
            UnsealError: it was sealed for something else, or altered.
        """
        place = (compartment, epoch_id, sealed)
        opened = self._opened.get(place)
        if opened is None:
            private = self._keys.private.get(compartment)
            if private is None:
                raise UnknownKeyError(f"{compartment}/{epoch_id.hex()}", self.held)
            opened = self._open(sealed, (private, *self._old(compartment)), place)
            self._opened[place] = opened
        return opened

    def _old(self, compartment: str) -> list[bytes]:
        return [k.private[compartment] for k in self._retired if compartment in k.private]

    def _open(
        self, sealed: bytes, halves: Sequence[bytes], place: tuple[str, bytes, bytes]
    ) -> bytes:
        compartment, epoch_id, _ = place
        for i, half in enumerate(halves):
            try:
                return open_epoch(
                    sealed,
                    half,
                    store_id=self._store_id,
                    compartment=compartment,
                    epoch_id=epoch_id,
                )
            except UnsealError:
                if i == len(halves) - 1:
                    raise
        raise AssertionError("unreachable: there is at least one half")

    def __repr__(self) -> str:
        return f"Keyring(held={self.held!r}, store_id={self._store_id.hex()!r})"


def fingerprint(fingerprint_key: bytes, domain: str, data: bytes) -> bytes:
    """Return 12 bytes by which equal content is matched without being shown.

    Args:
        fingerprint_key: at least 32 secret bytes; who holds it can confirm guesses.
        domain: what is compared, such as ``"source"``; the same data differs between domains.
        data: the content, of any length.
    """
    if len(fingerprint_key) < 32:
        raise ValueError("a fingerprint key has at least 32 bytes")
    return hmac.digest(fingerprint_key, _domain_prefix(domain) + data, "sha256")[:FINGERPRINT_BYTES]


@lru_cache(maxsize=64)
def _domain_prefix(domain: str) -> bytes:
    encoded = domain.encode()
    return len(encoded).to_bytes(4, "big") + encoded


def _epoch_info(store_id: bytes, compartment: str, epoch_id: bytes) -> bytes:
    if len(store_id) != STORE_ID_BYTES or len(epoch_id) != EPOCH_ID_BYTES:
        raise ValueError("a store id and an epoch id have 16 bytes each")
    return _EPOCH_INFO + store_id + compartment.encode() + epoch_id


def _check_compartments(by_name: Mapping[str, object]) -> None:
    unknown = sorted(set(by_name) - set(COMPARTMENTS))
    if unknown or not by_name:
        raise ValueError(f"compartments are {', '.join(COMPARTMENTS)}; got {unknown or 'none'}")
