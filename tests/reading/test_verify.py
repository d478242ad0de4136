"""Verification over stores made by hand: what is named, what is asked for, and what is survived."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provkeep.model.canonical import canonical
from provkeep.reading import shapes
from provkeep.reading import verify as verification
from provkeep.reading.findings import CODES, MAX_OF_A_KIND, Finding
from provkeep.reading.verify import Report, verify
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.checkpoint import LogKey
from provkeep.tlog.log import Log
from provkeep.tlog.pin import Pin, write_pin
from tests.reading.forging import KEY, edit, init_body, make, make_raw, settle_head, trace, traces

RECORDS = 601  # two full tiles and a part
PUBLIC = KEY.public


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pin]:
    path = tmp_path_factory.mktemp("long") / "audit.db"
    return path, make(path, traces(RECORDS - 1), sign_every=100)


@pytest.fixture
def store(long: tuple[Path, Pin], tmp_path: Path) -> tuple[Path, Pin]:
    return Path(shutil.copy(long[0], tmp_path)), long[1]


def errors(report: Report) -> set[str]:
    return {f.code for f in report.findings if f.severity == "error"}


def places(report: Report, code: str) -> list[str]:
    return [f.place for f in report.findings if f.code == code]


# --- an honest store ------------------------------------------------------------------------


def test_an_honest_store_verifies_without_a_finding(store):
    path, pin = store
    report = verify(path, pin=pin, public=PUBLIC)
    assert report
    assert report.findings == ()
    assert (report.records, report.size, report.signed_size) == (RECORDS, RECORDS, RECORDS)
    assert report.pinned
    assert bytes.fromhex(report.root) == pin.root
    assert report.payloads == sum(len(t.envelopes) for t in traces(RECORDS - 1))


@pytest.mark.parametrize("count", [0, 1, 2, 254, 255, 256, 511])
def test_an_honest_store_of_any_size_verifies(tmp_path, count):
    pin = make(tmp_path / "audit.db", [trace(n) for n in range(1, count + 1)], sign_every=97)
    assert verify(tmp_path / "audit.db", pin=pin, public=PUBLIC).findings == ()


def test_trees_of_several_tiers_verify(tmp_path, monkeypatch):
    """With tiles of four hashes, so that a tier above the second needs no million records."""
    for module in ("provkeep.tlog.log", "provkeep.reading.tree"):
        monkeypatch.setattr(f"{module}.TILE", 4)
        monkeypatch.setattr(f"{module}.TILE_HEIGHT", 2)
    for count in (15, 62, 63, 64, 79, 255, 300):
        path = tmp_path / f"{count}.db"
        pin = make(path, [trace(n) for n in range(1, count + 1)], sign_every=7)
        assert verify(path, pin=pin, public=None).findings == (), count
    with edit(path) as conn:
        conn.execute("UPDATE tile SET hashes=zeroblob(length(hashes)) WHERE level=3")
    assert errors(verify(path, pin=pin, public=None)) == {"tile"}


def test_verification_writes_nothing_and_leaves_nothing_beside_the_store(store):
    path, pin = store
    before = {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in path.parent.iterdir()}
    assert verify(path, pin=pin, public=PUBLIC)
    after = {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in path.parent.iterdir()}
    assert after == before


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Nobody may write into the folder; root, who may write anywhere, becomes nobody meanwhile."""
    user = os.geteuid()
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)
        folder.chmod(0o755)


def test_a_store_on_media_that_cannot_be_written_verifies(long):
    with tempfile.TemporaryDirectory() as name:
        path = Path(shutil.copy(long[0], name))
        with unwritable(Path(name)):
            assert verify(path, pin=long[1], public=PUBLIC)
        assert [f.name for f in Path(name).iterdir()] == [path.name]


