"""A hostile bundle is refused or found wrong, cleanly, and both verifiers say the same of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import provkeep
from provkeep.errors import ExportError
from provkeep.export.bundle import MAX_BYTES, read
from provkeep.export.verdict import verify_bundle
from provkeep.model.canonical import MAX_INT, canonical
from tests.export.cases import NO_BUNDLE, VERIFIED, WRONG, record, signed, trace, verdicts
from tests.reading import forging

VKEY = forging.KEY.public.vkey()
steady = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str, dict[str, Any]]:
    """A real bundle with everything revealed, its log's key, and a pin that it leads from."""
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROVKEEP_HOME", str(folder / "home"))
        record(folder / "audit.db", turns=1)
        (pin,) = folder.glob("home/stores/*/pin.json")
        pinned = json.loads(pin.read_text())
        with provkeep.open(folder / "audit.db") as trail:
            trail.bundle(folder / "case.json", reveal="all", purpose="case 17")
            key = trail.log_key()
    assert key is not None
    return (folder / "case.json").read_bytes(), key, pinned


def test_the_bundle_tried_here_verifies(case: tuple[bytes, str, Any], tmp_path: Path) -> None:
    blob, key, pin = case
    assert verdicts(blob, key, pin, tmp_path) == (VERIFIED, VERIFIED)


def twice(blob: bytes) -> bytes:
    return blob.replace(b'"version": 1,', b'"version": 1,\n "version": 1,')


