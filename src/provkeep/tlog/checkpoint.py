"""Signed tree heads: C2SP checkpoints, which are signed notes with Ed25519.

This is the one place of the log that touches a signing key. Nothing here reads a file or a
clock: time stands in the leaves, not in a checkpoint. Follows https://c2sp.org/signed-note and
https://c2sp.org/tlog-checkpoint; a checkpoint that carries no signature is a failure.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from provkeep.errors import CheckpointError

if TYPE_CHECKING:
    from provkeep.tlog.mldsa import SecondKey

KEY_BYTES = 32  # seed and public key, RFC 8032
KEY_ID_BYTES = 4
ROOT_BYTES = 32
MAX_NOTE_CHARS = 1_000_000  # sumdb/note refuses more
MAX_SIGNATURES = 100  # a verifier must accept at least 16

_ED25519 = b"\x01"  # signature type identifier
_SIGNATURE_BYTES = 64
_EM_DASH = "\u2014"
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")  # all below U+0020 but the newline
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line of a note, not yet checked."""

    name: str
    key_id: bytes  # 4 bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head as a note states it; ``verify_checkpoint`` says whether to believe it."""

    origin: str
    size: int
    root: bytes  # 32 bytes
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True, slots=True)
class LogPublicKey:
    """The name of a log and the key it signs with: what a verifier has to know beforehand."""

    origin: str
    key: bytes  # Ed25519 public key, 32 bytes

    def __post_init__(self) -> None:
        if not _is_key_name(self.origin):
            raise ValueError(f"a log's origin has no spaces and no '+', got {self.origin!r}")
        if len(self.key) != KEY_BYTES:
            raise ValueError(f"an Ed25519 public key has {KEY_BYTES} bytes, got {len(self.key)}")

    @property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(origin || 0x0A || 0x01 || key)."""
        return sha256(self.origin.encode() + b"\n" + _ED25519 + self.key).digest()[:KEY_ID_BYTES]

    def vkey(self) -> str:
        """Return the key as one line, ``origin+keyid+base64(0x01 || key)``."""
        return f"{self.origin}+{self.key_id.hex()}+{b64encode(_ED25519 + self.key).decode()}"

    @classmethod
    def from_vkey(cls, text: str) -> LogPublicKey:
        """Read what ``vkey`` wrote.

        Raises:
            CheckpointError: not a verifier key, not Ed25519, or its key id does not belong to it.
        """
        name, hex_id, blob = split_vkey(text)
        if len(blob) != 1 + KEY_BYTES:
            raise CheckpointError(name, "the log key does not read 'origin+keyid+base64'")
        if blob[:1] != _ED25519:
            raise CheckpointError(name, "the log key is not an Ed25519 key (type 1)")
        public = cls(name, blob[1:])
        if hex_id != public.key_id.hex():
            raise CheckpointError(name, f"the log key states id {hex_id!r}, which is not its own")
        return public


class LogKey:
    """The private key that signs a log's checkpoints. Its seed shows in no repr.

    With a second key (``tlog.mldsa``) each checkpoint bears a signature by either.
    """

    __slots__ = ("_private", "public", "second")

    public: LogPublicKey
    second: SecondKey | None

    def __init__(
        self, origin: str, private: Ed25519PrivateKey, second: SecondKey | None = None
    ) -> None:
        if second is not None and second.public.origin != origin:
            raise ValueError("a log's second key is of the same origin")
        self._private, self.second = private, second
        self.public = LogPublicKey(origin, private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, origin: str, second: SecondKey | None = None) -> LogKey:
        """Make a new key for the log ``origin``."""
        return cls(origin, Ed25519PrivateKey.generate(), second)

    @classmethod
    def from_seed(cls, origin: str, seed: bytes, second: SecondKey | None = None) -> LogKey:
        """Rebuild a key from its 32-byte seed (RFC 8032)."""
        return cls(origin, Ed25519PrivateKey.from_private_bytes(seed), second)

    def seed(self) -> bytes:
        """Return the 32 secret bytes, to be kept in a file with mode 0600."""
        return self._private.private_bytes_raw()

    def sign_note(self, text: str) -> str:
        """Sign a text that ends in a newline; returns the note."""
        if not text.endswith("\n") or _CONTROL.search(text):
            raise ValueError("a note's text ends in a newline and holds no control characters")
        blob = self.public.key_id + self._private.sign(text.encode())
        return f"{text}\n{_EM_DASH} {self.public.origin} {b64encode(blob).decode()}\n"

    def sign_checkpoint(self, size: int, root: bytes) -> str:
        """Return the signed note that states ``size`` leaves and ``root`` (32 bytes)."""
        if size < 0 or len(root) != ROOT_BYTES:
            raise ValueError(f"a tree head needs size >= 0 and a 32-byte root, got size {size}")
        note = self.sign_note(f"{self.public.origin}\n{size}\n{b64encode(root).decode()}\n")
        return note if self.second is None else note + self.second.signature_line(size, root)

    def __repr__(self) -> str:
        return f"LogKey(origin={self.public.origin!r}, key_id={self.public.key_id.hex()!r})"


def split_vkey(text: str) -> tuple[str, str, bytes]:
    """Return name, key id in hex and key (its type first) of a verifier key, none of it checked.

    Raises:
        CheckpointError: it does not read ``name+keyid+base64``.
    """
    name, _, rest = text.strip("\n").partition("+")
    hex_id, _, encoded = rest.partition("+")
    blob = _decode_base64(encoded)
    if not _is_key_name(name) or not blob:
        raise CheckpointError(name, "the log key does not read 'origin+keyid+base64'")
    return name, hex_id, blob


def parse_note(note: str) -> tuple[str, tuple[NoteSignature, ...]]:
    """Split a signed note into its text and its signatures, none of them checked.

    Raises:
        CheckpointError: not a signed note; a note without signatures is none.
    """
    if len(note) > MAX_NOTE_CHARS:
        raise CheckpointError(_UNKNOWN, f"the note is longer than {MAX_NOTE_CHARS} characters")
    if _CONTROL.search(note) or not _is_utf8(note):
        raise CheckpointError(_UNKNOWN, "the note holds control characters or is not valid UTF-8")
    head, blank, tail = note.rpartition("\n\n")
    if not blank or not tail:
        raise CheckpointError(_first_line(note), "it is not signed")
    text = head + "\n"
    if not tail.endswith("\n"):
        raise CheckpointError(_first_line(note), "the last signature line is cut off")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise CheckpointError(_first_line(note), f"it has more than {MAX_SIGNATURES} signatures")
    return text, tuple(_parse_signature(line, _first_line(note)) for line in lines)


def verify_note(note: str, public: LogPublicKey) -> str:
    """Return the text of a note that ``public`` signed.

    Signatures of other keys are ignored, as the specification asks; every signature that
    bears this key's name and id must be good.

    Raises:
        CheckpointError: malformed, unsigned, not signed by this key, or altered.
    """
    text, signatures = parse_note(note)
    ours = [s for s in signatures if (s.name, s.key_id) == (public.origin, public.key_id)]
    if not ours:
        signers = ", ".join(f"{s.name}+{s.key_id.hex()}" for s in signatures)
        raise CheckpointError(
            public.origin,
            f"no signature by its key {public.key_id.hex()}, only by {signers}",
        )
    verifier = Ed25519PublicKey.from_public_bytes(public.key)
    for each in ours:
        try:
            verifier.verify(each.signature, text.encode())
        except InvalidSignature as error:
            raise CheckpointError(
                public.origin,
                f"bad signature by key {public.key_id.hex()}: text or key differs",
            ) from error
    return text


def parse_checkpoint(note: str) -> Checkpoint:
    """Read a checkpoint without checking who signed it.

    Raises:
        CheckpointError: malformed, or without any signature.
    """
    text, signatures = parse_note(note)
    lines = text[:-1].split("\n")
    origin = lines[0]
    if len(lines) < 3 or not all(lines):
        raise CheckpointError(origin, "it needs three lines, none empty: origin, size, root")
    if not _SIZE.fullmatch(lines[1]):
        raise CheckpointError(origin, f"its size is not a plain decimal number: {lines[1][:40]!r}")
    root = _decode_base64(lines[2])
    if root is None or len(root) != ROOT_BYTES:
        raise CheckpointError(origin, f"its root is not {ROOT_BYTES} bytes in base64")
    return Checkpoint(origin, int(lines[1]), root, signatures)


def verify_checkpoint(note: str, public: LogPublicKey) -> Checkpoint:
    """Return the tree head that this log signed.

    Args:
        note: the checkpoint as it was published.
        public: the log's key, known from a pin or a person, never from beside the note.

    Raises:
        CheckpointError: malformed, of another log, not signed by this key, or altered.
    """
    checkpoint = parse_checkpoint(note)
    if checkpoint.origin != public.origin:
        raise CheckpointError(public.origin, f"it is of another log, {checkpoint.origin!r}")
    verify_note(note, public)
    return checkpoint


def _parse_signature(line: str, origin: str) -> NoteSignature:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    blob = _decode_base64(encoded)
    if dash != _EM_DASH or not _is_key_name(name) or blob is None or len(blob) <= KEY_ID_BYTES:
        raise CheckpointError(origin, "a signature line does not read '\u2014 name base64'")
    return NoteSignature(name, blob[:KEY_ID_BYTES], blob[KEY_ID_BYTES:])


def _is_key_name(name: str) -> bool:
    """A key name is not empty and has no Unicode space, control character or plus."""
    if not name or "+" in name or not _is_utf8(name):
        return False
    return not any(c.isspace() or c < " " for c in name)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decode_base64(text: str) -> bytes | None:
    """Decode RFC 4648 section 4 base64; None unless it is the one canonical spelling."""
    try:
        blob = b64decode(text.encode("ascii"), validate=True)
    except ValueError:
        return None
    return blob if b64encode(blob).decode() == text else None


def _first_line(note: str) -> str:
    return note.partition("\n")[0][:200]
