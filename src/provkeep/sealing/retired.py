"""Keys that were rotated out and are still needed: to open what was sealed to them, to find tags.

``stores/<id>/retired.json``, beside the keys in use and protected as they are. It is there only
after a rotation, and goes when nothing needs it any more.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from provkeep.errors import KeyFileError
from provkeep.sealing import keyfiles
from provkeep.sealing.config import key_of
from provkeep.sealing.home import pin_path, reader_path, recorder_path

RETIRED: Final = "retired.json"


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
        ProviderError: the provider that protects it is absent, slow, or refuses.
    """
    path = retired_path(store_id)
    if not path.exists():
        return Retired()
    fields = keyfiles.read_fields(path, {"store_id", "private", "fingerprints"})
    try:
        if fields["store_id"] != store_id.hex():
            raise ValueError("it belongs to another store")
        private = {str(n): [key_of(k) for k in keys] for n, keys in fields["private"].items()}
        return Retired(private, [key_of(k) for k in fields["fingerprints"]])
    except (ValueError, TypeError, AttributeError):
        problem = "is malformed, or belongs to another store"  # not chained: it would hold keys
        raise KeyFileError(str(path), problem, keyfiles.RESTORE) from None


def save_retired(store_id: bytes, retired: Retired) -> None:
    """Write the retired keys of a store durably; remove the file when there are none.

    Raises:
        KeyFileError: it cannot be written.
        ProviderError: the provider that protects it is absent, slow, or refuses.
    """
    path, reader = retired_path(store_id), reader_path(store_id)
    if not retired:
        path.unlink(missing_ok=True)
        return
    fields = {
        "store_id": store_id.hex(),
        "private": {n: [b64encode(k).decode() for k in ks] for n, ks in retired.private.items()},
        "fingerprints": [b64encode(key).decode() for key in retired.fingerprints],
    }
    keyfiles.write_fields(path, fields, like=reader if reader.exists() else recorder_path(store_id))
