"""What fits a mold is what the thorough checks find nothing wrong with, whatever a forger tries."""

import contextlib
import copy
import random
import re
import sqlite3
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provkeep.errors import StoreError
from provkeep.model.canonical import canonical
from provkeep.model.records import Pending, b64, unb64
from provkeep.reading import checks, molds, shapes
from provkeep.reading.findings import Report
from provkeep.reading.frozen import FETCH, Ahead
from provkeep.reading.molds import Mold, Molds, gathered, key_numbers, trace_rows
from provkeep.reading.verify import verify
from provkeep.store.index import gather
from provkeep.tlog.pin import Pin
from tests.reading.forging import KEY, edit, make, tag, trace

HASH = b64(bytes(range(32)))
MODEL: dict[str, Any] = {
    "k": "trace",
    "v": 1,
    "t": "0123456789abcdef" * 2,
    "n": 0,
    "t0": "1700000000000000000",
    "h": {"actor": tag("alice"), "session": tag("one")},
    "keys": [[0, 7, HASH], [2, 8, HASH]],
    "p": [[HASH, 0], [HASH, 1], [HASH, 0]],
    "p0": 40,
    "e": [
        ["s", 0, "chain", "Run a.b*c", -1, 0, "A" * 22, {"in": [0], "sl": tag("sl"), "x": True}],
        ["s", 1, "model", "M", 0, 5, "B" * 22, {"pr": "scripted", "deep": {"a": [1, -2], "b": ""}}],
        ["a", 0, 3, 2, 0, 40, 1, {"src": tag("s"), "fp": tag("d")}],
        ["a", 1, 3, 2, 0, 40, -1, {"g": 3}],
        ["a", 2, 0, 0, -1, 9, 0, {"ty": "human"}],
        ["S", tag("s"), 2],
        ["d", 0, 1, 3, 1000, [0, 4, 0, 4]],
        ["d", 1, 2, 2],
        ["u", 0, [1, 2]],
        ["o", 0, 5, "note", -1],
        ["l", tag("l"), 2, 0],
        ["M", 0, [1]],
        ["x", 1, 5, "error", {"o": 1}],
        ["x", 0, 5_000, "ok", {"out": [2]}],
        ["f", 2, 1, [-1, 3]],
        ["m", 2],
    ],
}


def of(fields: dict[str, Any], worth: int = molds.WORTH) -> Molds:
    made = Molds()
    for _ in range(worth):
        made.learn(canonical(fields), fields)
    return made


def thorough(body: bytes) -> tuple[Any, ...]:
    """What is made of a body that the thorough checks find nothing wrong with."""
    fields = shapes.parse(body)
    assert isinstance(fields, dict), fields
    problem = shapes.problem(1, fields)
    assert problem is None, problem
    assert fields["n"] == 0 and fields["k"] == "trace"
    found = gather(fields)
    across = found.p0, found.docs, found.links, found.names, found.final
    return (9, *found.row()), across, [number for _, number, _ in fields["keys"]]


def quick(fit: Any) -> tuple[Any, ...]:
    across: Any = (int(fit[1][-3]), [], [], {}, [])
    for found, number in gathered([fit], 9):
        assert number == 9
        across = found.p0, found.docs, found.links, found.names, found.final
    return trace_rows([fit], 9)[0], across, key_numbers([fit])


def agree(fits: list[Any], body: bytes) -> None:
    """A body that fits is one that the thorough checks find nothing wrong with, or of no index.

    What stands for its payloads' hashes may be anything that no hash of a payload will equal.
    """
    mold, groups = fits[0]
    hashes = re.fullmatch(re.escape(mold.hashes).replace(b"%b", b"(.{43})"), groups[-4])
    if hashes is None or not all(is_hash(word) for word in hashes.groups()):
        return
    fields = shapes.parse(body)
    assert isinstance(fields, dict) and shapes.problem(1, fields) is None
    try:
        expected = thorough(body)
    except (ValueError, TypeError, KeyError):
        with pytest.raises((ValueError, TypeError, KeyError)):
            quick(fits[0])
        return
    found = quick(fits[0])
    assert found == expected
    said = tuple(word.encode() for word, _ in fields["p"])
    assert groups[-4] == mold.hashes % said and int(groups[-3]) == fields["p0"]


