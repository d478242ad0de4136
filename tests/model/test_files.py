"""A small file is replaced whole or left as it was, and is never open to others meanwhile."""

import os
from pathlib import Path

import pytest

from provkeep.model.files import write_whole


def test_a_file_is_written_replaced_and_private(tmp_path):
    path = tmp_path / "pin.json"
    write_whole(path, "one\n")
    write_whole(path, "two é\n")
    assert path.read_bytes() == "two é\n".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["pin.json"]
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600
        write_whole(path, "for all to read", 0o644)
        assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_when_it_cannot_be_finished_the_old_file_stays_and_nothing_is_left_behind(
    tmp_path, monkeypatch, step
):
    path = tmp_path / "pin.json"
    write_whole(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, step) if step == "fsync" else (Path, step)), full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["pin.json"]
