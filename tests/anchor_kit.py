"""Anchors on this machine: a witness, an authority that stamps times, and servers that misbehave.

The witness is written from the C2SP specification with ``cryptography`` alone; the authority is
``openssl ts``. Servers listen on loopback, on a port that is free.
"""

import shutil
import subprocess
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provkeep.errors import ProofError
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.anchorbook import AnchorBook
from provkeep.tlog.checkpoint import LogKey
from provkeep.tlog.heads import View
from provkeep.tlog.log import Log
from provkeep.tlog.merkle import check_consistency
from provkeep.tlog.pin import Pin
from provkeep.tlog.rounds import Outcome, offer_all, unrecorded
from tests.reading.forging import KEY

Reply = tuple[int, str, bytes]


class Server:
    """Answers POSTs with what a function says."""

    def __init__(self, reply: Callable[[str, bytes], Reply | None]) -> None:
        self.requests: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append(body)
                answer = reply(self.path, body)
                if answer is None:
                    self.close_connection = True
                    return
                status, kind, data = answer
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@dataclass
class Witness:
    """What a C2SP witness does, and how it can be made to lie."""

    name: str = "witness.example.org/w1"
    seed: bytes = bytes([7]) * 32
    at: int = 1_700_000_000
    seen: tuple[int, bytes] = (0, sha256(b"").digest())
    broken: str = ""
    cosigned: threading.Event = field(default_factory=threading.Event)

    @property
    def key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @property
    def vkey(self) -> str:
        public = b"\x04" + self.key.public_key().public_bytes_raw()
        key_id = sha256(self.name.encode() + b"\n" + public).digest()[:4]
        return f"{self.name}+{key_id.hex()}+{b64encode(public).decode()}"

    def cosign(self, note: str, at: int | None = None) -> str:
        text = note.rpartition("\n\n")[0] + "\n"
        at = self.at if at is None else at
        signature = self.key.sign(f"cosignature/v1\ntime {at}\n{text}".encode())
        key_id = bytes.fromhex(self.vkey.split("+")[1])
        blob = key_id + at.to_bytes(8, "big") + signature
        return f"\u2014 {self.name} {b64encode(blob).decode()}\n"

    def reply(self, path: str, body: bytes) -> Reply:
        if self.broken == "status":
            return 503, "text/plain", b""
        asked, _, note = body.decode().partition("\n\n")
        first, *hashes = asked.split("\n")
        origin, size, root = note.split("\n")[:3]
        old, new, head = int(first.removeprefix("old ")), int(size), b64decode(root)
        if path != "/add-checkpoint" or origin != KEY.public.origin:
            return 404, "text/plain", b""
        if old != self.seen[0]:
            return 409, "text/x.tlog.size", f"{self.seen[0]}\n".encode()
        try:
            check_consistency(old, self.seen[1], new, head, [b64decode(h) for h in hashes])
        except ProofError:
            return 422, "text/plain", b""
        self.seen = new, head
        lines = self.cosign(note)
        if self.broken == "signature":
            lines = self.cosign(note.replace(size, str(new + 1)))
        if self.broken == "stranger":
            lines = Witness(name="other.example.org/w", seed=bytes(32)).cosign(note)
        if self.broken == "huge":
            lines = lines * 1000
        self.cosigned.set()
        return 200, "text/plain", lines.encode()


@contextmanager
def served(witness: Witness) -> Iterator[Server]:
    with closing(Server(witness.reply)) as server:
        yield server


@contextmanager
def hanging() -> Iterator[tuple[Server, threading.Event]]:
    """A server that takes a request and says nothing until the test is over."""
    asked, over = threading.Event(), threading.Event()

    def reply(path: str, body: bytes) -> None:
        asked.set()
        over.wait(120)

    with closing(Server(reply)) as server:
        try:
            yield server, asked
        finally:
            over.set()


_CONFIG = """
[tsa]
default_tsa = local
[local]
serial = serial
signer_cert = tsa.pem
signer_key = tsa.key
default_policy = 1.2.3.4
signer_digest = sha256
digests = sha256, sha512
ess_cert_id_alg = sha256
[extensions]
basicConstraints = CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
"""


@dataclass(frozen=True)
class Authority:
    """A time-stamping authority made with openssl."""

    folder: Path

    @property
    def certificates(self) -> str:
        return (self.folder / "ca.pem").read_text()

    def openssl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["openssl", *words], cwd=self.folder, capture_output=True, text=True, check=False
        )

    def stamp(self, query: bytes) -> bytes:
        name = sha256(query).hexdigest()
        (self.folder / f"{name}.tsq").write_bytes(query)
        done = self.openssl(
            *("ts", "-reply", "-config", "tsa.cnf"),
            *("-queryfile", f"{name}.tsq", "-out", f"{name}.tsr"),
        )
        assert done.returncode == 0, done.stderr
        return (self.folder / f"{name}.tsr").read_bytes()

    def reply(self, path: str, body: bytes) -> Reply:
        return 200, "application/timestamp-reply", self.stamp(body)


def make_authority(folder: Path) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, so there is no authority to ask")
    pytest.importorskip("rfc3161_client")
    folder.mkdir()
    (folder / "tsa.cnf").write_text(_CONFIG)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch"]
    authority = Authority(folder)
    for words in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=root"],
        ["req", *key, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", "/CN=stamps"],
        [
            "x509",
            "-req",
            "-in",
            "tsa.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-out",
            "tsa.pem",
            "-days",
            "30",
            "-extfile",
            "tsa.cnf",
            "-extensions",
            "extensions",
        ],
    ):
        done = authority.openssl(*words)
        assert done.returncode == 0, done.stderr
    return authority


def submit(path: Path, book: AnchorBook, key: LogKey = KEY) -> list[Outcome]:
    """One round, without waiting between attempts."""
    with closing(SqliteStore(path, read_only=True)) as store:
        return offer_all(
            book,
            View(store.query),
            key.public,
            now_us=lambda: time.time_ns() // 1000,
            pause=lambda _: False,
        )


def anchor_and_record(path: Path, book: AnchorBook, key: LogKey = KEY) -> Pin:
    """One round in which nothing may fail; its proofs are recorded and signed."""
    outcomes = submit(path, book, key)
    assert all(each.proof is not None for each in outcomes), outcomes
    with closing(SqliteStore(path)) as store:
        log = Log(store)
        waiting = unrecorded(book)
        log.append(waiting.values())
        pin = log.checkpoint(key)
    for name in waiting:
        book.remember(name, recorded=True)
    return pin
