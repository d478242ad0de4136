"""Who was granted what: the grants in a log, and which of them let a reader in.

The index says where grants stand; what counts is their records, signed by the store's admin.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from provkeep.errors import GrantError, KeyFileError, RecipientsError, RefusedError
from provkeep.model import records as r
from provkeep.reading.access import Desk
from provkeep.sealing.grants import (
    GRANT_PURPOSE,
    Contents,
    Terms,
    is_signed_body,
    open_grant,
)
from provkeep.sealing.home import load_recorder_config
from provkeep.sealing.keyring import CompartmentKeys, Keyring
from provkeep.sealing.principals import Principal
from provkeep.sealing.recipients import SignedRecipients, newest
from provkeep.store.base import Store
from provkeep.store.keyfile import KeyFile, keys_path
from provkeep.store.naming import naming_bodies

SEALED_PREFIX = "grant/"  # of the rows in the key file's meta table


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One grant as the log says it. Times are UTC microseconds since 1970."""

    id: str
    record: int
    role: str
    compartments: tuple[str, ...]
    reader: str  # the principal's id, hex
    name: str | None  # None where this reader may not see names
    purpose: str | None
    at_us: int
    until_us: int
    revoked: int | None  # record that revoked it
    signed: bool  # by the store's admin

    def status(self, now_us: int | None = None) -> str:
        """``active``, ``expired``, ``revoked``, ``waiting`` or ``forged``."""
        now = time.time_ns() // 1000 if now_us is None else now_us
        if not self.signed:
            return "forged"
        if self.revoked is not None:
            return "revoked"
        if now < self.at_us:
            return "waiting"
        return "active" if now < self.until_us else "expired"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "status": self.status()}


def recipients_of(store: Store) -> SignedRecipients:
    """The recipients that the store names last, signed by the admin of its record 0.

    Raises:
        RecipientsError: it names no admin, or what it names was changed.
    """
    try:
        return newest(naming_bodies(store))
    except RecipientsError as error:
        raise RecipientsError(error.problem, "the store") from error


def admin_of(store: Store) -> bytes:
    """The admin's public key: the pinned one, or where none is pinned here, that of record 0.

    Raises:
        RecipientsError: this machine pins none, and the store names none.
    """
    with contextlib.suppress(KeyFileError):
        signed = load_recorder_config(store.store_id).signed
        if signed is not None:
            return signed.admin
    return recipients_of(store).admin


def desk_of(store: Store, contents: Contents | None = None) -> Desk:
    """What it takes to record an access: of this machine's recorder, else of a grant.

    Raises:
        KeyFileError, RecipientsError: neither is there.
    """
    try:
        return Desk.of(load_recorder_config(store.store_id))
    except KeyFileError:
        return Desk(
            store_id=store.store_id,
            recipients=recipients_of(store).recipients,
            admin=admin_of(store),
            fingerprint_key=None if contents is None else contents.fingerprint_key,
        )


def _body(store: Store, seq: int) -> dict[str, Any]:
    rows = store.query("SELECT body FROM record WHERE seq=?", (seq,))
    try:
        body = orjson.loads(rows[0][0])
    except (IndexError, ValueError) as error:
        raise GrantError(f"of record {seq}", "its record is not there") from error
    return body if isinstance(body, dict) else {}


def listed(store: Store, said: Callable[[int], dict[str, Any]]) -> list[Grant]:
    """All grants, newest first.

    Args:
        store: the store.
        said: opens a small sealed block by payload number, or gives nothing.
    """
    admin = admin_of(store)
    out = []
    for seq, revoked in store.query("SELECT seq, revoked FROM grants ORDER BY seq DESC"):
        body = _body(store, seq)
        try:
            terms = Terms.from_fields(store.store_id, body)
        except GrantError:
            continue  # `verify` names it
        names = said(body["p0"]) if "p0" in body else {}
        grant = r.b64(terms.id)
        out.append(
            Grant(
                id=grant,
                record=seq,
                role=terms.role,
                compartments=terms.compartments,
                reader=terms.to.hex(),
                name=names.get("name"),
                purpose=names.get("purpose"),
                at_us=terms.at_us,
                until_us=terms.until_us,
                revoked=revoked,
                signed=is_signed_body(body, store.store_id, admin, GRANT_PURPOSE),
            )
        )
    return out


