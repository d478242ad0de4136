"""Evidence bundles, the format ``provkeep-bundle``, version 1: one JSON document, no database.

    {"format": "provkeep-bundle", "version": 1, "focus": "<trace>.a9",
     "checkpoint": "<signed note>",
     "consistency": [{"size": 40, "proof": ["<base64>", …]}, …],
     "records": [{"seq": 0, "body": "<the stored bytes>", "proof": ["<base64>", …]}, …],
     "reveals": [{"payload": 7, "envelope": "<base64>", "key": "<base64>", "text": "t…"}, …]}

Nothing in it is believed: whoever verifies knows the log's public key from elsewhere, and all else
follows from what that key signed. ``bundle.schema.json`` says the same as a JSON Schema,
docs/FORMAT.md what each member means. Reading is strict: an unknown or missing member, a second
spelling of the same bytes, or another order is refused, so that two verifiers read one thing.
"""

from __future__ import annotations

import binascii
import json
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from provkeep.errors import ExportError
from provkeep.export.check import parse, short
from provkeep.model.canonical import MAX_BODY, MAX_INT
from provkeep.model.files import write_whole
from provkeep.reading.evidence import Evidence, ProvedRecord

FORMAT: Final = "provkeep-bundle"
VERSION: Final = 1
MAX_BYTES: Final = 256 * 2**20  # of a file that is read
MAX_PROOF: Final = 64  # hashes; a tree of 2**53 leaves is not higher
KEY_BYTES: Final = 64
HASH_BYTES: Final = 32

_TOP: Final = ("format", "version", "focus", "checkpoint", "consistency", "records", "reveals")
_FOCUS: Final = re.compile(r"([0-9a-f]{32})\.([ar])(0|[1-9][0-9]{0,8})\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Revealed:
    """One payload that the bundle says it discloses; nothing of it is checked yet."""

    payload: int
    envelope: bytes
    key: bytes = field(repr=False)  # 64 bytes
    text: str | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a bundle says; ``export.verdict`` says whether to believe it."""

    focus: str
    checkpoint: str
    consistency: Mapping[int, tuple[bytes, ...]]
    records: tuple[ProvedRecord, ...]
    reveals: tuple[Revealed, ...]


def to_document(evidence: Evidence) -> dict[str, Any]:
    """Return ``evidence`` as a JSON document."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "focus": evidence.focus,
        "checkpoint": evidence.checkpoint,
        "consistency": [
            {"size": size, "proof": _spelled(proof)} for size, proof in evidence.consistency
        ],
        "records": [
            {"seq": each.seq, "body": each.body.decode("ascii"), "proof": _spelled(each.proof)}
            for each in evidence.records
        ],
        "reveals": [
            {
                "payload": each.payload,
                "envelope": b64encode(each.envelope).decode(),
                "key": b64encode(each.key).decode(),
                "text": shown(each.plaintext),
            }
            for each in evidence.reveals
        ],
    }


