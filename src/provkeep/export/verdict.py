"""The verdict on an evidence bundle: what it proves, what it leaves open, what is wrong with it.

No database, no provkeep home, no key that was not revealed. What is believed beforehand, the log's
public key and a pin, comes from the caller. Every statement is derived: a record counts once its
proof leads to the signed root, a text once its envelope has the hash that such a record states and
opens with a key that the envelope commits to. docs/THREATS.md says what that leaves open.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from provkeep.errors import CheckpointError, ExportError, ProofError, UnsealError
from provkeep.export.bundle import Bundle, Revealed, read, read_document, shown
from provkeep.export.claims import Claims
from provkeep.export.outcome import BundleReport, Opened
from provkeep.export.signers import find_signers
from provkeep.model import records as r
from provkeep.reading import shapes
from provkeep.reading.evidence import ProvedRecord
from provkeep.reading.findings import Findings
from provkeep.reading.statements import Statements
from provkeep.sealing.envelope import open_with_payload_key
from provkeep.tlog.checkpoint import (
    Checkpoint,
    LogPublicKey,
    parse_checkpoint,
    verify_checkpoint,
)
from provkeep.tlog.merkle import check_consistency, leaf_hash, root_from_inclusion_proof
from provkeep.tlog.mldsa import verify_second
from provkeep.tlog.pin import Pin, read_pin

_MARKS: Final = (b"t", b"j")  # a plaintext is a text or JSON


def verify_bundle(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    key: LogPublicKey | str | None = None,
    pin: Pin | str | os.PathLike[str] | None = None,
) -> BundleReport:
    """Check an evidence bundle against what is known from elsewhere.

    Args:
        source: the file, or the document already parsed.
        key: the log's public key, one line (``log.pub``), or all its keys, a line each, the
            oldest first; by default the pin's. Without either nothing is believed, and the report
            is falsy. With a line of type 6, its second key must have signed the checkpoint too.
        pin: a remembered state of the log, or its file; that the log began so is then proved too.

    Raises:
        ExportError: it is no bundle: malformed, cut off, or of a newer format.
        PinError: the pin is malformed. OSError: a file cannot be read.
    """
    if pin is not None and not isinstance(pin, Pin):
        pin = read_pin(Path(pin))
    return check(read(source), key=key, pin=pin)


def check(
    bundle: Bundle, *, key: LogPublicKey | str | None, pin: Pin | Path | None = None
) -> BundleReport:
    """As ``verify_bundle``, of a bundle that was read.

    Raises:
        PinError: the pin is malformed.
    """
    return _Check(bundle, key, read_pin(pin) if isinstance(pin, Path) else pin).run()


def require(
    document: Mapping[str, Any], *, key: str | None, pin: Pin | Path | None = None
) -> BundleReport:
    """Verify a document before it is handed out.

    Args:
        document: as ``export.bundle.to_document`` gives it.
        key: the log's public key; without one that of record 0, which shows damage only.
        pin: as for ``check``.

    Raises:
        ExportError: it would not verify.
    """
    bundle = read_document(document)
    if key is None:
        fields = shapes.parse(bundle.records[0].body)
        key = str(fields.get("vkey")) if isinstance(fields, dict) else ""
    report = check(bundle, key=key, pin=pin)
    if not report:
        worst = next(f for f in report.findings if f.severity == "error")
        raise ExportError(f"it would not verify ({worst}); run `provkeep verify`", "bundle")
    return report


class _Check:
    """One pass over a bundle."""

    def __init__(self, bundle: Bundle, key: LogPublicKey | str | None, pin: Pin | None) -> None:
        self._bundle, self._pin = bundle, pin
        self._out = Findings()
        self._signers = find_signers(bundle, key, pin, self._out)
        self._store_id: bytes | None = None
        self._claims = Claims(self._out)
        self._statements = Statements(self._out)

    def run(self) -> BundleReport:
        bundle = self._bundle
        head = self._head()
        pinned = head is not None and self._pinned(head)
        revealed: list[Opened] = []
        if head is not None:
            if not bundle.records or bundle.records[0].seq != 0:
                sentence = "record 0, which says what the log is, has to be in every bundle"
                self._out.error("record-missing", "record 0", sentence)
            for record in bundle.records:
                self._record(record, head)
            if self._signers is not None:
                self._signers.check(bundle, head, self._out)
            self._claims.follow(bundle.focus)
            revealed = [found for each in bundle.reveals if (found := self._reveal(each))]
        findings = self._out.result()
        proved = head is not None and not any(f.severity == "error" for f in findings)
        return BundleReport(
            findings=findings,
            focus=bundle.focus,
            origin=head.origin if head else "",
            size=head.size if head else 0,
            root=head.root.hex() if head else "",
            pinned=pinned,
            records=len(bundle.records),
            traces=self._claims.traces,
            sealed=self._claims.sealed,
            revealed=tuple(revealed),
            proved=self._proved(head, pinned, revealed) if head and proved else (),
            open=self._open(pinned, revealed) if proved else ("nothing is proved",),
        )

    # -- the signed tree head ----------------------------------------------------------------------

    def _head(self) -> Checkpoint | None:
        out, note = self._out, self._bundle.checkpoint
        public = None if self._signers is None else self._signers.chain.current
        try:
            head = parse_checkpoint(note)
        except CheckpointError as error:
            out.error("checkpoint-malformed", "checkpoint", error.problem)
            return None
        if public is not None:
            try:
                verify_checkpoint(note, public)
            except CheckpointError as error:
                ours = (public.origin, public.key_id)
                signed = ours in {(s.name, s.key_id) for s in head.signatures}
                same = head.origin == public.origin and signed
                code = "checkpoint-signature" if same else "checkpoint-unknown-signer"
                out.error(code, "checkpoint", error.problem)
        if self._signers is not None and self._signers.second is not None:
            try:
                verify_second(note, self._signers.second)
            except CheckpointError as error:
                out.error("checkpoint-signature", "checkpoint", error.problem)
        return head

    def _pinned(self, head: Checkpoint) -> bool:
        """Does the signed tree begin with what the pin remembers?"""
        out, pin = self._out, self._pin
        if pin is None:
            return False
        if pin.size > head.size:
            sentence = f"it remembers {pin.size} records, the bundle is of {head.size}"
            out.error(
                "pin-ahead", "pin", f"{sentence}: ask for one made since, or use an older pin"
            )
            return False
        proof = self._bundle.consistency.get(pin.size)
        if pin.size in (0, head.size):  # RFC 9162, section 2.1.4: nothing to prove by hashes
            proof = ()
        if proof is None:
            sentence = f"nothing in the bundle leads from its {pin.size} records to {head.size}"
            out.error("pin-unproved", "pin", f"{sentence}: ask for one made with this pin")
            return False
        try:
            check_consistency(pin.size, pin.root, head.size, head.root, proof)
        except ProofError as error:
            out.error("pin-mismatch", "pin", error.problem)
            return False
        return True

    # -- records -----------------------------------------------------------------------------------

    def _record(self, record: ProvedRecord, head: Checkpoint) -> None:
        out, place = self._out, f"record {record.seq}"
        try:
            leaf = leaf_hash(record.body)
            root = root_from_inclusion_proof(leaf, record.seq, head.size, record.proof)
        except ProofError as error:
            out.error("record-altered", place, f"no proof that it is in the log: {error.problem}")
            return
        if root != head.root:
            sentence = "its proof does not lead to the signed root: it, its place or its proof is"
            out.error("record-altered", place, f"{sentence} not the log's")
            return
        fields = shapes.parse(record.body)
        if isinstance(fields, str):
            out.error("not-canonical", place, fields)
            return
        problem = shapes.problem(record.seq, fields)
        if problem is not None:
            out.error("record-malformed", place, problem)
            return
        self._statements.meet(record.seq, fields)
        if fields["k"] == "init":
            self._identity(fields, head)
        elif fields["k"] not in shapes.KINDS:
            out.warning("unknown-kind", place, "this version does not know its kind")
        self._claims.add(record.seq, fields)

    def _identity(self, fields: dict[str, Any], head: Checkpoint) -> None:
        out, store = self._out, fields.get("store")
        try:
            self._store_id = bytes.fromhex(store) if type(store) is str else b""
        except ValueError:
            self._store_id = b""
        if len(self._store_id) != 16 or self._store_id.hex() != store:
            out.error("record-malformed", "record 0", "its store id is not 16 bytes in hex")
        if fields.get("origin") != head.origin:
            out.error("origin-mismatch", "record 0", "it names another log than the checkpoint")
        first = None if self._signers is None else self._signers.chain.keys[0]
        if first is not None and fields.get("vkey") != first.vkey():
            out.error("origin-mismatch", "record 0", "it names another key")

    # -- payloads ----------------------------------------------------------------------------------

    def _reveal(self, each: Revealed) -> Opened | None:
        problem = "no record in the bundle names it"
        seal = self._claims.seals.get(each.payload)
        if seal is not None and self._store_id is not None:
            seq, scope, number, place, digest, compartment = seal
            context = r.payload_context(self._store_id, scope, number, place, compartment)
            plaintext, problem = self._opened(each, digest, context)
            if plaintext is not None:
                text = shown(plaintext[1:])
                return Opened(
                    payload=each.payload,
                    record=seq,
                    compartment=compartment,
                    what=tuple(self._claims.what.get(each.payload, ())),
                    chars=None if text is None else len(text),
                    plaintext=plaintext,
                )
        self._out.error("reveal-false", f"payload {each.payload}", problem)
        return None

    def _opened(self, each: Revealed, digest: str, context: bytes) -> tuple[bytes | None, str]:
        if r.b64(sha256(each.envelope).digest()) != digest:
            return None, "its sealed bytes are not those whose hash the log holds"
        try:
            plaintext = open_with_payload_key(each.envelope, each.key, context)
        except UnsealError as error:
            return None, error.problem
        if each.text != shown(plaintext):
            return None, "the text beside it is not what was sealed"
        if plaintext[:1] not in _MARKS:
            return None, "what was sealed is neither a text nor JSON"
        return plaintext, ""

    # -- what it comes to --------------------------------------------------------------------------

    def _proved(self, head: Checkpoint, pinned: bool, revealed: list[Opened]) -> tuple[str, ...]:
        records, claims = len(self._bundle.records), self._claims
        said = [
            f"the log {head.origin} signed a history of {head.size} records, and these {records}"
            " stand in it, each at its number, unchanged"
        ]
        if pinned and self._pin is not None:
            said.append(f"it begins with the {self._pin.size} records that the pin remembers")
        if not claims.open_ends:
            several = f"{len(claims.traces)} traces" if len(claims.traces) > 1 else "one trace"
            said.append(
                f"the lineage of {self._bundle.focus} passes through {several}, whose"
                " records are all here"
            )
        if revealed:
            said.append(
                f"{len(revealed)} revealed payloads are what was sealed when their records were"
                " written; no other text could be shown for them"
            )
        return tuple(said)

    def _open(self, pinned: bool, revealed: list[Opened]) -> tuple[str, ...]:
        left = self._claims.sealed - len(revealed)
        said = [*self._claims.open_ends]
        if not pinned:
            said.append("whether the key signed another history too: no pin was given")
        if left:
            said.append(f"what {left} payloads hold that were not revealed")
        said += [
            "what else the log holds: records outside the lineage are not here",
            "when it was: times are those of the machine that recorded",
            "what happened that was never recorded, and whether what was recorded is true",
        ]
        return tuple(said)
