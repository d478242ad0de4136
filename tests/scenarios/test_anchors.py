"""Who holds the log's key can rewrite it, and not what its anchors remember.

Stores are made by hand and forged with the stolen key, as in docs/THREATS.md. Nobody here gives
``verify`` a pin: an anchor must do without one.
"""

import importlib
import json
import sys
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import provkeep
from provkeep.errors import AnchorConflictError, AnchorError
from provkeep.langchain import ProvenanceHandler
from provkeep.model.records import Pending, unb64
from provkeep.reading.verify import Report, verify
from provkeep.recording import anchoring
from provkeep.recording.anchoring import Anchoring
from provkeep.sealing.home import anchors_path, find_by_path, load_recorder_config
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog import witness as witness_module
from provkeep.tlog.anchor import Proof
from provkeep.tlog.anchorbook import AnchorBook, read_book
from provkeep.tlog.checkpoint import LogKey
from provkeep.tlog.heads import View
from provkeep.tlog.keychain import rotation_body
from provkeep.tlog.log import Log
from provkeep.tlog.pin import Pin, read_pin
from provkeep.tlog.rounds import proof_record
from tests import anchor_kit
from tests.anchor_kit import (
    Authority,
    Server,
    Witness,
    anchor_and_record,
    hanging,
    make_authority,
    served,
    submit,
)
from tests.reading.forging import KEY, edit, make, trace, traces
from tests.scenarios.lineage_kit import model

PUBLIC = KEY.public
verification = importlib.import_module("provkeep.reading.verify")
KINDS = ["witness", "timestamp", "file", "pin"]
RECORDS = 300


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tsa") / "a")


@dataclass
class Scene:
    """A store, its anchors, and the parties behind them."""

    path: Path
    book: AnchorBook
    folder: Path
    witness: Witness = field(default_factory=Witness)

    def judge(self, path: Path | None = None) -> Report:
        return verify(path or self.path, pin=None, public=PUBLIC, anchors=self.book.path)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    path = tmp_path / "audit.db"
    make(path, traces(RECORDS))
    return Scene(path, AnchorBook(tmp_path / "anchors.json"), tmp_path)


@pytest.fixture
def anchored(scene: Scene, authority: Authority) -> Iterator[Scene]:
    """With an anchor of each kind, which have all seen it; then records came."""
    with served(scene.witness) as server, closing(Server(authority.reply)) as stamps:
        add(scene, "witness", server.url)
        add(scene, "timestamp", stamps.url, authority)
        add(scene, "file")
        add(scene, "pin")
        anchor_and_record(scene.path, scene.book)
        yield scene


def add(scene: Scene, kind: str, url: str = "", authority: Authority | None = None) -> None:
    fields = {"path": str(scene.folder / f"{kind}.anchor")}
    if kind == "witness":
        fields = {"url": url, "key": scene.witness.vkey}
    elif authority is not None:
        fields = {"url": url, "certificates": authority.certificates}
    scene.book.add(kind, kind, **fields)
    scene.book.write()


def only(scene: Scene, *names: str) -> None:
    """An auditor who knows these anchors only."""
    for name in set(scene.book.anchors) - set(names):
        del scene.book.anchors[name]
    scene.book.write()


def errors(report: Report) -> set[str]:
    found = {f.code for f in report.findings if f.severity == "error"}
    if found & {"anchor-mismatch", "anchor-ahead"}:
        found.discard("anchor-quorum")  # a witness that has seen another log has not seen this one
    return found


def places(report: Report, code: str) -> list[str]:
    return [f.place for f in report.findings if f.code == code]


def rewritten(scene: Scene, name: str = "forged.db") -> Path:
    """The same log but for its second record, signed with the stolen key, and longer."""
    path = scene.folder / name
    make(path, [trace(9000), *traces(RECORDS)[1:], *[trace(n) for n in range(5000, 5050)]])
    return path


def append(path: Path, *proofs: tuple[str, str, Proof]) -> None:
    with closing(SqliteStore(path)) as store:
        log = Log(store)
        log.append([proof_record(*each) for each in proofs])
        log.checkpoint(KEY)


# --- honest -----------------------------------------------------------------------------------


