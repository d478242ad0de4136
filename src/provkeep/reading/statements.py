"""Records that a person signed, besides the log: do they bear that person's signature?

The log's signature says that a record was written; these say by whom. Public keys suffice: of an
access the reader's, which stands in it; of all else the admin's, who is named by record 0.
"""

from __future__ import annotations

from typing import Any, Final

from provkeep.errors import RecipientsError
from provkeep.model import records as r
from provkeep.reading.findings import Findings
from provkeep.sealing.grants import (
    ACCESS_PURPOSE,
    GRANT_PURPOSE,
    REVOKE_PURPOSE,
    is_signed_body,
)
from provkeep.sealing.recipients import SignedRecipients

_ADMIN_S: Final = {"grant": GRANT_PURPOSE, "revoke": REVOKE_PURPOSE}


class Statements:
    """Takes in records, record 0 first."""

    def __init__(self, out: Findings) -> None:
        self._out = out
        self._store_id = b""
        self._admin: bytes | None = None

    def meet(self, seq: int, fields: dict[str, Any]) -> None:
        """Check one record; total on whatever stands there."""
        kind = fields["k"]
        if kind == "init":
            self._begin(fields)
        elif kind == r.RECIPIENTS:
            self._recipients(f"record {seq}", fields)
        elif kind == "access":
            key = _key(fields)
            signed = key is not None and is_signed_body(fields, self._store_id, key, ACCESS_PURPOSE)
            if not signed:
                sentence = "the access does not bear the signature of the reader that it names"
                self._out.error("statement-signature", f"record {seq}", sentence)
        elif kind in _ADMIN_S:
            admin = self._admin
            if admin is None or not is_signed_body(fields, self._store_id, admin, _ADMIN_S[kind]):
                sentence = f"the {kind} does not bear the signature of this store's admin"
                self._out.error("statement-signature", f"record {seq}", sentence)

    def _begin(self, fields: dict[str, Any]) -> None:
        try:
            self._store_id = bytes.fromhex(fields["store"])
        except (KeyError, TypeError, ValueError):
            self._store_id = b""
        if "admin" in fields:
            self._admin = self._recipients("record 0", fields)

    def _recipients(self, place: str, fields: dict[str, Any]) -> bytes | None:
        try:
            found = SignedRecipients.from_fields(fields)
            if self._admin is not None:
                found.check(self._admin)
        except RecipientsError as error:
            self._out.error("statement-signature", place, error.problem)
            return None
        return found.admin


def _key(fields: dict[str, Any]) -> bytes | None:
    try:
        return r.unb64(fields["key"])
    except (KeyError, ValueError, TypeError):
        return None
