"""Anchors that are files: a list of checkpoints that only grows, and a pin in another place.

They are worth as much as the place they are in: one that the recording account can only append to,
or that is mounted from another machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provkeep.errors import (
    AnchorConflictError,
    AnchorError,
    CheckpointError,
    PinError,
    PinMismatchError,
)
from provkeep.model.files import PRIVATE
from provkeep.tlog.anchor import Offer, Proof
from provkeep.tlog.checkpoint import Checkpoint, parse_checkpoint
from provkeep.tlog.heads import fresh_pin
from provkeep.tlog.pin import Pin, read_pin, write_pin

MAX_LINE: Final = 65_536  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FileAnchor:
    """One line of JSON for each checkpoint: ``{"at": us, "note": checkpoint}``."""

    name: str
    path: Path
    kind: str = "file"

    def submit(self, offer: Offer) -> Proof:
        """Append the checkpoint, and return when the disk has it."""
        line = json.dumps({"at": offer.now_us, "note": offer.head.note}).encode() + b"\n"
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            descriptor = os.open(self.path, flags, PRIVATE)
        except PermissionError:  # a file that may only be appended to
            descriptor = self._append_only(flags)
        except OSError as error:
            raise self._failed(error) from error
        try:
            if not _is_whole(descriptor):  # the end of a line was lost with its power
                line = b"\n" + line
            os.write(descriptor, line)
            os.fsync(descriptor)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            os.close(descriptor)
        return Proof(note=offer.head.note, at_us=offer.now_us)

    def _append_only(self, flags: int) -> int:
        try:
            return os.open(self.path, flags & ~os.O_RDWR | os.O_WRONLY, PRIVATE)
        except OSError as error:
            raise self._failed(error) from error

    def check(self, proof: Proof) -> int | None:
        """Say nothing of time: a line's is that of the machine that wrote it."""
        proof.stated(self.name)
        return None

    def held(self) -> Iterator[Checkpoint | None]:
        """The heads in the file; None for a line that states none."""
        try:
            with self.path.open("rb") as file:
                while line := file.readline(MAX_LINE):
                    yield _stated(line)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> AnchorError:
        return AnchorError(self.name, f"{self.path} cannot be used ({error.strerror})", again=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PinAnchor:
    """A pin in another place, moved forward like the one in the configuration."""

    name: str
    path: Path
    kind: str = "pin"

    def submit(self, offer: Offer) -> Proof:
        """Move the pin, if the log still begins with what it remembers."""
        try:
            older = [read_pin(self.path)] if self.path.exists() else []
            write_pin(self.path, _ahead(fresh_pin(offer.view, offer.public, *older), older))
        except PinMismatchError as error:
            raise AnchorConflictError(self.name, f"{self.path}: {error.problem}") from error
        except PinError as error:
            raise AnchorError(self.name, f"{self.path}: {error.problem}") from error
        except OSError as error:
            problem = f"{self.path} cannot be used ({error.strerror})"
            raise AnchorError(self.name, problem, again=True) from error
        return Proof(note=offer.head.note, at_us=offer.now_us)

    def check(self, proof: Proof) -> int | None:
        """Say nothing of time."""
        proof.stated(self.name)
        return None

    def held(self) -> Iterator[Checkpoint | None]:
        """The head that the pin remembers."""
        try:
            pin = read_pin(self.path)
        except PinError as error:
            raise AnchorError(self.name, f"{self.path}: {error.problem}") from error
        yield Checkpoint(pin.origin, pin.size, pin.root, ())


def _ahead(fresh: Pin, older: list[Pin]) -> Pin:
    return max([fresh, *older], key=lambda pin: pin.size)


def _is_whole(descriptor: int) -> bool:
    """Does the file end with a line's end, as far as may be read?"""
    size = os.fstat(descriptor).st_size
    if not size:
        return True
    try:
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        return os.read(descriptor, 1) == b"\n"
    except OSError:
        return True


def _stated(line: bytes) -> Checkpoint | None:
    try:
        return parse_checkpoint(json.loads(line)["note"]) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError, RecursionError, CheckpointError):
        return None
