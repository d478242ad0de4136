"""Names: what the tags of sources, actors, sessions and subjects stand for.

They are sealed under the meta compartment. Opening them is a reading, so the first use of a trail
commits one access record that says so; where that cannot be, tags are shown instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping

import orjson

from provkeep.errors import ProvkeepError
from provkeep.model import records as r
from provkeep.reading.lookup import query_in
from provkeep.reading.traces import Names, Trace
from provkeep.reading.unsealing import Opener
from provkeep.store.base import Store


class Catalogue:
    """Names of one store, opened as they are asked for."""

    def __init__(
        self, store: Store, opener: Callable[[], Opener], announce: Callable[[], None]
    ) -> None:
        self._store, self._opener, self._announce = store, opener, announce
        self._allowed: bool | None = None
        self._names: Names = {}
        self._read: set[str] = set()  # traces whose names have been read

    def allowed(self) -> bool:
        """May names be shown? Commits the access record on first use."""
        if self._allowed is None:
            if not self._store.query("SELECT 1 FROM record WHERE seq > 0 LIMIT 1"):
                return False  # nothing to name yet, so nothing is opened
            try:
                self._allowed = self._opener().holds("meta")
                if self._allowed:
                    self._announce()
            except (ProvkeepError, OSError):
                self._allowed = False
        return self._allowed

    def said(self, payload: int) -> dict[str, str | None]:
        """A small sealed block, or nothing where it may not be opened."""
        if self.allowed():
            with contextlib.suppress(ProvkeepError):
                found = self._opener().payload(payload)
                if isinstance(found, dict):
                    return found
        return {}

    def of_traces(self, traces: Mapping[str, Iterable[bytes | None]]) -> Names:
        """Names of actors, sessions and subjects, by tag.

        Args:
            traces: by their ids, the tags that stand in their heads.
        """
        wanted = [
            tid
            for tid, tags in traces.items()
            if any(tag is not None and r.b64(tag) not in self._names for tag in tags)
            and tid not in self._read
        ]
        if not wanted or not self.allowed():
            return self._names
        self._read.update(wanted)
        rows = query_in(
            self._store,
            "SELECT r.body FROM trace t JOIN record r ON r.seq ="
            " (SELECT min(seq) FROM trec WHERE trace = t.id) WHERE t.tid IN ({marks})",
            [bytes.fromhex(tid) for tid in wanted],
        )
        for (raw,) in rows:
            body = orjson.loads(raw)
            head = body.get("h")
            if not head or all(tag in self._names for tag in head.values()):
                continue
            for entry in body["e"]:
                if entry[0] == r.META:
                    self._learn(head, body["p0"] + entry[1])
        return self._names

    def _learn(self, head: Mapping[str, str], payload: int) -> None:
        """What a block of attributes says the tags of a trace's head stand for."""
        names = self.said(payload).get("names")
        if isinstance(names, dict):
            known = {tag: names[kind] for kind, tag in head.items() if kind in names}
            self._names.update(known)

    def of_graph(self, traces: Iterable[Trace], sources: Mapping[str, int]) -> Names:
        """Names that a graph shows: of the actors of traces, and of sources, by tag.

        Args:
            traces: loaded.
            sources: tags of their documents' sources, each with the payload that names it.
        """
        out: Names = {}
        for trace in traces:
            tag = trace.head.get("actor")
            if tag is None:
                continue
            if tag not in self._names and trace.tid not in self._read and self.allowed():
                self._read.add(trace.tid)
                for payload in trace.metas:
                    if tag not in self._names:
                        self._learn(trace.head, payload)
            if tag in self._names:
                out[tag] = self._names[tag]
        for tag, payload in sources.items():
            name = self._source(tag, payload)
            if name is not None:
                out[tag] = name
        return out

    def all_sources(self) -> Names:
        """Names of all sources, by tag."""
        return self._open(
            self._store.query("SELECT tag, payload FROM source WHERE payload IS NOT NULL")
        )

    def _open(self, rows: Iterable[tuple[bytes, int]]) -> Names:
        out: Names = {}
        for raw, payload in rows:
            tag = r.b64(raw)
            name = self._source(tag, payload)
            if name is not None:
                out[tag] = name
        return out

    def _source(self, tag: str, payload: int) -> str | None:
        if tag not in self._names:
            name = self.said(payload).get("name")
            if not isinstance(name, str):
                return None
            self._names[tag] = name
        return self._names[tag]
