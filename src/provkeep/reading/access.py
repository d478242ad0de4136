"""Every reading is a record, signed by who reads and committed before anything is opened."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from provkeep.errors import (
    AccessNotRecordedError,
    KeyFileError,
    NotAProvkeepFileError,
    ProvkeepError,
    StoreReplacedError,
)
from provkeep.model import records as r
from provkeep.model.values import encode_json
from provkeep.sealing.grants import ACCESS_PURPOSE, sign_body
from provkeep.sealing.home import RecorderConfig, home_dir
from provkeep.sealing.keyring import RecipientSet, fingerprint
from provkeep.sealing.logkeys import log_seeds
from provkeep.sealing.principals import Principal, own_identity
from provkeep.sealing.retired import load_retired
from provkeep.sealing.sealer import Payload, Sealer
from provkeep.store.base import Transaction
from provkeep.store.keyfile import KeyFile, keys_path
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.checkpoint import LogKey
from provkeep.tlog.log import Log
from provkeep.tlog.mldsa import log_key

LISTED: Final = 500  # artifacts, and sources, in one record; more of them take several
REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What it takes to append a record that says who read; nothing here opens a payload."""

    store_id: bytes
    recipients: RecipientSet
    admin: bytes | None = None  # public key of who may name other recipients
    fingerprint_key: bytes | None = field(repr=False, default=None)
    old_fingerprint_keys: tuple[bytes, ...] = field(repr=False, default=())  # rotated out
    origin: str | None = None  # of the log, where its key is on this machine
    log_key: LogKey | None = field(repr=False, default=None)  # to sign the log's head

    @classmethod
    def of(cls, config: RecorderConfig) -> Desk:
        """The desk of whoever has the recorder's configuration."""
        return cls(
            store_id=config.store_id,
            recipients=config.recipients,
            admin=config.admin,
            fingerprint_key=config.fingerprint_key,
            old_fingerprint_keys=tuple(load_retired(config.store_id).fingerprints),
            origin=config.origin,
            log_key=log_key(config.origin, config.log_seed, config.log_second_seed),
        )


class Appender:
    """Appends small records of readers; opens the store for writing on first use."""

    def __init__(self, path: Path, desk: Callable[[], Desk]) -> None:
        self._path, self._find, self._desk = path, desk, None
        self.store: SqliteStore | None = None
        self.keys: KeyFile | None = None
        self._log: Log | None = None
        self._sealer: Sealer | None = None

    _desk: Desk | None

    def desk(self) -> Desk:
        """Found on first use.

        Raises:
            KeyFileError: there is none on this machine.
        """
        if self._desk is None:
            self._desk = self._find()
        return self._desk

    def seal(self, body: dict[str, Any], said: dict[str, Any]) -> r.Pending:
        """A record with one payload, of compartment meta."""
        self.open()
        assert self._sealer is not None  # noqa: S101  # just opened
        payload = Payload("meta", encode_json(said))
        return self._sealer.record(
            body, [payload], scope=body["k"], number=body["at"], trace_keys={}
        )

    def append(
        self, records: Sequence[r.Pending], check: Callable[[Transaction], None] | None = None
    ) -> None:
        """Append records, durably and in one transaction; ``check`` as for ``Log.append``."""
        self.open()
        assert self._log is not None and self.keys is not None  # noqa: S101
        self.keys.check_in_place()
        self._log.append(records, durable=True, check=check)

    def sign(self) -> None:
        """Sign the log as it now is.

        Raises:
            KeyFileError: the log's key is not on this machine. StoreError: the store refused.
        """
        self.open()
        assert self._log is not None  # noqa: S101  # just opened
        desk = self.desk()
        if desk.log_key is None or desk.origin is None:
            raise KeyFileError(
                "the key of the log",
                "is not on this machine",
                "ask where the recorder runs, or wait until it signs",
            )
        self._log.checkpoint(desk.log_key, self._keys_here)

    def _keys_here(self) -> list[LogKey]:
        """All keys of the log on this host, when it has changed its key meanwhile."""
        desk = self.desk()
        if desk.origin is None:
            return []
        second = None if desk.log_key is None else desk.log_key.second
        return [LogKey.from_seed(desk.origin, seed, second) for seed in log_seeds(desk.store_id)]

    def open(self) -> KeyFile:
        """Open both files for writing; reading makes no file that is not there."""
        if self.keys is not None:
            return self.keys
        desk = self.desk()
        keys_at = keys_path(self._path)
        for path in (self._path, keys_at):
            if not path.exists():
                raise NotAProvkeepFileError(path, "there is no such file")
        store = SqliteStore(self._path)
        try:
            if store.store_id != desk.store_id:
                raise StoreReplacedError(self._path)
            keys = KeyFile(keys_at)
        except BaseException:
            store.close()
            raise
        self.store, self.keys, self._log = store, keys, Log(store)
        self._sealer = Sealer(desk, keys)
        return keys

    def close(self) -> None:
        """Sign what was appended, delete unused keys, release the files; idempotent."""
        store, keys, sealer, log = self.store, self.keys, self._sealer, self._log
        self.store = self.keys = self._sealer = self._log = None
        if store is None or keys is None or sealer is None or log is None:
            return
        try:
            # Unsigned is what the records stay otherwise, until a recorder signs: verify says so.
            with contextlib.suppress(ProvkeepError):
                log_key = self.desk().log_key
                if log_key is not None:
                    log.checkpoint(log_key, self._keys_here)
            with contextlib.suppress(ProvkeepError):
                sealer.drop_unused()
        finally:
            store.close()
            keys.close()


