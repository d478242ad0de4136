"""The exported tiles are the log, for programs that know nothing of provkeep."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provkeep.errors import TilesError
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.heads import Head, View
from provkeep.tlog.tiles import export_tiles, tile_path
from tests.independent_tlog import run_independently
from tests.reading.forging import KEY, make, trace

CHECK = """
import json, sys
from aics_tlog import (FileSystemTileReader, Note, audit_tiles, consistency_proof_from_tiles,
                       inclusion_proof_from_tiles, parse_vkey, read_entry, tree_root_from_tiles,
                       verify_checkpoint, verify_consistency, verify_leaf_inclusion)
from aics_tlog.checkpoint import checkpoint_from_note

folder, vkey = sys.argv[1:]
reader = FileSystemTileReader(folder)
head, note = checkpoint_from_note(open(folder + "/checkpoint", "rb").read())
result = verify_checkpoint(note, parse_vkey(vkey))
size = head.size
root = head.root_hash if hasattr(head, "root_hash") else head.root
report = audit_tiles(reader, size, root)
assert tree_root_from_tiles(reader, size) == root
included = 0
for index in sorted({0, size // 3, size // 2, size - 1}):
    entry = read_entry(reader, index, size)
    proof = inclusion_proof_from_tiles(reader, index, size)
    included += verify_leaf_inclusion(entry, index, size, proof, root)
    assert json.loads(entry)["v"] == 1
consistent = 0
olds = sorted({1, size // 3 or 1, size - 1 or 1, size})
for old in olds:
    proof = consistency_proof_from_tiles(reader, old, size)
    before = tree_root_from_tiles(reader, old, size)
    consistent += verify_consistency(old, size, before, root, proof)
print(json.dumps({"ok": result.ok, "size": size, "root": root.hex(), "bundles": report.bundles,
                  "included": included, "consistent": consistent == len(olds)}))
"""


def export(path: Path, folder: Path) -> Head:
    with closing(SqliteStore(path, read_only=True)) as store:
        view = View(store.query)
        head = view.newest_head(KEY.public)
        export_tiles(view, head, folder)
    return head


@pytest.mark.parametrize("records", [1, 2, 255, 256, 257, 513, 700])
def test_an_independent_verifier_accepts_the_exported_log(tmp_path, records):
    """aics-tlog shares no line of code with provkeep; it is given the folder and the key."""
    make(tmp_path / "audit.db", [trace(n) for n in range(1, records)], sign_every=100)
    head = export(tmp_path / "audit.db", tmp_path / "log")
    done = run_independently(CHECK, str(tmp_path / "log"), KEY.public.vkey())
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["ok"]
    assert said["consistent"]
    assert said["size"] == records
    assert said["root"] == head.root.hex()
    assert said["bundles"] == -(-records // 256)
    assert said["included"] == len({0, records // 3, records // 2, records - 1})


@pytest.mark.parametrize("victim", ["tile/0/000", "tile/entries/000", "tile/1/000.p/1"])
def test_an_independent_verifier_refuses_a_changed_file(tmp_path, victim):
    """The lie: one bit in any exported file."""
    make(tmp_path / "audit.db", [trace(n) for n in range(1, 300)])
    export(tmp_path / "audit.db", tmp_path / "log")
    changed = bytearray((tmp_path / "log" / victim).read_bytes())
    changed[7] ^= 1
    (tmp_path / "log" / victim).write_bytes(changed)
    done = run_independently(CHECK, str(tmp_path / "log"), KEY.public.vkey())
    assert done.returncode != 0
    assert "TileVerificationError" in done.stderr


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (0, 1234067, 256, "tile/0/x001/x234/067"),  # the example of the specification
        (63, 999, 255, "tile/63/999.p/255"),
        (1, 1000, 1, "tile/1/x001/000.p/1"),
        ("entries", 70_000 // 256, 112, "tile/entries/273.p/112"),
    ],
)
def test_paths_are_those_of_the_specification(level, index, width, path):
    assert tile_path(level, index, width) == path


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_no_two_tiles_share_a_path(a, b):
    assert (tile_path(0, a) == tile_path(0, b)) == (a == b)


def test_levels_above_hold_hashes_of_full_tiles_only(tmp_path, monkeypatch):
    """With tiles of four hashes, so that three levels need no million records."""
    for module in ("log", "tiles", "heads"):
        monkeypatch.setattr(f"provkeep.tlog.{module}.TILE", 4)
    monkeypatch.setattr("provkeep.tlog.log.TILE_HEIGHT", 2)
    make(tmp_path / "audit.db", [trace(n) for n in range(1, 70)], sign_every=7)
    export(tmp_path / "audit.db", tmp_path / "log")
    found = {
        str(f.relative_to(tmp_path / "log")): f.stat().st_size // 32
        for f in (tmp_path / "log" / "tile").rglob("*")
        if f.is_file() and "entries" not in f.parts
    }
    assert found["tile/0/017.p/2"] == 2  # 70 = 17 * 4 + 2
    assert found["tile/1/004.p/1"] == 1  # 17 = 4 * 4 + 1
    assert found["tile/2/000"] == 4
    assert found["tile/3/000.p/1"] == 1
    assert len(found) == 18 + 5 + 1 + 1
    assert all(n == 4 for name, n in found.items() if ".p" not in name)


def test_a_later_export_continues_an_earlier_one(tmp_path):
    path, log = tmp_path / "audit.db", tmp_path / "log"
    make(path, [trace(n) for n in range(1, 300)])
    export(path, log)
    first = {f: f.stat().st_mtime_ns for f in log.rglob("*") if f.is_file()}
    make(tmp_path / "longer.db", [trace(n) for n in range(1, 600)])
    head = export(tmp_path / "longer.db", log)
    assert head.size == 600
    full = log / "tile/0/000"
    assert full.stat().st_mtime_ns == first[full]
    assert (log / "tile/0/001").stat().st_size == 8192
    assert (log / "tile/0/001.p/44").exists()  # a checkpoint was published with it
    assert (log / "checkpoint").read_text().split("\n")[1] == "600"


def test_a_folder_of_another_log_is_refused(tmp_path):
    make(tmp_path / "a.db", [trace(n) for n in range(1, 5)])
    make(tmp_path / "b.db", [trace(n) for n in range(2, 6)])
    export(tmp_path / "a.db", tmp_path / "log")
    before = (tmp_path / "log" / "checkpoint").read_text()
    with pytest.raises(TilesError, match="holds something else"):
        export(tmp_path / "b.db", tmp_path / "log")
    assert (tmp_path / "log" / "checkpoint").read_text() == before


def test_records_that_do_not_lead_to_the_signed_root_get_no_checkpoint(tmp_path):
    path = Path(tmp_path / "audit.db")
    make(path, [trace(n) for n in range(1, 5)])
    with closing(SqliteStore(path)) as store, store.transaction() as tx:
        tx._conn.execute("UPDATE record SET body=x'7b7d' WHERE seq=2")
    with pytest.raises(TilesError, match="do not lead to the root"):
        export(path, tmp_path / "log")
    assert not (tmp_path / "log" / "checkpoint").exists()
    shutil.rmtree(tmp_path / "log")
    with closing(SqliteStore(path)) as store, store.transaction() as tx:
        tx._conn.execute("DELETE FROM record WHERE seq=2")
    with pytest.raises(TilesError, match="not all there"):
        export(path, tmp_path / "log")


def test_the_independent_verifier_is_not_this_package():
    """It runs in an interpreter of its own, where provkeep cannot be imported."""
    done = run_independently("import provkeep")
    assert "No module named 'provkeep'" in done.stderr
