"""A second verifier of evidence bundles, written from docs/FORMAT.md and from nothing else.

It imports nothing of provkeep, and of ``cryptography`` Ed25519 and AES-GCM. Numbers in brackets are
sections of that page. Exit code: 0 verified, 1 something is wrong, 3 no bundle.

    python tests/independent_bundle_reader.py case.json "$(cat log.pub)" [pin.json]
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import sys
from base64 import b64decode, b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

COMPARTMENTS = ("prompt", "output", "document", "tool", "meta")
KNOWN = {"init", "trace", "access", "gap"}


class NoBundle(Exception):
    """The document is not one (12.1)."""


class Wrong(Exception):
    """Something that has to hold does not (12.2)."""


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def need(condition: bool, what: str, error: type[Exception] = Wrong) -> None:
    if not condition:
        raise error(what)


# -- the document (12.1) --------------------------------------------------------------------------


def parsed(blob: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len(dict(pairs)) == len(pairs), "a key stands twice", NoBundle)
        return dict(pairs)

    def no_number(text: str) -> Any:
        raise NoBundle(f"{text[:20]} is no whole number")

    try:
        text = blob.decode()
        found = json.loads(
            text, object_pairs_hook=once, parse_constant=no_number, parse_float=no_number
        )
    except (ValueError, RecursionError) as error:
        raise NoBundle(type(error).__name__) from None
    return members(found, "format version focus checkpoint consistency records reveals")


def members(value: Any, names: str) -> dict[str, Any]:
    need(type(value) is dict and value.keys() == set(names.split()), names, NoBundle)
    return dict(value)


def listed(value: Any, names: str, number: str) -> list[dict[str, Any]]:
    need(type(value) is list, "no array", NoBundle)
    items = [members(each, names) for each in value]
    numbers = [each[number] for each in items]
    need(all(type(n) is int and 0 <= n < 2**53 for n in numbers), "no number", NoBundle)
    need(sorted(set(numbers)) == numbers, "numbers do not ascend", NoBundle)
    return items


def string(value: Any) -> str:
    need(type(value) is str and not re.search("[\ud800-\udfff]", value), "no string", NoBundle)
    return str(value)


def base64(value: Any) -> bytes:
    try:
        blob = b64decode(string(value), validate=True)
    except ValueError:
        raise NoBundle("no base64") from None
    need(b64encode(blob).decode() == value, "another spelling of base64", NoBundle)
    return blob


def hashes(value: Any) -> list[bytes]:
    need(type(value) is list and len(value) <= 64, "no proof", NoBundle)
    found = [base64(each) for each in value]
    need(all(len(each) == 32 for each in found), "no hashes", NoBundle)
    return found


def read(blob: bytes) -> dict[str, Any]:
    case = parsed(blob)
    need(case["format"] == "provkeep-bundle", "another format", NoBundle)
    need(type(case["version"]) is int and case["version"] == 1, "another version", NoBundle)
    focus = re.fullmatch(r"([0-9a-f]{32})\.([ar])(0|[1-9][0-9]{0,8})", string(case["focus"]))
    need(focus is not None, "no focus", NoBundle)
    string(case["checkpoint"])
    steps = listed(case["consistency"], "size proof", "size")
    case["consistency"] = {each["size"]: hashes(each["proof"]) for each in steps}
    case["records"] = listed(case["records"], "seq body proof", "seq")
    for each in case["records"]:
        body = string(each["body"])
        need(body.isascii() and len(body) <= 65_535, "no body", NoBundle)
        each["body"], each["proof"] = body.encode(), hashes(each["proof"])
    case["reveals"] = listed(case["reveals"], "payload envelope key text", "payload")
    for each in case["reveals"]:
        each["envelope"], each["key"] = base64(each["envelope"]), base64(each["key"])
        need(len(each["key"]) == 64, "no payload key", NoBundle)
        if each["text"] is not None:
            string(each["text"])
    return case


# -- the log (3, 4) -------------------------------------------------------------------------------


def signed(note: str, vkey: str) -> tuple[int, bytes]:
    """Size and root that a note states, if the key signed it (4.3)."""
    origin = vkey.partition("+")[0]
    text = note.rpartition("\n\n")[0]
    lines = text.split("\n")
    need(len(lines) >= 3 and all(lines), "the checkpoint is malformed")
    need(lines[0] == origin, "the checkpoint is of another log")
    need(re.fullmatch("0|[1-9][0-9]{0,18}", lines[1]) is not None, "the checkpoint has no size")
    need(note_signers(note, vkey), "the checkpoint is not signed by this key")
    root = note_base64(lines[2])
    need(len(root) == 32, "the checkpoint has no root")
    return int(lines[1]), root


def note_signers(note: str, vkey: str) -> bool:
    """Did the key sign a note (4.3)? A signature that names it and is bad is wrong."""
    origin, _, encoded = vkey.split("+", 2)
    key = b64decode(encoded)
    key_id = sha256(origin.encode() + b"\n" + key)[:4]
    text, blank, signatures = note.rpartition("\n\n")
    need(bool(blank) and signatures.endswith("\n"), "a note is not signed")
    good = False
    for line in signatures[:-1].split("\n"):
        parts = line.split(" ")
        need(len(parts) == 3 and parts[0] == "\u2014", "a signature line is malformed")
        blob = note_base64(parts[2])
        if (parts[1], blob[:4]) == (origin, key_id):
            try:
                public = Ed25519PublicKey.from_public_bytes(key[1:])
                public.verify(blob[4:], f"{text}\n".encode())
            except InvalidSignature:
                raise Wrong("a signature is bad") from None
            good = True
    return good


def keys_of(
    records: list[dict[str, Any]], given: str
) -> tuple[list[str], list[int], list[tuple[int, bytes]]]:
    """The log's keys, from what size on each signs, and what each signed for the next (4.5, 5)."""
    bodies = [(each["seq"], canonical(each["body"])) for each in records]
    changes = [(seq, fields) for seq, fields in bodies if fields.get("k") == "logkey"]
    if not changes:
        return [given], [0], []
    need(bodies[0][0] == 0 and type(bodies[0][1].get("vkey")) is str, "record 0 is missing")
    keys, since, heads = [bodies[0][1]["vkey"]], [0], []
    for seq, fields in changes:
        need(type(fields.get("note")) is str, "a change of keys has no note")
        text = fields["note"].rpartition("\n\n")[0]
        lines = text.split("\n")
        need(len(lines) == 5 and lines[0] == "provkeep/logkey/1", "no change of keys")
        signers = note_signers(fields["note"], keys[-1])
        need(signers and lines[1] == keys[-1].partition("+")[0], "another log's change of keys")
        need(lines[2] == str(seq), "a change of keys stands in another place")
        root = note_base64(lines[3])
        need(len(root) == 32 and lines[4] not in keys, "a change of keys is malformed")
        heads.append((seq, root))
        keys.append(lines[4])
        since.append(seq + 1)
    return keys, since, heads