# Made from a good bundle as text; every one is no bundle.
TEXTS = {
    "nothing": lambda b: b"",
    "half": lambda b: b[: len(b) // 2],
    "all but the last brace": lambda b: b.rstrip()[:-1],
    "something after it": lambda b: b + b"{}",
    "an array": lambda b: b"[" + b + b"]",
    "a number": lambda b: b"7",
    "null": lambda b: b"null",
    "a key twice": twice,
    "a key twice, deep": lambda b: b.replace(b'"seq": 0,', b'"seq": 0,\n   "seq": 0,'),
    "NaN": lambda b: b.replace(b'"version": 1', b'"version": NaN'),
    "Infinity": lambda b: b.replace(b'"seq": 0', b'"seq": -Infinity'),
    "a fraction": lambda b: b.replace(b'"version": 1', b'"version": 1.0'),
    "an exponent": lambda b: b.replace(b'"version": 1', b'"version": 1e0'),
    "a huge number": lambda b: b.replace(b'"seq": 0', b'"seq": ' + b"9" * 10_000),
    "a number past 2**53": lambda b: b.replace(b'"seq": 0', b'"seq": 9007199254740992'),
    "a negative number": lambda b: b.replace(b'"seq": 0', b'"seq": -1'),
    "true for 1": lambda b: b.replace(b'"version": 1', b'"version": true'),
    "deep arrays": lambda b: b"[" * 200_000 + b"]" * 200_000,
    "deep objects": lambda b: b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "deep where a proof is": lambda b: (
        b.replace(b'"proof": []', b'"proof": ' + b"[" * 100_000 + b"]" * 100_000, 1)
        if b'"proof": []' in b
        else b"[" * 100_000
    ),
    "not UTF-8": lambda b: b.replace(b'"focus": "', b'"focus": "\xff'),
    "UTF-8 of a surrogate": lambda b: b.replace(b'"text": "', b'"text": "\xed\xa0\x80', 1),
    "a lone surrogate": lambda b: b.replace(b'"text": "', b'"text": "\\ud800', 1),
    "a lone surrogate in the checkpoint": lambda b: b.replace(
        b'"checkpoint": "', b'"checkpoint": "\\udfff'
    ),
    "a byte order mark": lambda b: b"\xef\xbb\xbf" + b,
    "a control character in a string": lambda b: b.replace(b'"focus": "', b'"focus": "\x00'),
    "UTF-16": lambda b: b.decode().encode("utf-16"),
    "another format": lambda b: b.replace(b"provkeep-bundle", b"provkeep-graph"),
    "a later version": lambda b: b.replace(b'"version": 1', b'"version": 2'),
    "version 0": lambda b: b.replace(b'"version": 1', b'"version": 0'),
    "an unknown member": lambda b: b.replace(b'"version": 1', b'"version": 1, "note": "x"'),
    "10 MB where a focus is": lambda b: b.replace(b'"focus": "', b'"focus": "' + b"a" * 10**7),
    "10 MB where a body is": lambda b: b.replace(b'"body": "', b'"body": "' + b"a" * 10**7, 1),
    "10 MB where a hash is": lambda b: b.replace(b'"key": "', b'"key": "' + b"A" * 10**7, 1),
    "10 MB of a member's name": lambda b: b.replace(b'"focus"', b'"' + b"f" * 10**7 + b'"'),
    "a million keys, one twice": lambda b: (
        b"{" + b",".join(b'"%d":1' % n for n in range(10**6)) + b',"7":1}'
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_bundle_is_refused_by_both(
    case: tuple[bytes, str, Any], tmp_path: Path, name: str
) -> None:
    blob, key, _ = case
    hostile = TEXTS[name](blob)
    assert hostile != blob
    assert verdicts(hostile, key, None, tmp_path) == (NO_BUNDLE, NO_BUNDLE)
    (tmp_path / "case.json").write_bytes(hostile)
    with pytest.raises(ExportError) as caught:
        read(tmp_path / "case.json")
    assert len(str(caught.value)) < 400, "a message must not grow with what it is about"
    assert "case 17" not in str(caught.value)


@pytest.mark.parametrize("name", ["checkpoint", "text"])
def test_ten_megabytes_where_any_text_may_stand_are_found_wrong(
    case: tuple[bytes, str, Any], tmp_path: Path, name: str
) -> None:
    blob, key, _ = case
    long = blob.replace(b'"%s": "' % name.encode(), b'"%s": "' % name.encode() + b"a" * 10**7, 1)
    assert verdicts(long, key, None, tmp_path) == (WRONG, WRONG)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "case.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ExportError, match="larger than"):
        read(tmp_path / "case.json")


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "AA==", "A" * 43 + "=", "\ud800", [], {}, [[]], "é" * 10]),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    inner = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        inner = list(enumerate(value))
    return [path, *(p for key, each in inner for p in places(each, (*path, key)))]


@given(data=st.data())
@steady
def test_both_verifiers_say_the_same_of_a_document_with_anything_anywhere(
    case: tuple[bytes, str, Any], tmp_path: Path, data: st.DataObject
) -> None:
    blob, key, pin = case
    document = json.loads(blob)
    known = places(document)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(known))
        if not path:
            continue
        try:
            holder = document
            for step in path[:-1]:
                holder = holder[step]
            how = data.draw(st.sampled_from(["replace", "remove", "repeat", "add"]))
            if how == "replace":
                holder[path[-1]] = data.draw(LEAVES)
            elif how == "remove":
                del holder[path[-1]]
            elif how == "repeat" and isinstance(holder, list):
                holder.insert(path[-1], copy.deepcopy(holder[path[-1]]))
            elif how == "add" and isinstance(holder, dict):
                holder[data.draw(st.text(max_size=5))] = data.draw(LEAVES)
        except (LookupError, TypeError):
            continue  # an earlier change took the place away
    changed = json.dumps(document).encode()
    ours, theirs = verdicts(changed, key, pin, tmp_path)
    assert ours == theirs
    if ours == VERIFIED:  # only what was not needed may go: payloads that were revealed, proofs
        kept = json.loads(blob)
        for name in ("format", "version", "focus", "checkpoint"):
            assert document[name] == kept[name]
        for name in ("records", "reveals"):
            assert all(each in kept[name] for each in document[name])


@given(at=st.floats(0, 1), bits=st.integers(1, 255), cut=st.booleans())
@steady
def test_both_verifiers_say_the_same_of_any_changed_byte(
    case: tuple[bytes, str, Any], tmp_path: Path, at: float, bits: int, cut: bool
) -> None:
    blob, key, pin = case
    place = min(int(at * len(blob)), len(blob) - 1)
    changed = (
        blob[:place] if cut else blob[:place] + bytes([blob[place] ^ bits]) + blob[place + 1 :]
    )
    ours, theirs = verdicts(changed, key, pin, tmp_path)
    assert ours == theirs
    if ours == VERIFIED:
        same = json.loads(changed) == json.loads(blob)
        assert same, "a changed byte that means something verified"