def test_an_honest_log_verifies_and_what_its_anchors_saw_is_said(anchored):
    report = anchored.judge()
    assert report, report.table()
    assert report.codes == {"unpinned", "anchored"}
    assert sorted(places(report, "anchored")) == [f"{k} '{k}'" for k in sorted(KINDS)]
    said = {f.place: f.sentence for f in report.findings}
    assert f"first {RECORDS + 1} records, at 2023-11-14 22:13:20" in said["witness 'witness'"]


def test_a_growing_log_stays_consistent_with_its_anchors(anchored):
    for at in range(3):
        append_traces(anchored.path, range(6000 + at * 40, 6040 + at * 40))
        anchor_and_record(anchored.path, anchored.book)
    report = anchored.judge()
    assert report, report.table()
    assert len((anchored.folder / "file.anchor").read_text().splitlines()) == 4
    assert anchored.witness.seen[0] > RECORDS + 120


def append_traces(path: Path, numbers: range) -> None:
    with closing(SqliteStore(path)) as store:
        log = Log(store)
        log.append([trace(n) for n in numbers])
        log.checkpoint(KEY)


def test_without_the_file_that_names_them_proofs_in_the_log_prove_nothing(anchored):
    report = verify(anchored.path, pin=None, public=PUBLIC)
    assert report
    assert report.codes == {"unpinned", "anchor-unknown"}


# --- rewritten with the stolen key ------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_rewritten_log_shows_against_any_one_anchor(anchored, kind):
    """With all signatures good; the user's configuration is out of the thief's reach."""
    only(anchored, kind)
    report = anchored.judge(rewritten(anchored))
    assert errors(report) == {"anchor-mismatch"}
    assert anchored.judge()  # and the true one is still true


@pytest.mark.parametrize("kind", ["witness", "timestamp"])
def test_true_proofs_in_a_rewritten_log_tell_against_it(anchored, kind):
    """The auditor has keys and certificates alone; the thief copies the proofs along."""
    proof = anchored.book.states()[kind].proof
    only(anchored, kind)
    anchored.book.state_path.unlink()
    assert anchored.judge()
    forged = rewritten(anchored)
    append(forged, (kind, kind, proof))
    assert "anchor-mismatch" in errors(anchored.judge(forged))


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("witness", "anchor-quorum"),
        *[(kind, "anchor-missing") for kind in ("timestamp", "file", "pin")],
    ],
)
def test_a_rewritten_log_without_proofs_is_missing_them(anchored, kind, code):
    only(anchored, kind)
    anchored.book.state_path.unlink()
    for file in anchored.folder.glob("*.anchor"):
        file.unlink()
    assert errors(anchored.judge(rewritten(anchored))) == {code}


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_that_was_cut_or_rolled_back_shows(anchored, kind):
    only(anchored, kind)
    make(anchored.folder / "older.db", traces(RECORDS - 100))
    assert errors(anchored.judge(anchored.folder / "older.db")) == {"anchor-ahead"}


def test_a_witness_and_a_pin_refuse_a_rewritten_log(anchored):
    forged = rewritten(anchored)
    outcomes = {each.anchor: each for each in submit(forged, anchored.book)}
    for kind in ("witness", "pin"):
        assert isinstance(outcomes[kind].error, AnchorConflictError), outcomes[kind]
    assert "not how this log begins" in str(outcomes["witness"].error)
    anchored.book.state_path.unlink()  # nor when nobody remembers what the witness saw
    outcomes = {each.anchor: each for each in submit(forged, anchored.book)}
    assert isinstance(outcomes["witness"].error, AnchorConflictError)


def test_a_witness_refuses_a_shorter_log(anchored):
    make(anchored.folder / "older.db", traces(RECORDS - 100))
    outcomes = {each.anchor: each for each in submit(anchored.folder / "older.db", anchored.book)}
    assert isinstance(outcomes["witness"].error, AnchorConflictError)
    assert f"cosigned {RECORDS + 1} records, this log signs {RECORDS - 99}" in str(
        outcomes["witness"].error
    )


def test_the_same_size_with_another_root_is_not_taken_as_seen(anchored):
    forged = anchored.folder / "forged.db"
    make(forged, [trace(9000), *traces(RECORDS)[1:]])
    outcomes = {each.anchor: each for each in submit(forged, anchored.book)}
    assert isinstance(outcomes["witness"].error, AnchorConflictError)


# --- forged proofs ----------------------------------------------------------------------------


