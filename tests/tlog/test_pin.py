"""A pin is read exactly as written, or refused."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from provkeep.errors import PinError
from provkeep.tlog.checkpoint import LogKey
from provkeep.tlog.pin import Pin, read_pin, write_pin

KEY = LogKey.from_seed("provkeep/test", bytes(range(32)))
PIN = Pin("provkeep/test", 7, bytes(range(32)), KEY.public.vkey())


def altered(**changes: Any) -> str:
    fields = {**json.loads(PIN.to_json()), **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...})


def test_a_pin_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "pin.json"
    write_pin(path, PIN)
    assert read_pin(path) == PIN
    later = Pin(PIN.origin, 8, bytes(32), PIN.vkey)
    write_pin(path, later)
    assert read_pin(path) == later
    assert [each.name for each in tmp_path.iterdir()] == ["pin.json"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_pin_is_written_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "pin.json"
    path.touch(mode=0o666)
    write_pin(path, PIN)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_the_old_pin_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pin.json"
    write_pin(path, PIN)

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_pin(path, Pin(PIN.origin, 8, bytes(32), PIN.vkey))
    assert read_pin(path) == PIN
    assert [each.name for each in tmp_path.iterdir()] == ["pin.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        "null",
        PIN.to_json()[:-3],
        PIN.to_json().replace('"size": 7', '"size": 7, "size": 3'),
        altered(extra=1),
        altered(size=...),
        altered(size=-1),
        altered(size=True),
        altered(size=7.0),
        altered(size="7"),
        altered(format=2),
        altered(format=True),
        altered(root="AAAA"),
        altered(root="%%%%"),
        altered(root=7),
        altered(origin="provkeep/another"),
        altered(vkey="provkeep/test"),
        altered(vkey=KEY.public.vkey() + "\n"),
        altered(vkey=LogKey.from_seed("provkeep/another", bytes(32)).public.vkey()),
    ],
)
def test_a_malformed_pin_is_refused_with_its_path(text: str, tmp_path: Path) -> None:
    with pytest.raises(PinError):
        Pin.from_json(text)
    path = tmp_path / "pin.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PinError, match=r"pin\.json") as caught:
        read_pin(path)
    assert caught.value.path == str(path)


def test_a_missing_unreadable_or_huge_pin_is_named(tmp_path: Path) -> None:
    with pytest.raises(PinError, match="there is no pin"):
        read_pin(tmp_path / "pin.json")
    with pytest.raises(PinError, match="cannot be read"):
        read_pin(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(PinError, match="UTF-8"):
        read_pin(tmp_path / "bytes")
    (tmp_path / "huge").write_bytes(b" " * 70_000 + PIN.to_json().encode())
    with pytest.raises(PinError, match="larger"):
        read_pin(tmp_path / "huge")


def test_a_pin_cannot_exist_without_a_whole_root() -> None:
    with pytest.raises(PinError, match="32 bytes"):
        Pin(PIN.origin, 7, b"short", PIN.vkey)
