"""An evidence bundle proves what it says to somebody who has one public key, and nothing else.

Whatever is tried here is tried on provkeep's verifier and on the one written from docs/FORMAT.md.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import provkeep
from provkeep.demo.app import manual_chain
from provkeep.errors import (
    AccessNotRecordedError,
    ExportError,
    RefusedError,
    UnknownIdError,
    UnsealError,
)
from provkeep.export.verdict import BundleReport
from provkeep.langchain import ProvenanceHandler
from provkeep.model import records as r
from provkeep.reading.access import AccessLog
from provkeep.reading.findings import Findings
from provkeep.reading.statements import Statements
from provkeep.reading.unsealing import Opener
from provkeep.recording.rotation import rotate_log_key
from provkeep.sealing.envelope import open_with_payload_key
from provkeep.sealing.grants import ACCESS_PURPOSE, is_signed_body
from tests import independent_bundle_reader as other
from tests.export.cases import QUESTION, SAID, VERIFIED, WRONG, record, verdicts
from tests.reading.forging import edit

ANSWER = "A changed byte in a record or in a ciphertext is noticed."


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of four traces, its home, and the pin as it was before the last two."""
    folder = tmp_path_factory.mktemp("bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROVKEEP_HOME", str(folder / "home"))
        with ProvenanceHandler(folder / "audit.db") as handler:
            manual_chain().invoke(QUESTION, config={"callbacks": [handler]})
        (keys,) = (folder / "home" / "stores").iterdir()
        shutil.copy(keys / "pin.json", folder / "early-pin.json")
        record(folder / "audit.db")
    return folder


