"""Which anchors a log has, with the keys to check them, and what each gave last.

Two small files in the user's configuration, beside the pin and never beside the database: what
``verify`` believes of anchors comes from here. ``anchors.json`` is written by the user's commands,
``anchored.json`` by whoever submits; the second may be lost, the first is trust.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from provkeep.errors import AnchorError, AnchorFileError, CheckpointError
from provkeep.model.files import write_whole
from provkeep.tlog.anchor import Anchor, Proof
from provkeep.tlog.cosignature import WitnessKey
from provkeep.tlog.filed import FileAnchor, PinAnchor
from provkeep.tlog.post import check_url
from provkeep.tlog.witness import WitnessAnchor

FORMAT: Final = 1
EVERY_S: Final = 60  # a recorder submits at most so often
QUORUM: Final = 1  # witnesses that must have seen the log, when there are any
MAX_BYTES: Final = 4_000_000
MAX_NAME: Final = 64
KINDS: Final[dict[str, frozenset[str]]] = {
    "witness": frozenset({"url", "key"}),
    "timestamp": frozenset({"url", "certificates"}),
    "file": frozenset({"path"}),
    "pin": frozenset({"path"}),
}

_STATE: Final = "anchored.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What happened with one anchor; not trusted, its proof is checked like any other."""

    proof: Proof | None = None  # the last one
    recorded: bool = True  # it stands in the log
    failures: int = 0  # in a row, until now
    problem: str = ""  # of the last one
    tried_us: int = 0