def cosigned(scene: Scene, **lie: object) -> Proof:
    with closing(SqliteStore(scene.path, read_only=True)) as store:
        head = View(store.query).newest_head(PUBLIC)
    note = str(lie.get("note", head.note))
    signer = lie.get("signer", scene.witness)
    line = signer.cosign(str(lie.get("signed", note)))
    return Proof(note=note + line, at_us=1)


@pytest.mark.parametrize("lie", ["another head", "another key under its name", "another time"])
def test_a_forged_cosignature_shows(scene, lie):
    with served(scene.witness) as server:
        add(scene, "witness", server.url)
        anchor_and_record(scene.path, scene.book)
    if lie == "another head":
        proof = cosigned(scene, signed=KEY.sign_checkpoint(7, bytes(32)))
    elif lie == "another key under its name":
        impostor = Witness(seed=bytes([9]) * 32)
        assert impostor.vkey != scene.witness.vkey
        proof = cosigned(scene, signer=impostor)
    else:
        good = cosigned(scene).note
        text, dash, blob = good.rpartition(" ")
        raw = bytearray(b64decode(blob))
        raw[11] ^= 1  # the last byte of its time
        proof = Proof(note=text + dash + b64encode(bytes(raw)).decode() + "\n", at_us=1)
    append(scene.path, ("witness", "witness", proof))
    assert errors(scene.judge()) == {"anchor-forged"}


def test_a_true_cosignature_of_a_head_to_come_shows(scene):
    """A proof can only speak of records that were there before it."""
    add(scene, "witness", "http://127.0.0.1:1")
    true = make(scene.folder / "longer.db", traces(RECORDS + 50))
    note = KEY.sign_checkpoint(true.size, true.root)
    append(
        scene.path, ("witness", "witness", Proof(note=note + scene.witness.cosign(note), at_us=1))
    )
    assert "anchor-forged" in errors(scene.judge())


def test_a_time_stamp_of_another_head_shows(anchored):
    only(anchored, "timestamp")
    kept = anchored.book.states()["timestamp"].proof
    with closing(SqliteStore(anchored.path, read_only=True)) as store:
        head = View(store.query).newest_head(PUBLIC)
    assert head.note != kept.note
    append(
        anchored.path, ("timestamp", "timestamp", Proof(note=head.note, at_us=1, token=kept.token))
    )
    assert errors(anchored.judge()) == {"anchor-forged"}


@pytest.mark.parametrize("token", [b"", b"no DER", bytes(900)])
def test_a_time_stamp_that_is_none_shows(anchored, token):
    note = anchored.book.states()["timestamp"].proof.note
    append(anchored.path, ("timestamp", "timestamp", Proof(note=note, at_us=1, token=token)))
    assert errors(anchored.judge()) == {"anchor-forged"}


def test_a_time_stamp_of_another_authority_shows(anchored, tmp_path):
    stranger = make_authority(tmp_path / "stranger")
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    note = anchored.book.states()["timestamp"].proof.note
    builder = TimestampRequestBuilder().data(note.encode()).hash_algorithm(HashAlgorithm.SHA256)
    token = stranger.stamp(builder.build().as_bytes())
    append(anchored.path, ("timestamp", "timestamp", Proof(note=note, at_us=1, token=token)))
    assert errors(anchored.judge()) == {"anchor-forged"}


def test_openssl_accepts_the_time_stamp_that_was_recorded(anchored, authority):
    """The independent check, of what stands in the log."""
    with edit(anchored.path) as conn:
        bodies = [json.loads(b) for (b,) in conn.execute("SELECT body FROM record ORDER BY seq")]
    (body,) = [b for b in bodies if b.get("type") == "timestamp"]
    (authority.folder / "r.tsr").write_bytes(unb64(body["token"]))
    words = ["ts", "-verify", "-in", "r.tsr", "-CAfile", "ca.pem", "-data", "note.txt"]
    (authority.folder / "note.txt").write_text(body["note"], newline="")
    assert authority.openssl(*words).returncode == 0
    (authority.folder / "note.txt").write_text(body["note"] + " ", newline="")
    assert authority.openssl(*words).returncode != 0


def test_a_time_stamp_that_cannot_be_checked_is_not_passed_over(anchored, monkeypatch):
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    report = anchored.judge()
    assert errors(report) == {"anchor-unchecked"}
    assert 'pip install "provkeep[timestamp]"' in report.table()


