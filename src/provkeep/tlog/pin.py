"""A pin: the tree head and log key remembered outside the store.

Whoever can write the database can also replace its log by a shorter or another one, signed
with another key. A pin in a place they cannot write shows that. This module reads and writes
one small JSON file; it holds nothing secret.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provkeep.errors import CheckpointError, PinError
from provkeep.model.files import write_whole
from provkeep.tlog.checkpoint import ROOT_BYTES, LogPublicKey

PIN_FORMAT = 1
MAX_PIN_BYTES = 65_536

_FIELDS = {"format", "origin", "root", "size", "vkey"}


@dataclass(frozen=True, slots=True)
class Pin:
    """What a log looked like when it was last known good."""

    origin: str
    size: int  # leaves
    root: bytes  # 32 bytes
    vkey: str  # origin+keyid+base64, as LogPublicKey.vkey() writes it

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 0:
            raise PinError("the size is not a number of leaves")
        if len(self.root) != ROOT_BYTES:
            raise PinError(f"the root does not have {ROOT_BYTES} bytes")
        try:
            public = LogPublicKey.from_vkey(self.vkey)
        except CheckpointError as error:
            raise PinError("the log key is malformed") from error
        if public.origin != self.origin or public.vkey() != self.vkey:
            raise PinError(f"the log key does not belong to origin {self.origin!r}")

    def to_json(self) -> str:
        """Return one line of JSON with sorted keys."""
        fields = {
            "format": PIN_FORMAT,
            "origin": self.origin,
            "root": b64encode(self.root).decode(),
            "size": self.size,
            "vkey": self.vkey,
        }
        return json.dumps(fields, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Pin:
        """Read what ``to_json`` wrote, and nothing else.

        Raises:
            PinError: not JSON, another format, a field missing, unknown, repeated or malformed.
        """
        try:
            fields = json.loads(text, object_pairs_hook=_no_repeats)
        except (ValueError, RecursionError) as error:
            raise PinError("it is not valid JSON") from error
        if not isinstance(fields, dict) or fields.keys() != _FIELDS:
            raise PinError(f"it needs exactly the fields {', '.join(sorted(_FIELDS))}")
        if type(fields["format"]) is not int or fields["format"] != PIN_FORMAT:
            raise PinError(f"it has format {fields['format']!r}, this version reads {PIN_FORMAT}")
        if not all(isinstance(fields[name], str) for name in ("origin", "root", "vkey")):
            raise PinError("origin, root and vkey must be strings")
        try:
            root = b64decode(fields["root"], validate=True)
        except ValueError as error:
            raise PinError("the root is not base64") from error
        if b64encode(root).decode() != fields["root"]:
            raise PinError("the root is not canonical base64")
        return cls(fields["origin"], fields["size"], root, fields["vkey"])


def write_pin(path: str | os.PathLike[str], pin: Pin) -> None:
    """Write a pin so that a crash leaves either the old one or the new one; mode 0600.

    Raises:
        OSError: the folder is missing, full or not writable; the old pin is still there.
    """
    write_whole(Path(path), pin.to_json())


def read_pin(path: str | os.PathLike[str]) -> Pin:
    """Read a pin.

    Raises:
        PinError: there is none, it cannot be read, or it is malformed.
    """
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            blob = file.read(MAX_PIN_BYTES + 1)
        if len(blob) > MAX_PIN_BYTES:
            raise PinError(f"it is larger than {MAX_PIN_BYTES} bytes")
        return Pin.from_json(blob.decode())
    except FileNotFoundError as error:
        raise PinError("there is no pin", name) from error
    except OSError as error:
        raise PinError(f"it cannot be read ({error.strerror})", name) from error
    except UnicodeDecodeError as error:
        raise PinError("it is not UTF-8", name) from error
    except PinError as error:
        raise PinError(error.problem, name) from error


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is repeated")
    return fields
