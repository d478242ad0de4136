"""What ``provkeep.open`` returns: the reader, with lineages that can be seen and taken away."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from provkeep.display.ledger import ledger_svg
from provkeep.display.mermaid import to_mermaid
from provkeep.display.notebook import mimebundle
from provkeep.display.text import ledger_text
from provkeep.export import bundle as bundles
from provkeep.export import json as export
from provkeep.export.frames import to_networkx, to_pandas
from provkeep.export.otel import to_otlp_json
from provkeep.export.outcome import BundleReport
from provkeep.export.prov import to_prov_json
from provkeep.export.verdict import require, verify_bundle
from provkeep.model.records import COMPARTMENTS
from provkeep.reading import erasing, holding
from provkeep.reading import lineage as reading
from provkeep.reading.erasing import Erasure, Plan
from provkeep.reading.evidence import Evidence
from provkeep.reading.holding import Hold
from provkeep.reading.reader import Reader
from provkeep.recording.recorder import settle
from provkeep.sealing.principals import Principal
from provkeep.tlog.pin import Pin

__all__ = ["BundleReport", "Lineage", "Trail", "load_export", "open", "verify_bundle"]

DRAWN_WHOLE: Final = 300  # nodes that are drawn in Jupyter, those beside a lineage pale


class Lineage(reading.Lineage):
    """A lineage that shows as a picture in Jupyter and exports itself."""

    def to_dict(self, *, payloads: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The node-link document; payloads only when given (``Trail.values`` opens them)."""
        about = {} if self.way == "upstream" else {"way": self.way}
        return export.to_document(self.graph, focus=self._shown(), payloads=payloads, about=about)

    def to_json(
        self, path: str | os.PathLike[str], *, payloads: Mapping[str, Any] | None = None
    ) -> Path:
        """Write the node-link document; returns the path."""
        where = Path(path)
        export.write(where, self.to_dict(payloads=payloads))
        return where

    def _shown(self) -> str | None:
        """The focus, unless a filter has taken it out."""
        return self.focus if self.focus in self.graph.nodes else None

    def to_svg(self, path: str | os.PathLike[str] | None = None, *, whole: bool = False) -> str:
        """The ledger picture; written to ``path`` when given.

        Args:
            path: a file.
            whole: also draw, pale, what is not part of this lineage: what else the traces hold.
        """
        svg = ledger_svg(
            self.whole if whole else self.graph,
            focus=self.focus if whole else self._shown(),
            path=self.path,
            way=self.way,
        )
        if path is not None:
            Path(path).write_text(svg, encoding="utf-8")
        return svg

    def to_text(self, width: int = 100, *, whole: bool = False) -> str:
        """The ledger as plain text; ``whole`` as for :meth:`to_svg`."""
        graph, focus = (self.whole, self.focus) if whole else (self.graph, self._shown())
        return ledger_text(graph, focus=focus, path=self.path, width=width)

    def to_mermaid(self) -> str:
        """A Mermaid flowchart."""
        return to_mermaid(self.graph)

    def to_prov(self) -> dict[str, Any]:
        """W3C PROV-JSON."""
        return to_prov_json(self.graph)

    def to_otlp(self) -> dict[str, Any]:
        """OTLP/JSON: the runs as OpenTelemetry spans, with links where content flowed."""
        return to_otlp_json(self.graph, self.whole)

    def to_networkx(self) -> Any:
        """A networkx MultiDiGraph; needs ``provkeep[networkx]``."""
        return to_networkx(self.graph)

    def to_pandas(self) -> Any:
        """Two data frames, nodes and edges; needs ``provkeep[pandas]``."""
        return to_pandas(self.graph)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        if self.focus is not None and len(self.whole) <= DRAWN_WHOLE:
            return mimebundle(self.whole, self.focus, path=self.path, way=self.way)
        return mimebundle(self.graph, self._shown(), path=self.path, way=self.way)


