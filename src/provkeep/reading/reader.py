"""The trail: a store with its questions.

Structure needs no key. Names (of sources, actors, sessions) are opened with the meta compartment's
key after one access record for the whole trail; payloads after one access record each.
"""

from __future__ import annotations

import contextlib
import getpass
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from provkeep.errors import (
    AccessNotRecordedError,
    AmbiguousIdError,
    ErasedError,
    GrantError,
    KeyFileError,
    NotRecordedError,
    PinError,
    ProvkeepError,
    RefusedError,
    StoreError,
    UnknownIdError,
    UnknownKeyError,
)
from provkeep.model import records as r
from provkeep.model.graph import Graph, Node
from provkeep.reading import accesses as access_records
from provkeep.reading import impacts
from provkeep.reading import verify as verification
from provkeep.reading.access import LISTED, AccessLog, Desk
from provkeep.reading.answers import Access, Difference, Impact, Summaries, TraceSummary
from provkeep.reading.catalogue import Catalogue
from provkeep.reading.deep import open_all
from provkeep.reading.evidence import Case, Evidence
from provkeep.reading.grants import Admission, Grant, desk_of, listed
from provkeep.reading.joined import Joined
from provkeep.reading.lineage import Lineage, Source
from provkeep.reading.lookup import find_trace, newest_trace, query_in
from provkeep.reading.paths import Paths, unnamed
from provkeep.reading.traces import Names, Trace
from provkeep.reading.unsealing import NOT_RECORDED, Opener, erased_mark, sealed_mark, text_of
from provkeep.sealing.home import (
    anchors_path,
    find_by_path,
    load_reader_keys,
    load_recorder_config,
    log_public,
    pin_path,
)
from provkeep.sealing.keyring import Keyring
from provkeep.sealing.principals import Principal, read_principal
from provkeep.sealing.retired import load_retired
from provkeep.store.keyfile import KeyFile, keys_path
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.pin import Pin, read_pin

_SUMMARY = (
    "SELECT tid, coalesce(name,'?'), coalesce(kind,'?'), coalesce(status,'open'), t0_us, end_us,"
    " runs, errors, actor, session, subject, id FROM trace"
)


