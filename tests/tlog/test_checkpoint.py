"""A checkpoint is believed only with a good signature of the log that was asked for."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from provkeep.errors import CheckpointError
from provkeep.tlog.checkpoint import (
    LogKey,
    LogPublicKey,
    parse_checkpoint,
    parse_note,
    verify_checkpoint,
    verify_note,
)

V: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "signed_note.json").read_text(encoding="utf-8")
)
ORIGIN = "provkeep/00112233445566778899aabbccddeeff"
KEY = LogKey.from_seed(ORIGIN, bytes(range(32)))
ROOT = bytes(range(100, 132))
NOTE = KEY.sign_checkpoint(7, ROOT)


def signed(text: str) -> str:
    return KEY.sign_note(text)


def test_a_published_key_signs_the_published_note() -> None:
    key = LogKey.from_seed(V["name"], bytes.fromhex(V["seed_hex"]))
    assert key.public.vkey() == V["vkey"]
    assert key.public.key_id.hex() == V["key_id"]
    assert key.sign_note(V["text"]) == V["text"] + "\n" + V["signature_line"]
    assert key.seed().hex() == V["seed_hex"]


def test_a_published_note_verifies_under_either_signer_and_no_other() -> None:
    note = V["text"] + "\n" + V["signature_line"] + V["other_signature_line"]
    for vkey in (V["vkey"], V["other_vkey"]):
        assert verify_note(note, LogPublicKey.from_vkey(vkey)) == V["text"]
    with pytest.raises(CheckpointError, match="no signature by its key"):
        verify_note(note, KEY.public)


def test_the_checkpoint_of_the_specification_is_read() -> None:
    checkpoint = parse_checkpoint(V["checkpoint"])
    assert checkpoint.origin == "example.com/behind-the-sofa"
    assert checkpoint.size == 20852163
    assert b64encode(checkpoint.root) == b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
    (signature,) = checkpoint.signatures
    assert (signature.name, len(signature.signature)) == ("example.com/behind-the-sofa", 64)


def test_a_signed_tree_head_comes_back_as_it_was() -> None:
    checkpoint = verify_checkpoint(NOTE, LogPublicKey.from_vkey(KEY.public.vkey()))
    assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (ORIGIN, 7, ROOT)
    empty = KEY.sign_checkpoint(0, ROOT)
    assert verify_checkpoint(empty, KEY.public).size == 0


@pytest.mark.parametrize(
    "lie",
    [
        NOTE.replace("\n7\n", "\n6\n"),
        NOTE.replace(b64encode(ROOT).decode(), b64encode(ROOT[::-1]).decode()),
        NOTE.replace("\n\n", "\nan extension\n\n"),
    ],
)
def test_an_altered_tree_head_does_not_verify(lie: str) -> None:
    assert lie != NOTE
    with pytest.raises(CheckpointError, match="bad signature"):
        verify_checkpoint(lie, KEY.public)


def test_a_missing_signature_is_a_failure() -> None:
    text = NOTE.partition("\n\n")[0] + "\n"
    for lie in (text, text + "\n", text.rstrip("\n"), ""):
        with pytest.raises(CheckpointError, match="not signed"):
            verify_checkpoint(lie, KEY.public)


def test_another_logs_checkpoint_is_refused_by_origin_and_by_key() -> None:
    other = LogKey.from_seed("provkeep/other", bytes(32))
    with pytest.raises(CheckpointError, match="another log"):
        verify_checkpoint(other.sign_checkpoint(7, ROOT), KEY.public)
    impostor = LogKey.from_seed(ORIGIN, bytes(32))
    with pytest.raises(CheckpointError, match="no signature by its key"):
        verify_checkpoint(impostor.sign_checkpoint(7, ROOT), KEY.public)


def test_a_key_that_only_borrows_name_and_id_is_refused() -> None:
    """Key ids are 4 bytes and can be collided; the signature still has to be right."""
    impostor = LogKey.from_seed(ORIGIN, bytes(32))
    text, (signature,) = parse_note(impostor.sign_checkpoint(9, ROOT))
    blob = b64encode(KEY.public.key_id + signature.signature).decode()
    with pytest.raises(CheckpointError, match="bad signature"):
        verify_checkpoint(f"{text}\n\u2014 {ORIGIN} {blob}\n", KEY.public)


def test_a_good_signature_does_not_excuse_a_bad_one_of_the_same_key() -> None:
    text, (signature,) = parse_note(NOTE)
    bad = b64encode(signature.key_id + bytes(64)).decode()
    with pytest.raises(CheckpointError, match="bad signature"):
        verify_checkpoint(f"{NOTE}\u2014 {ORIGIN} {bad}\n", KEY.public)
    assert text in NOTE


def test_signatures_of_witnesses_are_kept_and_ignored() -> None:
    witness = LogKey.from_seed("witness.example", bytes(32))
    text, _ = parse_note(NOTE)
    line = witness.sign_note(text).rpartition("\n\n")[2]
    checkpoint = verify_checkpoint(NOTE + line, KEY.public)
    assert [each.name for each in checkpoint.signatures] == [ORIGIN, "witness.example"]
    assert verify_note(NOTE + line, witness.public) == text


HEAD = b64encode(ROOT).decode()


@pytest.mark.parametrize(
    ("note", "why"),
    [
        (signed(f"{ORIGIN}\n07\n{HEAD}\n"), "decimal"),
        (signed(f"{ORIGIN}\n-7\n{HEAD}\n"), "decimal"),
        (signed(f"{ORIGIN}\n\u0667\n{HEAD}\n"), "decimal"),
        (signed(f"{ORIGIN}\n{'9' * 20}\n{HEAD}\n"), "decimal"),
        (signed(f"{ORIGIN}\n7\n{HEAD[:-4]}\n"), "root"),
        (signed(f"{ORIGIN}\n7\n{HEAD.rstrip('=')}\n"), "root"),
        (signed(f"{ORIGIN}\n7\n{HEAD[:-2]}{chr(ord(HEAD[-2]) + 1)}=\n"), "root"),
        (signed(f"{ORIGIN}\n7\n"), "three lines"),
        (signed(f"{ORIGIN}\n7\n\n{HEAD}\n"), "three lines"),
        (signed(f"\n7\n{HEAD}\n"), "three lines"),
        (NOTE.replace("\n7\n", "\r\n7\n"), "control"),
        (NOTE.replace(ORIGIN, "\ud800"), "UTF-8"),
        (NOTE[:-1], "cut off"),
        (NOTE.replace("\u2014", "-"), "signature line"),
        (NOTE[:-2] + "\n", "signature line"),
        (NOTE + "\u2014 name+plus AAAAAAAA\n", "signature line"),
        (NOTE + "\u2014 name AAAA\n", "signature line"),
        (NOTE + "\u2014 name AAAAAAAA\n" * 100, "more than 100"),
        (NOTE + "x" * 1_000_000, "longer"),
    ],
)
def test_a_malformed_checkpoint_is_refused_by_name_of_the_fault(note: str, why: str) -> None:
    with pytest.raises(CheckpointError, match=why):
        verify_checkpoint(note, KEY.public)


@pytest.mark.parametrize(
    "vkey",
    [
        *V["malformed_vkeys"],
        V["vkey"].replace("c74f20a3", "c74f20a4"),
        V["vkey"].replace("PeterNeumann", "CarmenSandiego"),
        V["vkey"][:-4],
        V["vkey"].partition("+")[0],
        "",
    ],
)
def test_a_malformed_log_key_is_refused(vkey: str) -> None:
    with pytest.raises(CheckpointError, match="log key"):
        LogPublicKey.from_vkey(vkey)


@pytest.mark.parametrize("origin", ["", "two words", "a+b", "new\nline", "nbsp\u00a0here"])
def test_an_origin_that_cannot_stand_in_a_note_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        LogKey.generate(origin)


def test_what_cannot_be_signed_is_refused() -> None:
    for text in ("no newline", "a\rb\n"):
        with pytest.raises(ValueError, match="newline"):
            KEY.sign_note(text)
    for size, root in ((-1, ROOT), (1, ROOT[:-1])):
        with pytest.raises(ValueError, match="tree head"):
            KEY.sign_checkpoint(size, root)
    with pytest.raises(ValueError, match="32 bytes"):
        LogPublicKey(ORIGIN, b"short")


def test_the_seed_shows_in_no_repr() -> None:
    seed = KEY.seed()
    for shown in (repr(KEY), str(KEY), repr(KEY.public), repr(vars(type(KEY)))):
        assert seed.hex() not in shown
        assert repr(seed)[2:-1] not in shown
        assert b64encode(seed).decode() not in shown
