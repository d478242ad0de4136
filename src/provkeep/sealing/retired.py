"""Keys that were rotated out and are still needed: to open what was sealed to them, to find tags.

``stores/<id>/retired.json``, mode 0600, beside the keys in use. It is there only after a rotation,
and goes when nothing needs it any more.
"""

from __future__ import annotations

import json
import os
import stat
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from provkeep.errors import KeyFileError
from provkeep.model.files import PRIVATE, write_whole
from provkeep.sealing.home import pin_path

RETIRED: Final = "retired.json"
RETIRED_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Retired:
    """Private halves by compartment and fingerprint keys, newest first. They show in no repr."""

    private: dict[str, list[bytes]] = field(default_factory=dict, repr=False)
    fingerprints: list[bytes] = field(default_factory=list, repr=False)

    def __bool__(self) -> bool:
        return bool(self.private or self.fingerprints)


def retired_path(store_id: bytes) -> Path:
    """Where the retired keys of a store are."""
    return pin_path(store_id).with_name(RETIRED)


def load_retired(store_id: bytes) -> Retired:
    """Read the retired keys of a store; empty when there are none.

    Raises:
        KeyFileError: malformed, of another store, or open to other users.
    """
    path = retired_path(store_id)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Retired()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(
            str(path), f"cannot be read ({type(error).__name__})", "make it readable for this user"
        ) from None
    if os.name == "posix" and mode & 0o077:
        raise KeyFileError(
            str(path), f"is open to other users (mode {mode:04o})", f"run: chmod 600 '{path}'"
        )
    try:
        fields = json.loads(text)
        if fields["format"] != RETIRED_FORMAT or fields["store_id"] != store_id.hex():
            raise ValueError("format or store")
        private = {
            str(name): [b64decode(key, validate=True) for key in keys]
            for name, keys in fields["private"].items()
        }
        return Retired(private, [b64decode(k, validate=True) for k in fields["fingerprints"]])
    except (ValueError, KeyError, TypeError, AttributeError):
        problem = "is malformed, or belongs to another store"  # not chained: it would hold keys
        raise KeyFileError(str(path), problem, "restore it from a copy") from None


def save_retired(store_id: bytes, retired: Retired) -> None:
    """Write the retired keys of a store durably; remove the file when there are none.

    Raises:
        KeyFileError: it cannot be written.
    """
    path = retired_path(store_id)
    fields = {
        "format": RETIRED_FORMAT,
        "store_id": store_id.hex(),
        "private": {n: [b64encode(k).decode() for k in ks] for n, ks in retired.private.items()},
        "fingerprints": [b64encode(key).decode() for key in retired.fingerprints],
    }
    try:
        if retired:
            write_whole(path, json.dumps(fields, indent=2, sort_keys=True) + "\n", PRIVATE)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise KeyFileError(
            str(path), f"cannot be written ({error.strerror})", "make its folder writable"
        ) from error