def test_a_write_ahead_log_that_cannot_be_read_is_never_passed_over(long):
    """It may hold the newest records, or a forgery."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(shutil.copy(long[0], name))
        with edit(path) as conn:
            conn.execute("DELETE FROM record")
            log = path.with_name("audit.db-wal").read_bytes()
        path = Path(shutil.copy(long[0], name))
        path.with_name("audit.db-wal").write_bytes(log)
        with unwritable(Path(name)):
            report = verify(path, pin=long[1], public=PUBLIC)
        assert errors(report) & {"unreadable", "empty"}


def test_progress_counts_up_to_all_records(store):
    path, pin = store
    steps: list[tuple[int, int]] = []
    verify(path, pin=pin, public=PUBLIC, progress=lambda done, of: steps.append((done, of)))
    assert steps == [(256, RECORDS), (512, RECORDS), (RECORDS, RECORDS)]


def test_a_recorder_that_begins_during_a_verification_does_no_harm(store):
    """The first look needs no lock; what changes meanwhile is looked at again, with one."""
    path, pin = store
    began: list[SqliteStore] = []

    def record(done: int, of: int) -> None:
        if not began:
            began.append(SqliteStore(path))
            Log(began[0]).append([trace(9_999, b"late")])

    report = verify(path, pin=pin, public=PUBLIC, progress=record)
    began[0].close()
    assert report
    assert report.records == RECORDS + 1
    assert report.codes == {"unsigned-tail"}


# --- trust comes from outside ---------------------------------------------------------------


def test_nothing_is_believed_without_a_key(store):
    path, pin = store
    report = verify(path, pin=None, public=None)
    assert not report
    assert errors(report) == {"no-key"}
    assert verify(path, pin=pin, public=None), "a pin holds the key"


def test_without_a_pin_the_report_says_so(store):
    report = verify(store[0], pin=None, public=PUBLIC.vkey())
    assert report
    assert not report.pinned
    assert report.codes == {"unpinned"}


def test_a_pin_file_that_was_named_must_be_there(store, tmp_path):
    path, pin = store
    write_pin(tmp_path / "pin.json", pin)
    assert verify(path, pin=tmp_path / "pin.json", public=None)
    assert "pin-unreadable" in errors(verify(path, pin=tmp_path / "gone.json", public=PUBLIC))
    (tmp_path / "pin.json").write_text("{}")
    assert "pin-unreadable" in errors(verify(path, pin=tmp_path / "pin.json", public=PUBLIC))


def test_a_malformed_key_is_a_finding(store):
    path, pin = store
    for text in ("", "nonsense", PUBLIC.vkey()[:-4], "\x00"):
        assert errors(verify(path, pin=pin, public=text)) == {"no-key"}


def test_another_key_than_the_pin_remembers_is_a_finding(store):
    path, pin = store
    other = LogKey.generate(PUBLIC.origin).public
    found = errors(verify(path, pin=pin, public=other))
    assert {"pin-mismatch", "checkpoint-unknown-signer", "origin-mismatch"} <= found


def test_a_pin_of_another_history_or_a_longer_one_is_a_finding(store):
    path, pin = store
    other = Pin(pin.origin, 300, bytes(32), pin.vkey)
    assert "pin-mismatch" in errors(verify(path, pin=other, public=PUBLIC))
    longer = Pin(pin.origin, RECORDS + 1, pin.root, pin.vkey)
    report = verify(path, pin=longer, public=PUBLIC)
    assert errors(report) == {"pin-ahead"}
    assert not report.pinned


def test_records_after_the_last_signature_are_said_to_be_unprotected(store):
    path, pin = store
    with closing(SqliteStore(path)) as opened:
        Log(opened).append([trace(9_000), trace(9_001)])
    report = verify(path, pin=pin, public=PUBLIC)
    assert report
    assert report.signed_size == RECORDS
    assert places(report, "unsigned-tail") == [f"records {RECORDS}..{RECORDS + 1}"]


def test_events_that_the_recorder_says_it_lost_are_told(tmp_path):
    lost = {"k": "gap", "v": 1, "at": 1_700_000_000_000_000, "events": 3}
    pin = make_raw(tmp_path / "audit.db", [canonical(init_body()), canonical(lost)])
    report = verify(tmp_path / "audit.db", pin=pin, public=PUBLIC)
    assert report
    assert [(f.code, f.severity, f.place) for f in report.findings] == [("gap", "info", "record 1")]


# --- the bad record is named ----------------------------------------------------------------


@pytest.mark.parametrize("seq", [0, 5, 255, 256, 511])
def test_a_changed_record_under_a_full_tile_is_named(store, seq):
    path, pin = store
    with edit(path) as conn:
        conn.execute(f"UPDATE record SET body = body || x'20' WHERE seq={seq}")
    report = verify(path, pin=pin, public=PUBLIC)
    assert places(report, "record-altered") == [f"record {seq}"]


def test_a_changed_record_beyond_the_tiles_is_narrowed_down_to_the_signed_sizes(store):
    path, pin = store
    with edit(path) as conn:
        conn.execute(
            "UPDATE record SET body = CAST(replace(body, 'ok', 'no') AS BLOB) WHERE seq=560"
        )
    report = verify(path, pin=pin, public=PUBLIC)
    assert places(report, "record-altered") == ["records 501..600"]
    assert places(report, "frontier") == ["records 512..575"], "the right edge narrows it further"


def test_a_record_is_named_even_when_the_forger_mends_the_right_edge(store):
    path, pin = store
    with edit(path) as conn:
        conn.execute(
            "UPDATE record SET body = CAST(replace(body, 'ok', 'no') AS BLOB) WHERE seq=17"
        )
        conn.execute("UPDATE trace SET status='no' WHERE id=17")
        settle_head(conn)
    report = verify(path, pin=pin, public=PUBLIC)
    assert places(report, "record-altered") == ["record 17"]


def test_a_forger_who_mends_tiles_too_is_caught_by_the_signed_roots(store):
    """All that is left is to say between which signed sizes it lies."""
    path, pin = store
    forged = traces(RECORDS - 1)
    forged[16].body["e"][-2][3] = "error"
    other = path.with_name("other.db")
    make(other, forged)
    with edit(path) as conn:
        conn.execute("ATTACH ? AS other", (str(other),))
        for table in ("record", "tile", "head", "trace"):
            conn.execute(f"DELETE FROM main.{table}")
            conn.execute(f"INSERT INTO main.{table} SELECT * FROM other.{table}")
    report = verify(path, pin=pin, public=PUBLIC)
    assert places(report, "record-altered") == ["records 1..100"]
    assert {"checkpoint-root", "pin-mismatch"} <= errors(report)
    assert not report.pinned


@pytest.mark.parametrize("seq", [0, 7, 511, 540])
def test_a_missing_record_is_named(store, seq):
    path, pin = store
    with edit(path) as conn:
        conn.execute(f"DELETE FROM record WHERE seq={seq}")
    report = verify(path, pin=pin, public=PUBLIC)
    assert places(report, "record-missing") == [f"record {seq}"]
    assert "index-unchecked" in report.codes


def test_a_tile_that_was_changed_is_not_blamed_on_a_record(store):
    path, pin = store
    with edit(path) as conn:
        conn.execute(
            "UPDATE tile SET hashes = CAST(zeroblob(32) || substr(hashes, 33) AS BLOB)"
            " WHERE level=0 AND idx=1"
        )
    report = verify(path, pin=pin, public=PUBLIC)
    assert set(places(report, "tile")) == {"tile 0/1", "tile 1/0"}
    assert errors(report) == {"tile"}


@pytest.mark.parametrize(
    "attack",
    [
        "DELETE FROM tile WHERE level=0 AND idx=1",
        "DELETE FROM tile WHERE level=1",
        "INSERT INTO tile VALUES(0, 2, zeroblob(32))",
        "INSERT INTO tile VALUES('x', x'00', 'y')",
        "UPDATE tile SET hashes = 'text' WHERE level=1",
        "UPDATE tile SET hashes = substr(hashes, 2) WHERE level=0",
        "UPDATE tile SET level = 4 WHERE level=1",
        "UPDATE tile SET idx = 4 WHERE idx=1",
    ],
)
def test_tiles_are_exactly_those_that_follow(store, attack):
    path, pin = store
    with edit(path) as conn:
        conn.execute(attack)
    assert errors(verify(path, pin=pin, public=PUBLIC)) == {"tile"}


@pytest.mark.parametrize("seq", [-5, 10_000, 2**62])
def test_a_record_under_a_far_number_is_found_at_once(store, seq):
    path, pin = store
    with edit(path) as conn:
        conn.execute(f"UPDATE record SET seq={seq} WHERE seq=600")
    found = errors(verify(path, pin=pin, public=PUBLIC))
    assert found & {"record-missing", "record-malformed"}
    assert "pin-ahead" in found or "pin-mismatch" in found


@pytest.mark.parametrize(
    "attack",
    [
        "DELETE FROM head",
        "UPDATE head SET size='many'",
        "UPDATE head SET size=-1",
        "UPDATE head SET size=size-1",
        "UPDATE head SET size=4611686018427387904",
        "UPDATE head SET frontier='x'",
        "INSERT INTO head SELECT 2, size, frontier FROM head",
    ],
)
def test_the_tree_head_is_exactly_one_that_fits(store, attack):
    path, pin = store
    with edit(path) as conn:
        conn.execute(attack)
    found = errors(verify(path, pin=pin, public=PUBLIC))
    assert found & {"head-mismatch", "frontier", "integrity"}


# --- hostile bodies, signed as they are: only their shape is wrong ---------------------------

HEAD = b'{"e":[],"k":"trace","n":0,"t":"' + b"a" * 32 + b'","t0":"5","v":1'
GOOD = json.loads(canonical({**trace(1, b"payload", source=1).body, "p0": 1}))


def verdict(tmp_path: Path, *bodies: bytes) -> Report:
    path = Path(tempfile.mkdtemp(dir=tmp_path)) / "audit.db"
    pin = make_raw(path, [canonical(init_body()), *bodies])
    return verify(path, pin=pin, public=PUBLIC)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"\xff\xfe" * 50,
        b"null",
        b"[]",
        b"{}",
        b"[" * 60_000,
        b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
        HEAD + b',"t":"' + b"a" * 32 + b'"}',
        HEAD + b',"z":1.5}',
        HEAD + b',"z":1e3}',
        HEAD + b',"z":NaN}',
        HEAD + b',"z":-0}',
        HEAD + b',"z":9007199254740992}',
        HEAD + b',"z":' + b"9" * 5_000 + b"}",
        HEAD + b',"z":"\\ud800"}',
        HEAD + b',"z":"\xc3\xa9"}',
        HEAD + b',"z":"\xed\xa0\x80"}',
        HEAD + b',"z":"\x00"}',
        HEAD + b', "z":1}',
        HEAD + b"} ",
        HEAD[:-1],
        HEAD + b',"z":"' + b"x" * 65_600 + b'"}',
        HEAD + b',"z":"' + b"x" * 10_000_000 + b'"}',
    ],
    ids=lambda body: repr(body[:14] + b".." + body[-14:]),
)
def test_bytes_that_provkeep_would_not_spell_are_an_error(tmp_path, body):
    report = verdict(tmp_path, body)
    assert errors(report) <= {"not-canonical", "record-malformed", "record-altered", *TREE}
    assert errors(report) & {"not-canonical", "record-malformed"}


TREE = {"checkpoint-root", "pin-mismatch", "frontier"}  # a body too large is not even hashed


def test_the_body_those_are_made_from_is_fine(tmp_path):
    assert errors(verdict(tmp_path, HEAD + b"}")) == {"index-row"}, "make_raw writes no index"
    assert shapes.parse(canonical(GOOD)) == GOOD
    assert shapes.problem(1, GOOD) is None


@pytest.mark.parametrize(
    "change",
    [
        {"k": None},
        {"k": 5},
        {"k": "init"},
        {"v": True},
        {"v": 2},
        {"t": "A" * 32},
        {"t": None},
        {"n": -1},
        {"n": None},
        {"t0": "1e5"},
        {"t0": "٣"},
        {"t0": 5},
        {"e": None},
        {"e": {"s": 1}},
        {"e": [[]]},
        {"e": ["s"]},
        {"e": [["?"]]},
        {"e": [["s", 0]]},
        {"e": [["x", 0, 1, "ok", []]]},
        {"e": [["x", True, 1, "ok", {}]]},
        {"e": [["a", 0, 99, 0, 0, 0, -1, {}]]},
        {"e": [["a", 0, 0, 9, 0, 0, -1, {}]]},
        {"e": [["a", 0, 0, 0, 0, 0, 7, {}]]},
        {"e": [["d", 0, 1, 9]]},
        {"e": [["d", 0, 1, 0, 1000, [1, 2, 3]]]},
        {"e": [["d", 0, 1, 0, 1000, [1, 2, 3, "4"]]]},
        {"e": [["m", 1]]},
        {"p": None},
        {"p": [["x", 0]]},
        {"p": [["A" * 43, 1]]},
        {"p": [[0, 0]]},
        {"keys": []},
        {"keys": [[9, 1, "A" * 43]]},
        {"p0": 0},
        {"p0": None},
        {"p0": 2**53 - 1},
    ],
    ids=str,
)
def test_a_record_of_another_shape_is_an_error(tmp_path, change):
    body = canonical({**GOOD, **change})
    assert isinstance(shapes.parse(body), dict)
    assert shapes.problem(1, shapes.parse(body))
    assert "record-malformed" in errors(verdict(tmp_path, body))


@pytest.mark.parametrize(
    "change",
    [
        {"h": {"actor": 5}},
        {"h": {"actor": "%%"}},
        {"h": 7},
        {"e": [["a", 0, 3, 2, 0, 1, 0, {"src": 5, "fp": []}]]},
        {"e": [["a", 0, 3, 2, 0, 1, 0, {"g": {}}]]},
        {"e": [["l", "%%", 0, 0]]},
        {"e": [["f", 0, 0, ["x", None]]]},
        {"e": [["x", 0, 0, "error", {"o": []}]]},
        {"t0": "9" * 19},
    ],
    ids=str,
)
def test_a_record_that_no_index_follows_from_is_an_error(tmp_path, change):
    body = canonical({**GOOD, **change})
    assert errors(verdict(tmp_path, body)) & {"record-malformed", "index-row"}


def test_a_second_beginning_is_an_error(tmp_path):
    assert "record-malformed" in errors(verdict(tmp_path, canonical(init_body())))


def test_a_kind_of_record_that_is_not_known_is_a_warning(tmp_path):
    report = verdict(tmp_path, canonical({"k": "moon", "v": 1}))
    assert report
    assert report.codes == {"unknown-kind"}


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)
FIELDS = st.sampled_from(sorted(GOOD))


@given(st.lists(st.tuples(FIELDS, ANY_JSON), max_size=3), st.lists(ANY_JSON, max_size=4))
def test_no_body_of_any_shape_makes_the_shape_check_fail(changes, entries):
    fields = {**GOOD, **dict(changes)}
    if type(fields["e"]) is list:
        fields["e"] = [*fields["e"], *entries]
    said = shapes.problem(1, fields)
    assert said is None or said.isprintable()


@given(st.lists(st.sampled_from([e[0] for e in GOOD["e"]]), min_size=1), st.lists(ANY_JSON))
def test_no_signed_body_makes_a_verification_fail(tags, rest):
    with tempfile.TemporaryDirectory() as name:
        entries = [[t, *rest] for t in tags] + GOOD["e"]
        bodies = [canonical({**GOOD, "e": entries}), canonical({"k": "access", "v": 1, "by": rest})]
        report = verdict(Path(name), *bodies)
        assert not report
        assert str(report)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reading_of_a_body_fail(body):
    assert isinstance(shapes.parse(body), dict | str)


# --- the report -----------------------------------------------------------------------------


def test_a_report_says_everything_as_data_as_text_and_as_a_table(store):
    path, pin = store
    with edit(path) as conn:
        conn.execute("DELETE FROM record WHERE seq=3")
    report = verify(path, pin=pin, public=PUBLIC)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["ok"] is False
    assert data["records"] == RECORDS - 1
    assert {"code", "severity", "place", "sentence"} == set(data["findings"][0])
    assert repr(report).startswith("<Report FAILED with ")
    assert "record-missing" in repr(report)
    assert len(report.table().splitlines()) == len(report.findings) + 1
    good = verify(path, pin=None, public=None)
    assert "no-key" in good.table()


def test_a_flood_of_findings_is_counted_and_not_listed(store):
    path, pin = store
    with edit(path) as conn:
        conn.execute("UPDATE payload SET data = x'00'")
    report = verify(path, pin=pin, public=PUBLIC)
    altered = [f for f in report.findings if f.code == "payload-altered"]
    assert len(altered) == MAX_OF_A_KIND + 1
    assert altered[-1].sentence == f"and {report.payloads - MAX_OF_A_KIND} more like these"


def test_what_a_hostile_file_says_cannot_move_the_cursor(store):
    path, pin = store
    with edit(path) as conn:
        conn.execute('CREATE TABLE "\x1b[2J\nrecord 1 is fine" (x)')
    report = verify(path, pin=pin, public=PUBLIC)
    assert errors(report) == {"schema-changed"}
    assert all(line.isprintable() for f in report.findings for line in (f.place, f.sentence))


def test_codes_and_severities_are_closed_sets():
    with pytest.raises(ValueError, match="no such finding"):
        Finding(code="strange", severity="error", place="", sentence="")
    with pytest.raises(ValueError, match="no such finding"):
        Finding(code="gap", severity="fatal", place="", sentence="")
    assert verification.CODES is CODES
    assert all(code == code.lower() and words for code, words in CODES.items())
