"""Whom a recorder seals to, said by an admin: public keys under a signature.

Whoever may exchange a public key receives the next data keys. So the public keys of the
compartments are signed by an admin key, and the recorder's configuration says which one.
"""

from __future__ import annotations

import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from provkeep.errors import RecipientsError, SealingError
from provkeep.model.canonical import MAX_INT
from provkeep.sealing import signing
from provkeep.sealing.keyring import COMPARTMENTS, RecipientSet

RECIPIENTS_FORMAT: Final = 1
RECIPIENTS_FILE: Final = "recipients.json"
MAX_FILE_BYTES: Final = 1_000_000
_PURPOSE: Final = "provkeep/recipients/1"
_FIELDS: Final = {"format", "recipients", "admin", "at", "signature"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRecipients:
    """Public keys of all compartments, and an admin's signature over them."""

    recipients: RecipientSet
    admin: bytes  # Ed25519 public key, 32 bytes
    at_us: int  # when they were named, UTC microseconds since 1970
    signature: bytes  # 64 bytes

    def __post_init__(self) -> None:
        if set(self.recipients.recipients) != set(COMPARTMENTS):
            raise ValueError(f"a recorder needs a public key for each of {', '.join(COMPARTMENTS)}")
        if type(self.at_us) is not int or not 0 < self.at_us <= MAX_INT:
            raise ValueError("at must be microseconds since 1970")

    def check(self, pinned: bytes) -> None:
        """Raise RecipientsError unless the pinned admin key signed exactly these keys."""
        if not hmac.compare_digest(self.admin, pinned):
            raise RecipientsError("they are signed by another admin key than the pinned one")
        if not signing.is_signed(pinned, _PURPOSE, self._said(), self.signature):
            raise RecipientsError("the admin's signature does not fit: a public key was exchanged")

    def _said(self) -> dict[str, Any]:
        return {"recipients": self.recipients.to_json(), "at": self.at_us}

    def to_json(self) -> dict[str, Any]:
        """A value for JSON; ``from_json`` reads it."""
        return {
            "format": RECIPIENTS_FORMAT,
            "recipients": self.recipients.to_json(),
            "admin": b64encode(self.admin).decode(),
            "at": self.at_us,
            "signature": b64encode(self.signature).decode(),
        }

    def fields(self) -> dict[str, Any]:
        """The fields of a record that says them: of record 0, or of a later change."""
        said = self.to_json()
        return {
            "recipients": said["recipients"],
            "admin": said["admin"],
            "signed": {"at": said["at"], "signature": said["signature"]},
        }

    @classmethod
    def from_fields(cls, body: Mapping[str, Any]) -> SignedRecipients:
        """Read the fields of such a record.

        Raises:
            RecipientsError: malformed, or not signed by the admin that it names.
        """
        try:
            said = {k: body[k] for k in ("recipients", "admin")} | dict(body["signed"])
        except (KeyError, TypeError, ValueError) as error:
            raise RecipientsError("it names no recipients that an admin signed") from error
        return cls.from_json({"format": RECIPIENTS_FORMAT, **said})

    @classmethod
    def from_json(cls, value: Any) -> SignedRecipients:
        """Read what ``to_json`` gave, and check the signature by the key that it names.

        Raises:
            RecipientsError: malformed, or not signed by the key that it names. Whether that key
                is the right one, ``check`` says.
        """
        if not isinstance(value, dict) or value.keys() != _FIELDS:
            raise RecipientsError(f"they need exactly the fields {', '.join(sorted(_FIELDS))}")
        if value["format"] != RECIPIENTS_FORMAT:
            raise RecipientsError(f"they are not of format {RECIPIENTS_FORMAT}; upgrade provkeep")
        try:
            found = cls(
                recipients=RecipientSet.from_json(value["recipients"]),
                admin=b64decode(value["admin"], validate=True),
                at_us=value["at"],
                signature=b64decode(value["signature"], validate=True),
            )
        except (ValueError, TypeError, SealingError) as error:
            raise RecipientsError(f"they are malformed ({error})") from error
        found.check(found.admin)
        return found


def newest(bodies: Iterable[bytes]) -> SignedRecipients:
    """The recipients that a log names last.

    Args:
        bodies: of record 0, and of the changes of recipients. What another admin signed than the
            one of record 0 does not count; `verify` names it.

    Raises:
        RecipientsError: record 0 names none, or what it names was changed.
    """
    found: SignedRecipients | None = None
    for body in bodies:
        try:
            fields = json.loads(body)
            said = SignedRecipients.from_fields(fields)
            if found is None or (said.admin == found.admin and said.at_us > found.at_us):
                found = said
        except (ValueError, TypeError, RecipientsError) as error:
            if found is None:
                raise RecipientsError("it names no recipients that the admin signed") from error
    if found is None:
        raise RecipientsError("there is no record 0")
    return found


def sign_recipients(recipients: RecipientSet, seed: bytes, *, at_us: int) -> SignedRecipients:
    """Sign the public keys of all compartments with the admin's seed (Ed25519, 32 bytes)."""
    said = {"recipients": recipients.to_json(), "at": at_us}
    return SignedRecipients(
        recipients=recipients,
        admin=signing.verifying_key(seed),
        at_us=at_us,
        signature=signing.sign(seed, _PURPOSE, said),
    )


def read_recipients(path: Path) -> SignedRecipients:
    """Read a recipients file.

    Raises:
        RecipientsError: it is missing, unreadable, malformed or not signed.
    """
    try:
        with path.open("rb") as file:
            blob = file.read(MAX_FILE_BYTES)
        value = json.loads(blob)
    except OSError as error:
        raise RecipientsError(f"the file cannot be read ({error.strerror})", path) from error
    except (ValueError, RecursionError) as error:
        raise RecipientsError("the file is not JSON", path) from error
    try:
        return SignedRecipients.from_json(value)
    except RecipientsError as error:
        raise RecipientsError(error.problem, path) from error