@given(blob=st.binary(max_size=200))
@steady
def test_any_bytes_at_all_are_no_bundle(blob: bytes, tmp_path: Path) -> None:
    assert verdicts(blob, VKEY, None, tmp_path) == (NO_BUNDLE, NO_BUNDLE)


# -- a log whose owner signs what it likes ---------------------------------------------------------

OPTIONS = st.dictionaries(
    st.sampled_from(["ext", "g", "m", "of", "calls", "b", "len", "sh", "src"]),
    st.one_of(
        st.integers(-3, 3),
        st.text(max_size=3),
        st.none(),
        st.lists(st.integers(-1, 3), max_size=3),
        st.dictionaries(st.text(max_size=2), st.integers(0, 2), max_size=2),
    ),
    max_size=4,
)
ENTRIES = st.one_of(
    st.tuples(
        st.just("a"),
        st.integers(-2, 5),
        st.integers(0, 9),
        st.integers(0, 4),
        st.integers(-1, 2),
        st.integers(-1, 9),
        st.just(-1),
        OPTIONS,
    ),
    st.tuples(st.just("l"), st.text(max_size=3), st.integers(-1, 3), st.integers(0, 1)),
    st.tuples(st.just("M"), st.integers(-1, 3), st.lists(st.integers(-1, 3), max_size=3)),
    st.tuples(st.just("m"), st.just(-1)),
    st.tuples(st.just("f"), st.integers(-1, 3), st.integers(-1, 3), st.just([])),
).map(list)
BODIES = st.builds(
    lambda number, n, entries: trace(number, *entries, n=n),
    st.integers(1, 3),
    st.integers(0, 2),
    st.lists(ENTRIES, max_size=5),
)


@given(bodies=st.lists(BODIES, max_size=5), number=st.integers(0, 4), kind=st.sampled_from("ra"))
@steady
def test_signed_records_of_any_content_never_crash_the_verifier(
    bodies: list[dict[str, Any]], number: int, kind: str, tmp_path: Path
) -> None:
    document = signed(bodies, focus=f"{1:032x}.{kind}{number}")
    ours, theirs = verdicts(json.dumps(document).encode(), VKEY, None, tmp_path)
    assert ours == theirs != NO_BUNDLE


STRANGE: dict[str, tuple[list[Any], str]] = {
    "a body that is no JSON": ([b"not JSON at all"], "not-canonical"),
    "a body with a space": ([b'{"k": "gap"}'], "not-canonical"),
    "a key twice": ([b'{"k":"gap","k":"gap","v":1}'], "not-canonical"),
    "a fraction": ([b'{"k":"gap","v":1,"x":1.5}'], "not-canonical"),
    "deep": ([b'{"k":' + b"[" * 30_000 + b"]" * 30_000 + b"}"], "not-canonical"),
    "an array": ([b"[]"], "not-canonical"),
    "a second record 0": ([forging.init_body()], "record-malformed"),
    "another format": ([{"k": "gap", "v": 2, "at": 1}], "record-malformed"),
    "no kind": ([{"v": 1}], "record-malformed"),
    "payloads named twice": (
        [
            trace(1, p0=1, p=[["A" * 43, 0]], keys=[[0, 1, "A" * 43]]),
            trace(2, p0=1, p=[["A" * 43, 0]], keys=[[0, 1, "A" * 43]]),
        ],
        "payload-order",
    ),
    "the first part of a trace missing": ([trace(1, n=1)], "record-missing"),
    "a part of a trace missing": ([trace(1), trace(1, n=2)], "record-missing"),
    "parts of a trace exchanged": ([trace(1, n=1), trace(1)], "record-missing"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_the_key_signed_has_to_be_records_of_a_log(name: str, tmp_path: Path) -> None:
    bodies, code = STRANGE[name]
    focus = f"{1 if 'trace' in name else 9:032x}.r0"
    assert verify_bundle(signed([trace(9)], focus=f"{9:032x}.r0"), key=VKEY)
    document = signed([trace(9), *bodies], focus=focus)
    report = verify_bundle(document, key=VKEY)
    assert not report and code in report.codes
    assert verdicts(json.dumps(document).encode(), VKEY, None, tmp_path) == (WRONG, WRONG)


def test_a_tree_of_one_record_needs_no_hashes(tmp_path: Path) -> None:
    document = signed([])
    assert document["records"][0]["proof"] == []
    assert "record-missing" in verify_bundle(document, key=VKEY).codes
    assert verdicts(json.dumps(document).encode(), VKEY, None, tmp_path) == (WRONG, WRONG)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 9, 64, 257])