def is_hash(word: bytes) -> bool:
    """Is it how 32 bytes are written?"""
    try:
        return len(unb64(word.decode())) == 32
    except ValueError:
        return False


def test_the_model_itself_is_one_that_the_thorough_checks_accept() -> None:
    thorough(canonical(MODEL))


def test_bodies_that_differ_in_ids_times_tags_and_lengths_fit() -> None:
    made, chance = of(MODEL), random.Random(1)
    for _ in range(50):
        fields = copy.deepcopy(MODEL)
        fields["t"], fields["t0"] = chance.randbytes(16).hex(), str(chance.randrange(10**19))
        fields["h"] = {name: b64(chance.randbytes(12)) for name in fields["h"]}
        fields["keys"] = [[c, chance.randrange(10**9), b64(chance.randbytes(32))] for c in (0, 2)]
        fields["p"] = [[b64(chance.randbytes(32)), place] for place in (0, 1, 0)]
        fields["p0"] = chance.randrange(1, 10**9)
        for entry in fields["e"]:
            if entry[0] == "s":
                entry[5], entry[6] = chance.randrange(10**12), b64(chance.randbytes(16))
            elif entry[0] == "x":
                entry[2] = chance.randrange(10**12)
            elif entry[0] == "d" and len(entry) > 4:
                entry[4], entry[5] = -1, [chance.randrange(10**6) for _ in range(4)]
            elif entry[0] in ("l", "S"):
                entry[1] = b64(chance.randbytes(12))
            elif entry[0] == "f":
                entry[3] = [-2, chance.randrange(10**6)]
        body = canonical(fields)
        fits = made.fit([body])
        assert len(fits) == 1
        agree(fits, body)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything within a value."""
    members = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path] if path else []
    for name, each in members:
        deeper = (*path, name)
        found += leaves(each, deeper) if isinstance(each, dict | list) else [deeper]
    return found


ODD: list[Any] = [
    *range(-2, 12),
    *(2**53 - 1, 2**53, 10**15 - 1, 10**15, 10**16, -(10**15)),
    *("", "a", "ok", "error", "s", "x", "chain", "\x7f", "é", '"', "012", "9" * 20, "0" * 32),
    *("A" * 15 + "B", "A" * 16, "B" * 22, "A" * 43, "A" * 15 + "=", "A" * 15 + "."),
    *(None, True, False, 1.5, 1e16, [], {}, [1], [-1], {"g": 1}, {"o": 2}),
]


@pytest.mark.parametrize("path", leaves(MODEL), ids=str)
def test_a_changed_value_fits_only_where_the_thorough_checks_let_it_pass(path) -> None:
    fields = copy.deepcopy(MODEL)
    inner: Any = fields
    for name in path[:-1]:
        inner = inner[name]
    for value in ODD:
        inner[path[-1]] = value
        body = orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
        if fits := MADE.fit([body]):
            agree(fits, body)


BYTES = b'0159-.eEaAn_ "[]{},:\\\n\x7f\xff'


@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("part", range(8))
def test_a_changed_byte_fits_only_where_the_thorough_checks_let_it_pass(part, cut) -> None:
    body = canonical(MODEL)
    for at in range(part, len(body), 8):
        for new in BYTES:
            changed = body[:at] + bytes([new]) + body[at + cut :]
            if fits := MADE.fit([changed]):
                agree(fits, changed)


@given(st.lists(st.tuples(st.sampled_from(leaves(MODEL)), st.sampled_from(ODD)), max_size=4))
def test_several_changed_values_fit_only_where_the_thorough_checks_let_them_pass(changes) -> None:
    fields = copy.deepcopy(MODEL)
    for path, value in changes:
        inner: Any = fields
        with contextlib.suppress(TypeError, IndexError, KeyError):  # changed further up already
            for name in path[:-1]:
                inner = inner[name]
            inner[path[-1]] = copy.deepcopy(value)
    body = orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    if fits := MADE.fit([body]):
        agree(fits, body)


MADE = of(MODEL)


@pytest.mark.parametrize("value", [None, "text", 5, 1.5, b"", b"{}", b"\xff"])
def test_what_is_no_body_fits_nothing(value) -> None:
    assert MADE.fit([value]) == []
    assert len(MADE.fit([canonical(MODEL), value, canonical(MODEL)])) == 1


@pytest.mark.parametrize(
    "change",
    [{"n": 1}, {"e": [*MODEL["e"], *[["m", 2]] * 3_000]}],
    ids=["a later record of its trace", "a large record"],
)
def test_some_records_get_no_mold(change) -> None:
    fields = MODEL | change
    assert of(fields).fit([canonical(fields)]) == []


def test_a_mold_is_made_of_many_and_no_more_of_them_than_there_is_room_for(monkeypatch) -> None:
    assert of(MODEL, molds.WORTH - 1).fit([canonical(MODEL)]) == []
    monkeypatch.setattr(molds, "WORTH", 1)
    monkeypatch.setattr(molds, "MAX_MOLDS", 3)
    made = Molds()
    several = [MODEL | {"e": MODEL["e"][: n + 1]} for n in range(5)]
    for fields in several:
        made.learn(canonical(fields), fields)
    assert [len(made.fit([canonical(fields)])) for fields in several] == [1, 1, 1, 0, 0]


def test_a_mold_knows_the_values_that_the_index_is_made_of() -> None:
    ended = Mold(MODEL)
    assert ended.said == ("ok", "chain", "Run a.b*c") and ended.counts == (2, 1, 1)
    assert ended.payloads == 3


# -- whole stores --------------------------------------------------------------------------------


def several(number: int) -> Pending:
    """Records of three shapes, one of them now and then."""
    if number % 11 == 5:
        return trace(number)
    return trace(number, b"%d" % number, b"x" * 40, source=number % 3 if number % 4 else None)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pin]:
    path = tmp_path_factory.mktemp("molds") / "a.db"
    return path, make(path, [several(n) for n in range(1, 400)])


def judge(path: Path, pin: Pin, monkeypatch: pytest.MonkeyPatch, *, together: bool) -> Report:
    with monkeypatch.context() as patch:
        patch.setattr(molds, "WORTH", 4)
        if not together:
            patch.setattr(checks.Walk, "_together", lambda *_: 0)
        return verify(path, pin=pin, public=KEY.public)


def test_most_records_of_an_honest_store_are_looked_at_together(honest, monkeypatch) -> None:
    path, pin = honest
    alone: list[int] = []
    look = checks.Walk._alone
    monkeypatch.setattr(
        checks.Walk, "_alone", lambda walk, seq, body: (alone.append(seq), look(walk, seq, body))
    )
    assert judge(path, pin, monkeypatch, together=True)
    assert len(alone) < 80
    alone.clear()
    assert judge(path, pin, monkeypatch, together=False)
    assert len(alone) == pin.size


ATTACKS = [
    "UPDATE record SET body = CAST(replace(body, '5000', '5001') AS BLOB) WHERE seq = {n}",
    "UPDATE record SET body = CAST(body || ' ' AS BLOB) WHERE seq = {n}",
    "UPDATE record SET body = CAST(body AS TEXT) WHERE seq = {n}",
    "UPDATE record SET body = CAST(replace(body, '\"ok\"', '\"error\"') AS BLOB) WHERE seq = {n}",
    "UPDATE record SET body = CAST(replace(body, '\"p0\":', '\"p0\":1') AS BLOB) WHERE seq = {n}",
    "UPDATE record SET body = CAST(replace(body, ',40,', ',4.0,') AS BLOB) WHERE seq = {n}",
    "UPDATE record SET body = CAST(replace(body, ',40,', ',1e9,') AS BLOB) WHERE seq = {n}",
    "UPDATE record SET body = CAST(replace(body, '\"n\":0', '\"n\":1') AS BLOB) WHERE seq = {n}",
    "UPDATE record SET seq = 100000 WHERE seq = {n}",
    "UPDATE record SET seq = -seq WHERE seq = {n}",
    "DELETE FROM record WHERE seq = {n}",
    "UPDATE payload SET data = CAST(data || 'x' AS BLOB) WHERE id = {n}",
    "UPDATE payload SET data = CAST(data AS TEXT) WHERE id = {n}",
    "UPDATE payload SET data = '' WHERE id = {n}",
    "UPDATE payload SET data = NULL WHERE id = {n}",
    "UPDATE payload SET data = 7 WHERE id = {n}",
    "UPDATE payload SET seq = seq + 1 WHERE id = {n}",
    "UPDATE payload SET source = 2 WHERE id = {n}",
    "UPDATE payload SET source = NULL WHERE id = {n}",
    "UPDATE payload SET source = 'x' WHERE id = {n}",
    "UPDATE payload SET id = 100000 WHERE id = {n}",
    "UPDATE payload SET id = -5 WHERE id = {n}",
    "DELETE FROM payload WHERE id = {n}",
    "INSERT INTO payload VALUES(0, {n}, NULL, x'00')",
    *(
        f"UPDATE trace SET {column} = {value} WHERE id = {{n}}"
        for column, value in [
            ("tid", "x'00'"),
            ("t0_us", "t0_us + 1"),
            ("end_us", "NULL"),
            ("end_us", "end_us + 1"),
            ("status", "'error'"),
            ("status", "CAST(status AS BLOB)"),
            ("kind", "'tool'"),
            ("name", "NULL"),
            ("session", "x'01'"),
            ("actor", "NULL"),
            ("subject", "x'01'"),
            ("runs", "2"),
            ("errors", "1"),
            ("id", "100000"),
        ]
    ),
    "DELETE FROM trace WHERE id = {n}",
    "UPDATE trec SET seq = seq + 1000 WHERE trace = {n}",
    "UPDATE trec SET trace = 100000 WHERE trace = {n}",
    "DELETE FROM trec WHERE trace = {n}",
    "INSERT INTO trec VALUES({n}, 100000)",
    "UPDATE xref SET reach = 0 WHERE trace = {n}",
    "DELETE FROM xref WHERE trace = {n}",
    "INSERT OR REPLACE INTO xref VALUES(9, {n}, 1)",
    "DELETE FROM doc WHERE payload = {n}",
    "UPDATE checkpoint SET size = {n} WHERE size = 251",
    "DELETE FROM tile",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_looking_at_many_at_once_says_just_what_looking_at_each_says(
    honest, tmp_path, monkeypatch, attack
) -> None:
    path, pin = honest
    for number in (150, 281):
        forged = tmp_path / f"{number}.db"
        forged.write_bytes(path.read_bytes())
        with edit(forged) as conn:
            conn.execute(attack.format(n=number))
        one = judge(forged, pin, monkeypatch, together=False)
        assert judge(forged, pin, monkeypatch, together=True) == one
        changed = sqlite3.connect(f"{forged.as_uri()}?mode=ro", uri=True)
        same = list(changed.iterdump()) == dump(path)
        changed.close()
        assert bool(one) == same  # whatever was changed shows


def dump(path: Path) -> list[str]:
    conn = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        return list(conn.iterdump())
    finally:
        conn.close()


@pytest.mark.parametrize("page", range(3, 40, 3))
def test_damaged_pages_are_told_alike(honest, tmp_path, monkeypatch, page) -> None:
    path, pin = honest
    forged = tmp_path / "a.db"
    data = bytearray(path.read_bytes())
    data[page * 4096 : page * 4096 + 200] = bytes(200)
    forged.write_bytes(data)
    one = judge(forged, pin, monkeypatch, together=False)
    assert not one
    assert judge(forged, pin, monkeypatch, together=True) == one


def test_what_was_read_before_a_failure_is_handed_out_first(tmp_path) -> None:
    def rows(count: int):
        yield from [(n,) for n in range(count)]
        raise sqlite3.DatabaseError("damage")

    ahead = Ahead(rows(3), tmp_path / "a.db")
    assert ahead.look(2) == [(0,), (1,)]
    ahead.take(2)
    assert ahead.look(5) == [(2,)]
    ahead.take()
    for _ in range(2):
        with pytest.raises(StoreError):
            ahead.look(1)
    with pytest.raises(StoreError):
        _ = Ahead(rows(0), tmp_path / "a.db").first


def test_rows_looked_at_stay_until_they_are_taken(tmp_path) -> None:
    ahead = Ahead(iter([(n,) for n in range(3 * FETCH)]), tmp_path / "a.db")
    seen = []
    while found := ahead.look(100):
        assert ahead.look(7) == found[:7] and ahead.first == found[0]
        seen += found[:61]
        ahead.take(min(61, len(found)))
    assert [n for (n,) in seen] == list(range(3 * FETCH)) and ahead.first is None
