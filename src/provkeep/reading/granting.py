"""Giving and taking grants: what an admin does, recorded in the log and signed by the admin."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from provkeep.errors import (
    GrantError,
    KeyFileError,
    RecipientsError,
    SealingError,
    UnknownIdError,
    UnsealError,
)
from provkeep.model import records as r
from provkeep.reading.access import Appender, Desk
from provkeep.reading.grants import SEALED_PREFIX, admin_of, desk_of
from provkeep.sealing.grants import (
    GRANT_PURPOSE,
    REVOKE_PURPOSE,
    ROLES,
    Contents,
    compartments_of,
    new_terms,
    seal_grant,
    sign_body,
)
from provkeep.sealing.home import home_dir, load_admin_seed, load_reader_keys
from provkeep.sealing.keyring import CompartmentKeys, Keyring
from provkeep.sealing.principals import PublicPrincipal
from provkeep.sealing.signing import verifying_key
from provkeep.store.keyfile import KeyFile
from provkeep.store.sqlite import SqliteStore

ROLES_FILE: Final = "roles.json"


def roles() -> dict[str, tuple[str, ...]]:
    """The roles there are: three, and those of ``roles.json`` in the folder of the keys.

    Raises:
        KeyFileError: the file is malformed.
    """
    path = home_dir() / ROLES_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        own = {str(name): tuple(map(str, parts)) for name, parts in found.items()}
    except FileNotFoundError:
        own = {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise KeyFileError(
            str(path), "is malformed", 'write it as {"support": ["prompt", "output"]}'
        ) from error
    return {**own, **ROLES}


class Office:
    """Issues and revokes grants for one store.

    Args:
        path: the database.
        admin: the admin's key file; by default the one in this user's folder of the store.
        keys: a file with the private halves to grant; by default the one in that folder.
        actor: who does it; stands sealed in the record.

    Raises:
        KeyFileError: the admin's key is not there.
        RecipientsError: it is not the key of this store's admin.
    """

    def __init__(
        self, path: Path, *, actor: str, admin: Path | None = None, keys: Path | None = None
    ) -> None:
        self._path, self._keys, self._actor = Path(path).absolute(), keys, actor
        self._store = SqliteStore(self._path, read_only=True)
        try:
            self._seed = load_admin_seed(self._store.store_id, admin)
            if verifying_key(self._seed) != admin_of(self._store):
                raise RecipientsError("the key is not that of this store's admin", admin)
        except BaseException:
            self._store.close()
            raise
        self._out = Appender(self._path, self._desk)

    def __enter__(self) -> Office:
        """Use as a context manager: closes at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Sign the log's head where its key is here, and release the files."""
        self._out.close()
        self._store.close()

    def _desk(self) -> Desk:
        return desk_of(self._store)

    def grant(
        self,
        role: str,
        to: PublicPrincipal,
        *,
        purpose: str,
        until_us: int,
        at_us: int | None = None,
        known: Mapping[str, Collection[str]] | None = None,
    ) -> dict[str, Any]:
        """Grant a role to a reader.

        Args:
            role: a name of ``roles()``.
            to: the reader's public key.
            purpose: what for; stands sealed in the record.
            until_us: when it ends, UTC microseconds since 1970.
            at_us: when it begins; now unless told.
            known: roles by name, instead of ``roles()``.

        Returns:
            ``id``, ``record``, ``role``, ``compartments``, ``until_us``.

        Raises:
            SealingError: no such role, or its keys are not here.
            StoreError: the store cannot be written.
        """
        compartments = compartments_of(role, roles() if known is None else known)
        at = time.time_ns() // 1000 if at_us is None else at_us
        if until_us <= at:
            raise SealingError("a grant ends in the future: name a later time")
        store_id = self._store.store_id
        keys_file, desk = self._out.open(), self._desk()
        held = self._held(compartments, keys_file)
        terms = new_terms(store_id, to, role, compartments, at_us=at, until_us=until_us)
        contents = Contents(keys=held, fingerprint_key=desk.fingerprint_key)
        sealed = seal_grant(terms, to, contents)
        name = r.b64(terms.id)
        body = {
            "k": "grant",
            "v": r.FORMAT,
            **terms.fields(),
            "sealed": r.b64(sha256(sealed).digest()),
        }
        said = {"name": to.name, "purpose": purpose, "actor": self._actor}
        record = self._out.seal(body, said)
        record.body["sig"] = sign_body(record.body, store_id, self._seed, GRANT_PURPOSE)
        # The keys first: sealed keys that no record names open nothing that they should not.
        keys_file.put_sealed_grant(SEALED_PREFIX + name, sealed)
        try:
            self._out.append([record])
        except BaseException:
            keys_file.drop_sealed_grant(SEALED_PREFIX + name)
            raise
        return {
            "id": name,
            "record": record.seq,
            "role": role,
            "compartments": list(compartments),
            "until_us": until_us,
        }

    def _held(self, compartments: tuple[str, ...], file: KeyFile) -> CompartmentKeys | None:
        """The private halves of a role, which must be those of this store."""
        if not compartments:
            return None
        keys = load_reader_keys(self._store.store_id, self._keys)
        missing = [name for name in compartments if name not in keys.private]
        if missing:
            raise SealingError(
                f"the keys of {', '.join(missing)} are not here, so they cannot be granted; name a"
                " file that holds them with --keys"
            )
        ring = Keyring(keys, self._store.store_id)
        for name in compartments:
            newest = file.newest_epoch(name)
            if newest is None:
                continue
            try:
                ring.open_epoch(name, *newest)
            except UnsealError as error:
                raise SealingError(
                    f"the key of {name} does not open what this store seals; name the file that"
                    " belongs to it with --keys"
                ) from error
        return CompartmentKeys({name: keys.private[name] for name in compartments})

    def revoke(self, grant: str, *, reason: str) -> int:
        """Take a grant back, and delete what it sealed; returns the number of the record.

        Args:
            grant: its id, or the beginning of one.
            reason: why; stands sealed in the record.

        Raises:
            UnknownIdError: there is no such grant. GrantError: it was revoked before.
        """
        rows = self._store.query("SELECT id, revoked FROM grants")
        fits = [(r.b64(i), gone) for i, gone in rows if grant and r.b64(i).startswith(grant)]
        if len(fits) != 1:
            raise UnknownIdError("grant", grant)
        name, gone = fits[0]
        if gone is not None:
            raise GrantError(name, f"it was revoked before, by record {gone}")
        body = {"k": "revoke", "v": r.FORMAT, "at": time.time_ns() // 1000, "grant": name}
        record = self._out.seal(body, {"reason": reason, "actor": self._actor})
        record.body["sig"] = sign_body(
            record.body, self._store.store_id, self._seed, REVOKE_PURPOSE
        )
        self._out.append([record])
        self._out.open().drop_sealed_grant(SEALED_PREFIX + name)
        return record.seq