@pytest.fixture
def audit(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may spoil."""
    for file in recorded.glob("*.*"):
        shutil.copy(file, tmp_path)
    shutil.copytree(recorded / "home", tmp_path / "keys")
    monkeypatch.setenv("PROVKEEP_HOME", str(tmp_path / "keys"))
    return tmp_path / "audit.db"


def keys_of(audit: Path) -> Path:
    (folder,) = (audit.parent / "keys" / "stores").iterdir()
    return folder


def vkey_of(audit: Path) -> str:
    return (keys_of(audit) / "log.pub").read_text().strip()


def traces(audit: Path) -> list[str]:
    """Ids in order; asked without provkeep, which would open names and say so."""
    with closing(sqlite3.connect(audit)) as db:
        return [bytes(tid).hex() for (tid,) in db.execute("SELECT tid FROM trace ORDER BY id")]


def chain_trace(audit: Path) -> str:
    """The last retrieval, whose documents the first trace holds."""
    return traces(audit)[2]


def made(audit: Path, of: str | None = None, **how: Any) -> dict[str, Any]:
    """A bundle as a document; by default about the newest retrieval."""
    with provkeep.open(audit, actor="auditor") as trail:
        trail.bundle(audit.parent / "made.json", of or chain_trace(audit), **how)
    document: dict[str, Any] = json.loads((audit.parent / "made.json").read_text())
    return document


def checked(audit: Path, document: dict[str, Any], **how: Any) -> BundleReport:
    return provkeep.verify_bundle(document, **({"key": vkey_of(audit)} | how))


def texts(report: BundleReport) -> list[str]:
    return [each.text or "" for each in report.revealed]


def accesses(audit: Path) -> int:
    with closing(sqlite3.connect(audit)) as db:
        return int(db.execute("SELECT count(*) FROM access").fetchone()[0])


def both(audit: Path, document: dict[str, Any], pin: dict[str, Any] | None = None) -> set[str]:
    blob = json.dumps(document).encode()
    return set(verdicts(blob, vkey_of(audit), pin, audit.parent))


# -- what a bundle holds ---------------------------------------------------------------------------


def test_a_bundle_proves_a_lineage_and_shows_no_text(audit: Path) -> None:
    document = made(audit)
    report = checked(audit, document)
    assert report and not report.pinned and report.codes == {"unpinned"}
    assert report.sealed > 5 and not report.revealed
    assert accesses(audit) == 0, "nothing was opened, not even a name"
    assert ANSWER[:20] not in json.dumps(document)
    assert "what was sealed" not in " ".join(report.proved)
    assert any("not revealed" in sentence for sentence in report.open)
    assert both(audit, document) == {VERIFIED}


def test_a_document_that_another_trace_stored_is_proved_where_it_is_stored(audit: Path) -> None:
    tid = chain_trace(audit)
    document = made(audit, tid, reveal="document", purpose="case 17")
    report = checked(audit, document)
    assert report.traces == (tid,)
    elsewhere = [e for e in report.revealed if any(w.startswith(tid) for w in e.what)]
    homes = {json.loads(d["body"]).get("t") for d in document["records"]}
    assert len(elsewhere) == 3 and len(homes - {None}) == 2


def test_a_conversation_brings_the_turns_it_goes_on_from(audit: Path) -> None:
    before, newest = traces(audit)[-2:]
    document = made(audit, newest, reveal="all", purpose="case 17")
    report = checked(audit, document)
    assert report and report.traces == (before, newest)
    assert any(SAID in text for text in texts(report))
    assert both(audit, document) == {VERIFIED}
    document["reveals"] = []
    cut = [d for d in document["records"] if json.loads(d["body"]).get("t") != before]
    assert len(cut) < len(document["records"])
    less = checked(audit, {**document, "records": cut})
    assert less.codes >= {"lineage-open"} and less.traces == (newest,)
    assert "are all here" not in " ".join(less.proved) and "lineage-open" in less.open[0]


def test_only_the_classes_that_were_asked_for_are_revealed(audit: Path) -> None:
    document = made(audit, reveal="output", purpose="case 17")
    report = checked(audit, document)
    assert report and {each.compartment for each in report.revealed} == {"output"}
    assert ANSWER in " ".join(texts(report))
    for text in (QUESTION, "page_content", "alice@example.com"):
        assert text not in json.dumps(document)
    assert both(audit, document) == {VERIFIED}


def test_a_document_that_did_not_reach_the_answer_stays_sealed(audit: Path) -> None:
    with provkeep.open(audit) as trail:
        tid = chain_trace(audit)
        reached = {n.id for n in trail.lineage(tid).nodes if n.kind == "document"}
        retrieved = {n.id for n in trail.graph(tid).of("artifact", "document")}
    report = checked(audit, made(audit, tid, reveal="all", purpose="case 17"))
    shown = {each for found in report.revealed for each in found.what}
    assert len(retrieved) > len(reached) == 3
    assert reached <= shown and not shown & (retrieved - reached)


def test_names_come_with_the_class_meta_only(audit: Path) -> None:
    report = checked(audit, made(audit, reveal=["meta"], purpose="case 17"))
    said = " ".join(texts(report))
    assert "alice@example.com" in said and "manual/keys.md" in said
    assert {each.compartment for each in report.revealed} == {"meta"}


def test_a_step_may_be_asked_about(audit: Path) -> None:
    tid = chain_trace(audit)
    document = made(audit, f"{tid[:20]}.r3")
    assert document["focus"] == f"{tid}.r3" and checked(audit, document)
    with pytest.raises(UnknownIdError):
        made(audit, f"{tid}.r999")


def test_the_document_is_of_its_schema(audit: Path) -> None:
    schema = json.loads(files("provkeep.export").joinpath("bundle.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    document = made(audit, reveal="all", purpose="x", pin=audit.parent / "early-pin.json")
    validator.validate(document)
    for member in document:
        assert not validator.is_valid({k: v for k, v in document.items() if k != member})
    document["reveals"][0]["key"] = "AA=="
    assert not validator.is_valid(document)


# -- the access comes first ------------------------------------------------------------------------


def test_the_access_is_in_the_bundle_and_lists_what_was_opened(audit: Path) -> None:
    document = made(audit, reveal=["output", "document"], purpose="case 17")
    body = json.loads(document["records"][-1]["body"])
    assert (body["k"], body["what"]) == ("access", "reveal")
    report = checked(audit, document)
    opened = {what for each in report.revealed for what in each.what if what.startswith(body["t"])}
    assert opened <= set(body["a"]) and [1 in tag for tag in body["src"]].count(True) == 3
    with provkeep.open(audit) as trail:
        (access,) = [a for a in trail.accesses() if a.what == "reveal"]
        assert (access.actor, access.purpose) == ("auditor", "case 17")
        assert [a.record for a in trail.accesses(source="keys.md")] == [access.record]


def test_many_artifacts_take_several_access_records_and_all_are_there(
    audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provkeep.reading.access.LISTED", 2)
    monkeypatch.setattr("provkeep.reading.reader.LISTED", 2)
    document = made(audit, reveal="all", purpose="case 17")
    found = [json.loads(d["body"]) for d in document["records"]]
    assert sum(body["k"] == "access" for body in found) == accesses(audit) > 2
    assert both(audit, document) == {VERIFIED}


def test_the_access_is_committed_before_anything_is_opened(
    audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    reveal = Opener.reveal

    def watched(self: Opener, number: int) -> Any:
        seen.append(accesses(audit))
        return reveal(self, number)

    monkeypatch.setattr(Opener, "reveal", watched)
    made(audit, reveal="all", purpose="case 17")
    assert seen and set(seen) == {1}


def test_without_the_record_nothing_is_opened_and_nothing_written(
    audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise AccessNotRecordedError("the disk is full")

    monkeypatch.setattr(AccessLog, "commit", refuse)
    monkeypatch.setattr(Opener, "reveal", lambda *_: pytest.fail("opened"))
    with pytest.raises(AccessNotRecordedError):
        made(audit, reveal="output", purpose="case 17")
    assert not (audit.parent / "made.json").exists()


def test_a_class_whose_key_is_not_held_is_refused_and_the_refusal_recorded(audit: Path) -> None:
    path = keys_of(audit) / "reader.json"
    held = json.loads(path.read_text())
    del held["private"]["output"]
    path.write_text(json.dumps(held))
    with pytest.raises(RefusedError, match="output"):
        made(audit, reveal="all", purpose="case 17")
    assert accesses(audit) == 1 and not (audit.parent / "made.json").exists()
    with provkeep.open(audit) as trail:
        assert trail.accesses()[0].what == "refused"
    assert checked(audit, made(audit, reveal="document", purpose="case 17"))


def test_an_erased_payload_is_named_and_the_case_stands(audit: Path) -> None:
    with provkeep.open(audit) as trail:
        plan = trail.plan_erasure(trace=chain_trace(audit), classes=["prompt"])
        assert trail.erase(plan, reason="asked for") is not None
        found = trail.bundle(
            audit.parent / "case.json", chain_trace(audit), reveal="all", purpose="case 17"
        )
    assert found.unopened and found.reveals
    assert all("erased" in why for _, why in found.unopened)
    assert provkeep.verify_bundle(audit.parent / "case.json", key=vkey_of(audit))


def test_records_that_are_too_new_are_signed_first(audit: Path) -> None:
    with ProvenanceHandler(audit) as handler:
        manual_chain().invoke(QUESTION, config={"callbacks": [handler]})
        with edit(audit) as db:
            db.execute("DELETE FROM checkpoint WHERE size = (SELECT size FROM head)")
        assert both(audit, made(audit, traces(audit)[-1])) == {VERIFIED}


def test_a_store_that_was_changed_gives_no_bundle(audit: Path) -> None:
    with edit(audit) as db:
        db.execute(
            "UPDATE record SET body = CAST(replace(CAST(body AS TEXT), '\"ok\"', '\"ko\"') AS BLOB)"
        )
    with pytest.raises(ExportError, match="would not verify"):
        made(audit)
    assert not (audit.parent / "made.json").exists()


# -- a reveal says one thing -----------------------------------------------------------------------


def test_a_revealed_key_opens_no_other_payload(audit: Path) -> None:
    """Not by the rules, and not with bare AES-GCM under any context of the store."""
    document = made(audit, reveal="output", purpose="case 17")
    (reveal,) = document["reveals"]
    key = other.b64decode(reveal["key"])
    with closing(sqlite3.connect(audit)) as db:
        rows = db.execute(
            "SELECT p.id, p.data, r.body FROM payload p JOIN record r ON r.seq = p.seq"
        ).fetchall()
        store = bytes.fromhex(db.execute("SELECT value FROM meta").fetchone()[0])
    opened = []
    for number, envelope, raw in rows:
        body = json.loads(raw)
        place = number - body["p0"]
        trace = body["k"] == "trace"
        scope, n = (body["t"], body["n"]) if trace else (body["k"], body["at"])
        compartment = r.COMPARTMENTS[body["keys"][body["p"][place][1]][0]]
        context = r.payload_context(store, scope, n, place, compartment)
        try:
            open_with_payload_key(envelope, key, context)
            opened.append(number)
        except UnsealError:
            for half in (key[:32], key[32:]):
                with pytest.raises(InvalidTag):
                    AESGCM(half).decrypt(envelope[32:44], envelope[44:], context)
    assert opened == [reveal["payload"]] and len(rows) > 20
    assert {c for _, _, raw in rows for c, _, _ in json.loads(raw)["keys"]} >= {0, 1, 2, 4}


def test_the_data_key_is_not_in_the_bundle(audit: Path) -> None:
    """Who has it could open every payload of its trace and class."""
    found = []
    original = Opener._data_key

    def watched(self: Opener, *where: Any) -> bytes:
        found.append(original(self, *where))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Opener, "_data_key", watched)
        document = made(audit, reveal="all", purpose="case 17")
    keys = [other.b64decode(each["key"]) for each in document["reveals"]]
    assert found and len(set(keys)) == len(keys)
    for data_key in found:
        assert all(data_key not in key for key in keys)
        assert other.b64encode(data_key).decode()[:40] not in json.dumps(document)


Attack = Callable[[dict[str, Any]], Any]


def _flip(value: str, at: int = 5) -> str:
    raw = bytearray(other.b64decode(value))
    raw[at] ^= 1
    return other.b64encode(bytes(raw)).decode()


def _edit(document: dict[str, Any], member: str, at: int, name: str, value: Any) -> None:
    item = document[member][at]
    item[name] = value(item[name]) if callable(value) else value


def _swap(document: dict[str, Any], name: str, first: int = 0, second: int = 1) -> None:
    a, b = document["reveals"][first], document["reveals"][second]
    a[name], b[name] = b[name], a[name]


ATTACKS: dict[str, Attack] = {
    "text: another one": lambda d: _edit(d, "reveals", 0, "text", lambda t: t + "!"),
    "text: left out": lambda d: _edit(d, "reveals", 0, "text", None),
    "key: its first half": lambda d: _edit(d, "reveals", 0, "key", lambda k: _flip(k, 5)),
    "key: its second half": lambda d: _edit(d, "reveals", 0, "key", lambda k: _flip(k, 40)),
    "key: of another payload": lambda d: _swap(d, "key"),
    "envelope: its commitment": lambda d: _edit(d, "reveals", 0, "envelope", _flip),
    "envelope: its nonce": lambda d: _edit(d, "reveals", 0, "envelope", lambda e: _flip(e, 40)),
    "envelope: its ciphertext": lambda d: _edit(
        d, "reveals", 0, "envelope", lambda e: _flip(e, 50)
    ),
    "envelope: empty": lambda d: _edit(d, "reveals", 0, "envelope", ""),
    "reveals: exchanged whole": lambda d: [_swap(d, n) for n in ("key", "envelope", "text")],
    "reveal: of a payload that no record names": lambda d: _edit(
        d, "reveals", -1, "payload", 10**9
    ),
    "record: one word": lambda d: _edit(
        d, "records", 1, "body", lambda b: b.replace('"ok"', '"ko"')
    ),
    "record: spaces": lambda d: _edit(d, "records", 1, "body", lambda b: b + " "),
    "record: empty": lambda d: _edit(d, "records", 1, "body", ""),
    "record: another number": lambda d: _edit(d, "records", -1, "seq", lambda n: n + 1),
    "record: beyond the tree": lambda d: _edit(d, "records", -1, "seq", 10**9),
    "record: a copy of another": lambda d: _edit(d, "records", 2, "body", d["records"][1]["body"]),
    "record 0 left out": lambda d: d["records"].pop(0),
    "record of a reveal left out": lambda d: d["records"].pop(1),
    "records: none": lambda d: d["records"].clear(),
    "focus: a trace that is not there": lambda d: d.update(focus=f"{7:032x}.a0"),
    "focus: a part that is not there": lambda d: d.update(focus=d["focus"][:33] + "a99999"),
    "proof: one hash": lambda d: _edit(d, "records", 1, "proof", lambda p: [_flip(p[0]), *p[1:]]),
    "proof: too short": lambda d: _edit(d, "records", 1, "proof", lambda p: p[:-1]),
    "proof: too long": lambda d: _edit(d, "records", 1, "proof", lambda p: [*p, p[0]]),
    "proof: empty": lambda d: _edit(d, "records", 1, "proof", []),
    "proofs: all empty": lambda d: [each.update(proof=[]) for each in d["records"]],
    "proof: of another record": lambda d: _edit(d, "records", 1, "proof", d["records"][2]["proof"]),
    "checkpoint: root": lambda d: d.update(
        checkpoint=re.sub(r"(?m)^.{44}$", lambda m: _flip(m[0]), d["checkpoint"], count=1)
    ),
    "checkpoint: size": lambda d: d.update(checkpoint=d["checkpoint"].replace("\n", "\n1", 1)),
    "checkpoint: signature": lambda d: d.update(
        checkpoint=re.sub(r"\S+\n$", lambda m: _flip(m[0], 20) + "\n", d["checkpoint"])
    ),
    "checkpoint: not signed": lambda d: d.update(checkpoint=d["checkpoint"].partition("\u2014")[0]),
    "checkpoint: empty": lambda d: d.update(checkpoint=""),
    "checkpoint: signed with another key": lambda d: d.update(checkpoint=_foreign(d["checkpoint"])),
}


def _foreign(note: str) -> str:
    from provkeep.tlog.checkpoint import LogKey, parse_checkpoint

    stated = parse_checkpoint(note)
    return LogKey.generate(stated.origin).sign_checkpoint(stated.size, stated.root)


@pytest.fixture(scope="module")
def honest(recorded: Path) -> Iterator[dict[str, Any]]:
    """A bundle that reveals everything, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROVKEEP_HOME", str(recorded / "home"))
        with provkeep.open(recorded / "audit.db") as trail:
            where = recorded / "honest.json"
            trail.bundle(where, chain_trace(recorded / "audit.db"), reveal="all", purpose="case 17")
    yield json.loads(where.read_text())
    where.unlink()


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_a_bundle_shows_to_both_verifiers(
    audit: Path, honest: dict[str, Any], attack: str
) -> None:
    assert both(audit, honest) == {VERIFIED}
    forged = copy.deepcopy(honest)
    ATTACKS[attack](forged)
    assert forged != honest
    assert both(audit, forged) == {WRONG}
    report = checked(audit, forged)
    assert not report.proved and report.open == ("nothing is proved",)


def test_the_findings_name_what_is_wrong(audit: Path, honest: dict[str, Any]) -> None:
    expected = {
        "text: another one": "reveal-false",
        "key: its second half": "reveal-false",
        "record: one word": "record-altered",
        "record 0 left out": "record-missing",
        "focus: a part that is not there": "record-missing",
        "checkpoint: root": "checkpoint-signature",
        "checkpoint: signed with another key": "checkpoint-unknown-signer",
        "checkpoint: not signed": "checkpoint-malformed",
    }
    for attack, code in expected.items():
        forged = copy.deepcopy(honest)
        ATTACKS[attack](forged)
        assert code in checked(audit, forged).codes, attack


def test_no_key_means_nothing_is_believed(audit: Path, honest: dict[str, Any]) -> None:
    report = provkeep.verify_bundle(honest)
    assert not report and "no-key" in report.codes and not report.proved
    assert not provkeep.verify_bundle(honest, key="provkeep/x+00000000+AAAA")


def test_the_key_of_another_log_is_not_enough(
    audit: Path, honest: dict[str, Any], tmp_path: Path
) -> None:
    from provkeep.tlog.checkpoint import LogKey, LogPublicKey

    mine = LogPublicKey.from_vkey(vkey_of(audit))
    for origin in (mine.origin, "provkeep/another"):
        key = LogKey.generate(origin).public.vkey()
        assert "checkpoint-unknown-signer" in provkeep.verify_bundle(honest, key=key).codes
        blob = json.dumps(honest).encode()
        assert set(verdicts(blob, key, None, tmp_path)) == {WRONG}


# -- pins ------------------------------------------------------------------------------------------


def test_a_bundle_leads_from_the_pin_it_was_made_with(audit: Path) -> None:
    early = audit.parent / "early-pin.json"
    pin = json.loads(early.read_text())
    document = made(audit, pin=early)
    report = provkeep.verify_bundle(document, pin=early)
    assert report and report.pinned and pin["size"] < report.size
    assert f"begins with the {pin['size']} records" in report.proved[1]
    assert both(audit, document, pin) == {VERIFIED}
    now = json.loads((keys_of(audit) / "pin.json").read_text())
    assert both(audit, document, now) == {VERIFIED}, "the pin of the configuration is led from too"


LIES_ABOUT_A_PIN: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "no proof from it": lambda d, p: d.update(consistency=[]),
    "a proof without hashes": lambda d, p: d["consistency"][0].update(proof=[]),
    "a proof with one changed": lambda d, p: d["consistency"][0].update(
        proof=[_flip(d["consistency"][0]["proof"][0]), *d["consistency"][0]["proof"][1:]]
    ),
    "a proof that is too long": lambda d, p: d["consistency"][0]["proof"].append(
        d["consistency"][0]["proof"][0]
    ),
    "another root": lambda d, p: p.update(root=_flip(p["root"])),
    "a later size": lambda d, p: p.update(size=10_000),
    "another size": lambda d, p: (p.update(size=1), d["consistency"][0].update(size=1)),
    "size 0 with a root": lambda d, p: p.update(size=0),
}