@dataclass(slots=True)
class AnchorBook:
    """The anchors of one log."""

    path: Path
    anchors: dict[str, dict[str, str]] = field(default_factory=dict)  # name -> kind and its fields
    quorum: int = QUORUM
    every_s: int = EVERY_S

    def add(self, name: str, kind: str, **fields: str) -> None:
        """Add an anchor.

        Raises:
            AnchorError: the name is taken, or a field is not what it should be.
        """
        if name in self.anchors:
            raise AnchorError(name, "there is one of this name; remove it first, or take another")
        self.anchors[name] = {"type": kind, **fields}
        try:
            self.anchor(name)
        except AnchorError:
            del self.anchors[name]
            raise

    def anchor(self, name: str) -> Anchor:
        """Return one anchor, ready to use.

        Raises:
            AnchorError: it is not well-formed.
        """
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise AnchorError(name[:MAX_NAME], "a name has 1 to 64 printable characters")
        fields = self.anchors[name]
        kind = fields.get("type", "")
        if kind not in KINDS or fields.keys() != KINDS[kind] | {"type"}:
            raise AnchorError(name, "it has no such type, or not exactly that type's fields")
        if "url" in fields and (problem := check_url(fields["url"])):
            raise AnchorError(name, f"{problem}: {fields['url']!r}")
        return _MAKE[kind](name, fields)

    def all(self) -> list[Anchor]:
        """Return every anchor; see ``anchor``."""
        return [self.anchor(name) for name in self.anchors]

    def write(self) -> None:
        """Write which anchors there are.

        Raises:
            OSError: the folder is missing or cannot be written.
        """
        entries = [{"name": name, **fields} for name, fields in self.anchors.items()]
        fields = {
            "format": FORMAT,
            "every_s": self.every_s,
            "quorum": self.quorum,
            "anchors": entries,
        }
        write_whole(self.path, json.dumps(fields, indent=2) + "\n")

    # -- what each gave last -----------------------------------------------------------------------

    @property
    def state_path(self) -> Path:
        """Where that stands."""
        return self.path.with_name(_STATE)

    def states(self) -> dict[str, State]:
        """Return what each anchor gave last, for those that are still there.

        Raises:
            AnchorFileError: the file is malformed.
        """
        if not self.state_path.exists():
            return {name: State() for name in self.anchors}
        fields = _read(self.state_path, {"format", "anchors"})
        try:
            found = {name: _state(each) for name, each in fields["anchors"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AnchorFileError(self.state_path, "what an anchor gave is malformed") from error
        return {name: found.get(name, State()) for name in self.anchors}

    def remember(self, name: str, **changes: Any) -> None:
        """Change what is remembered of one anchor; of two processes at once the later wins.

        Raises:
            OSError, AnchorFileError: the file cannot be written, or is malformed.
        """
        states = self.states()
        if name in states:
            states[name] = replace(states[name], **changes)
            anchors = {each: _plain(state) for each, state in states.items()}
            text = json.dumps({"format": FORMAT, "anchors": anchors}, indent=2) + "\n"
            write_whole(self.state_path, text)


def read_book(path: Path) -> AnchorBook:
    """Read which anchors there are; none when there is no such file.

    Raises:
        AnchorFileError: it is malformed, or cannot be read.
        AnchorError: one of them is.
    """
    if not path.exists():
        return AnchorBook(path)
    fields = _read(path, {"format", "every_s", "quorum", "anchors"})
    numbers = (fields["every_s"], fields["quorum"])
    if any(type(each) is not int or each < 0 for each in numbers):
        raise AnchorFileError(path, "every_s and quorum are not numbers from 0 on")
    book = AnchorBook(path, every_s=fields["every_s"], quorum=fields["quorum"])
    entries = fields["anchors"]
    if type(entries) is not list or not all(_is_texts(each) and "name" in each for each in entries):
        raise AnchorFileError(path, "its anchors are not objects of texts with a name")
    for each in entries:
        name = each.pop("name")
        book.add(name, each.pop("type", ""), **each)
    return book


def _read(path: Path, names: set[str]) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            blob = file.read(MAX_BYTES + 1)
        fields = json.loads(blob)
    except OSError as error:
        raise AnchorFileError(path, f"it cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise AnchorFileError(path, "it is not JSON") from error
    if len(blob) > MAX_BYTES or type(fields) is not dict or fields.keys() != names:
        raise AnchorFileError(path, f"it needs exactly the fields {', '.join(sorted(names))}")
    if fields["format"] != FORMAT:
        raise AnchorFileError(path, f"it is not of format {FORMAT}, which this version reads")
    return fields


def _is_texts(value: Any) -> bool:
    return type(value) is dict and all(type(each) is str for each in value.values())


def _plain(state: State) -> dict[str, Any]:
    proof = state.proof
    return {
        "proof": None
        if proof is None
        else {"note": proof.note, "at": proof.at_us, "token": b64encode(proof.token).decode()},
        "recorded": state.recorded,
        "failures": state.failures,
        "problem": state.problem,
        "tried": state.tried_us,
    }


def _state(fields: dict[str, Any]) -> State:
    given = fields["proof"]
    proof = None
    if given is not None:
        token = b64decode(given["token"], validate=True)
        proof = Proof(note=str(given["note"]), at_us=int(given["at"]), token=token)
    return State(
        proof=proof,
        recorded=bool(fields["recorded"]),
        failures=int(fields["failures"]),
        problem=str(fields["problem"]),
        tried_us=int(fields["tried"]),
    )


def _witness(name: str, fields: dict[str, str]) -> Anchor:
    try:
        key = WitnessKey.from_vkey(fields["key"])
    except CheckpointError as error:
        raise AnchorError(name, error.problem) from error
    return WitnessAnchor(name=name, url=fields["url"], key=key)


def _timestamp(name: str, fields: dict[str, str]) -> Anchor:
    from provkeep.tlog.timestamp import TimestampAnchor, split_certificates  # it loads X.509

    split_certificates(name, fields["certificates"])
    return TimestampAnchor(name=name, url=fields["url"], certificates=fields["certificates"])


def _path(name: str, fields: dict[str, str]) -> Path:
    path = Path(fields["path"])
    if not path.is_absolute():
        raise AnchorError(name, "its path is not absolute")
    return path


_MAKE: Final[dict[str, Callable[[str, dict[str, str]], Anchor]]] = {
    "witness": _witness,
    "timestamp": _timestamp,
    "file": lambda name, fields: FileAnchor(name=name, path=_path(name, fields)),
    "pin": lambda name, fields: PinAnchor(name=name, path=_path(name, fields)),
}
