"""Grants: compartment keys sealed to a reader, on terms that an admin signed.

The terms (who, which compartments, until when) stand in the log. What is sealed stands in the key
file and is bound to them: HPKE's ``info`` is a hash of store and terms, so that a grant whose terms
were changed, or that was copied to another reader, store or grant, does not open. Whether it is
still in force is checked too, but that a key holder cannot be made to forget: expiry and revocation
hold from the next rotation of the compartment keys on.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from provkeep.errors import GrantError, SealingError
from provkeep.model.canonical import MAX_INT, canonical
from provkeep.model.records import CLASS_CODE, COMPARTMENTS, b64, unb64
from provkeep.sealing import signing, suites
from provkeep.sealing.keyring import STORE_ID_BYTES, CompartmentKeys
from provkeep.sealing.principals import Principal, PublicPrincipal

ROLES: Final[dict[str, tuple[str, ...]]] = {
    "auditor": (),  # the graph only
    "reviewer": ("prompt", "output"),
    "privacy-officer": COMPARTMENTS,
}
GRANT_ID_BYTES: Final = 12
GRANT_PURPOSE: Final = "provkeep/grant/1"
REVOKE_PURPOSE: Final = "provkeep/revoke/1"
ACCESS_PURPOSE: Final = "provkeep/access/1"
_INFO: Final = b"provkeep/grant/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a grant allows: stands in the clear in the log."""

    id: bytes  # 12 random bytes
    store_id: bytes
    to: bytes  # the principal's id
    verify_key: bytes  # the principal's Ed25519 key, 32 bytes
    role: str
    compartments: tuple[str, ...]
    at_us: int
    until_us: int

    def __post_init__(self) -> None:
        if len(self.id) != GRANT_ID_BYTES or len(self.store_id) != STORE_ID_BYTES:
            raise ValueError("a grant has an id of 12 bytes, for a store")
        if not set(self.compartments) <= set(COMPARTMENTS):
            raise ValueError(f"compartments are {', '.join(COMPARTMENTS)}")
        if not 0 < self.at_us < self.until_us <= MAX_INT:
            raise ValueError("a grant ends after it begins")

    def fields(self) -> dict[str, Any]:
        """The fields of the record that says them."""
        return {
            "id": b64(self.id),
            "to": b64(self.to),
            "key": b64(self.verify_key),
            "role": self.role,
            "c": sorted(CLASS_CODE[name] for name in self.compartments),
            "at": self.at_us,
            "until": self.until_us,
        }

    def info(self) -> bytes:
        """What is sealed is bound to this."""
        return _INFO + self.store_id + sha256(canonical(self.fields())).digest()

    def in_force(self, now_us: int) -> bool:
        """Has it begun, and not ended?"""
        return self.at_us <= now_us < self.until_us

    @classmethod
    def from_fields(cls, store_id: bytes, body: Mapping[str, Any]) -> Terms:
        """Read the terms of a record.

        Raises:
            GrantError: malformed.
        """
        try:
            return cls(
                id=unb64(body["id"]),
                store_id=store_id,
                to=unb64(body["to"]),
                verify_key=unb64(body["key"]),
                role=str(body["role"]),
                compartments=tuple(COMPARTMENTS[code] for code in body["c"]),
                at_us=body["at"],
                until_us=body["until"],
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise GrantError(str(body.get("id", "?")), "its record is malformed") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a grant seals: keys. Shows in no repr."""

    keys: CompartmentKeys | None = field(repr=False)  # None: no compartment
    fingerprint_key: bytes | None = field(repr=False, default=None)  # to look names up

    def to_bytes(self) -> bytes:
        """JSON, to be sealed."""
        said: dict[str, Any] = {
            "keys": self.keys.to_json() if self.keys is not None else {},
        }
        if self.fingerprint_key is not None:
            said["fingerprint_key"] = b64encode(self.fingerprint_key).decode()
        return json.dumps(said, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Contents:
        """Read what ``to_bytes`` gave; ValueError or KeyError when it is malformed."""
        said = json.loads(data)
        fingerprint_key = said.get("fingerprint_key")
        return cls(
            keys=CompartmentKeys.from_json(said["keys"]) if said["keys"] else None,
            fingerprint_key=b64decode(fingerprint_key) if fingerprint_key else None,
        )


def compartments_of(role: str, roles: Mapping[str, Collection[str]] = ROLES) -> tuple[str, ...]:
    """The compartments of a role, in their usual order.

    Raises:
        SealingError: there is no such role, or it names what is no compartment.
    """
    if role not in roles:
        raise SealingError(
            f"there is no role {role!r}; there are {', '.join(roles)}. Your own stand in"
            ' roles.json in the folder of the keys: {"support": ["prompt", "output"]}'
        )
    unknown = sorted(set(roles[role]) - set(COMPARTMENTS))
    if unknown:
        raise SealingError(
            f"role {role!r} names {', '.join(unknown)}, which is no compartment; there are"
            f" {', '.join(COMPARTMENTS)}"
        )
    return tuple(name for name in COMPARTMENTS if name in roles[role])


def new_terms(
    store_id: bytes,
    to: PublicPrincipal,
    role: str,
    compartments: Collection[str],
    *,
    at_us: int,
    until_us: int,
) -> Terms:
    """Terms of a new grant; times in UTC microseconds since 1970."""
    return Terms(
        id=os.urandom(GRANT_ID_BYTES),
        store_id=store_id,
        to=to.id,
        verify_key=to.verify_key,
        role=role,
        compartments=tuple(compartments),
        at_us=at_us,
        until_us=until_us,
    )


def seal_grant(terms: Terms, to: PublicPrincipal, contents: Contents) -> bytes:
    """Seal keys to a principal on these terms."""
    held = set(contents.keys.held) if contents.keys is not None else set()
    if held != set(terms.compartments) or to.id != terms.to:
        raise ValueError("a grant seals the keys that its terms name, to whom they name")
    return suites.seal_to(to.suite, to.box_key, contents.to_bytes(), terms.info())


def open_grant(terms: Terms, sealed: bytes, principal: Principal) -> Contents:
    """Open a grant.

    Raises:
        GrantError: sealed to somebody else, on other terms, for another store, or altered.
    """
    try:
        found = Contents.from_bytes(suites.open_with(principal.box_key, sealed, terms.info()))
    except (ValueError, KeyError, TypeError, SealingError):
        raise GrantError(  # not chained: an error of a decoder carries what it decoded
            b64(terms.id), "it was sealed to another key, on other terms or for another store"
        ) from None
    held = set(found.keys.held) if found.keys is not None else set()
    if held != set(terms.compartments):
        raise GrantError(b64(terms.id), "it holds other keys than its terms name")
    return found


def signed_fields(body: Mapping[str, Any], store_id: bytes) -> dict[str, Any]:
    """What a signature in a record covers: all of it but what the log adds, and which store."""
    said = {k: v for k, v in body.items() if k not in ("sig", "p0")}
    return {**said, "store": store_id.hex()}


def sign_body(body: Mapping[str, Any], store_id: bytes, seed: bytes, purpose: str) -> str:
    """The signature that a record carries in ``sig``."""
    return b64(signing.sign(seed, purpose, signed_fields(body, store_id)))


def is_signed_body(body: Mapping[str, Any], store_id: bytes, public: bytes, purpose: str) -> bool:
    """Does a record carry a good signature by this key? Total: never raises."""
    try:
        signature = unb64(body["sig"])
    except (KeyError, ValueError, TypeError):
        return False
    return signing.is_signed(public, purpose, signed_fields(body, store_id), signature)