class AccessLog:
    """Appends access records of one reader.

    Args:
        path: the database.
        actor: who reads.
        desk: finds what it takes to append.
        principal: who signs; by default this user's own identity, made on first use.
    """

    def __init__(
        self,
        path: Path,
        actor: str,
        desk: Callable[[], Desk],
        principal: Principal | None = None,
    ) -> None:
        self._out = Appender(path, desk)
        self._actor, self._principal = actor, principal
        self._named = principal is not None
        self.grants: list[str] = []  # through which this reader opens things

    def tag(self, domain: str, name: str) -> bytes:
        """Keyed digest under which a name is filed.

        Raises:
            KeyFileError: the fingerprint key is not on this machine.
        """
        key = self._out.desk().fingerprint_key
        if key is None:
            raise KeyFileError(
                "fingerprint key",
                "is not part of this grant",
                "look things up by id, or ask for a grant made where the recorder's keys are",
            )
        return fingerprint(key, domain, name.encode("utf-8", "surrogatepass"))

    def tags(self, domain: str, name: str) -> list[bytes]:
        """Tags under which a name may be filed: also by fingerprint keys that were rotated out."""
        text = name.encode("utf-8", "surrogatepass")
        old = self._out.desk().old_fingerprint_keys
        return [self.tag(domain, name), *(fingerprint(key, domain, text) for key in old)]

    def commit(
        self,
        *,
        purpose: str | None,
        what: str,
        trace: str | None,
        artifacts: list[str],
        sources: dict[str, int],
        why: str | None = None,
    ) -> int:
        """Append one access record, durably; return its number.

        Args:
            purpose: why it is read; sealed.
            what: ``payload``, ``payloads``, ``reveal``, ``names``, or ``refused``.
            trace: its id, if all is of one.
            artifacts: ids of what is opened.
            sources: tags of sources, and whether their own text is opened.
            why: of a refusal, in one word.

        Raises:
            AccessNotRecordedError: it could not be committed; nothing may be opened.
        """
        try:
            desk, principal = self._out.desk(), self._signer()
            at = time.time_ns() // 1000
            body: dict[str, Any] = {
                "k": "access",
                "v": r.FORMAT,
                "at": at,
                "by": r.b64(principal.public.id if self._named else self._tag_of_actor()),
                "key": r.b64(principal.public.verify_key),
                "what": what,
            }
            if trace is not None:
                body["t"] = trace
            if why is not None:
                body["why"] = why
            if self.grants:
                body["g"] = self.grants
            tags = [[tag, reach] for tag, reach in sources.items()]
            records: list[r.Pending] = []
            for i in range(0, max(len(artifacts), len(tags), 1), LISTED):
                part = {**body, "at": at + len(records), "a": artifacts[i : i + LISTED]}
                if tags[i : i + LISTED]:
                    part["src"] = tags[i : i + LISTED]
                record = self._out.seal(part, {"actor": self._actor, "purpose": purpose})
                said = record.body
                said["sig"] = sign_body(said, desk.store_id, principal.seed, ACCESS_PURPOSE)
                records.append(record)
            self._out.append(records)
        except (ProvkeepError, OSError) as error:
            raise AccessNotRecordedError(str(error)) from error
        return records[0].seq

    def refuse(self, why: str, artifacts: Iterable[str] = (), purpose: str | None = None) -> None:
        """Record that something was not opened.

        Raises:
            AccessNotRecordedError: it could not be committed.
        """
        listed = list(artifacts)[:LISTED]
        traces = {each.partition(".")[0] for each in listed}
        trace = traces.pop() if len(traces) == 1 else None
        self.commit(
            purpose=purpose, what=REFUSED, trace=trace, artifacts=listed, sources={}, why=why
        )

    def _signer(self) -> Principal:
        if self._principal is None:
            name = "".join(c for c in self._actor if c.isprintable())[:200]
            self._principal = own_identity(home_dir(), name or "reader")
        return self._principal

    def _tag_of_actor(self) -> bytes:
        return self.tag("actor", self._actor)

    def sign(self) -> None:
        """See ``Appender.sign``."""
        self._out.sign()

    def close(self) -> None:
        """See ``Appender.close``."""
        self._out.close()
