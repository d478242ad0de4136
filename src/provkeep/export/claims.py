"""What the records of a bundle say of each other, and what they name that is not there.

Records that the log signed may still be any JSON of the right shape: every option is checked
before it is followed.
"""

from __future__ import annotations

from typing import Any, Final

from provkeep.model import records as r
from provkeep.reading.findings import Findings

Seal = tuple[int, str, int, int, str, str]
"""Record, scope, number, place, hash of the envelope, compartment."""

MAX_NAMED: Final = 20  # places that one payload is said to have


class Claims:
    """Takes in proved records one by one, in the order of their numbers."""

    def __init__(self, out: Findings) -> None:
        self._out = out
        self._parts: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}  # n, seq, fields
        self._next_payload = 1
        self.seals: dict[int, Seal] = {}
        self.what: dict[int, list[str]] = {}
        self.traces: tuple[str, ...] = ()
        self.open_ends: list[str] = []

    @property
    def sealed(self) -> int:
        """How many payloads the records name."""
        return len(self.seals)

    def add(self, seq: int, fields: dict[str, Any]) -> None:
        """Take in one record whose shape is known."""
        if "p" in fields:
            self._payloads(seq, fields)
        kind = fields["k"]
        if kind == "trace":
            self._parts.setdefault(fields["t"], []).append((fields["n"], seq, fields))
            self._name(fields)
        elif "p" in fields:
            self._label(fields["p0"], f"{kind} {seq}")

    def _payloads(self, seq: int, fields: dict[str, Any]) -> None:
        first = fields["p0"]
        if first < self._next_payload:
            sentence = f"its payloads begin at {first}, an earlier record's end later"
            self._out.error("payload-order", f"record {seq}", sentence)
            return
        scope, number = fields["k"], fields.get("at")
        if scope == "trace":
            scope, number = fields["t"], fields["n"]
        if type(number) is not int:
            self._out.error("record-malformed", f"record {seq}", "it does not say when it was")
            return
        for place, (digest, key) in enumerate(fields["p"]):
            compartment = r.COMPARTMENTS[fields["keys"][key][0]]
            self.seals[first + place] = (seq, scope, number, place, digest, compartment)
        self._next_payload = first + len(fields["p"])

    def _name(self, fields: dict[str, Any]) -> None:
        """Which artifacts, attributes and sources the payloads of a trace are."""
        tid, first = fields["t"], fields.get("p0", 0)
        for entry in fields["e"]:
            if entry[0] == r.ARTIFACT:
                options, here = entry[7], f"{tid}.a{entry[1]}"
                if entry[6] >= 0:
                    self._label(first + entry[6], here)
                elif type(options.get("g")) is int:
                    self._label(options["g"], here)
            elif entry[0] == r.META and entry[1] >= 0:
                self._label(first + entry[1], f"{tid} names and attributes")
            elif entry[0] == r.SOURCE and entry[2] >= 0:
                self._label(first + entry[2], f"s.{entry[1][:32]} name")

    def _label(self, payload: int, label: str) -> None:
        known = self.what.setdefault(payload, [])
        if len(known) < MAX_NAMED and label not in known:
            known.append(label)

    def follow(self, focus: str) -> None:
        """Are all records here of the traces that the lineage of ``focus`` passes through?"""
        tid, _, place = focus.partition(".")
        tag, number = (r.ARTIFACT if place[0] == "a" else r.RUN), int(place[1:])
        if not any(
            entry[0] == tag and entry[1] == number
            for _, _, fields in self._parts.get(tid, ())
            for entry in fields["e"]
        ):
            self._out.error("record-missing", focus, "no record in the bundle tells of it")
            return
        givers = self._givers()
        found: dict[str, None] = {}
        waiting = [tid]
        while waiting:
            here = waiting.pop()
            if here in found:
                continue
            found[here] = None
            waiting += self._trace(here, givers)
        self.traces = tuple(sorted(found, key=lambda t: self._parts[t][0][1]))

    def _givers(self) -> dict[str, list[tuple[int, str]]]:
        """First record and id of the traces that give a link tag, in the order of the log."""
        givers: dict[str, list[tuple[int, str]]] = {}
        for tid, parts in self._parts.items():
            tags = {
                entry[1]
                for _, _, fields in parts
                for entry in fields["e"]
                if entry[0] == r.LINK and entry[3] == r.GIVES
            }
            for tag in tags:
                givers.setdefault(tag, []).append((parts[0][1], tid))
        return {tag: sorted(found) for tag, found in givers.items()}

    def _trace(self, tid: str, givers: dict[str, list[tuple[int, str]]]) -> list[str]:
        """Check one trace; return the earlier ones that it took something from."""
        parts = self._parts[tid]
        if [n for n, _, _ in parts] != list(range(len(parts))):
            sentence = f"of trace {tid} some are missing or out of order"
            self._out.error("record-missing", f"records {parts[0][1]}..{parts[-1][1]}", sentence)
        entries = [entry for _, _, fields in parts for entry in fields["e"]]
        if not any(e[0] == r.END and e[1] == 0 for e in entries):
            self._left(f"trace {tid}", "it had not ended: later records of it may exist")
        first, earlier = parts[0][1], dict[str, None]()
        for entry in entries:
            if entry[0] != r.ARTIFACT:
                continue
            options, here = entry[7], f"{tid}.a{entry[1]}"
            stored = options.get("g")
            if stored is not None and (type(stored) is not int or stored not in self.seals):
                self._left(here, "the record that holds its document is not in the bundle")
            tag = options.get("ext")
            if tag is None:
                continue
            before = [t for seq, t in givers.get(tag, ()) if seq < first] if _is(tag) else []
            if before:
                earlier[before[-1]] = None
            else:
                self._left(here, "the earlier trace that it comes from is not in the bundle")
        return list(earlier)

    def _left(self, place: str, sentence: str) -> None:
        if not self.open_ends:
            self.open_ends.append("parts of the lineage whose records are not here (lineage-open)")
        self._out.warning("lineage-open", place, sentence)


def _is(tag: Any) -> bool:
    return type(tag) is str