class Reader:
    """Answers questions about one store.

    Args:
        path: the database.
        actor: who reads; by default the user of the operating system. Stands in access records.
        as_: read with a grant made out to this principal, or the key file of one, instead of with
            the keys in this user's configuration.

    Raises:
        StoreError: there is no such file, it is not ours, or it is newer than this provkeep.
        RefusedError: there is no grant to this principal that is in force; that is recorded.
        GrantError: a grant to it was altered, relabelled or copied; that is recorded, too.
    """

    lineage_type: type[Lineage] = Lineage
    settle: Callable[[Path], Callable[[], None]] | None = None  # see ``recording.recorder``

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        actor: str | None = None,
        as_: Principal | str | os.PathLike[str] | None = None,
    ) -> None:
        self.path = Path(path).expanduser().absolute()
        me = as_ if as_ is None or isinstance(as_, Principal) else read_principal(as_)
        self.actor = actor or (user() if me is None else me.name)
        before = None if self.settle is None else self.settle(self.path)
        self._store = SqliteStore(self.path, read_only=True)
        self._store.before = before
        self._admission = None if me is None else Admission(self.path, self._store, me)
        self._desk: Desk | None = None
        self._access = AccessLog(self.path, self.actor, self._find_desk, me)
        self._paths = Paths(self._store)
        self._keys: KeyFile | None = None
        self._opener: Opener | None = None
        self._ring: Keyring | None = None
        self._catalogue = Catalogue(self._store, self._open, self._announce)
        if self._admission is not None:
            try:
                self._enter(self._admission)
            except ProvkeepError as error:
                self._refuse(error)
                self.close()
                raise

    def __repr__(self) -> str:
        return f"<Reader of {self.path.name}>"

    def __enter__(self) -> Self:
        """Use as a context manager: closes at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Release the files; idempotent."""
        if self._opener is not None:
            self._opener.close()
        self._access.close()
        self._store.close()
        if self._keys is not None:
            self._keys.close()

    # -- which traces there are ------------------------------------------------------------------

    def runs(
        self,
        *,
        limit: int = 50,
        offset: int = 0,
        session: str | None = None,
        actor: str | None = None,
        status: str | None = None,
    ) -> list[TraceSummary]:
        """Traces, newest first; only those of a session, an actor, or with a status."""
        where, values = self._filter(session=session, actor=actor)
        if status is not None:
            where.append("coalesce(status,'open')=?")
            values.append(status)
        sql = _SUMMARY + (" WHERE " + " AND ".join(where) if where else "")
        sql += " ORDER BY t0_us DESC LIMIT ? OFFSET ?"
        return self._summaries(self._store.query(sql, (*values, limit, offset)))

    def timeline(
        self, *, session: str | None = None, actor: str | None = None, limit: int = 1000
    ) -> list[TraceSummary]:
        """The traces of a session or an actor, oldest first."""
        if session is None and actor is None:
            raise ValueError("name a session or an actor: timeline(session=…) or timeline(actor=…)")
        where, values = self._filter(session=session, actor=actor)
        sql = f"{_SUMMARY} WHERE {' AND '.join(where)} ORDER BY t0_us LIMIT ?"
        return self._summaries(self._store.query(sql, (*values, limit)))

    def _filter(self, **names: str | None) -> tuple[list[str], list[Any]]:
        where, values = [], []
        for kind, name in names.items():
            if name is not None:
                tags = self._access.tags(kind, name)
                where.append(f"{kind} IN ({','.join('?' * len(tags))})")
                values += tags
        return where, values

    def _summaries(self, rows: Iterable[tuple[Any, ...]]) -> list[TraceSummary]:
        found = list(rows)
        names = self._catalogue.of_traces({bytes(row[0]).hex(): row[8:11] for row in found})
        return [
            TraceSummary(
                id=bytes(row[0]).hex(),
                name=row[1],
                kind=row[2],
                status=row[3],
                started_us=row[4],
                ended_us=row[5],
                runs=row[6],
                errors=row[7],
                actor=_named(names, row[8]),
                session=_named(names, row[9]),
                subject=_named(names, row[10]),
            )
            for row in found
        ]

    def summary(self, trace: str | Node | TraceSummary | None = None) -> TraceSummary:
        """One trace's summary; the newest when none is named."""
        tid = self._trace_id(trace)
        rows = self._store.query(_SUMMARY + " WHERE tid=?", (bytes.fromhex(tid),))
        return self._summaries(rows)[0]

    def _trace_id(self, wanted: str | Node | TraceSummary | None) -> str:
        """The trace that an id, a prefix, a run's UUID or a node names."""
        if wanted is None:
            return newest_trace(self._store)
        if isinstance(wanted, TraceSummary):
            return wanted.id
        if isinstance(wanted, Node):
            return wanted.trace or ""
        return find_trace(self._store, wanted)

    # -- the graph -------------------------------------------------------------------------------

    def graph(self, trace: str | Node | TraceSummary | None = None) -> Graph:
        """The graph of one trace."""
        loaded = self._paths.trace(self._trace_id(trace))
        return self._paths.joined([loaded], self._catalogue.of_graph).whole()

    def run(self, trace: str | TraceSummary | None = None) -> Lineage:
        """A whole trace, as a picture in Jupyter; the newest when none is named."""
        tid = self._trace_id(trace)
        graph = self.graph(tid)
        answer = self._paths.trace(tid).answer
        focus = f"{tid}.a{answer}" if answer >= 0 else None
        return self.lineage_type(graph, graph, focus)

    def masked(self, trace: str | TraceSummary | None = None) -> dict[str, int]:
        """What was replaced in a trace before it was sealed: how often, by kind."""
        return dict(self._paths.trace(self._trace_id(trace)).masked)

    def output(self, trace: str | TraceSummary | None = None) -> Node:
        """The answer of a trace: its last made message or text that its output holds.

        Raises:
            UnknownIdError: the trace returned nothing (it failed, or is still open).
        """
        tid = self._trace_id(trace)
        loaded = self._paths.trace(tid)
        if loaded.answer < 0:
            raise UnknownIdError("output of trace", tid)
        node = self.graph(tid).nodes.get(loaded.artifact_id(loaded.answer))
        if node is None:
            raise UnknownIdError("artifact", loaded.artifact_id(loaded.answer))
        return node

    def lineage(
        self,
        of: str | Node | TraceSummary | None = None,
        *,
        basis: Iterable[str] | None = None,
        depth: int | None = None,
    ) -> Lineage:
        """What an artifact or run came from; of a trace, its answer.

        Earlier turns, resumed graphs and cached answers are followed into their traces.

        Args:
            of: a node, its id, a trace's id or a prefix of it; by default the newest answer.
            basis: follow only edges known on these bases.
            depth: at most this many edges away.

        Raises:
            UnknownIdError, AmbiguousIdError: nothing, or several things, have this id.
        """
        return self._lineage(self._focus(of), self._paths, basis, depth)

    def lineages(
        self,
        of: Iterable[str | Node | TraceSummary],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[Lineage]:
        """The lineage of each of many, one after the other; as :meth:`lineage`, but none is kept.

        With ``impact(source).outputs`` this is every artifact on the way to every answer that the
        source reached. What each holds is counted and its ``path`` known; nodes and edges are
        drawn when they are asked for.

        Args:
            of: nodes, their ids, or traces.
            progress: called with how many are done, and of how many, every hundred and at the end.

        Raises:
            UnknownIdError, AmbiguousIdError: nothing, or several things, have an id.
        """
        wanted = list(of)
        paths = Paths(self._store, kept=0)
        for done, each in enumerate(wanted, 1):
            yield self._lineage(self._focus(each), paths, None, None)
            if progress is not None and (done % 100 == 0 or done == len(wanted)):
                progress(done, len(wanted))

    def _lineage(
        self, focus: str, paths: Paths, basis: Iterable[str] | None, depth: int | None
    ) -> Lineage:
        joined = paths.join(focus.partition(".")[0], self._catalogue.of_graph)
        if not joined.has(focus):
            raise UnknownIdError("artifact or run", focus)
        if basis is not None or depth is not None:
            whole = joined.whole()
            return self.lineage_type(whole, whole, focus).upstream(basis=basis, depth=depth)
        return self.lineage_type(joined.upstream(focus), joined.whole, focus)

    def downstream(self, of: str | Node) -> Lineage:
        """What an artifact or run led to, in its trace and in later ones."""
        focus = self._focus(of)
        tid = focus.partition(".")[0]
        joined = self._paths.join(tid, self._catalogue.of_graph, upstream=False, downstream=True)
        if not joined.has(focus):
            raise UnknownIdError("artifact or run", focus)
        whole = joined.whole()
        return self.lineage_type(whole, whole, focus).downstream()

    def _focus(self, of: str | Node | TraceSummary | None) -> str:
        if isinstance(of, Node):
            return of.id
        if isinstance(of, str) and "." in of:
            head, _, tail = of.partition(".")
            return f"{self._trace_id(head)}.{tail}"
        return self.output(of).id

    def sources(self, of: str | Node | TraceSummary | None = None) -> list[Source]:
        """The sources that an artifact (or a trace's answer) came from."""
        return self.lineage(of).sources()

    # -- across traces ---------------------------------------------------------------------------

    def source_tag(self, name: str) -> bytes:
        """The tag of a source, by its name, the end of its path, or its id ``s.…``.

        Raises:
            UnknownIdError: no source is called so. AmbiguousIdError: several are.
        """
        if name.startswith("s."):
            tag = r.unb64(name[2:])
            if self._store.query("SELECT 1 FROM source WHERE tag=?", (tag,)):
                return tag
            raise UnknownIdError("source", name)
        with contextlib.suppress(KeyFileError):
            for tag in self._access.tags("source", name):
                if self._store.query("SELECT 1 FROM source WHERE tag=?", (tag,)):
                    return tag
        names = self.source_names()
        fits = [t for t, full in names.items() if full.replace("\\", "/").endswith("/" + name)]
        fits = fits or [t for t, full in names.items() if name in full]
        if len(fits) > 1:
            raise AmbiguousIdError(name, [names[t] for t in fits])
        if not fits:
            raise UnknownIdError("source", name)
        return r.unb64(fits[0])

    def source_names(self) -> dict[str, str]:
        """All sources: name by tag."""
        return self._catalogue.all_sources()

    def impact(self, source: str) -> Impact:
        """Every output that a source reached, and every later trace that built on one."""
        found = impacts.hits(self._store, self.source_tag(source))
        later = impacts.later(self._store, found.reached)
        others = impacts.in_time(self._store, sorted(later.difference(found.reached)))
        dropped = [number for number in found.retrieved if number not in later]
        return Impact(
            source=source,
            reached=Summaries(found.reached, self._numbered),
            later=Summaries(others, self._numbered),
            retrieved=Summaries(dropped, self._numbered),
            outputs=tuple(found.outputs),
        )

    def built_on(self, tag: bytes) -> list[str]:
        """Ids of the traces that the source with this tag reached, and of all that built on them.

        No name is opened.
        """
        found = impacts.hits(self._store, tag).reached
        later = impacts.later(self._store, found).difference(found)
        return impacts.ids_of(self._store, [*found, *sorted(later)])

    def _later(self, begin: list[str]) -> list[str]:
        """Traces that took what these, or those that took it from them, gave."""
        numbers = impacts.numbers_of(self._store, begin)
        return impacts.ids_of(self._store, sorted(impacts.later(self._store, numbers)))

    def _by_id(self, tids: list[str]) -> list[TraceSummary]:
        numbers = impacts.numbers_of(self._store, tids)
        return self._numbered(impacts.in_time(self._store, numbers))

    def _numbered(self, numbers: Sequence[int]) -> list[TraceSummary]:
        """Summaries by number, in that order."""
        rows = query_in(self._store, _SUMMARY + " WHERE id IN ({marks})", numbers)
        place = {number: at for at, number in enumerate(numbers)}
        return self._summaries(sorted(rows, key=lambda row: place[row[11]]))

    def accesses(
        self,
        *,
        source: str | None = None,
        trace: str | None = None,
        actor: str | None = None,
        person: str | None = None,
        what: str | Sequence[str] | None = None,
        limit: int = 1000,
    ) -> list[Access]:
        """Who opened payloads, or was refused, when and why, newest first.

        Args:
            source: only accesses that opened a document of it, or something derived from one.
            trace: only those that opened something of this trace.
            actor: only those by this reader: a name, or a principal's id or public line.
            person: only those that opened something of traces of this actor, or about this
                subject.
            what: only these, of ``payload``, ``payloads``, ``reveal``, ``names`` and ``refused``.
            limit: at most so many.

        Raises:
            ValueError: ``what`` is none of these words.
            UnknownIdError, AmbiguousIdError: no source or trace, or several, are called so.
        """
        return access_records.find(
            self._store,
            self._catalogue.said,
            source=None if source is None else self.source_tag(source),
            trace=None if trace is None else bytes.fromhex(self._trace_id(trace)),
            readers=None if actor is None else self._readers(actor),
            people=None
            if person is None
            else (self._access.tags("subject", person), self._access.tags("actor", person)),
            what=[what] if isinstance(what, str) else what,
            limit=limit,
        )

    def _readers(self, actor: str) -> list[bytes]:
        """What a reader is filed under: the tag of the name, and ids of principals called so."""
        found = set()
        if self._admission is not None and actor == self.actor:
            found.add(self._admission.principal.public.id)
        for grant in listed(self._store, self._catalogue.said) if self._has_grants() else ():
            if actor in (grant.name, grant.reader) or f"+{grant.reader}+" in actor:
                found.add(bytes.fromhex(grant.reader))
        try:
            found.update(self._access.tags("actor", actor))
        except KeyFileError:
            if not found:
                raise
        return sorted(found)

    def _has_grants(self) -> bool:
        return bool(self._store.query("SELECT 1 FROM grants LIMIT 1"))

    def grants(self) -> list[Grant]:
        """All grants, newest first: to whom, which role, until when, revoked or not."""
        return listed(self._store, self._catalogue.said) if self._has_grants() else []

    def diff(
        self, a: str | TraceSummary, b: str | TraceSummary, *, purpose: str | None = None
    ) -> Difference:
        """How two traces differ; with a ``purpose`` the answers are opened and compared."""
        one, two = self.summary(a), self.summary(b)
        first = {s.name for s in self._sources_or_none(one)}
        second = {s.name for s in self._sources_or_none(two)}
        steps = [Counter(n.label for n in self.graph(t).of("run")) for t in (one, two)]
        models = [
            tuple(
                sorted(
                    {str(n.attrs.get("model") or n.label) for n in self.graph(t).of("run", "model")}
                )
            )
            for t in (one, two)
        ]
        same: bool | None = None
        if purpose is not None:
            texts = [self.text(self.output(t), purpose=purpose) for t in (one, two)]
            same = texts[0] == texts[1]
        return Difference(
            a=one,
            b=two,
            only_a=tuple(sorted(first - second)),
            only_b=tuple(sorted(second - first)),
            both=tuple(sorted(first & second)),
            steps_only_a=_more(steps[0] - steps[1]),
            steps_only_b=_more(steps[1] - steps[0]),
            models=(models[0], models[1]),
            same_answer=same,
        )

    def _sources_or_none(self, trace: TraceSummary) -> list[Source]:
        try:
            return self.sources(trace)
        except UnknownIdError:
            return []

    # -- payloads --------------------------------------------------------------------------------

    def text(
        self, of: str | Node | TraceSummary | None = None, *, purpose: str | None = None
    ) -> str:
        """The text of an artifact, after its access has been recorded and committed.

        Args:
            of: a node, its id, or a trace (its answer); by default the newest answer.
            purpose: why; stands sealed in the access record.

        Raises:
            AccessNotRecordedError: the access could not be committed; nothing was opened.
            RefusedError: it is outside what this reader may open; that is recorded.
            ErasedError: it was erased; says when, and by which record.
            UnsealError: it was altered or moved.
        """
        return text_of(self.value(of, purpose=purpose))

    def value(
        self, of: str | Node | TraceSummary | None = None, *, purpose: str | None = None
    ) -> Any:
        """The whole value of an artifact (a message with its fields), as :meth:`text`."""
        focus = self._focus(of)
        return self.values([focus], purpose=purpose)[focus]

    def values(
        self,
        of: Iterable[str | Node],
        *,
        purpose: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """Values of many artifacts by id, after one access record that lists them.

        What a role does not cover stands as ``{"$sealed": compartment}``; when it covers none of
        what was asked for, nothing is opened and RefusedError is raised. Both are recorded.

        Of a run, the value is what the framework said of it besides input and output: tags,
        metadata, invocation parameters. Of several, one that was erased is
        ``{"$erased": record}``; alone it raises ErasedError.
        """
        wanted = [self._focus(node) for node in of]
        placed: list[tuple[str, Trace, int]] = []
        for focus in wanted:
            tid, _, place = focus.partition(".")
            trace = self._paths.trace(tid)
            number = int(place[1:]) if place[1:].isdigit() else -1
            known = trace.items if place[:1] == "a" else trace.runs
            if place[:1] not in ("a", "r") or number not in known:
                raise UnknownIdError("artifact or run", focus)
            placed.append((focus, trace, number))
        opener = self._admit(wanted, purpose)
        outside = {focus: c for focus, c in map(_place, placed) if not opener.holds(c)}
        if outside:
            refusal = _out_of_scope({str(c) for c in outside.values()}, opener.held)
            self._refuse(refusal, outside, purpose)
            if len(outside) == len(placed):
                raise refusal
        placed = [each for each in placed if each[0] not in outside]
        traces = {trace.tid for _, trace, _ in placed}
        self._access.commit(
            purpose=purpose,
            what="payload" if len(placed) == 1 else "payloads",
            trace=traces.pop() if len(traces) == 1 else None,
            artifacts=[focus for focus, _, _ in placed],
            sources=self._opened_sources(placed),
        )
        out: dict[str, Any] = {focus: sealed_mark(c) for focus, c in outside.items()}
        late: dict[str, str] = {}  # in an earlier trace, or behind another part
        for i, (focus, trace, number) in enumerate(placed):
            try:
                if ".r" in focus:
                    out[focus] = opener.attributes(trace, number)
                else:
                    out[focus] = opener.value(trace, number, self._given(trace))
            except ErasedError as error:
                if len(placed) == 1:
                    raise
                out[focus] = erased_mark(error)  # the others are still there
            except NotRecordedError:
                if len(placed) == 1:
                    raise
                out[focus] = dict(NOT_RECORDED)
            except UnknownKeyError as error:
                late[focus] = error.key_id.partition("/")[0]
                out[focus] = sealed_mark(late[focus])
            if progress is not None:
                progress(i + 1, len(placed))
        if late:
            refusal = _out_of_scope(set(late.values()), opener.held)
            self._refuse(refusal, late, purpose)
            if len(late) == len(placed):
                raise refusal
        return {focus: out[focus] for focus in wanted}

    def _given(self, trace: Trace) -> Callable[[str], tuple[Trace, int] | None]:
        return lambda tag: self._paths.given(tag, trace.tid)

    def _opened_sources(self, placed: list[tuple[str, Trace, int]]) -> dict[str, int]:
        """Tags of the sources whose text these artifacts hold (1) or derive from (0)."""
        out: dict[str, int] = {}
        known: dict[str, Joined] = {}
        for focus, trace, number in placed:
            if trace.tid not in known:
                known[trace.tid] = self._paths.join(trace.tid, unnamed)
            joined = known[trace.tid]
            out.update((tag, 0) for tag in sorted(joined.reach(focus).sources) if tag not in out)
            item = trace.items.get(number) if ".a" in focus else None
            if item is not None and item.kind == "document" and item.payload in joined.source_of:
                out[joined.source_of[item.payload]] = 1
        return out

    def _find_desk(self) -> Desk:
        if self._desk is None:
            # A reader with keys of this machine reads as its recorder is set up; one with a
            # grant, or with nothing, as the store itself says.
            self._desk = (
                desk_of(self._store)
                if self._admission is not None
                else Desk.of(load_recorder_config(self._store.store_id))
            )
        return self._desk

    def _enter(self, admission: Admission) -> Keyring | None:
        """The keys of the grants that are in force now."""
        terms, self._desk, ring = admission.enter()
        self._access.grants = [r.b64(each.id) for each in terms]
        return ring

    def _open(self) -> Opener:
        store_id = self._store.store_id
        if self._admission is not None:
            ring = self._enter(self._admission)
        elif self._opener is None:
            held = load_reader_keys(store_id)
            ring = Keyring(held, store_id, load_retired(store_id).private)
        else:
            return self._opener
        if self._opener is None or ring is not self._ring:
            if self._keys is None:
                self._keys = KeyFile(keys_path(self.path), read_only=True)
            self._ring, self._opener = ring, Opener(self._store, self._keys, ring)
        return self._opener

    def _admit(self, wanted: Iterable[str], purpose: str | None) -> Opener:
        """Open, or record that it was refused."""
        try:
            return self._open()
        except (RefusedError, GrantError, KeyFileError) as error:
            self._refuse(error, wanted, purpose)
            raise
        except StoreError as error:  # without its file of keys, no access can be sealed either
            raise AccessNotRecordedError(str(error)) from error

    def _refuse(
        self, error: ProvkeepError, wanted: Iterable[str] = (), purpose: str | None = None
    ) -> None:
        """Record a refusal; where that cannot be, the error says so, and stands all the same."""
        why = "forged" if isinstance(error, GrantError) else "no-key"
        if isinstance(error, RefusedError):
            why = error.why
        try:
            self._access.refuse(why, wanted, purpose)
        except AccessNotRecordedError as unrecorded:
            error.add_note(f"and the refusal is not recorded: {unrecorded.cause}")

    def _announce(self) -> None:
        self._access.commit(
            purpose="names of sources, actors and sessions",
            what="names",
            trace=None,
            artifacts=[],
            sources={},
        )

    # -- proof -----------------------------------------------------------------------------------

    def evidence(
        self,
        of: str | Node | TraceSummary | None = None,
        *,
        reveal: Iterable[str] = (),
        pin: Pin | Path | str | None = None,
        purpose: str | None = None,
    ) -> Evidence:
        """Everything that proves a lineage to somebody who has neither the store nor its keys.

        Args:
            of: as for ``lineage``.
            reveal: compartments whose payloads are disclosed, as far as the lineage reaches.
                One access that lists them is recorded, committed and signed first.
            pin: an earlier state of the log, or its file, that the proof shall lead from; the one
                in the user's configuration is led from in any case.
            purpose: why; stands sealed in the access record.

        Raises:
            UnknownIdError, AmbiguousIdError: nothing, or several things, have this id.
            RefusedError: this reader holds no key of a compartment; that is recorded.
            AccessNotRecordedError: the access could not be committed; nothing was opened.
            ExportError: the records cannot be proved: not signed, or damaged.
        """
        compartments = frozenset(reveal)
        pins = [read_pin(pin) if isinstance(pin, str | Path) else pin] if pin is not None else []
        with contextlib.suppress(PinError, OSError):
            home = read_pin(pin_path(self._identity()))
            pins += [home] if home not in pins else []
        focus = self._structural_focus(of)
        case = Case(self._store, self._paths, focus, compartments)
        if case.payloads:
            opener = self._admit(case.opened, purpose)
            missing = compartments - set(opener.held)
            if missing:
                refusal = _out_of_scope(missing, opener.held)
                self._refuse(refusal, case.opened, purpose)
                raise refusal
            sources = self._opened_sources(case.placed)
            sources |= {tag: 0 for tag in case.named if tag not in sources}
            first = self._access.commit(
                purpose=purpose,
                what="reveal",
                trace=case.only_trace,
                artifacts=case.opened,
                sources=sources,
            )
            listed = max(len(case.opened), len(sources), 1)
            case.reveal(opener, range(first, first + -(-listed // LISTED)))
        return case.evidence(pins, self._access.sign)

    def _structural_focus(self, of: str | Node | TraceSummary | None) -> str:
        """As ``_focus``, without opening a name on the way."""
        if isinstance(of, Node) or (isinstance(of, str) and "." in of):
            return self._focus(of)
        trace = self._paths.trace(self._trace_id(of))
        if trace.answer < 0:
            raise UnknownIdError("output of trace", trace.tid)
        return trace.artifact_id(trace.answer)

    def _identity(self) -> bytes:
        """Id of the store that belongs at this path, as remembered outside the file."""
        return find_by_path(self.path) or self._store.store_id

    def log_key(self) -> str | None:
        """The log's public keys (``log.pub``) as the user's configuration has them, if it has."""
        with contextlib.suppress(KeyFileError, OSError):
            return log_public(self._identity())
        return None

    def verify(
        self,
        *,
        pin: Pin | Path | str | None = None,
        key: str | None = None,
        anchors: Path | str | None = None,
        since: Pin | Path | str | None = None,
        strict: bool = False,
        deep: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> verification.Report:
        """Check the whole store against trust material from outside it; falsy when wrong.

        Args:
            pin: a pin or its file; by default the one in the user's configuration.
            key: the log's public key (one line, "vkey"); by default from there too.
            anchors: the file that names the anchors; by default the one from there too.
            since: a pin or its file, in place of ``pin``: look only at what came after it.
            strict: a warning, such as "unpinned", makes the report falsy too.
            deep: also open every payload, with the keys that are held. Nothing is returned, so
                it leaves no access record.
            progress: called with records done and in all, then with payloads.

        Raises:
            PinError: a pin file that was named cannot be read.
            KeyFileError, StoreError: with ``deep``, the keys cannot be read.
        """
        pin = since if since is not None else pin
        if isinstance(pin, str | Path):
            pin = read_pin(pin)
        # Which store belongs at this path is remembered outside the file: one that was put in its
        # place must not bring its own trust along.
        expected = find_by_path(self.path) or self._store.store_id
        if pin is None:
            with contextlib.suppress(PinError, OSError):
                pin = read_pin(pin_path(expected))
        if key is None:
            with contextlib.suppress(KeyFileError, OSError):
                key = log_public(expected)
        report = verification.verify(
            self.path,
            pin=pin,
            public=key,
            anchors=Path(anchors) if anchors is not None else anchors_path(expected),
            since=since is not None,
            strict=strict,
            progress=progress,
        )
        if not deep:
            return report
        opened, more = open_all(self._store, self._open(), start=report.since, progress=progress)
        return replace(report, findings=report.findings + more, opened=opened)


def _place(placed: tuple[str, Trace, int]) -> tuple[str, str | None]:
    """An artifact, and the compartment that its own payload is in, if it has one."""
    focus, trace, number = placed
    if ".r" in focus:
        return focus, "meta"
    item = trace.items[number]
    while "of" in item.options and item.options["of"] in trace.items:
        item = trace.items[item.options["of"]]
    return focus, item.compartment if item.payload is not None else None


def _out_of_scope(outside: Set[str], held: Iterable[str]) -> RefusedError:
    return RefusedError(
        "scope",
        f"it is in {', '.join(sorted(outside))},"
        f" and this reader may open {', '.join(held) or 'nothing'}",
        "ask the admin for a role that covers it",
    )


def user() -> str:
    """Who uses this process, as the operating system says."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


def _named(names: Names, tag: bytes | None) -> str | None:
    if tag is None:
        return None
    text = r.b64(tag)
    return names.get(text, f"({text[:8]})")


def _more(steps: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{name} ×{n}" if n > 1 else name for name, n in sorted(steps.items()))