def note_base64(text: str) -> bytes:
    try:
        blob = b64decode(text, validate=True)
    except ValueError:
        raise Wrong("no base64 in the checkpoint") from None
    need(b64encode(blob).decode() == text, "another spelling of base64 in the checkpoint")
    return blob


def included(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """The root that an inclusion proof leads to, by halves (RFC 9162, 2.1.1 and 2.1.3)."""
    if size == 1:
        need(not proof, "a proof is too long")
        return leaf
    need(bool(proof), "a proof is too short")
    left = 1 << ((size - 1).bit_length() - 1)
    if index < left:
        return sha256(b"\x01" + included(leaf, index, left, proof[:-1]) + proof[-1])
    rest = included(leaf, index - left, size - left, proof[:-1])
    return sha256(b"\x01" + proof[-1] + rest)


def extended(
    old: int, new: int, proof: list[bytes], old_root: bytes, whole: bool = True
) -> tuple[bytes, bytes]:
    """Both roots that a consistency proof leads to, by halves (RFC 9162, 2.1.4)."""
    if old == new:
        if whole:
            need(not proof, "a proof is too long")
            return old_root, old_root
        need(len(proof) == 1, "a proof has another length")
        return proof[0], proof[0]
    need(bool(proof), "a proof is too short")
    left = 1 << ((new - 1).bit_length() - 1)
    if old <= left:
        first, second = extended(old, left, proof[:-1], old_root, whole)
        return first, sha256(b"\x01" + second + proof[-1])
    first, second = extended(old - left, new - left, proof[:-1], old_root, False)
    return sha256(b"\x01" + proof[-1] + first), sha256(b"\x01" + proof[-1] + second)


def canonical(body: bytes) -> dict[str, Any]:
    """The fields of a body that is spelled the one way (3)."""

    def no_number(text: str) -> Any:
        raise Wrong("a body holds a fraction")

    try:
        fields = json.loads(body, parse_float=no_number, parse_constant=no_number)
    except (ValueError, RecursionError):
        raise Wrong("a body is not JSON") from None
    need(type(fields) is dict and small(fields), "a body is no object, or a number is too large")
    spelled = json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    if not spelled.isascii():
        spelled = json.dumps(fields, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    need(spelled.encode() == body, "a body is spelled another way")
    return dict(fields)


def small(value: Any) -> bool:
    if type(value) is dict:
        return all(small(each) for each in value.values())
    if type(value) is list:
        return all(small(each) for each in value)
    return type(value) is not int or abs(value) < 2**53


# -- the records (5, 6) ---------------------------------------------------------------------------


def payloads(fields: dict[str, Any], after: int) -> dict[int, tuple[str, str, int, int, str]]:
    """Hash, scope, number, place and compartment of each payload of a record (5, 7.1)."""
    if "p" not in fields:
        return {}
    need(fields["p0"] > after, "a payload is named twice")
    trace = fields["k"] == "trace"
    scope, number = (fields["t"], fields["n"]) if trace else (fields["k"], fields["at"])
    return {
        fields["p0"] + place: (digest, scope, number, place, COMPARTMENTS[fields["keys"][key][0]])
        for place, (digest, key) in enumerate(fields["p"])
    }


def traces_of(records: list[dict[str, Any]], focus: str) -> list[str]:
    """Ids of the traces that a lineage passes through; what is not there is said (12.2)."""
    parts: dict[str, list[dict[str, Any]]] = {}  # in the order of their first records
    for fields in records:
        if fields["k"] == "trace":
            parts.setdefault(fields["t"], []).append(fields)
    entries = {tid: [e for part in found for e in part["e"]] for tid, found in parts.items()}
    tid, _, place = focus.partition(".")
    told = ("a" if place[0] == "a" else "s", int(place[1:]))
    need(any(tuple(e[:2]) == told for e in entries.get(tid, ())), "nothing tells of the focus")
    order, seen, waiting = list(parts), [], [tid]
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.append(here)
        numbers = [part["n"] for part in parts[here]]
        need(numbers == list(range(len(numbers))), f"records of trace {here} are missing")
        for entry in entries[here]:
            tag = entry[7].get("ext") if entry[0] == "a" else None
            earlier = order[: order.index(here)]
            gave = [
                t for t in earlier if any(e[:2] == ["l", tag] and e[3] == 0 for e in entries[t])
            ]
            waiting += gave[-1:] if tag is not None else []
    return seen


# -- the payloads (7) -----------------------------------------------------------------------------


def padded_length(n: int) -> int:
    if n <= 16:
        return 16
    e = n.bit_length() - 1
    unit = 2 ** (e - e.bit_length())
    return -(-n // unit) * unit


def revealed(each: dict[str, Any], store: bytes, seal: tuple[str, str, int, int, str]) -> None:
    digest, scope, number, place, compartment = seal
    envelope, key = each["envelope"], each["key"]
    spelled = urlsafe_b64encode(sha256(envelope)).decode().rstrip("=")
    need(spelled == digest, "an envelope is not the one that was recorded")
    context = b"provkeep/1\x00" + store
    context += f"\x00{scope}\x00{number}\x00{place}\x00{compartment}".encode()
    commitment = sha256(b"provkeep/commitment/1" + key + context)
    need(hmac.compare_digest(envelope[:32], commitment), "a payload key is another one")
    try:
        padded = AESGCM(key[:32]).decrypt(envelope[32:44], envelope[44:], context)
    except (InvalidTag, ValueError):
        raise Wrong("an envelope does not open") from None
    marked = padded.rstrip(b"\x00")
    need(marked[-1:] == b"\x80" and padded_length(len(marked)) == len(padded), "padding")
    plaintext = marked[:-1]
    try:
        text: str | None = plaintext.decode()
    except UnicodeDecodeError:
        text = None
    need(text == each["text"], "a text is not what was sealed")
    need(plaintext[:1] in (b"t", b"j"), "neither text nor JSON")


# -- the verdict (12.2) ---------------------------------------------------------------------------


def verify(blob: bytes, vkey: str, pin: dict[str, Any] | None = None) -> list[str]:
    """The traces of the lineage; raises NoBundle or Wrong."""
    case = read(blob)
    first = next((v for v in vkey.split("\n") if b64decode(v.split("+", 2)[2])[:1] == b"\x01"), "")
    keys, since, heads = keys_of(case["records"], first)  # a second key (4.3) is not looked at
    need(first in keys, "the key never signed this log")
    size, root = signed(case["checkpoint"], keys[-1])
    for old_size, old_root in heads:
        need(old_size in case["consistency"], "nothing leads from what an old key signed")
        both = extended(old_size, size, case["consistency"][old_size], old_root)
        need(both == (old_root, root), "what an old key signed was rewritten")
    if pin is not None:
        need(pin["vkey"] in keys and pin["size"] <= size, "the pin is of another log, or newer")
        in_force = max(i for i, first in enumerate(since) if first <= pin["size"])
        need(keys[in_force] == pin["vkey"], "the pin's key had been replaced, or came later")
        old_root = b64decode(pin["root"])
        if pin["size"] == 0:
            need(old_root == sha256(b""), "the pin has another root")
        elif pin["size"] == size:
            need(old_root == root, "the pin has another root")
        else:
            need(pin["size"] in case["consistency"], "nothing leads from the pin")
            proof = case["consistency"][pin["size"]]
            both = extended(pin["size"], size, proof, old_root)
            need(both == (old_root, root), "history was rewritten since the pin")
    seals: dict[int, tuple[str, str, int, int, str]] = {}
    records = []
    for each in case["records"]:
        need(each["seq"] < size, "a record is newer than the checkpoint")
        leaf = sha256(b"\x00" + each["body"])
        need(included(leaf, each["seq"], size, each["proof"]) == root, "a record is not in the log")
        fields = canonical(each["body"])
        try:
            need(fields["v"] == 1 and (each["seq"] == 0) == (fields["k"] == "init"), "kind")
            seals |= payloads(fields, max(seals, default=0))
        except (LookupError, TypeError, ValueError):
            raise Wrong("a record is malformed") from None
        records.append(fields)
    need(bool(records) and records[0]["k"] == "init", "record 0 is missing")
    need(records[0]["vkey"] == keys[0], "record 0 names another key")
    need(records[0]["origin"] == keys[0].partition("+")[0], "record 0 names another log")
    need(re.fullmatch("[0-9a-f]{32}", str(records[0]["store"])) is not None, "no store id")
    store = bytes.fromhex(records[0]["store"])
    found = traces_of(records, case["focus"])
    for each in case["reveals"]:
        need(each["payload"] in seals, "no record names a revealed payload")
        revealed(each, store, seals[each["payload"]])
    return found


def main(file: str, vkey: str, pin: str | None = None) -> int:
    try:
        remembered = json.loads(Path(pin).read_text()) if pin else None
        found = verify(Path(file).read_bytes(), vkey.strip(), remembered)
    except (NoBundle, Wrong) as error:
        print(f"{type(error).__name__}: {error}")
        return 3 if isinstance(error, NoBundle) else 1
    print(f"verified: the lineage passes through {len(found)} traces")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
