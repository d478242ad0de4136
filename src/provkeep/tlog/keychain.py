"""The keys that signed a log, one after the other: each names the next and is then destroyed.

A log changes its key by a record in which the old key signs the tree so far and the new key. From
the record on, only the new key signs; of the history before it, the new key can sign nothing. Who
knows any of the keys from outside follows the chain from there.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any, Final

from provkeep.errors import CheckpointError
from provkeep.model.records import FORMAT, LOG_KEY
from provkeep.tlog.checkpoint import ROOT_BYTES, LogKey, LogPublicKey, verify_note

HEADER: Final = "provkeep/logkey/1"  # first line of what the old key signs; no checkpoint has it


@dataclass(frozen=True, slots=True)
class Rotation:
    """What the old key signed: the tree before the record, and who signs from then on."""

    size: int  # records before; the number of the record that says so
    root: bytes  # over them, 32 bytes
    new: LogPublicKey


def rotation_body(
    old: LogKey, new: LogPublicKey, size: int, root: bytes, at: int
) -> dict[str, Any]:
    """The record by which ``old`` names ``new``.

    Args:
        old: the key in force, which signs this and then nothing any more.
        new: the next key, of the same origin.
        size: how many records there are; this one gets that number.
        root: over those records, 32 bytes.
        at: microseconds since 1970-01-01 UTC.
    """
    if new.origin != old.public.origin:
        raise ValueError("a log keeps its origin when it changes its key")
    lines = HEADER, new.origin, str(size), b64encode(root).decode(), new.vkey()
    note = old.sign_note("".join(f"{line}\n" for line in lines))
    return {"k": LOG_KEY, "v": FORMAT, "at": at, "note": note}


def read_rotation(fields: dict[str, Any], old: LogPublicKey) -> Rotation:
    """What a record of this kind says, if ``old`` signed it.

    Raises:
        CheckpointError: malformed, of another log, or not signed by that key.
    """
    note = fields.get("note")
    if not isinstance(note, str):
        raise CheckpointError(old.origin, "the change of keys holds no signed note")
    lines = verify_note(note, old)[:-1].split("\n")
    if len(lines) != 5 or lines[0] != HEADER or lines[1] != old.origin:
        raise CheckpointError(old.origin, "the note signs something else than a change of keys")
    try:
        size, root = int(lines[2]), b64decode(lines[3], validate=True)
    except ValueError:
        size, root = -1, b""
    if str(size) != lines[2] or size < 0 or b64encode(root).decode() != lines[3]:
        raise CheckpointError(old.origin, "the change of keys names no tree head")
    if len(root) != ROOT_BYTES:
        raise CheckpointError(old.origin, f"its root is not {ROOT_BYTES} bytes in base64")
    new = LogPublicKey.from_vkey(lines[4])
    if new.origin != old.origin:
        raise CheckpointError(old.origin, "the new key is of another log")
    return Rotation(size, root, new)


class KeyChain:
    """Which key was in force at which size."""

    def __init__(self, first: LogPublicKey) -> None:
        self.keys = [first]
        self.since = [0]  # the smallest size that each of them signs

    @property
    def current(self) -> LogPublicKey:
        """The key that signs now."""
        return self.keys[-1]

    def rotate(self, seq: int, fields: dict[str, Any]) -> Rotation:
        """Follow a change of keys to the next key.

        Raises:
            CheckpointError: the key in force did not sign it, or it stands in another place.
        """
        found = read_rotation(fields, self.current)
        if found.size != seq:
            problem = f"the change of keys was signed as record {found.size}, and stands at {seq}"
            raise CheckpointError(self.current.origin, problem)
        if found.new in self.keys:
            raise CheckpointError(self.current.origin, "the change of keys goes back to an old key")
        self.keys.append(found.new)
        self.since.append(seq + 1)
        return found

    def retired(self, key_id: bytes) -> int | None:
        """The record by which the key with this id was replaced; None for others."""
        for i, key in enumerate(self.keys[:-1]):
            if key.key_id == key_id:
                return self.since[i + 1] - 1
        return None
