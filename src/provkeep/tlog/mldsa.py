"""A log's second key: ML-DSA-44 beside Ed25519, so that whoever breaks one has to break the other.

The log cosigns its own checkpoints, in the same name, as https://c2sp.org/tlog-checkpoint
recommends. Follows https://c2sp.org/tlog-cosignature, type 0x06; time is 0, which states none. The
key stays the same when the log changes its Ed25519 key.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from provkeep.errors import CheckpointError, LogKeyError
from provkeep.tlog.checkpoint import (
    KEY_ID_BYTES,
    ROOT_BYTES,
    LogKey,
    LogPublicKey,
    parse_checkpoint,
    split_vkey,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

ED25519: Final = "ed25519"
HYBRID: Final = "hybrid"  # Ed25519 and ML-DSA-44
LOG_SUITES: Final = (ED25519, HYBRID)
SEED_BYTES: Final = 32
PUBLIC_BYTES: Final = 1312  # FIPS 204, table 2
SIGNATURE_BYTES: Final = 2420

_TYPE: Final = b"\x06"  # signature type identifier
_TIME_BYTES: Final = 8
_MAX_SECONDS: Final = 2**63 - 1
_LABEL: Final = b"subtree/v1\n\x00"
_MAX_NAME: Final = 255  # its length is one byte
_EM_DASH: Final = "\u2014"


@dataclass(frozen=True, slots=True)
class SecondPublicKey:
    """What a verifier knows beforehand, to hold a log's checkpoints against."""

    origin: str
    key: bytes  # ML-DSA-44 public key, 1312 bytes

    def __post_init__(self) -> None:
        if not 0 < len(self.origin.encode()) <= _MAX_NAME:
            raise ValueError(f"the origin of a second key has 1 to {_MAX_NAME} bytes")
        if len(self.key) != PUBLIC_BYTES:
            raise ValueError(
                f"an ML-DSA-44 public key has {PUBLIC_BYTES} bytes, got {len(self.key)}"
            )

    @property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(origin || 0x0A || 0x06 || key)."""
        return sha256(self.origin.encode() + b"\n" + _TYPE + self.key).digest()[:KEY_ID_BYTES]

    def vkey(self) -> str:
        """Return the key as one line, ``origin+keyid+base64(0x06 || key)``."""
        return f"{self.origin}+{self.key_id.hex()}+{b64encode(_TYPE + self.key).decode()}"

    @classmethod
    def from_vkey(cls, text: str) -> SecondPublicKey:
        """Read what ``vkey`` wrote.

        Raises:
            CheckpointError: not a verifier key, not ML-DSA-44, or its key id is not its own.
        """
        name, hex_id, blob = split_vkey(text)
        if blob[:1] != _TYPE:
            raise CheckpointError(name, "the second key is not an ML-DSA-44 key (type 6)")
        try:
            public = cls(name, blob[1:])
        except ValueError as error:
            raise CheckpointError(name, str(error)) from error
        if hex_id != public.key_id.hex():
            raise CheckpointError(
                name, f"the second key states id {hex_id!r}, which is not its own"
            )
        return public


class SecondKey:
    """The private ML-DSA-44 key of a log. Its seed shows in no repr."""

    __slots__ = ("_private", "public")

    public: SecondPublicKey

    def __init__(self, origin: str, private: MLDSA44PrivateKey) -> None:
        self._private = private
        self.public = SecondPublicKey(origin, private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, origin: str) -> SecondKey:
        """Make a new second key for the log ``origin``.

        Raises:
            LogKeyError: the installed cryptography has no ML-DSA.
        """
        require(origin)
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

        return cls(origin, MLDSA44PrivateKey.generate())

    @classmethod
    def from_seed(cls, origin: str, seed: bytes) -> SecondKey:
        """Rebuild a key from its 32-byte seed (FIPS 204, section 5.1).

        Raises:
            LogKeyError: the installed cryptography has no ML-DSA.
        """
        require(origin)
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

        return cls(origin, MLDSA44PrivateKey.from_seed_bytes(seed))

    def seed(self) -> bytes:
        """Return the 32 secret bytes, to be kept in a file with mode 0600."""
        return self._private.private_bytes_raw()

    def signature_line(self, size: int, root: bytes) -> str:
        """Return the signature line under ``size`` leaves and ``root`` (32 bytes)."""
        origin = self.public.origin
        signature = self._private.sign(cosigned_message(origin, 0, origin, size, root))
        blob = self.public.key_id + bytes(_TIME_BYTES) + signature
        return f"{_EM_DASH} {origin} {b64encode(blob).decode()}\n"

    def __repr__(self) -> str:
        return f"SecondKey(origin={self.public.origin!r}, key_id={self.public.key_id.hex()!r})"


@dataclass(frozen=True, slots=True)
class LogKeys:
    """The public keys of a log, told apart by their type."""

    ed25519: tuple[LogPublicKey, ...]  # the oldest first
    second: SecondPublicKey | None = None

    def vkeys(self) -> str:
        """Return them one a line, the second key last."""
        second = () if self.second is None else (self.second,)
        return "\n".join(each.vkey() for each in (*self.ed25519, *second))


def read_keys(text: str) -> LogKeys:
    """Read verifier keys, one a line, such as ``log.pub`` holds them.

    Raises:
        CheckpointError: a line is no verifier key of type 1 or 6, two second keys stand there, or
            the second key is of another log.
        LogKeyError: there is a second key, and the installed cryptography cannot check with it.
    """
    keys: list[LogPublicKey] = []
    second: SecondPublicKey | None = None
    for line in text.strip("\n").split("\n"):
        if split_vkey(line)[2][:1] != _TYPE:
            keys.append(LogPublicKey.from_vkey(line))
            continue
        found = SecondPublicKey.from_vkey(line)
        if second not in (None, found):
            raise CheckpointError(found.origin, "two second keys (type 6) are named")
        second = found
    if second is not None:
        if any(each.origin != second.origin for each in keys):
            raise CheckpointError(second.origin, "the second key is of another log")
        require(second.origin)
    return LogKeys(tuple(keys), second)


def second_lines(text: str) -> list[str]:
    """Return those of some lines that are verifier keys of type 6, not looked at any closer."""
    found = []
    for line in text.split("\n"):
        try:
            if split_vkey(line)[2][:1] == _TYPE:
                found.append(line)
        except CheckpointError:
            continue
    return found


def log_key(origin: str, seed: bytes, second_seed: bytes | None) -> LogKey:
    """Rebuild a log's key, with its second key where there is one.

    Raises:
        LogKeyError: there is one, and the installed cryptography has no ML-DSA.
    """
    second = None if second_seed is None else SecondKey.from_seed(origin, second_seed)
    return LogKey.from_seed(origin, seed, second)


def verify_second(note: str, public: SecondPublicKey) -> None:
    """Check that a log's second key signed a checkpoint.

    Every signature that bears this key's name and id must be good, and there must be one.

    Raises:
        CheckpointError: malformed, of another log, not signed by this key, or altered.
        LogKeyError: the installed cryptography has no ML-DSA.

    Source: https://c2sp.org/tlog-cosignature, "ML-DSA-44 signed message".
    """
    require(public.origin)
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

    stated = parse_checkpoint(note)
    if stated.origin != public.origin:
        raise CheckpointError(public.origin, f"it is of another log, {stated.origin!r}")
    known = public.origin, public.key_id
    ours = [s.signature for s in stated.signatures if (s.name, s.key_id) == known]
    named = f"its second key {public.key_id.hex()} (ML-DSA-44)"
    if not ours:
        raise CheckpointError(public.origin, f"no signature by {named}")
    for blob in ours:
        seconds = int.from_bytes(blob[:_TIME_BYTES], "big")
        if len(blob) != _TIME_BYTES + SIGNATURE_BYTES or seconds > _MAX_SECONDS:
            raise CheckpointError(public.origin, f"the signature by {named} is malformed")
        message = cosigned_message(public.origin, seconds, stated.origin, stated.size, stated.root)
        try:
            verifier = MLDSA44PublicKey.from_public_bytes(public.key)
            verifier.verify(blob[_TIME_BYTES:], message)
        except (InvalidSignature, ValueError) as error:
            problem = f"bad signature by {named}: size, root or key differs"
            raise CheckpointError(public.origin, problem) from error


def cosigned_message(name: str, seconds: int, origin: str, size: int, root: bytes) -> bytes:
    """Return what is signed of a tree head.

    Args:
        name: the cosigner's, 1 to 255 bytes.
        seconds: since 1970, or 0 for no statement of time.
        origin: the log's, 1 to 255 bytes.
        size: leaves.
        root: over them, 32 bytes.
    """
    if len(root) != ROOT_BYTES:
        raise ValueError(f"a root has {ROOT_BYTES} bytes, got {len(root)}")
    who, log = name.encode(), origin.encode()
    return b"".join(
        (
            _LABEL,
            len(who).to_bytes(1, "big") + who,
            seconds.to_bytes(8, "big"),
            len(log).to_bytes(1, "big") + log,
            bytes(8),  # start: a checkpoint's tree begins at leaf 0
            size.to_bytes(8, "big"),
            root,
        )
    )


def require(origin: str) -> None:
    """Raise unless ML-DSA-44 is there.

    Raises:
        LogKeyError: it is not; says what to install.
    """
    if not _supported():
        raise LogKeyError(
            origin,
            "its second key is of ML-DSA-44, which the installed `cryptography` does not have:"
            " run `pip install --upgrade cryptography`",
        )


@cache
def _supported() -> bool:
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

        MLDSA44PrivateKey.from_seed_bytes(bytes(SEED_BYTES))  # a build may have the name only
    except (ImportError, UnsupportedAlgorithm):
        return False
    return True
