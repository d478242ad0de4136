"""What a recorder needs, and how its file says whom it seals to and who said so."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Any

from provkeep.sealing.keyring import COMPARTMENTS, STORE_ID_BYTES, RecipientSet
from provkeep.sealing.recipients import SignedRecipients

LOG_SEED_BYTES = 32
FINGERPRINT_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderConfig:
    """What a recorder needs; it cannot read what it records."""

    store_id: bytes  # 16 bytes
    origin: str
    log_seed: bytes = field(repr=False)  # Ed25519 seed, 32 bytes
    fingerprint_key: bytes = field(repr=False)  # 32 bytes
    recipients: RecipientSet
    signed: SignedRecipients | None = None  # who named them; None in homes that predate admins
    log_second_seed: bytes | None = field(repr=False, default=None)  # ML-DSA-44 seed, 32 bytes

    def __post_init__(self) -> None:
        check_store_id(self.store_id)
        second = self.log_seed if self.log_second_seed is None else self.log_second_seed
        if not len(self.log_seed) == len(second) == LOG_SEED_BYTES:
            raise ValueError(f"a log seed has {LOG_SEED_BYTES} bytes")
        if len(self.fingerprint_key) != FINGERPRINT_KEY_BYTES:
            raise ValueError(f"a fingerprint key has {FINGERPRINT_KEY_BYTES} bytes")
        if set(self.recipients.recipients) != set(COMPARTMENTS):
            raise ValueError(f"a recorder needs a public key for each of {', '.join(COMPARTMENTS)}")

    @property
    def admin(self) -> bytes | None:
        """Public key of the admin who named the recipients; None in homes that predate admins."""
        return None if self.signed is None else self.signed.admin


def signed_of(fields: dict[str, Any], recipients: RecipientSet) -> SignedRecipients | None:
    """The signature over the recipients, checked against the admin that the file pins."""
    if "admin" not in fields and "signed" not in fields:
        return None
    said = fields.get("signed")
    if not isinstance(said, dict) or said.keys() != {"at", "signature"} or "admin" not in fields:
        raise ValueError("recipients need the pinned admin and the signature, or neither")
    admin = key_of(fields["admin"])
    signed = SignedRecipients(
        recipients=recipients, admin=admin, at_us=said["at"], signature=key_of(said["signature"])
    )
    signed.check(admin)
    return signed


def recorder_fields(config: RecorderConfig) -> dict[str, Any]:
    """The fields of ``recorder.json``, besides format and store."""
    fields: dict[str, Any] = {
        "origin": config.origin,
        "log_seed": b64encode(config.log_seed).decode(),
        "fingerprint_key": b64encode(config.fingerprint_key).decode(),
        "recipients": config.recipients.to_json(),
    }
    if config.log_second_seed is not None:
        fields["log_second_seed"] = b64encode(config.log_second_seed).decode()
    if config.signed is not None:
        fields["admin"] = b64encode(config.signed.admin).decode()
        fields["signed"] = {
            "at": config.signed.at_us,
            "signature": b64encode(config.signed.signature).decode(),
        }
    return fields


def text_of(value: object) -> str:
    """A field that is a text; ValueError when it is none."""
    if not isinstance(value, str) or not value:
        raise ValueError("a field is not a text")
    return value


def key_of(value: object) -> bytes:
    """A field in base64; ValueError when it is none."""
    return b64decode(text_of(value), validate=True)


def check_store_id(store_id: bytes) -> None:
    """Raise ValueError for what cannot be a store id."""
    if len(store_id) != STORE_ID_BYTES:
        raise ValueError(f"a store id has {STORE_ID_BYTES} bytes, got {len(store_id)}")
