"""The key of a journal: made by a process for itself, and gone when the journal is.

A journal holds what was acknowledged and is not committed yet, for less than a second as a rule.
Who recorded it must be able to read it again after a crash, so its key is none of the readers' but
one of its own, beside the recorder's other keys and protected as they are:

    stores/<id>/journal-<name>.json   0600   box_key: 32 bytes, base64

    frame = AES-256-GCM(plaintext) || tag (16), nonce = number of the frame, 12 bytes, big-endian,
            associated data = "provkeep/journal/1", a zero byte, store id (16), name
"""

from __future__ import annotations

import contextlib
import os
from base64 import b64encode
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from provkeep.errors import KeyFileError
from provkeep.sealing import keyfiles
from provkeep.sealing.config import key_of
from provkeep.sealing.home import pin_path, recorder_path

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_CONTEXT: Final = b"provkeep/journal/1\x00"


class JournalKey:
    """Seals and opens the frames of one journal. It shows in no repr.

    Args:
        path: its file.
        key: 32 bytes.
        store_id: of the store beside which the journal is, 16 bytes.
        name: of the journal.
    """

    __slots__ = ("_box", "_context", "path")

    def __init__(self, path: Path, key: bytes, store_id: bytes, name: str) -> None:
        self.path = path
        self._box = AESGCM(key)
        self._context = _CONTEXT + store_id + name.encode()

    def seal(self, number: int, data: bytes) -> bytes:
        """Seal a frame; each number is used once."""
        return self._box.encrypt(number.to_bytes(NONCE_BYTES, "big"), data, self._context)

    def open(self, number: int, sealed: bytes) -> bytes | None:
        """Open a frame; None when it is not the one that was sealed under this number."""
        try:
            return self._box.decrypt(number.to_bytes(NONCE_BYTES, "big"), sealed, self._context)
        except InvalidTag:
            return None

    def drop(self) -> None:
        """Remove its file: what was sealed with it stays sealed."""
        with contextlib.suppress(OSError):  # a key to nothing is harmless
            self.path.unlink(missing_ok=True)


def _path(store_id: bytes, name: str) -> Path:
    return pin_path(store_id).with_name(f"journal-{name}.json")


def new_key(store_id: bytes, name: str) -> JournalKey:
    """Make the key of a new journal and write it down.

    Raises:
        KeyFileError: it cannot be written.
        ProviderError: the provider that protects the recorder's keys is absent, slow, or refuses.
    """
    key, path = os.urandom(KEY_BYTES), _path(store_id, name)
    fields = {"store_id": store_id.hex(), "box_key": b64encode(key).decode()}
    keyfiles.write_fields(path, fields, like=recorder_path(store_id))
    return JournalKey(path, key, store_id, name)


def read_key(store_id: bytes, name: str) -> JournalKey:
    """Read the key of a journal that another process left.

    Raises:
        KeyFileError: missing, malformed, of another store, or open to other users.
        ProviderError: the provider that protects it is absent, slow, or refuses.
    """
    path = _path(store_id, name)
    fields = keyfiles.read_fields(path, {"store_id", "box_key"})
    try:
        if fields["store_id"] != store_id.hex():
            raise ValueError("it belongs to another store")
        return JournalKey(path, key_of(fields["box_key"]), store_id, name)
    except (ValueError, TypeError):
        problem = "is malformed, or belongs to another store"  # not chained: it would hold the key
        raise KeyFileError(str(path), problem, keyfiles.RESTORE) from None
