"""Data keys at hand, and payloads sealed under them.

Wrapped keys are written to the key file in batches, durably and before any record refers to them,
so that a trace costs no transaction of its own there. A key that was made and not used is deleted
at close; if the process dies, an orphan stays, and it is harmless.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from provkeep.errors import KeyFileError, ProviderError, RecipientsError
from provkeep.model.canonical import MAX_INT
from provkeep.model.records import CLASS_CODE, Pending, b64, payload_context
from provkeep.sealing.envelope import DATA_KEY_BYTES, data_key_commitment, seal, unseal
from provkeep.sealing.home import load_recorder_config
from provkeep.sealing.keyring import EpochKey, RecipientSet, new_epoch, wrap_data_key

EPOCH_S: Final = 24 * 3600  # seconds that one epoch key wraps new data keys
FIRST_BATCH, LAST_BATCH = 8, 256  # data keys made ahead, per compartment
SOURCE_KEYS: Final = 4096  # data keys of sources kept at hand, per process


class Recipients(Protocol):
    """Whom a store's payloads are sealed to; ``RecorderConfig`` says so, and more."""

    @property
    def store_id(self) -> bytes:
        """16 bytes."""

    @property
    def recipients(self) -> RecipientSet:
        """Public halves of the compartments."""

    @property
    def admin(self) -> bytes | None:
        """Public key of the admin who may name others; None where none is known."""


class KeyStore(Protocol):
    """Where wrapped keys are kept; ``store.keyfile.KeyFile`` is one."""

    def add_epoch(self, eid: bytes, compartment: str, sealed: bytes, suite: str) -> int:
        """Keep a sealed epoch key; return its number."""

    def add_keys(self, epoch: int, wrapped: Sequence[bytes]) -> list[int]:
        """Keep wrapped data keys; return their numbers."""

    def drop_keys(self, ids: Iterable[int]) -> None:
        """Delete wrapped keys."""

    def epoch_mark(self) -> int:
        """How often recorders were asked to begin a new epoch."""


@dataclass(slots=True)
class DataKey:
    """One data key: its number in the key file, the key, and its commitment."""

    number: int
    compartment: str
    key: bytes = field(repr=False)
    commitment: str


@dataclass(slots=True)
class Payload:
    """A plaintext on its way into an envelope."""

    compartment: str
    plaintext: bytes = field(repr=False)
    source: bytes | None = None  # document payloads are keyed by source, not by trace


