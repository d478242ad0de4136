"""Entries cut into records: nothing is lost, and no body is larger than the log takes."""

import orjson
import pytest

from provkeep.model import records as r
from provkeep.model.canonical import MAX_BODY
from provkeep.reading.traces import Trace, _read
from provkeep.recording.cut import MORE, cut
from provkeep.sealing.sealer import Payload

FAR = 10**9  # an offset in a text of a gigabyte takes this many digits


def spans(count: int, far: int = FAR) -> list[int]:
    """Flat by four, every span another."""
    return [far + 8 * i + k for i in range(count) for k in range(4)]


def read_back(pieces) -> Trace:
    trace = Trace("0" * 32, 1, {})
    for entries, _, _ in pieces:
        _read(trace, {"e": orjson.loads(orjson.dumps(entries))})
    return trace


def sizes(pieces) -> list[int]:
    return [len(orjson.dumps(entries)) for entries, _, _ in pieces]


@pytest.mark.parametrize("count", [1, 999, 1_000, 1_001, 2_000, 2_001, 20_000])
def test_a_derivation_keeps_every_span_however_many_there_are(count):
    entry = [r.DERIVED, 0, 1, 3, 812, spans(count)]
    pieces = cut([entry], [])
    assert read_back(pieces).derived == [entry]
    assert max(sizes(pieces)) < MAX_BODY - 8_000  # head, keys and hashes find room
    assert (len(pieces) > 1) == (count > 1_400)


def test_spans_are_never_cut_within_one():
    for entries, _, _ in cut([[r.DERIVED, 0, 1, 3, -1, spans(7_777)]], []):
        for entry in entries:
            assert len(entry[5]) % 4 == 0
            assert entry[:5] == [r.DERIVED, 0, 1, 3, -1]


def test_derivations_of_other_edges_stay_apart():
    """Only what says the same of the same edge goes on with it, and only when it comes next."""
    entries = [
        [r.DERIVED, 0, 2, 3, 500, spans(3_000)],
        [r.DERIVED, 1, 2, 3, 500, spans(3_000, 5)],
        [r.DERIVED, 1, 2, 3, 400, spans(2)],
        [r.DERIVED, 1, 2, 2],
        [r.DERIVED, 1, 2, 2],
        [r.DERIVED, 1, 2, 3, 400, spans(1)],
    ]
    assert read_back(cut(entries, [])).derived == entries


def test_long_lists_and_long_derivations_between_payloads_all_come_back():
    """Whatever stands between the parts of a long entry, each is read to its end."""
    payloads = [Payload("prompt", b"x") for _ in range(1_500)]
    entries = [[r.ARTIFACT, n, 2, 0, -1, 1, n, {}] for n in range(len(payloads))]
    entries += [
        [r.ARTIFACT, 1_500, 8, 0, -1, -1, -1, {"m": list(range(1_500)) * 4}],
        [r.DERIVED, 3, 1_500, 3, -1, spans(9_001)],
    ]
    pieces = cut(entries, payloads)
    trace = read_back(pieces)
    assert trace.items[1_500].members == list(range(1_500)) * 4
    assert trace.derived == [entries[-1]]
    assert [place for _, _, places in pieces for place in places] == list(range(1_500))
    assert any(entry[0] == MORE for some, _, _ in pieces for entry in some)
    assert max(sizes(pieces)) < MAX_BODY