class Trail(Reader):
    """A store with its questions; see :class:`provkeep.reading.reader.Reader`."""

    lineage_type = Lineage
    settle = staticmethod(settle)

    def export(
        self,
        path: str | os.PathLike[str],
        of: Any = None,
        *,
        payloads: bool = False,
        purpose: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Path:
        """Write the lineage of an artifact, or of a trace's answer, as JSON.

        Args:
            path: the file.
            of: as for ``lineage``.
            payloads: open and include payloads; one access record lists them all.
            purpose: why, for that record.
            progress: called with payloads opened and in all.
        """
        found = self.lineage(of)
        values = None
        if payloads:
            ids = [n.id for n in found.graph.of("artifact")]
            values = self.values(ids, purpose=purpose, progress=progress)
        assert isinstance(found, Lineage)  # noqa: S101  # lineage_type
        return found.to_json(path, payloads=values)

    def bundle(
        self,
        path: str | os.PathLike[str],
        of: Any = None,
        *,
        reveal: Iterable[str] | str = (),
        pin: Pin | str | os.PathLike[str] | None = None,
        purpose: str | None = None,
    ) -> Evidence:
        """Write an evidence bundle: a lineage that a stranger can verify with one public key.

        Args:
            path: the file; written whole or not at all, mode 0600.
            of: as for ``lineage``.
            reveal: compartments whose texts are disclosed, or ``"all"``; by default none is. The
                access is recorded, committed and signed first, and its record is in the bundle.
            pin: an earlier state of the log, or its file, from which the bundle shall show that
                nothing was changed; the one in your configuration is shown in any case.
            purpose: why the texts are disclosed; stands sealed in the access record.

        Returns:
            What was written; ``unopened`` names payloads that could not be revealed.

        Raises:
            UnknownIdError, AmbiguousIdError: nothing, or several things, have this id.
            RefusedError: this reader holds no key of a compartment; that is recorded.
            AccessNotRecordedError: the access could not be committed; nothing was opened.
            ExportError: the records do not verify; nothing was written.
        """
        wanted = [reveal] if isinstance(reveal, str) else list(reveal)
        pin = Path(pin) if isinstance(pin, str | os.PathLike) else pin
        found = self.evidence(
            of, reveal=COMPARTMENTS if "all" in wanted else wanted, pin=pin, purpose=purpose
        )
        document = bundles.to_document(found)
        require(document, key=self.log_key(), pin=pin)
        bundles.write(path, document)
        return found

    # -- erasing ---------------------------------------------------------------------------------

    def plan_erasure(
        self,
        *,
        trace: str | None = None,
        subject: str | None = None,
        source: str | None = None,
        older_than_us: int | None = None,
        classes: Iterable[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Plan:
        """What an erasure would take, and what would be left that came from it; changes nothing.

        Args:
            trace: an id or the beginning of one: everything sealed of it but the documents it
                retrieved, which belong to their sources.
            subject: a person: all traces recorded with this subject.
            source: a document's source: its documents and its name, whichever trace stored them.
            older_than_us: all traces that were over before this instant (UTC, microseconds since
                1970), and the documents of sources that nothing retrieved since; what is under
                a legal hold is left out.
            classes: only these compartments; by default all.
            progress: called with records looked at and expected.

        Raises:
            UnknownIdError, AmbiguousIdError: nothing, or several, are called so.
            KeyFileError: the recorder's configuration is not on this machine.
        """
        return erasing.plan(
            self,
            trace=trace,
            subject=subject,
            source=source,
            older_than_us=older_than_us,
            classes=classes,
            progress=progress,
        )

    def erase(self, plan: Plan, *, reason: str) -> Erasure | None:
        """Destroy the data keys of a plan, after a signed record that says so.

        Proofs stay: records commit to ciphertext. Texts raise ErasedError from then on. What came
        since the plan was made and belongs to it goes too.

        Args:
            plan: from :meth:`plan_erasure`.
            reason: why; stands sealed in the record. Do not name the person in it.

        Returns:
            the erasure; ``pending`` while a reader holds back the last bytes of the keys (the next
            recorder or :meth:`finish_erasures` goes on). None when there was nothing left to erase.

        Raises:
            HeldError: something of it is under a legal hold; nothing was erased.
            StoreError: a file is locked, full, or not to be written. If the record was written
                already, the next recorder or :meth:`finish_erasures` goes on.
        """
        return erasing.erase(self, plan, reason=reason)

    def erasures(self) -> list[Erasure]:
        """All erasures, newest first, with reasons where this reader may open them."""
        return erasing.erasures(self)

    def finish_erasures(self) -> bool:
        """Go on with erasures that a reader held back; True when nothing is owed any more."""
        return erasing.finish(self)

    def hold(
        self,
        *,
        trace: str | None = None,
        subject: str | None = None,
        source: str | None = None,
        reason: str,
    ) -> int:
        """Put a trace, a subject or a source under a legal hold; returns the record's number.

        A hold on a subject holds its traces, a held trace also what it retrieved. It keeps erasure
        and retention off until it is lifted; it cannot keep anybody from deleting files.
        """
        return holding.write(
            self, do="add", trace=trace, subject=subject, source=source, reason=reason
        )

    def lift_hold(
        self,
        *,
        trace: str | None = None,
        subject: str | None = None,
        source: str | None = None,
        reason: str,
    ) -> int:
        """Lift a legal hold; returns the record's number.

        Raises:
            UnknownIdError: there is no such hold.
        """
        return holding.write(
            self, do="remove", trace=trace, subject=subject, source=source, reason=reason
        )

    def holds(self) -> list[Hold]:
        """The legal holds in force, oldest first."""
        return holding.holds(self)


def open(
    path: str | os.PathLike[str],
    *,
    actor: str | None = None,
    as_: Principal | str | os.PathLike[str] | None = None,
) -> Trail:
    """Open a store to ask questions of it.

    Args:
        path: the database.
        actor: who reads; by default the user of the operating system, or the principal's name.
        as_: the key file of a reader (``provkeep keys new``) to whom an admin granted a role.
            Without it, the keys in this user's configuration open what they open.

    Raises:
        StoreError: there is no such file, it is not ours, or it is newer than this provkeep.
        RefusedError, GrantError: nothing is granted to this reader now; that is recorded.
    """
    return Trail(path, actor=actor, as_=as_)


def load_export(source: str | os.PathLike[str]) -> Lineage:
    """Load an export (a path, or its text) into a read-only lineage that answers as the store did.

    Raises:
        ExportError: it is not a provkeep export, or malformed.
    """
    graph, focus, found = export.load(source if isinstance(source, str) else Path(source))
    way = found["about"].get("way")
    known = way if way in ("downstream", "between") else "upstream"
    return Lineage(graph, graph, focus, way=known)
