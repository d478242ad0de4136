"""Every reading is a record, committed before anything is opened."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any, Final

from provkeep.errors import (
    AccessNotRecordedError,
    NotAProvkeepFileError,
    ProvkeepError,
    StoreReplacedError,
)
from provkeep.model import records as r
from provkeep.model.values import encode_json
from provkeep.sealing.home import RecorderConfig, load_recorder_config
from provkeep.sealing.keyring import fingerprint
from provkeep.sealing.logkeys import log_seeds
from provkeep.sealing.retired import load_retired
from provkeep.sealing.sealer import Payload, Sealer
from provkeep.store.keyfile import KeyFile, keys_path
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.checkpoint import LogKey
from provkeep.tlog.log import Log

LISTED: Final = 500  # artifacts, and sources, in one record; more of them take several


class AccessLog:
    """Appends access records; opens the store for writing on first use."""

    def __init__(self, path: Path, store_id: bytes) -> None:
        self._path, self._store_id = path, store_id
        self._store: SqliteStore | None = None
        self._keys: KeyFile | None = None
        self._log: Log | None = None
        self._sealer: Sealer | None = None
        self._config: RecorderConfig | None = None

    def config(self) -> RecorderConfig:
        """The recorder's configuration, for its fingerprint key.

        Raises:
            KeyFileError: it is not on this machine, or not readable.
        """
        if self._config is None:
            self._config = load_recorder_config(self._store_id)
        return self._config

    def tag(self, domain: str, name: str) -> bytes:
        """Keyed digest under which a name is filed."""
        key = self.config().fingerprint_key
        return fingerprint(key, domain, name.encode("utf-8", "surrogatepass"))

    def tags(self, domain: str, name: str) -> list[bytes]:
        """Tags under which a name may be filed: also by fingerprint keys that were rotated out."""
        text = name.encode("utf-8", "surrogatepass")
        old = load_retired(self._store_id).fingerprints
        return [self.tag(domain, name), *(fingerprint(key, domain, text) for key in old)]

    def commit(
        self,
        *,
        actor: str,
        purpose: str | None,
        what: str,
        trace: str | None,
        artifacts: list[str],
        sources: dict[str, int],
    ) -> int:
        """Append one access record, durably; return its number.

        Raises:
            AccessNotRecordedError: it could not be committed; nothing may be opened.
        """
        try:
            config = self.config()
            if self._log is None or self._sealer is None:
                self._open(config)
            assert self._log is not None  # noqa: S101  # just opened
            assert self._sealer is not None  # noqa: S101
            at = time.time_ns() // 1000
            body: dict[str, Any] = {
                "k": "access",
                "v": r.FORMAT,
                "at": at,
                "by": r.b64(self.tag("actor", actor)),
                "what": what,
            }
            if trace is not None:
                body["t"] = trace
            said = encode_json({"actor": actor, "purpose": purpose})
            tags = [[tag, reach] for tag, reach in sources.items()]
            records: list[r.Pending] = []
            for i in range(0, max(len(artifacts), len(tags), 1), LISTED):
                part = {**body, "at": at + len(records), "a": artifacts[i : i + LISTED]}
                if tags[i : i + LISTED]:
                    part["src"] = tags[i : i + LISTED]
                records.append(
                    self._sealer.record(
                        part,
                        [Payload("meta", said)],
                        scope="access",
                        number=part["at"],
                        trace_keys={},
                    )
                )
            if self._keys is not None:
                self._keys.check_in_place()
            self._log.append(records, durable=True)
        except (ProvkeepError, OSError) as error:
            raise AccessNotRecordedError(str(error)) from error
        return records[0].seq

    def sign(self) -> None:
        """Sign the log as it is now, with the accesses that were recorded.

        Raises:
            KeyFileError: the log's key is not on this machine. StoreError: the store refused.
        """
        config = self.config()
        if self._log is None:
            self._open(config)
        assert self._log is not None  # noqa: S101  # just opened
        self._log.checkpoint(LogKey.from_seed(config.origin, config.log_seed))

    def _open(self, config: RecorderConfig) -> None:
        """Open both files for writing; reading makes no file that is not there."""
        keys_at = keys_path(self._path)
        for path in (self._path, keys_at):
            if not path.exists():
                raise NotAProvkeepFileError(path, "there is no such file")
        store = SqliteStore(self._path)
        try:
            if store.store_id != self._store_id:
                raise StoreReplacedError(self._path)
            keys = KeyFile(keys_at)
        except BaseException:
            store.close()
            raise
        self._store, self._keys, self._log = store, keys, Log(store)
        self._sealer = Sealer(config, keys)

    def _keys_here(self) -> list[LogKey]:
        """All keys of the log on this host, when it has changed its key meanwhile."""
        origin = self.config().origin
        return [LogKey.from_seed(origin, seed) for seed in log_seeds(self._store_id)]

    def close(self) -> None:
        """Sign what was appended, delete unused keys, release the files; idempotent."""
        store, keys, sealer, log = self._store, self._keys, self._sealer, self._log
        self._store = self._keys = self._sealer = self._log = None
        if store is None or keys is None or sealer is None or log is None:
            return
        try:
            config = self.config()
            # Unsigned is what the records stay otherwise, until a recorder signs: verify says so.
            with contextlib.suppress(ProvkeepError):
                log.checkpoint(LogKey.from_seed(config.origin, config.log_seed), self._keys_here)
                sealer.drop_unused()
        finally:
            store.close()
            keys.close()