def write(path: str | os.PathLike[str], document: Mapping[str, Any]) -> None:
    """Write a document to ``path``, whole or not at all, mode 0600.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(Path(path), json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def read(source: str | os.PathLike[str] | Mapping[str, Any]) -> Bundle:
    """Read a bundle from a file, or from a document already parsed.

    Raises:
        ExportError: it is not a document of this format; the error says what is wrong and where.
        OSError: the file cannot be read.
    """
    if isinstance(source, Mapping):
        return read_document(source)
    with Path(source).open("rb") as file:
        blob = file.read(MAX_BYTES + 1)
    if len(blob) > MAX_BYTES:
        raise ExportError(f"larger than {MAX_BYTES} bytes")
    try:
        text = blob.decode()
    except UnicodeDecodeError as error:
        raise ExportError(f"not UTF-8 text (at byte {error.start})") from None
    return read_document(parse(text))


def read_document(document: Mapping[str, Any]) -> Bundle:
    """Check the shape of a document, and nothing of what it says.

    Raises:
        ExportError: the document breaks a rule of the format.
    """
    if document.get("format") != FORMAT:
        raise ExportError(f"not a {FORMAT} document", "/format")
    version = _int(document.get("version"), "/version")
    if version > VERSION:
        problem = f"version {version} is newer than {VERSION}, the newest this provkeep reads"
        raise ExportError(f"{problem}; upgrade provkeep", "/version")
    if version != VERSION:
        raise ExportError("there is no such version", "/version")
    _members(document, _TOP, "")
    focus = _str(document["focus"], "/focus")
    if not _FOCUS.match(focus):
        raise ExportError("not the id of an artifact or a run", "/focus")
    consistency: dict[int, tuple[bytes, ...]] = {}
    for where, item in _items(document["consistency"], "/consistency", ("size", "proof")):
        size = _int(item["size"], f"{where}/size")
        consistency[_after(size, consistency, where)] = _hashes(item["proof"], f"{where}/proof")
    records: dict[int, ProvedRecord] = {}
    for where, item in _items(document["records"], "/records", ("seq", "body", "proof")):
        body = _str(item["body"], f"{where}/body")
        if not body.isascii() or len(body) > MAX_BODY:
            raise ExportError(f"a body is ASCII of at most {MAX_BODY} bytes", f"{where}/body")
        seq = _after(_int(item["seq"], f"{where}/seq"), records, where)
        proof = _hashes(item["proof"], f"{where}/proof")
        records[seq] = ProvedRecord(seq=seq, body=body.encode("ascii"), proof=proof)
    reveals: dict[int, Revealed] = {}
    members = ("payload", "envelope", "key", "text")
    for where, item in _items(document["reveals"], "/reveals", members):
        number = _after(_int(item["payload"], f"{where}/payload"), reveals, where)
        key = _bytes(item["key"], f"{where}/key")
        if len(key) != KEY_BYTES:
            raise ExportError(f"a payload key has {KEY_BYTES} bytes", f"{where}/key")
        text = item["text"]
        reveals[number] = Revealed(
            payload=number,
            envelope=_bytes(item["envelope"], f"{where}/envelope"),
            key=key,
            text=text if text is None else _str(text, f"{where}/text"),
        )
    return Bundle(
        focus=focus,
        checkpoint=_str(document["checkpoint"], "/checkpoint"),
        consistency=consistency,
        records=tuple(records.values()),
        reveals=tuple(reveals.values()),
    )


def shown(plaintext: bytes) -> str | None:
    """A plaintext as it stands in a bundle: text, or None where it is not UTF-8."""
    try:
        return plaintext.decode()
    except UnicodeDecodeError:
        return None


def _spelled(hashes: tuple[bytes, ...]) -> list[str]:
    return [b64encode(each).decode() for each in hashes]


def _items(value: Any, where: str, names: tuple[str, ...]) -> Any:
    if type(value) is not list:
        raise ExportError("expected an array", where)
    for number, item in enumerate(value):
        here = f"{where}/{number}"
        if type(item) is not dict:
            raise ExportError("expected an object", here)
        _members(item, names, here)
        yield here, item


def _members(fields: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    """Exactly these members."""
    for name in names:
        if name not in fields:
            raise ExportError(f"{name!r} is missing", where or "/")
    for name in fields:
        if name not in names:
            raise ExportError(f"unknown member {short(name)}", where or "/")


def _after(number: int, before: Mapping[int, Any], where: str) -> int:
    """Numbers ascend, so that nothing stands twice."""
    if before and number <= next(reversed(before.keys())):  # type: ignore[call-overload]  # a dict
        raise ExportError("not in ascending order, or there twice", where)
    return number


def _int(value: Any, where: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_INT:
        raise ExportError(f"expected a whole number from 0 to {MAX_INT}", where)
    return value


def _str(value: Any, where: str) -> str:
    if type(value) is not str:
        raise ExportError("expected a string", where)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ExportError("a string with lone surrogates", where) from None
    return value


def _bytes(value: Any, where: str) -> bytes:
    """Base64 (RFC 4648, section 4) in its one spelling."""
    text = _str(value, where)
    try:
        blob = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ExportError("not base64", where) from None
    if b64encode(blob).decode() != text:
        raise ExportError("not base64 as it is spelled here", where)
    return blob


def _hashes(value: Any, where: str) -> tuple[bytes, ...]:
    if type(value) is not list or len(value) > MAX_PROOF:
        raise ExportError(f"expected an array of at most {MAX_PROOF} hashes", where)
    hashes = tuple(_bytes(each, f"{where}/{n}") for n, each in enumerate(value))
    if any(len(each) != HASH_BYTES for each in hashes):
        raise ExportError(f"a hash has {HASH_BYTES} bytes", where)
    return hashes
