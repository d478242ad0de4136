"""What a verification found, as plain data: findings with a code from a closed set, and a report.

A sentence says what is wrong, where, and what it means; it never quotes a payload or a body.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

SEVERITIES: Final = ("error", "warning", "info")
MAX_OF_A_KIND: Final = 20  # findings of one code that are listed; more are counted
MAX_SENTENCE: Final = 300  # characters; what was found in a hostile file may be quoted

CODES: Final[dict[str, str]] = {
    "not-a-database": "there is no file, or it is not a provkeep database",
    "unreadable": "the file is there and cannot be read to its end",
    "newer": "a newer provkeep wrote the file",
    "schema-changed": "tables, indexes, views or triggers are not the ones provkeep makes",
    "integrity": "SQLite finds the file damaged",
    "empty": "a log has no records; every log has one that says what it is",
    "record-missing": "a number of the log has no record",
    "record-altered": "a record is not the one whose hash was signed",
    "record-malformed": "a record is not one that provkeep writes",
    "not-canonical": "a record is not spelled the one way that provkeep spells it",
    "unknown-kind": "a record of a kind that this version does not know",
    "head-mismatch": "the tree head is missing, or counts other records than there are",
    "frontier": "the tree's stored right edge does not follow from the records",
    "tile": "a stored tile of hashes does not follow from the records",
    "checkpoint-malformed": "a checkpoint is not a signed tree head, or stands at another size",
    "checkpoint-unknown-signer": "a checkpoint is not signed by the key of this log",
    "checkpoint-signature": "a checkpoint bears the log's name and a bad signature",
    "checkpoint-root": "the records do not lead to the root that a checkpoint states",
    "checkpoint-ahead": "a checkpoint signs more records than there are: the log was cut",
    "checkpoint-missing": "no checkpoint is left, or not the one that the pin remembers",
    "unsigned-tail": "the newest records are not signed yet, so nothing protects them",
    "key-rotation": "the log changed its key; an error when the old key did not say so",
    "key-not-first": "only a later key is known, so nothing outside vouches for what came before",
    "no-key": "nobody said which key signs this log, so no signature could be checked",
    "unpinned": "no pin: an older copy, or one signed anew with a stolen key, would not show",
    "pin-unreadable": "the pin that was named cannot be read",
    "pin-mismatch": "the log does not begin with what the pin remembers, or has another key",
    "pin-ahead": "the pin remembers more records than there are: cut or rolled back",
    "pin-unproved": "nothing in the bundle leads from the pin to its checkpoint",
    "reveal-false": "what was revealed is not what was sealed",
    "lineage-open": "the bundle's own records name records that are not in it",
    "anchor-unreadable": "the file that names the anchors cannot be read",
    "anchor-mismatch": "the log does not lead to a head that an anchor holds, signed or stamped",
    "anchor-ahead": "an anchor has seen more records than there are: cut or rolled back",
    "anchor-forged": "a proof is not one that its anchor gave",
    "anchor-missing": "an anchor holds nothing of this log, or lacks what it was given",
    "anchor-quorum": "fewer witnesses have seen this log than were asked for",
    "anchor-unchecked": "the proofs of an anchor could not be checked",
    "anchor-failing": "an anchor could not be reached or refused, the last times it was tried",
    "anchor-unknown": "proofs of anchors that nobody named, which prove nothing",
    "anchored": "what an anchor has seen, and when",
    "payload-missing": "a record names a payload that is not there",
    "payload-altered": "a payload is not the one that its record committed to",
    "payload-orphan": "a payload that no record names",
    "payload-order": "payloads are not numbered in the order of their records",
    "index-row": "an index row does not follow from the records",
    "index-unchecked": "the index was not compared, because a record could not be read",
    "not-checked": "something that a whole verification looks at was not asked for",
    "payload-sealed": "a payload does not open to what its record says of it",
    "key-not-held": "payloads of a compartment whose key this reader does not hold",
    "meta-mismatch": "the identity in the table meta is not that of record 0",
    "origin-mismatch": "record 0 names another log or key than the one trusted from outside",
    "key-missing": "a data key that a record names is not there, and no erase record says why",
    "key-back": "a data key that was erased is there again: an old key file was put back",
    "keys-unread": "the key file beside the store cannot be read, so its keys were not compared",
    "erased": "payloads that an erase record says are gone; their hashes still verify",
    "erasure-pending": "an erasure waits for a reader before the last bytes of its keys go",
    "statement-signature": "an access, grant, revocation or change of recipients is not signed",
    "gap": "the recorder itself wrote down that events were lost",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a verification noticed."""

    code: str  # a key of CODES
    severity: str  # one of SEVERITIES; an error makes the report falsy
    place: str  # "record 17", "table trace, row 3", "pin"
    sentence: str

    def __post_init__(self) -> None:
        if self.code not in CODES or self.severity not in SEVERITIES:
            raise ValueError(f"no such finding: {self.code!r}, {self.severity!r}")

    def __str__(self) -> str:
        return f"{self.severity} {self.code} ({self.place}): {self.sentence}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report:
    """The outcome of a verification: truthy when no finding is an error (or, strict, a warning)."""

    findings: tuple[Finding, ...]
    records: int  # rows read
    payloads: int  # rows read
    size: int  # of the log, as its records make it
    root: str  # over that many records, in hex
    pinned: bool  # a pin from outside was given, and the log begins with it
    signed_size: int  # of the largest checkpoint whose signature and root hold
    since: int = 0  # records before this one were taken as the pin remembers them
    keys: int = 1  # keys that signed, one after the other
    opened: int | None = None  # payloads that were opened; None when that was not asked for
    strict: bool = False  # a warning counts as an error

    def __bool__(self) -> bool:
        return not any(f.severity in self._failures for f in self.findings)

    @property
    def _failures(self) -> tuple[str, ...]:
        return ("error", "warning") if self.strict else ("error",)

    def __repr__(self) -> str:
        errors = sum(f.severity in self._failures for f in self.findings)
        verdict = "verified" if self else f"FAILED with {errors} error{'s' * (errors > 1)}"
        said = [f"{self.records} records", f"{self.payloads} payloads"]
        if self.since:
            said[0] += f" from {self.since} on"
        if self.opened is not None:
            said.append(f"{self.opened} opened")
        said += [f"signed up to {self.signed_size}", "pinned" if self.pinned else "not pinned"]
        lines = [f"<Report {verdict}: {', '.join(said)}>"]
        return "\n  ".join([*lines, *map(str, self.findings)])

    @property
    def codes(self) -> frozenset[str]:
        """The codes of all findings."""
        return frozenset(f.code for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return {
            "ok": bool(self),
            "records": self.records,
            "payloads": self.payloads,
            "size": self.size,
            "root": self.root,
            "pinned": self.pinned,
            "signed_size": self.signed_size,
            "since": self.since,
            "keys": self.keys,
            "opened": self.opened,
            "strict": self.strict,
            "findings": [
                {"code": f.code, "severity": f.severity, "place": f.place, "sentence": f.sentence}
                for f in self.findings
            ],
        }

    def table(self) -> str:
        """The findings as text in columns, worst first; one line when there are none."""
        if not self.findings:
            return "no findings"
        worst = sorted(self.findings, key=lambda f: SEVERITIES.index(f.severity))
        rows = [("severity", "code", "place", "finding")]
        rows += [(f.severity, f.code, f.place, f.sentence) for f in worst]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        return "\n".join(
            "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]])
            for row in rows
        )


class Findings:
    """Findings as they come, at most so many of a kind."""

    def __init__(self) -> None:
        self._listed: list[Finding] = []
        self._count: Counter[tuple[str, str]] = Counter()

    def error(self, code: str, place: str, sentence: str) -> None:
        """Something is wrong."""
        self._add(code, "error", place, sentence)

    def warning(self, code: str, place: str, sentence: str) -> None:
        """Something could not be shown."""
        self._add(code, "warning", place, sentence)

    def info(self, code: str, place: str, sentence: str) -> None:
        """Something worth knowing."""
        self._add(code, "info", place, sentence)

    def _add(self, code: str, severity: str, place: str, sentence: str) -> None:
        self._count[code, severity] += 1
        if self._count[code, severity] <= MAX_OF_A_KIND:
            self._listed.append(
                Finding(
                    code=code,
                    severity=severity,
                    place=_printable(place),
                    sentence=_printable(sentence),
                )
            )

    def has(self, *codes: str) -> bool:
        """Was one of these found?"""
        return any((code, s) in self._count for code in codes for s in SEVERITIES)

    def result(self) -> tuple[Finding, ...]:
        """Everything found, with a line for what was counted and not listed."""
        more = [
            Finding(
                code=code,
                severity=severity,
                place="store",
                sentence=f"and {count - MAX_OF_A_KIND} more like these",
            )
            for (code, severity), count in self._count.items()
            if count > MAX_OF_A_KIND
        ]
        return (*self._listed, *more)


def _printable(text: str) -> str:
    """The text without anything that could move a terminal's cursor or break a line."""
    shown = text[:MAX_SENTENCE]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