@pytest.mark.parametrize("lie", LIES_ABOUT_A_PIN)
def test_a_pin_that_the_log_does_not_continue_shows(audit: Path, lie: str) -> None:
    early = audit.parent / "early-pin.json"
    document, pin = made(audit, pin=early), json.loads(early.read_text())
    assert document["consistency"][0]["size"] == pin["size"]
    LIES_ABOUT_A_PIN[lie](document, pin)
    assert both(audit, document, pin) == {WRONG}


def test_a_log_that_was_written_anew_with_the_stolen_key_shows_against_a_pin_only(
    audit: Path, tmp_path: Path
) -> None:
    """The limit that docs/THREATS.md names: without a pin the signature is all there is."""
    from tests.export.cases import signed, trace
    from tests.reading import forging

    first = signed([trace(1), trace(2)])
    rewritten = signed([trace(1, ["o", 0, 5, "lie", -1]), trace(2)])
    vkey = forging.KEY.public.vkey()
    stated = first["checkpoint"].split("\n")
    pin = {"format": 1, "origin": stated[0], "size": 3, "root": stated[2], "vkey": vkey}
    for case, against, verdict in (
        (first, None, VERIFIED),
        (first, pin, VERIFIED),
        (rewritten, None, VERIFIED),
        (rewritten, pin, WRONG),
    ):
        blob = json.dumps(case).encode()
        assert set(verdicts(blob, vkey, against, tmp_path)) == {verdict}