class Sealer:
    """Seals the payloads of records; used by one thread at a time."""

    def __init__(self, config: Recipients, keys: KeyStore) -> None:
        self._config, self._file = config, keys
        self._ready: dict[str, deque[DataKey]] = {}
        self._batch: dict[str, int] = {}
        self._epochs: dict[str, tuple[int, EpochKey]] = {}
        self._epoch_until = 0.0
        self._mark = -1
        self._sources: OrderedDict[tuple[bytes, str], DataKey] = OrderedDict()
        self._gone: list[tuple[int, int]] = []  # numbers of erased keys, first and last, in order

    def forget(self, gone: Iterable[tuple[int, int]]) -> None:
        """These keys (first and last numbers) were erased: from now on they seal nothing."""
        self._gone = sorted({*self._gone, *gone})
        for at in [at for at, key in self._sources.items() if self.is_gone(key.number)]:
            del self._sources[at]

    def is_gone(self, number: int) -> bool:
        """Was this key erased?"""
        at = bisect_right(self._gone, (number, MAX_INT)) - 1
        return at >= 0 and number <= self._gone[at][1]

    def take(self, compartment: str) -> DataKey:
        """A data key that nothing has used yet."""
        ready = self._ready.get(compartment)
        if not ready or time.monotonic() >= self._epoch_until:
            ready = self._refill(compartment)
        return ready.popleft()

    def _refill(self, compartment: str) -> deque[DataKey]:
        mark = self._file.epoch_mark()
        if time.monotonic() >= self._epoch_until or mark != self._mark:
            self.drop_unused()
            self._sources.clear()
            self._mark = mark
            made = new_epoch(self._recipients(), self._config.store_id)
            self._epochs = {
                name: (self._file.add_epoch(epoch.id, name, epoch.sealed, epoch.suite), epoch)
                for name, epoch in made.items()
            }
            self._epoch_until = time.monotonic() + EPOCH_S
        number, epoch = self._epochs[compartment]
        count = self._batch.get(compartment, FIRST_BATCH)
        self._batch[compartment] = min(2 * count, LAST_BATCH)
        raw = [secrets.token_bytes(DATA_KEY_BYTES) for _ in range(count)]
        ids = self._file.add_keys(number, [wrap_data_key(epoch.key, key) for key in raw])
        ready = self._ready.setdefault(compartment, deque())
        ready.extend(
            DataKey(i, compartment, key, b64(data_key_commitment(key)))
            for i, key in zip(ids, raw, strict=True)
        )
        return ready

    def _recipients(self) -> RecipientSet:
        """The public halves now: they may have been rotated since this process began."""
        begun = self._config
        with contextlib.suppress(KeyFileError, RecipientsError, ProviderError):
            now = load_recorder_config(begun.store_id)
            if begun.admin is None or (now.signed and now.signed.admin == begun.admin):
                return now.recipients
        return begun.recipients  # those of today are gone, unreadable, or another admin's

    def source_key(self, source: bytes, compartment: str) -> DataKey:
        """The data key of a source; one per source, epoch and process."""
        at = (source, compartment)
        found = self._sources.get(at)
        if found is None or time.monotonic() >= self._epoch_until:
            found = self.take(compartment)
            self._sources[at] = found
            if len(self._sources) > SOURCE_KEYS:
                self._sources.popitem(last=False)
        else:
            self._sources.move_to_end(at)
        return found

    def record(
        self,
        body: dict[str, Any],
        payloads: list[Payload],
        *,
        scope: str,
        number: int,
        trace_keys: dict[str, DataKey],
    ) -> Pending:
        """Seal ``payloads`` into a record.

        Args:
            body: the record's body; gains ``keys`` and ``p``.
            payloads: plaintexts in the order in which the body counts them.
            scope: trace id, or the kind of the record; part of every envelope's context.
            number: this record's number within its scope.
            trace_keys: data keys of the scope by compartment, extended as needed.
        """
        places: dict[int, int] = {}
        keys: list[list[Any]] = []
        hashes: list[list[Any]] = []
        envelopes: list[bytes] = []
        sealed_with: list[tuple[DataKey, bytes | None]] = []
        store_id = self._config.store_id
        for i, payload in enumerate(payloads):
            compartment = payload.compartment
            if payload.source is not None:
                key = self.source_key(payload.source, compartment)
            else:
                found = trace_keys.get(compartment)
                if found is None or (self._gone and self.is_gone(found.number)):
                    found = trace_keys[compartment] = self.take(compartment)
                key = found
            sealed_with.append((key, payload.source))
            place = places.get(key.number)
            if place is None:
                place = places[key.number] = len(keys)
                keys.append([CLASS_CODE[compartment], key.number, key.commitment])
            context = payload_context(store_id, scope, number, i, compartment)
            envelope = seal(payload.plaintext, data_key=key.key, context=context)
            envelopes.append(envelope)
            hashes.append([b64(hashlib.sha256(envelope).digest()), place])
        if envelopes:
            body["keys"], body["p"] = keys, hashes
        pending = Pending(body, envelopes)
        pending.sealed_with = sealed_with
        return pending

    def renew(
        self, pending: Pending, *, scope: str, number: int, trace_keys: dict[str, DataKey]
    ) -> None:
        """Seal a record anew that was sealed before one of its keys was erased.

        Args:
            pending: sealed here and not committed.
            scope: as for ``record``, and so the others.
            number: this record's number within its scope.
            trace_keys: data keys of the scope by compartment, extended as needed.
        """
        if not any(self.is_gone(key.number) for key, _ in pending.sealed_with):
            return
        payloads = []
        for i, (key, source) in enumerate(pending.sealed_with):
            context = payload_context(self._config.store_id, scope, number, i, key.compartment)
            text = unseal(pending.envelopes[i], data_key=key.key, context=context)
            payloads.append(Payload(key.compartment, text, source))
        fresh = self.record(
            pending.body, payloads, scope=scope, number=number, trace_keys=trace_keys
        )
        pending.envelopes, pending.sealed_with = fresh.envelopes, fresh.sealed_with

    def drop_unused(self) -> None:
        """Delete the keys that were made ahead and not used."""
        unused = [key.number for ready in self._ready.values() for key in ready]
        self._ready.clear()
        if unused:
            self._file.drop_keys(unused)
