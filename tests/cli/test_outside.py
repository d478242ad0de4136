"""``pin`` and ``tiles`` as they are typed."""

import shutil

from provkeep.sealing.home import find_by_path, log_public, pin_path
from provkeep.tlog.pin import read_pin
from tests.reading.forging import edit, settle_head


def test_a_pin_is_written_elsewhere_and_moved_there(audit, typed, tmp_path):
    elsewhere = tmp_path / "safe" / "pin.json"
    done = typed("pin", audit, "--pin", elsewhere, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["before"] is None
    ours = read_pin(pin_path(find_by_path(audit)))
    assert read_pin(elsewhere) == ours
    assert done.json["size"] == ours.size
    assert "remembers all" in typed("pin", audit, "--pin", elsewhere).out
    typed("show", audit, "--purpose", "one more record")
    again = typed("pin", audit, "--pin", elsewhere, "--json").json
    assert again["before"] == ours.size < again["size"]
    assert typed("verify", audit, "--pin", elsewhere).code == 0


def test_a_pin_is_not_moved_onto_a_rewritten_log(audit, typed, tmp_path):
    elsewhere = tmp_path / "pin.json"
    typed("pin", audit, "--pin", elsewhere)
    before = elsewhere.read_bytes(), pin_path(find_by_path(audit)).read_bytes()
    with edit(audit) as conn:
        conn.execute("UPDATE record SET body=CAST(body || ' ' AS BLOB) WHERE seq=1")
        conn.execute("DELETE FROM tile")
        settle_head(conn)
    done = typed("pin", audit, "--pin", elsewhere)
    assert done.code == 1
    assert "does not begin with what it remembers" in done.err
    assert "run `provkeep verify`" in done.err
    assert before == (elsewhere.read_bytes(), pin_path(find_by_path(audit)).read_bytes())
    elsewhere.unlink()  # a new place is no way around the pin that is in the configuration
    assert typed("pin", audit, "--pin", elsewhere).code == 1
    assert not elsewhere.exists()


def test_a_pin_of_a_log_of_others_needs_a_place_and_a_key(audit, typed, tmp_path, monkeypatch):
    key = log_public(find_by_path(audit))
    copy = shutil.copy(audit, tmp_path / "copy.db")
    monkeypatch.setenv("PROVKEEP_HOME", str(tmp_path / "nobody"))
    assert typed("pin", copy).code == 3
    done = typed("pin", copy, "--key", key, "--pin", tmp_path / "pin.json")
    assert done.code == 0
    assert typed("verify", copy, "--pin", tmp_path / "pin.json").code == 0
    other = "provkeep/other+" + key.partition("+")[2]
    assert typed("pin", copy, "--key", other, "--pin", tmp_path / "p.json").code == 3


def test_a_malformed_pin_is_not_written_over(audit, typed, tmp_path):
    broken = tmp_path / "pin.json"
    broken.write_text("{}")
    done = typed("pin", audit, "--pin", broken)
    assert done.code == 3
    assert "needs exactly the fields" in done.err
    assert broken.read_text() == "{}"


def test_tiles_are_written_and_continued(audit, typed, tmp_path):
    done = typed("tiles", audit, "-o", tmp_path / "log", "--json")
    assert (done.code, done.err) == (0, "")
    size = done.json["size"]
    assert done.json["written"] == 2
    assert (tmp_path / "log" / "checkpoint").read_text().split("\n")[1] == str(size)
    assert (tmp_path / "log" / f"tile/0/000.p/{size}").stat().st_size == 32 * size
    again = typed("tiles", audit, "-o", tmp_path / "log")
    assert again.out.endswith("0 files new, 2 unchanged\n")
    other = tmp_path / "log" / f"tile/0/000.p/{size}"
    other.write_bytes(b"other")
    refused = typed("tiles", audit, "-o", tmp_path / "log")
    assert refused.code == 3
    assert "holds something else" in refused.err
