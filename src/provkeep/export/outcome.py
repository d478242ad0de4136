"""What came of verifying an evidence bundle, as plain values; no text of a payload in any repr."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from provkeep.export.bundle import shown
from provkeep.reading.findings import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A revealed payload that is what was sealed."""

    payload: int
    record: int
    compartment: str
    what: tuple[str, ...]  # ids of the artifacts whose payload it is; or what else it is
    chars: int | None  # None when it is not UTF-8
    plaintext: bytes = field(repr=False)  # as stored: "t" and a text, or "j" and JSON

    @property
    def text(self) -> str | None:
        """What was sealed: a text, or JSON; None when it is not UTF-8."""
        return shown(self.plaintext[1:])


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BundleReport:
    """The outcome: truthy when nothing in the bundle is wrong and the log's key signed it."""

    findings: tuple[Finding, ...]
    focus: str
    origin: str
    size: int  # records of the log that the checkpoint signs
    root: str  # hex
    pinned: bool  # a pin from outside was given, and that log begins with it
    records: int
    traces: tuple[str, ...]  # ids of those that the lineage passes through
    sealed: int  # payloads that the records name
    revealed: tuple[Opened, ...]
    proved: tuple[str, ...]  # sentences
    open: tuple[str, ...]  # sentences

    def __bool__(self) -> bool:
        return not any(f.severity == "error" for f in self.findings)

    def __repr__(self) -> str:
        errors = sum(f.severity == "error" for f in self.findings)
        verdict = "verified" if self else f"FAILED with {errors} error{'s' * (errors > 1)}"
        pinned = "pinned" if self.pinned else "not pinned"
        lines = [
            f"<BundleReport {verdict}: {self.records} records of {self.size},"
            f" {len(self.revealed)} of {self.sealed} payloads revealed, {pinned}>"
        ]
        return "\n  ".join([*lines, *map(str, self.findings)])

    @property
    def codes(self) -> frozenset[str]:
        """The codes of all findings."""
        return frozenset(f.code for f in self.findings)

    def to_dict(self, *, texts: bool = False) -> dict[str, Any]:
        """The report as plain data, for JSON; revealed texts only when asked for."""
        return {
            "ok": bool(self),
            "focus": self.focus,
            "origin": self.origin,
            "size": self.size,
            "root": self.root,
            "pinned": self.pinned,
            "records": self.records,
            "traces": list(self.traces),
            "payloads": self.sealed,
            "revealed": [
                {
                    "payload": each.payload,
                    "record": each.record,
                    "compartment": each.compartment,
                    "what": list(each.what),
                    "chars": each.chars,
                    **({"text": each.text} if texts else {}),
                }
                for each in self.revealed
            ],
            "proved": list(self.proved),
            "open": list(self.open),
            "findings": [
                {"code": f.code, "severity": f.severity, "place": f.place, "sentence": f.sentence}
                for f in self.findings
            ],
        }