def test_every_size_of_a_log_gives_proofs_that_both_accept(count: int, tmp_path: Path) -> None:
    bodies = [trace(n) for n in range(1, count + 1)]
    document = signed(bodies, focus=f"{count:032x}.r0", shown=[0, (count + 1) // 2, count])
    if count == 1:
        document["records"].pop(1)
    assert verdicts(json.dumps(document).encode(), VKEY, None, tmp_path) == (VERIFIED, VERIFIED)


def test_a_record_of_a_kind_to_come_is_told_and_is_no_error(tmp_path: Path) -> None:
    document = signed([{"k": "review", "v": 1, "at": 5}, trace(1)])
    report = verify_bundle(document, key=VKEY)
    assert report and "unknown-kind" in report.codes
    assert verdicts(json.dumps(document).encode(), VKEY, None, tmp_path) == (VERIFIED, VERIFIED)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([["a", 0, 0, 0, -1, -1, -1, {"ext": "AAAA"}]], "earlier trace"),
        ([["a", 0, 3, 2, -1, -1, -1, {"g": 4711}]], "document"),
        ([["a", 0, 3, 2, -1, -1, -1, {"g": "x"}]], "document"),
        ([["a", 0, 0, 0, -1, -1, -1, {"ext": {"a": 1}}]], "earlier trace"),
    ],
)
def test_what_the_records_name_and_the_bundle_lacks_is_told(entries: Any, words: str) -> None:
    report = verify_bundle(signed([trace(1, *entries)]), key=VKEY)
    assert report and report.codes == {"unpinned", "lineage-open"}
    assert words in str(report) and "are all here" not in " ".join(report.proved)


def test_a_trace_that_had_not_ended_is_told() -> None:
    body = trace(1)
    body["e"].pop()
    report = verify_bundle(signed([body]), key=VKEY)
    assert report and "lineage-open" in report.codes


def test_record_0_says_which_log_it_is(tmp_path: Path) -> None:
    """Its store id is what envelopes are bound to, so a lie in it may not pass."""
    from provkeep.tlog.checkpoint import LogKey
    from provkeep.tlog.merkle import leaf_hash, root_of

    for change in (
        {"origin": "provkeep/another"},
        {"vkey": LogKey.generate(forging.KEY.public.origin).public.vkey()},
        {"store": "ABCDEF"},
        {"store": forging.STORE_ID.hex().upper() + "A"},
        {"store": 7},
    ):
        zero = canonical({**forging.init_body(), **change})
        document = signed([])
        root = root_of([leaf_hash(zero)])
        document["records"][0]["body"] = zero.decode()
        document["checkpoint"] = forging.KEY.sign_checkpoint(1, root)
        report = verify_bundle(document, key=VKEY)
        assert not report and report.codes & {"origin-mismatch", "record-malformed"}
        assert verdicts(json.dumps(document).encode(), VKEY, None, tmp_path) == (WRONG, WRONG)


def test_the_largest_number_is_a_number(tmp_path: Path) -> None:
    document = signed([trace(1)])
    document["records"][1]["seq"] = MAX_INT
    assert verdicts(json.dumps(document).encode(), VKEY, None, tmp_path) == (WRONG, WRONG)
