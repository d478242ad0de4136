"""What proves a lineage to a stranger: records, their proofs in one signed tree, revealed payloads.

Plain values; ``export.bundle`` writes them down. A reveal hands out the key of one payload, which
opens that payload and no other. Whoever calls commits the access between choosing and revealing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from provkeep.errors import ExportError, ProvkeepError, UnknownIdError, UnsealError
from provkeep.model import records as r
from provkeep.reading.lookup import query_in
from provkeep.reading.paths import Paths, unnamed
from provkeep.reading.traces import Item, Trace
from provkeep.reading.unsealing import Opener
from provkeep.store.base import Store
from provkeep.tlog.log import StoredTree
from provkeep.tlog.merkle import consistency_proof_from_ranges, inclusion_proof_from_ranges
from provkeep.tlog.pin import Pin

META: Final = "meta"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvedRecord:
    """A record as stored, and the hashes that lead from it to the signed root."""

    seq: int
    body: bytes
    proof: tuple[bytes, ...]  # 32 bytes each, from the leaf upwards


@dataclass(frozen=True, slots=True, kw_only=True)
class Reveal:
    """One payload disclosed: its sealed bytes, and the key that opens them and nothing else."""

    payload: int
    envelope: bytes
    key: bytes = field(repr=False)  # 64 bytes
    plaintext: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A lineage with everything that proves it, and the payloads its owner chose to reveal."""

    focus: str  # an artifact's or a run's id
    checkpoint: str  # signed note
    consistency: tuple[tuple[int, tuple[bytes, ...]], ...]  # from an earlier size to it
    records: tuple[ProvedRecord, ...]  # by number
    reveals: tuple[Reveal, ...]  # by number of the payload
    unopened: tuple[tuple[int, str], ...]  # payloads that should be revealed, and why they are not