def test_proofs_of_anchors_that_nobody_named_are_not_believed(anchored):
    """The thief brings a witness of his own."""
    only(anchored, "witness")
    anchored.book.state_path.unlink()
    forged = rewritten(anchored)
    thief = Witness(name="thief.example.org/w", seed=bytes([3]) * 32)
    with closing(SqliteStore(forged, read_only=True)) as store:
        head = View(store.query).newest_head(PUBLIC)
    append(forged, ("mine", "witness", Proof(note=head.note + thief.cosign(head.note), at_us=1)))
    report = anchored.judge(forged)
    assert errors(report) == {"anchor-quorum"}
    assert "anchor-unknown" in report.codes


@pytest.mark.parametrize(
    "more",
    [
        {"note": "no note"},
        {"note": 7},
        {"anchor": None},
        {"token": "not base64!", "type": "timestamp", "anchor": "timestamp"},
        {"at": "late"},
        {"type": "smoke"},
    ],
)
def test_records_of_proofs_of_another_shape_are_survived(anchored, more):
    record = proof_record(
        "witness", "witness", Proof(note=KEY.sign_checkpoint(1, bytes(32)), at_us=1)
    )
    record.body.update(more)
    with closing(SqliteStore(anchored.path)) as store:
        log = Log(store)
        log.append([record])
        log.checkpoint(KEY)
    report = anchored.judge()
    if more == {"type": "smoke"}:
        assert "anchor-unknown" in report.codes
    else:
        assert errors(report) & {"anchor-forged", "record-malformed"}


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "emptied", "gone", "a line changed", "a folder"])
def test_an_anchor_file_that_was_cut_or_changed_shows(anchored, damage):
    only(anchored, "file")
    append_traces(anchored.path, range(7000, 7010))
    anchor_and_record(anchored.path, anchored.book)
    file = anchored.folder / "file.anchor"
    lines = file.read_text().splitlines(keepends=True)
    file.unlink()
    if damage == "cut":
        file.write_text(lines[0])
    elif damage == "emptied":
        file.write_text("")
    elif damage == "a line changed":
        file.write_text(lines[0].replace('"note"', '"nota"') + lines[1])
    elif damage == "a folder":
        file.mkdir()
    assert errors(anchored.judge()) == {"anchor-missing"}


def test_a_file_anchor_shows_a_fork_between_two_logs(anchored):
    """Both histories were filed: no log leads to both."""
    forged = rewritten(anchored)
    submit(forged, anchored.book)
    only(anchored, "file")
    anchored.book.state_path.unlink()
    assert errors(anchored.judge(forged)) == {"anchor-mismatch"}
    assert errors(anchored.judge(anchored.path)) == {"anchor-ahead"}  # the forgery is longer


def test_a_line_that_power_took_is_a_warning_and_the_next_one_is_whole(anchored):
    only(anchored, "file")
    file = anchored.folder / "file.anchor"
    with file.open("a") as torn:
        torn.write('{"at": 17, "no')
    append_traces(anchored.path, range(7000, 7010))
    anchor_and_record(anchored.path, anchored.book)
    report = anchored.judge()
    assert report, report.table()
    assert "anchor-unchecked" in report.codes
    assert len(file.read_text().splitlines()) == 3


def test_one_file_may_serve_several_logs(anchored):
    only(anchored, "file")
    other = LogKey.from_seed("provkeep/other", bytes([2]) * 32)
    line = {"at": 1, "note": other.sign_checkpoint(9, bytes(32))}
    with (anchored.folder / "file.anchor").open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert anchored.judge()


def test_many_heads_are_compared_as_few_are(scene):
    """Beyond some number, roots are computed along the log instead of one by one."""
    add(scene, "file")
    with closing(SqliteStore(scene.path, read_only=True)) as store:
        view = View(store.query)
        lines = [
            json.dumps({"at": 1, "note": KEY.sign_checkpoint(n, view.root(n))}) + "\n"
            for n in range(1, RECORDS + 2)
        ]
    (scene.folder / "file.anchor").write_text("".join(lines))
    report = scene.judge()
    assert report, report.table()
    lines[170] = json.dumps({"at": 1, "note": KEY.sign_checkpoint(171, bytes(32))}) + "\n"
    (scene.folder / "file.anchor").write_text("".join(lines))
    assert places(scene.judge(), "anchor-mismatch") == ["file 'file', line 171"]


