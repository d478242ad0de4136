"""A second verifier and a second reader, written from docs/FORMAT.md and from nothing else.

It imports nothing of provkeep, and of ``cryptography`` only primitives: HPKE, HKDF, the envelope
and the tree are spelled out here. Numbers in brackets are sections of that page.

    python tests/independent_reader.py audit.db KEYS_FOLDER
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
import sys
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from contextlib import closing
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

DOCUMENT = 3
COMPARTMENTS = ("prompt", "output", "document", "tool", "meta")


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def b64u(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def unb64u(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    db.text_factory = lambda raw: raw.decode(errors="replace")
    return db


# -- the verifier (3, 4, 5) -----------------------------------------------------------------------


def canonical(fields: dict[str, Any]) -> bytes:
    spelled = json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    if not spelled.isascii():
        spelled = json.dumps(fields, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return spelled.encode()


def subtrees(leaves: list[bytes]) -> list[bytes]:
    """The complete subtrees that the leaves make up, widest first (4.2)."""
    found: list[tuple[int, bytes]] = []
    for leaf in leaves:
        width, node = 1, leaf
        while found and found[-1][0] == width:
            node, width = sha256(b"\x01" + found.pop()[1] + node), 2 * width
        found.append((width, node))
    return [node for _, node in found]


def root_of(leaves: list[bytes]) -> bytes:
    nodes = subtrees(leaves)
    root = nodes.pop() if nodes else sha256(b"")
    while nodes:
        root = sha256(b"\x01" + nodes.pop() + root)
    return root


def tiles_of(leaves: list[bytes]) -> dict[tuple[int, int], bytes]:
    tiles: dict[tuple[int, int], bytes] = {}
    level, hashes = 0, leaves
    while len(hashes) >= 256 or (level and hashes):
        full = [hashes[i : i + 256] for i in range(0, len(hashes), 256)]
        kept = full if level else [t for t in full if len(t) == 256]
        tiles.update({(level, i): b"".join(tile) for i, tile in enumerate(kept)})
        hashes = [root_of(tile) for tile in full if len(tile) == 256]
        level += 1
    return tiles


def checkpoint(note: str, vkey: str) -> tuple[int, bytes]:
    """Size and root that a note states, signed by the key (4.3)."""
    origin, _, encoded = vkey.split("+", 2)
    key = b64decode(encoded)
    key_id = sha256(origin.encode() + b"\n" + key)[:4]
    text, _, signatures = note.rpartition("\n\n")
    named, size, root = text.split("\n")[:3]
    for line in signatures.splitlines():
        dash, name, blob = line.split(" ")
        raw = b64decode(blob)
        if (dash, name, raw[:4]) == ("\u2014", origin, key_id) and named == origin:
            Ed25519PublicKey.from_public_bytes(key[1:]).verify(raw[4:], f"{text}\n".encode())
            return int(size), b64decode(root)
    raise InvalidSignature


def verify(database: Path, pin: dict[str, Any]) -> list[str]:
    """What is wrong with a store; a pin names the key to believe (4.5, without the index)."""
    with closing(connect(database)) as db:
        return problems_of(db, pin)


def problems_of(db: sqlite3.Connection, pin: dict[str, Any]) -> list[str]:
    problems: list[str] = []
    rows = db.execute("SELECT seq, body FROM record ORDER BY seq").fetchall()
    problems += [f"record {seq}" for seq, body in rows if not isinstance(body, bytes)]
    if problems:
        return problems
    leaves = [sha256(b"\x00" + body) for _, body in rows]
    payloads = {n: rest for n, *rest in db.execute("SELECT id, seq, data FROM payload")}
    following = 1
    for place, (seq, body) in enumerate(rows):
        try:
            fields = json.loads(body)
            if canonical(fields) != body or fields["v"] != 1 or seq != place:
                raise ValueError
            if (seq == 0) != (fields["k"] == "init"):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            problems.append(f"record {seq}")
            continue
        if seq == 0 and (fields["origin"], fields["vkey"]) != (pin["origin"], pin["vkey"]):
            problems.append("record 0 names another log")
        if seq == 0 and db.execute("SELECT * FROM meta").fetchall() != [
            ("store_id", fields["store"])
        ]:
            problems.append("meta")
        if fields.get("p") and fields["p0"] != following:
            problems.append(f"record {seq}")
        for number, (wanted, key) in enumerate(fields.get("p", ()), following):
            owner, data = payloads.pop(number, (None, b""))
            same = isinstance(data, bytes) and b64u(sha256(data)) == wanted
            if owner != seq or not same or not 0 <= key < len(fields["keys"]):
                problems.append(f"payload {number}")
        following += len(fields.get("p", ()))
    problems += [f"payload {number}" for number in payloads]
    signed: dict[int, bytes] = {}
    for size, note in db.execute("SELECT size, note FROM checkpoint ORDER BY size"):
        try:
            stated, root = checkpoint(note, pin["vkey"])
        except (InvalidSignature, ValueError):
            problems.append(f"signature of checkpoint {size}")
            continue
        signed[size] = root
        if stated != size or size > len(leaves) or root_of(leaves[:size]) != root:
            problems.append(f"checkpoint {size}")
    if not signed or signed.get(pin["size"]) != b64decode(pin["root"]):
        problems.append("pin")
    if db.execute("SELECT id, size, frontier FROM head").fetchall() != [
        (1, len(leaves), b"".join(subtrees(leaves)))
    ]:
        problems.append("head")
    tiles = {(level, i): h for level, i, h in db.execute("SELECT level, idx, hashes FROM tile")}
    if tiles != tiles_of(leaves):
        problems.append("tiles")
    return problems


# -- the cipher (7.1) -----------------------------------------------------------------------------

KEM, SUITE = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"  # RFC 9180, sections 4.1 and 5.1


def expand(key: bytes, info: bytes, length: int) -> bytes:
    block, out = b"", b""
    while len(out) < length:
        block = mac(key, block + info + bytes([len(out) // 32 + 1]))
        out += block
    return out[:length]


def labeled_extract(suite: bytes, salt: bytes, label: bytes, data: bytes) -> bytes:
    return mac(salt, b"HPKE-v1" + suite + label + data)


def labeled_expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return expand(key, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def hpke_open(sealed: bytes, private: bytes, info: bytes) -> bytes:
    ours, theirs = X25519PrivateKey.from_private_bytes(private), sealed[:32]
    shared = ours.exchange(X25519PublicKey.from_public_bytes(theirs))
    both = theirs + ours.public_key().public_bytes_raw()
    secret = labeled_extract(KEM, b"", b"eae_prk", shared)
    secret = labeled_expand(KEM, secret, b"shared_secret", both, 32)
    context = b"\x00" + labeled_extract(SUITE, b"", b"psk_id_hash", b"")
    context += labeled_extract(SUITE, b"", b"info_hash", info)
    secret = labeled_extract(SUITE, secret, b"secret", b"")
    key = labeled_expand(SUITE, secret, b"key", context, 32)
    nonce = labeled_expand(SUITE, secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, sealed[32:], b"")


def padded_length(n: int) -> int:
    if n <= 16:
        return 16
    e = n.bit_length() - 1
    unit = 2 ** (e - e.bit_length())
    return -(-n // unit) * unit


def need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


# -- the reader (5 to 7) --------------------------------------------------------------------------


class Trace:
    """The entries of one trace, joined."""

    def __init__(self) -> None:
        self.artifacts: dict[int, list[Any]] = {}
        self.members: dict[int, list[Any]] = {}
        self.payload: dict[int, int] = {}
        self.gives: dict[str, int] = {}
        self.blocks: list[int] = []  # payloads of attributes
        self.answer = -1

    def read(self, body: dict[str, Any]) -> None:
        for tag, *items in body["e"]:
            if tag == "a":
                number, place, options = items[0], items[5], items[6]
                self.artifacts[number] = items
                self.members[number] = list(options.get("m", ()))
                if place >= 0:
                    self.payload[number] = body["p0"] + place
                elif "g" in options:
                    self.payload[number] = options["g"]
                elif "sh" in options and options["sh"] in self.payload:
                    self.payload[number] = self.payload[options["sh"]]
            elif tag == "M":
                self.members[items[0]] += items[1]
            elif tag == "l" and items[2] == 0:
                self.gives.setdefault(items[0], items[1])
            elif tag == "m":
                self.blocks.append(body["p0"] + items[0])
            elif tag == "f":
                self.answer = items[1]


class Reader:
    """Opens the payloads of a store and puts values together."""

    def __init__(self, database: Path, reader_json: dict[str, Any]) -> None:
        self.db = connect(database)
        self.keys = connect(database.with_name(database.name + "-keys"))
        self.store = bytes.fromhex(reader_json["store_id"])
        self.private = {c: b64decode(k["key"]) for c, k in reader_json["private"].items()}
        self.opened: dict[int, Any] = {}
        self.traces: dict[str, Trace] = {}  # in the order of the log
        for (body,) in self.db.execute("SELECT body FROM record ORDER BY seq"):
            fields = json.loads(body)
            if fields["k"] == "trace":
                self.traces.setdefault(fields["t"], Trace()).read(fields)

    def close(self) -> None:
        self.db.close()
        self.keys.close()

    def payload(self, number: int) -> Any:
        (seq, envelope), *_ = self.db.execute(
            "SELECT seq, data FROM payload WHERE id=?", (number,)
        ).fetchall()
        ((raw,),) = self.db.execute("SELECT body FROM record WHERE seq=?", (seq,)).fetchall()
        body = json.loads(raw)
        place = number - body["p0"]
        digest, at = body["p"][place]
        need(b64u(sha256(envelope)) == digest, "the record names other bytes")
        code, key_number, commitment = body["keys"][at]
        compartment = COMPARTMENTS[code]
        data_key = self.data_key(key_number, compartment, unb64u(commitment))
        scope, n = (body["t"], body["n"]) if body["k"] == "trace" else (body["k"], body["at"])
        context = b"provkeep/1\x00" + self.store
        context += f"\x00{scope}\x00{n}\x00{place}\x00{compartment}".encode()
        info = b"provkeep/payload/1" + len(context).to_bytes(4, "big") + context
        key = expand(data_key, info, 64)
        need(envelope[:32] == sha256(b"provkeep/commitment/1" + key + context), "commitment")
        padded = AESGCM(key[:32]).decrypt(envelope[32:44], envelope[44:], context)
        marked = padded.rstrip(b"\x00")
        need(marked[-1:] == b"\x80" and padded_length(len(marked)) == len(padded), "padding")
        kind, text = marked[:1], marked[1:-1]
        if kind == b"t":
            return text.decode("utf-8", "surrogatepass")
        need(kind == b"j", "neither text nor JSON")
        return unmarked(json.loads(text))

    def data_key(self, number: int, compartment: str, commitment: bytes) -> bytes:
        ((wrapped, eid, theirs, sealed, suite),) = self.keys.execute(
            "SELECT wrapped, eid, compartment, sealed, suite FROM datakey d"
            " JOIN epoch e ON e.id = d.epoch WHERE d.id=?",
            (number,),
        ).fetchall()
        need((theirs, suite) == (compartment, "x25519"), "of another compartment")
        info = b"provkeep/epoch/1" + self.store + compartment.encode() + eid
        epoch = hpke_open(sealed, self.private[compartment], info)
        data_key = aes_key_unwrap(epoch, wrapped)
        need(mac(data_key, b"provkeep/data-key/1") == commitment, "another data key")
        return data_key

    def given(self, tid: str, tag: str) -> tuple[str, int]:
        """The artifact that the latest trace before this one gives under a tag."""
        order = list(self.traces)
        for earlier in reversed(order[: order.index(tid)]):
            if tag in self.traces[earlier].gives:
                return earlier, self.traces[earlier].gives[tag]
        raise ValueError("the earlier trace is not in this store")

    def value(self, tid: str, number: int) -> Any:
        """The value of an artifact (7.3)."""
        trace = self.traces[tid]
        options = trace.artifacts[number][6]
        if "of" in options:
            return text_of(self.value(tid, options["of"]))
        if "b" in options:
            base, place = options["b"]
            return self.value(tid, base)[place]
        if number in trace.payload:
            value = self.filled(tid, number, self.payload(trace.payload[number]))
            if trace.artifacts[number][1] == DOCUMENT:
                scores = self.attributes(tid, "artifacts", number).get("scores", {})
                value["metadata"] = {**value.get("metadata", {}), **scores}
            return value
        if "len" in options:
            return self.value(*self.given(tid, options["ext"]))[: options["len"]]
        out: list[Any] = []
        for member in trace.members[number]:
            if isinstance(member, int):
                out.append(self.value(tid, member))
            else:
                out += self.value(tid, member[0])[member[1] : member[2]]
        return out

    def attributes(self, tid: str, kind: str, number: int) -> dict[str, Any]:
        """What the blocks of a trace say of a run or an artifact (7.2)."""
        trace, out = self.traces[tid], {}
        for block in trace.blocks:
            if block not in self.opened:
                self.opened[block] = self.payload(block)
            out.update(self.opened[block].get(kind, {}).get(str(number), {}))
        return out

    def filled(self, tid: str, number: int, value: Any) -> Any:
        trace = self.traces[tid]
        if isinstance(value, list):
            return [self.filled(tid, number, v) for v in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"$ref"}:
            return self.value(tid, trace.members[number][value["$ref"]])
        if value.keys() == {"$calls"}:
            return [self.value(tid, n) for n in trace.artifacts[number][6]["calls"]]
        if value.keys() == {"$rope"}:
            pieces = [
                p if isinstance(p, str) else text_of(self.value(tid, p[0]))[p[1] : p[2]]
                for p in value["$rope"]
            ]
            return "".join(pieces)
        return {k: self.filled(tid, number, v) for k, v in value.items()}

    def answer(self, tid: str) -> str:
        return text_of(self.value(tid, self.traces[tid].answer))


def unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [unmarked(v) for v in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"$surrogates"}:
        return bytes.fromhex(value["$surrogates"]).decode("utf-8", "surrogatepass")
    if value.keys() == {"$pairs"}:
        return {unmarked(k): unmarked(v) for k, v in value["$pairs"]}
    return {k: unmarked(v) for k, v in value.items()}


def text_of(value: Any) -> str:
    if isinstance(value, dict):
        value = value["page_content"] if "page_content" in value else value["content"]
        if isinstance(value, list):
            value = "".join(b if isinstance(b, str) else b.get("text", "") for b in value)
    need(isinstance(value, str), "it has no text")
    return str(value)


def main(database: str, folder: str) -> int:
    store, keys = Path(database), Path(folder)
    problems = verify(store, json.loads((keys / "pin.json").read_text()))
    print("\n".join(problems) or "verified")
    if not problems:
        with closing(Reader(store, json.loads((keys / "reader.json").read_text()))) as reader:
            for tid, trace in reader.traces.items():
                value = reader.value(tid, trace.answer) if trace.answer >= 0 else None
                print(tid, json.dumps(value))
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