# -- a stranger ------------------------------------------------------------------------------------


def test_a_stranger_needs_no_database_and_no_home(
    audit: Path, honest: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = vkey_of(audit)
    monkeypatch.setenv("PROVKEEP_HOME", str(tmp_path / "nothing" / "here"))
    monkeypatch.setattr("sqlite3.connect", lambda *_, **__: pytest.fail("a database"))
    assert provkeep.verify_bundle(honest, key=key)
    assert not (tmp_path / "nothing").exists()


def test_the_other_verifier_is_a_program_of_its_own(audit: Path, tmp_path: Path) -> None:
    program = Path(other.__file__).read_text(encoding="utf-8")
    assert not re.search(r"^\s*(from|import) provkeep", program, re.MULTILINE)
    (tmp_path / "alone").mkdir()
    alone = tmp_path / "alone" / "verifier.py"
    alone.write_text(program, encoding="utf-8")
    document = made(audit, reveal="output", purpose="case 17")
    case = audit.parent / "made.json"
    command = [sys.executable, "-I", str(alone), str(case), vkey_of(audit)]
    pinned = [*command, str(keys_of(audit) / "pin.json")]
    for each, code in ((command, 0), (pinned, 0)):
        done = subprocess.run(each, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout[:9]) == (code, "verified:"), done.stderr
    document["reveals"][0]["text"] = "tno"
    case.write_text(json.dumps(document))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    case.write_text("{")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 3


def test_no_text_stands_in_a_repr(audit: Path) -> None:
    with provkeep.open(audit) as trail:
        found = trail.bundle(
            audit.parent / "case.json", chain_trace(audit), reveal="all", purpose="case 17"
        )
    report = provkeep.verify_bundle(audit.parent / "case.json", key=vkey_of(audit))
    for shown in (repr(found), repr(report), repr(report.revealed), str(report.to_dict())):
        assert ANSWER[:20] not in shown and QUESTION not in shown
    key = found.reveals[0].key
    assert repr(key) not in repr(found) and repr(key) not in repr(found.reveals)
    assert ANSWER in str(report.to_dict(texts=True))


# -- logs that changed their key -------------------------------------------------------------------


@pytest.fixture
def rotated(audit: Path) -> Path:
    """The same store after two changes of the log's key, the second with records behind it."""
    with provkeep.open(audit) as trail:
        trail.bundle(audit.parent / "old.json", chain_trace(audit))
    shutil.copy(keys_of(audit) / "pin.json", audit.parent / "first-pin.json")
    rotate_log_key(audit)
    shutil.copy(keys_of(audit) / "pin.json", audit.parent / "second-pin.json")
    rotate_log_key(audit)
    record(audit)
    return audit


def with_keys(
    audit: Path, document: dict[str, Any], keys: list[str], pin: str | None = None
) -> set[str]:
    blob, text = json.dumps(document).encode(), "\n".join(keys)
    remembered = None if pin is None else json.loads((audit.parent / pin).read_text())
    return set(verdicts(blob, text, remembered, audit.parent))


def test_a_bundle_leads_from_the_first_key_to_the_one_in_force(rotated: Path) -> None:
    keys = vkey_of(rotated).split("\n")
    assert len(keys) == 3
    document = made(rotated, reveal="output", purpose="case 17")
    for given in (keys, keys[:1], keys[:2]):
        assert with_keys(rotated, document, given) == {VERIFIED}
    for pin in ("early-pin.json", "first-pin.json", "second-pin.json"):
        pinned = made(rotated, pin=rotated.parent / pin)
        assert with_keys(rotated, pinned, keys[:1], pin) == {VERIFIED}
    assert with_keys(rotated, document, [vkey_of(rotated).split("\n")[0][:-8] + "AAAAAAA="]) == {
        WRONG
    }


def test_whoever_knows_a_later_key_only_is_told_what_that_leaves_open(rotated: Path) -> None:
    keys = vkey_of(rotated).split("\n")
    report = provkeep.verify_bundle(made(rotated), key=keys[2])
    assert report and "key-not-first" in {f.code for f in report.findings}
    pinned = provkeep.verify_bundle(made(rotated), key=keys[2], pin=keys_of(rotated) / "pin.json")
    assert pinned and not pinned.findings


def test_a_bundle_from_before_a_change_of_keys_is_told_to_be_old(rotated: Path) -> None:
    old = json.loads((rotated.parent / "old.json").read_text())
    report = provkeep.verify_bundle(old, key=vkey_of(rotated))
    codes = {f.code: f.severity for f in report.findings}
    assert report and codes["key-rotation"] == "warning"
    assert not provkeep.verify_bundle(old, key=vkey_of(rotated), pin=keys_of(rotated) / "pin.json")


@pytest.mark.parametrize("attack", ["hide", "cut", "proof", "swap", "place"])
def test_a_change_of_keys_that_is_hidden_or_altered_shows(rotated: Path, attack: str) -> None:
    keys, document = vkey_of(rotated).split("\n"), made(rotated)
    changes = [e for e in document["records"] if '"k":"logkey"' in e["body"]]
    assert len(changes) == 2
    if attack == "hide":
        document["records"] = [e for e in document["records"] if e not in changes]
    elif attack == "cut":
        document["records"].remove(changes[1])
    elif attack == "proof":
        document["consistency"] = [
            e for e in document["consistency"] if e["size"] != changes[0]["seq"]
        ]
    elif attack == "swap":
        changes[0]["body"], changes[1]["body"] = changes[1]["body"], changes[0]["body"]
    else:
        steps = {e["size"]: e for e in document["consistency"]}
        step = steps[changes[0]["seq"]]["proof"]
        step[0] = step[0][:-8] + "AAAAAAA="
    assert with_keys(rotated, document, keys[:1]) == {WRONG}
    assert with_keys(rotated, document, keys) == {WRONG}


def test_an_access_whose_reader_s_signature_is_another_one_s_shows(audit: Path) -> None:
    """Whoever holds the log's key can append an access; not one that a reader stands by."""
    document = made(audit, reveal="output", purpose="case 17")
    [access] = [e for e in document["records"] if '"k":"access"' in e["body"]]
    fields = json.loads(access["body"])
    assert is_signed_body(fields, store_of(audit), r.unb64(fields["key"]), ACCESS_PURPOSE)
    for change in ({"what": "payload"}, {"key": r.b64(bytes(32))}, {"by": r.b64(bytes(12))}):
        out = Findings()
        statements = Statements(out)
        statements.meet(0, {"k": "init", "store": store_of(audit).hex()})
        statements.meet(access["seq"], fields)
        assert not out.result()
        statements.meet(access["seq"], fields | change)
        assert [f.code for f in out.result()] == ["statement-signature"]


def store_of(audit: Path) -> bytes:
    return bytes.fromhex(keys_of(audit).name)