# --- beside what else happens ------------------------------------------------------------------


def at_the_first(monkeypatch: pytest.MonkeyPatch, name: str, happens: Callable[[], object]) -> None:
    """Let something happen just before verification calls a function for the first time."""
    original = getattr(verification, name)
    done: list[bool] = []

    def later(*words: object, **more: object) -> object:
        if not done:
            done.append(True)
            happens()
        return original(*words, **more)

    monkeypatch.setattr(verification, name, later)


@pytest.mark.parametrize("moment", ["is_still", "check_schema"])
def test_anchors_that_move_on_while_a_log_is_verified_are_no_alarm(anchored, monkeypatch, moment):
    """Before the store is read, and while it is: heads and proofs come that were not there."""

    def record() -> None:
        append_traces(anchored.path, range(8000, 8020))
        anchor_and_record(anchored.path, anchored.book)

    at_the_first(monkeypatch, moment, record)
    report = anchored.judge()
    assert report, report.table()
    assert report.codes == {"unpinned", "anchored"}
    assert len(places(report, "anchored")) == 4


def test_anchors_go_on_when_the_log_changes_its_key(anchored):
    """The pin in another place follows the old key's signature over the new one."""
    new = LogKey.from_seed(PUBLIC.origin, bytes([5]) * 32)
    with closing(SqliteStore(anchored.path)) as store:
        log = Log(store)
        log.rotate(KEY, new, at=1_700_000_000_000_000)
        log.append([trace(n) for n in range(8000, 8010)])
        log.checkpoint(new)
    anchor_and_record(anchored.path, anchored.book, new)
    report = anchored.judge()
    assert report, report.table()
    assert report.codes == {"unpinned", "anchored", "key-rotation"}
    assert read_pin(anchored.folder / "pin.anchor").vkey == new.public.vkey()


def test_a_pin_does_not_follow_a_key_that_the_old_one_did_not_name(anchored):
    thief, other = (LogKey.from_seed(PUBLIC.origin, bytes([n]) * 32) for n in (6, 7))
    before = (anchored.folder / "pin.anchor").read_bytes()
    with edit(anchored.path) as conn:
        (size,) = conn.execute("SELECT size FROM head").fetchone()
        conn.execute("DELETE FROM checkpoint")
    with closing(SqliteStore(anchored.path)) as store:
        log = Log(store)
        root = View(store.query).root(size)
        log.append([Pending(rotation_body(other, thief.public, size, root, 1), [])])
        log.checkpoint(thief)
    outcomes = {each.anchor: each for each in submit(anchored.path, anchored.book, thief)}
    assert isinstance(outcomes["pin"].error, AnchorConflictError)
    assert "did not hand over" in str(outcomes["pin"].error)
    assert (anchored.folder / "pin.anchor").read_bytes() == before


def test_verification_of_what_is_new_compares_with_anchors_too(anchored):
    head = anchor_and_record(anchored.path, anchored.book)
    append_traces(anchored.path, range(8000, 8010))
    report = verify(anchored.path, pin=head, public=PUBLIC, anchors=anchored.book.path, since=True)
    assert report, report.table()
    assert len(places(report, "anchored")) == 4
    forged = rewritten(anchored)
    with closing(SqliteStore(forged, read_only=True)) as store:
        stated = View(store.query).newest_head(PUBLIC)
    pin = Pin(stated.origin, stated.size, stated.root, PUBLIC.vkey())
    append_traces(forged, range(8000, 8010))
    anchored.book.anchors.pop("file")  # this and that pin are moved by nobody here
    anchored.book.write()
    report = verify(forged, pin=pin, public=PUBLIC, anchors=anchored.book.path, since=True)
    assert "anchor-mismatch" in errors(report)


@pytest.mark.parametrize("damage", ["DELETE FROM tile", "UPDATE tile SET hashes=zeroblob(31)"])
def test_damaged_tiles_are_named_and_blamed_on_no_anchor(anchored, damage):
    with edit(anchored.path) as conn:
        conn.execute(damage)
    assert errors(anchored.judge()) == {"tile"}


# --- quorum -----------------------------------------------------------------------------------