class Case:
    """Collects the evidence about one artifact or run.

    Args:
        store: its store.
        paths: loads its traces.
        focus: the artifact or run.
        compartments: whose payloads shall be revealed.

    Raises:
        UnknownIdError: there is no such artifact or run. ValueError: no such compartment.
    """

    def __init__(
        self, store: Store, paths: Paths, focus: str, compartments: frozenset[str]
    ) -> None:
        if not compartments <= set(r.COMPARTMENTS):
            raise ValueError(f"compartments are {', '.join(r.COMPARTMENTS)}")
        self._store, self._focus = store, focus
        joined = paths.join(focus.partition(".")[0], unnamed)
        self._traces = {trace.tid: trace for trace in joined.traces}
        if not joined.has(focus):
            raise UnknownIdError("artifact or run", focus)
        part = joined.upstream(focus).graph()
        self.placed: list[tuple[str, Trace, int]] = []  # artifacts that are opened
        self.opened: list[str] = []  # what the access record lists
        self.named: list[str] = []  # tags of the sources whose names are opened
        self.payloads: set[int] = set()
        self._accesses = range(0)
        self._reveals: list[Reveal] = []
        self._unopened: list[tuple[int, str]] = []
        self._choose([n.id for n in part.of("artifact")], compartments - {META})
        if META in compartments:
            tids = {n.trace for n in part.nodes.values() if n.trace} | {focus.partition(".")[0]}
            tags = [n.id[2:] for n in part.of("source")]
            self._choose_names(sorted(tids), tags)

    @property
    def only_trace(self) -> str | None:
        """The trace of all that is opened, if it is one."""
        tids = {each.partition(".")[0] for each in self.opened}
        return tids.pop() if len(tids) == 1 else None

    def _choose(self, ids: Iterable[str], compartments: frozenset[str]) -> None:
        """Payloads of artifacts, and of those they are put together from."""
        waiting = [(each.partition(".a")[0], int(each.partition(".a")[2])) for each in ids]
        seen = set(waiting)
        while waiting and compartments:
            tid, number = waiting.pop()
            trace = self._traces[tid]
            item = trace.items[number]
            if item.compartment in compartments and item.payload is not None:
                self.payloads.add(item.payload)
                self.placed.append((trace.artifact_id(number), trace, number))
            for other in _parts(item):
                if (tid, other) not in seen:
                    seen.add((tid, other))
                    waiting.append((tid, other))
        self.opened += sorted(each for each, _, _ in self.placed)

    def _choose_names(self, tids: Iterable[str], tags: list[str]) -> None:
        """Names and attributes of some traces, and names of some sources."""
        for tid in tids:
            trace = self._traces[tid]
            if trace.metas:
                self.payloads.update(trace.metas)
                self.opened += [trace.run_id(number) for number in sorted(trace.runs)]
        rows = query_in(
            self._store,
            "SELECT payload FROM source WHERE tag IN ({marks}) AND payload IS NOT NULL",
            [r.unb64(tag) for tag in tags],
        )
        self.named = tags
        self.payloads.update(int(row[0]) for row in rows)

    def reveal(self, opener: Opener, accesses: range) -> None:
        """Open what was chosen; ``accesses`` are the records of the access, already committed."""
        self._accesses = accesses
        for number in sorted(self.payloads):
            try:
                envelope, key, plaintext = opener.reveal(number)
            except UnsealError as error:  # erased: the rest of the case stands without it
                self._unopened.append((number, error.problem))
                continue
            self._reveals.append(
                Reveal(payload=number, envelope=envelope, key=key, plaintext=plaintext)
            )

    def evidence(self, pins: Iterable[Pin], sign: Callable[[], None]) -> Evidence:
        """Prove every record that is needed.

        Args:
            pins: earlier states that the proof shall lead from.
            sign: signs the log as it is; called when records are newer than its last checkpoint.

        Raises:
            ExportError: records are not signed and cannot be, or are not there.
        """
        numbers = self._numbers()
        size, note = self._signed()
        if size <= numbers[-1]:
            try:
                sign()
            except (ProvkeepError, OSError) as error:
                raise ExportError(
                    f"record {numbers[-1]} is not signed yet, and it cannot be signed here"
                    f" ({type(error).__name__}); flush the recorder, then make the bundle again"
                ) from error
            size, note = self._signed()
        hashed = _Hashed(self._store)
        tree = StoredTree(hashed)
        found: list[ProvedRecord] = []
        for seq in numbers:
            bodies = hashed.bodies(seq, seq + 1)
            if not bodies or size <= seq:
                raise ExportError(f"record {seq} is missing; run `provkeep verify`")
            proof = tuple(inclusion_proof_from_ranges(tree.hash, seq, size))
            found.append(ProvedRecord(seq=seq, body=bodies[0], proof=proof))
        sizes = sorted({*(pin.size for pin in pins if pin.size <= size), *self._key_changes()})
        return Evidence(
            focus=self._focus,
            checkpoint=note,
            consistency=tuple(
                (old, tuple(consistency_proof_from_ranges(tree.hash, old, size))) for old in sizes
            ),
            records=tuple(found),
            reveals=tuple(self._reveals),
            unopened=tuple(self._unopened),
        )

    def _numbers(self) -> list[int]:
        """The records: 0, changes of keys, the traces, what they refer to, the access."""
        numbers = {0}
        for trace in self._traces.values():
            numbers.update(trace.sequence)
        elsewhere = {
            item.options["g"]
            for trace in self._traces.values()
            for item in trace.items.values()
            if "g" in item.options
        } | self.payloads
        rows = query_in(
            self._store, "SELECT seq FROM payload WHERE id IN ({marks})", sorted(elsewhere)
        )
        numbers.update(int(row[0]) for row in rows)
        numbers.update(self._accesses)
        numbers.update(self._key_changes())
        return sorted(numbers)

    def _key_changes(self) -> list[int]:
        """Records by which the log changed its key; each signs as many records as its number."""
        sql = "SELECT seq FROM keychange WHERE kind=? ORDER BY seq"
        return [int(row[0]) for row in self._store.query(sql, (r.LOG_KEY,))]

    def _signed(self) -> tuple[int, str]:
        rows = self._store.query("SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1")
        return (int(rows[0][0]), str(rows[0][1])) if rows else (0, "")


def _parts(item: Item) -> list[int]:
    """Artifacts whose payloads the value of this one is read from."""
    out: list[int] = list(item.options.get("calls", ()))
    if "of" in item.options:
        out.append(item.options["of"])
    return out


class _Hashed:
    """Tiles and bodies of a store that is only read."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def tile(self, level: int, index: int) -> bytes | None:
        rows = self._store.query("SELECT hashes FROM tile WHERE level=? AND idx=?", (level, index))
        return bytes(rows[0][0]) if rows else None

    def bodies(self, start: int, stop: int) -> list[bytes]:
        rows = self._store.query(
            "SELECT body FROM record WHERE seq>=? AND seq<? ORDER BY seq", (start, stop)
        )
        return [bytes(row[0]) for row in rows]