class Admission:
    """What a principal may open of a store, looked up anew each time."""

    def __init__(self, path: Path, store: Store, principal: Principal) -> None:
        self._path, self._store, self.principal = path, store, principal
        self._opened: dict[bytes, Contents] = {}
        self._ring: tuple[tuple[bytes, ...], Keyring | None] = ((), None)

    def enter(self, now_us: int | None = None) -> tuple[list[Terms], Desk, Keyring | None]:
        """The grants in force, what it takes to record an access, and the keys they hold.

        Raises:
            RefusedError: there is no grant to this principal, or none in force.
            GrantError: one was altered, relabelled, or copied from elsewhere.
        """
        now = time.time_ns() // 1000 if now_us is None else now_us
        store, me = self._store, self.principal.public
        admin = admin_of(store)
        over: list[str] = []
        good: list[tuple[Terms, Contents]] = []
        rows = store.query(
            "SELECT seq, revoked FROM grants WHERE reader=? ORDER BY seq DESC", (me.id,)
        )
        for seq, revoked in rows:
            body = _body(store, seq)
            terms = Terms.from_fields(store.store_id, body)
            name = r.b64(terms.id)
            if not is_signed_body(body, store.store_id, admin, GRANT_PURPOSE):
                raise GrantError(name, "it is not signed by this store's admin, or was altered")
            if (terms.to, terms.verify_key) != (me.id, me.verify_key):
                raise GrantError(name, "it was made out to somebody else")
            if revoked is not None:  # whoever wrote that: refusing is the safe side
                over.append("revoked")
            elif not terms.in_force(now):
                over.append("expired" if now >= terms.until_us else "waiting")
            else:
                good.append((terms, self._contents(terms, body)))
        if not good:
            raise _refusal(over)
        held = tuple(terms.id for terms, _ in good)
        if self._ring[0] == held:
            return [terms for terms, _ in good], desk_of(store, good[0][1]), self._ring[1]
        private: dict[str, bytes] = {}
        for _, contents in reversed(good):  # the newest counts
            private |= contents.keys.private if contents.keys is not None else {}
        ring = Keyring(CompartmentKeys(private), store.store_id) if private else None
        self._ring = held, ring
        return [terms for terms, _ in good], desk_of(store, good[0][1]), ring

    def _contents(self, terms: Terms, body: dict[str, Any]) -> Contents:
        found = self._opened.get(terms.id)
        if found is None:
            keys = KeyFile(keys_path(self._path), read_only=True)
            try:
                sealed = keys.sealed_grant(SEALED_PREFIX + r.b64(terms.id))
            finally:
                keys.close()
            name = r.b64(terms.id)
            if sealed is None:
                raise GrantError(name, "its sealed keys are not in the key file")
            if r.b64(sha256(sealed).digest()) != body.get("sealed"):
                raise GrantError(name, "its sealed keys are not those that the log committed to")
            found = self._opened[terms.id] = open_grant(terms, sealed, self.principal)
        return found


def _refusal(over: list[str]) -> RefusedError:
    if "waiting" in over:
        return RefusedError("waiting", "the grant is not in force yet", "come again when it is")
    if "expired" in over:
        return RefusedError("expired", "the grant has expired", "ask the admin for a new one")
    if over:
        return RefusedError("revoked", "the grant was revoked", "ask the admin why")
    return RefusedError(
        "no-grant",
        "nothing was granted to this key in this store",
        "send its .pub line to the admin, who runs `provkeep grant`",
    )