def test_so_many_witnesses_as_asked_for_must_have_seen_the_log(scene):
    names = ["a", "b", "c"]
    witnesses = [Witness(name=f"{n}.example.org/w", seed=n.encode() * 32) for n in names]
    witnesses[2].broken = "status"
    with served(witnesses[0]) as a, served(witnesses[1]) as b, served(witnesses[2]) as c:
        for name, witness, server in zip(names, witnesses, (a, b, c), strict=True):
            scene.book.add(name, "witness", url=server.url, key=witness.vkey)
        scene.book.quorum = 2
        scene.book.write()
        assert errors(scene.judge()) == {"anchor-quorum"}  # nobody was asked yet
        outcomes = submit(scene.path, scene.book)
    assert [each.error is None for each in outcomes] == [True, True, False]
    report = scene.judge()
    assert report, report.table()
    assert places(report, "anchor-failing") == ["witness 'c'"]
    assert f"2 of them have seen the first {RECORDS + 1} records" in report.table()
    scene.book.quorum = 3
    scene.book.write()
    assert errors(scene.judge()) == {"anchor-quorum"}


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("signature", "cosignature is bad"),
        ("stranger", "did not cosign"),
        ("status", "status 503"),
        ("huge", "more than 65536 bytes"),
    ],
)
def test_a_witness_that_answers_nonsense_is_a_failure_and_no_proof(scene, broken, problem):
    scene.witness.broken = broken
    with served(scene.witness) as server:
        add(scene, "witness", server.url)
        (outcome,) = submit(scene.path, scene.book)
    assert outcome.proof is None
    assert problem in str(outcome.error)
    state = scene.book.states()["witness"]
    assert (state.failures, state.proof) == (1, None)
    assert len(server.requests) == (3 if broken == "status" else 1)  # what may pass is tried again


def test_a_witness_that_knows_more_than_we_remember_is_asked_again(anchored):
    anchored.book.state_path.unlink()
    append_traces(anchored.path, range(7000, 7010))
    only(anchored, "witness")
    (outcome,) = submit(anchored.path, anchored.book)
    assert outcome.proof is not None


# --- the recorder -----------------------------------------------------------------------------


def threads(name: str) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith(name)]


def test_a_witness_that_hangs_slows_nothing(tmp_path):
    """It has the request and does not answer; meanwhile chains return, flush and close return."""
    path = tmp_path / "audit.db"
    with ProvenanceHandler(path):
        pass
    book = read_book(anchors_path(find_by_path(path)))
    with hanging() as (server, asked):
        book.add("w", "witness", url=server.url, key=Witness().vkey)
        book.write()
        with ProvenanceHandler(path) as handler:
            model("first").invoke("hello", config={"callbacks": [handler]})
            handler.flush()
            assert asked.wait(30)
            for _ in range(3):
                model("more").invoke("hello", config={"callbacks": [handler]})
                handler.flush()
            (thread,) = threads("provkeep-anchors-audit.db")
            assert thread.is_alive()  # still waiting for its answer
        assert thread.is_alive()
    thread.join(60)
    assert not thread.is_alive()
    state = read_book(book.path).states()["w"]
    assert state.failures in (1, 2)  # what came meanwhile is tried once more at the end
    assert state.proof is None
    with provkeep.open(path) as trail:
        assert len(trail.runs()) == 4
        report = trail.verify()
    assert "anchor-failing" in report.codes
    assert errors(report) == {"anchor-quorum"}


def test_a_server_that_dribbles_is_given_up():
    """Each byte comes in time, and the answer never ends."""
    import socket

    from provkeep.tlog.post import post

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        over = threading.Event()

        def dribble() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                while not over.wait(0.02):
                    try:
                        peer.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=dribble, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        with pytest.raises(AnchorError, match=r"did not answer within 0\.5 s"):
            post("w", url, b"", "text/plain", timeout_s=0.5)
        over.set()
        thread.join(30)


def test_the_recorder_anchors_by_itself_and_records_the_proof(tmp_path, monkeypatch):
    path = tmp_path / "audit.db"
    with ProvenanceHandler(path):
        pass
    store_id = find_by_path(path)
    config = load_recorder_config(store_id)
    monkeypatch.setattr(anchor_kit, "KEY", LogKey.from_seed(config.origin, config.log_seed))
    book = read_book(anchors_path(store_id))
    witness = Witness()
    with served(witness) as server:
        book.add("w", "witness", url=server.url, key=witness.vkey)
        book.add("f", "file", path=str(tmp_path / "filed"))
        book.write()
        with ProvenanceHandler(path) as handler:
            model("first").invoke("hello", config={"callbacks": [handler]})
            handler.flush()
            until = time.monotonic() + 60
            while proofs_in(path) < 2 and time.monotonic() < until:
                handler.flush()
                threading.Event().wait(0.05)
        seen = witness.seen[0]
        asked = len(server.requests)
    assert proofs_in(path) == 2
    for thread in threads("provkeep-anchors-audit.db"):
        thread.join(60)
    with provkeep.open(path) as trail:
        report = trail.verify()
        assert report, report.table()
        assert len(places(report, "anchored")) == 2
        assert report.signed_size == report.size == seen + 2  # the proofs are signed, too
        assert trail.runs()
    assert asked == 1  # records of proofs alone are not worth another
    assert all(state.recorded for state in read_book(book.path).states().values())


def proofs_in(path: Path) -> int:
    with closing(SqliteStore(path, read_only=True)) as store:
        sql = 'SELECT count(*) FROM record WHERE instr(body, CAST(\'"k":"anchor"\' AS BLOB))'
        return int(store.query(sql)[0][0])


def test_a_proof_that_came_too_late_is_kept_and_recorded_by_the_next(scene):
    add(scene, "file")
    first = Anchoring(scene.path, scene.book.path)
    first.offer(PUBLIC)
    first.stop()
    first._thread.join(60)
    assert not scene.book.states()["file"].recorded
    append_traces(scene.path, range(7000, 7001))
    second = Anchoring(scene.path, scene.book.path)
    second.offer(PUBLIC)
    second.stop()
    second._thread.join(60)
    (record,) = second.take()  # the newest one; it says what the older one said, and more
    assert record.body["note"] == scene.book.states()["file"].proof.note
    second.give_back([record])
    assert second.take() == [record]


def test_nothing_is_started_where_no_anchor_is_named(scene):
    quiet = Anchoring(scene.path, scene.book.path)
    quiet.offer(PUBLIC)
    assert quiet._thread is None
    quiet.stop()


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}'])
def test_a_broken_configuration_stops_no_recorder_and_is_told(scene, text, caplog):
    scene.book.path.write_text(text)
    thread = Anchoring(scene.path, scene.book.path)
    thread.offer(PUBLIC)
    thread.stop()
    thread._thread.join(60)
    assert thread.take() == []
    assert errors(scene.judge()) == {"anchor-unreadable"}


def test_a_fault_in_the_thread_is_survived(scene, monkeypatch, caplog):
    add(scene, "file")
    monkeypatch.setattr(anchoring, "offer_all", lambda *_, **__: 1 / 0)
    thread = Anchoring(scene.path, scene.book.path)
    thread.offer(PUBLIC)
    thread.stop()
    thread._thread.join(60)
    assert "ZeroDivisionError" in caplog.text


def test_another_process_that_was_faster_is_no_conflict(scene, monkeypatch):
    """It signed and submitted a later head between our look and our request."""
    with served(scene.witness) as server:
        add(scene, "witness", server.url)
        ask = witness_module.WitnessAnchor._ask
        faster = []

        def late(self, offer, old):
            if not faster:
                faster.append(True)
                append_traces(scene.path, range(7000, 7010))
                with closing(SqliteStore(scene.path, read_only=True)) as store:
                    view = View(store.query)
                    head = view.newest_head(PUBLIC)
                    ask(self, type(offer)(head=head, public=PUBLIC, view=view), 0)
            return ask(self, offer, old)

        monkeypatch.setattr(witness_module.WitnessAnchor, "_ask", late)
        (outcome,) = submit(scene.path, scene.book)
    assert outcome.error is None
    assert outcome.proof.stated("w").size == RECORDS + 11


def test_no_proof_is_larger_than_a_record():
    """The largest that is taken fits into one."""
    from provkeep.model.canonical import MAX_BODY, canonical
    from provkeep.tlog.anchor import MAX_TOKEN

    note = KEY.sign_checkpoint(2**62, bytes(32))
    body = proof_record(
        "n" * 64, "timestamp", Proof(note=note, at_us=2**52, token=bytes(MAX_TOKEN))
    )
    assert len(canonical(body.body)) <= MAX_BODY
