"""Readers: people and offices with a key pair of their own.

A principal has an X25519 (or hybrid) key, to which grants are sealed, and an Ed25519 key, with
which every access is signed. What is public of it is one line,

    <name>+<id in hex>+<base64 of (0x01 || Ed25519 key (32) || encryption key)>

and its id is the first 12 bytes of SHA-256("provkeep/principal/1" || Ed25519 key || encryption
key): a line whose name was changed names the same principal, one whose keys were is another.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from provkeep.errors import KeyFileError, SealingError
from provkeep.model.files import write_whole
from provkeep.sealing import keyfiles, signing, suites

KIND: Final = "principal"
ID_BYTES: Final = 12
PUBLIC_SUFFIX: Final = ".pub"
IDENTITY: Final = "identity.json"
LONGEST_NAME: Final = 256  # characters
_PREFIX: Final = b"provkeep/principal/1"
_ALGORITHM: Final = b"\x01"
_BY_LENGTH: Final = {kind.public_bytes: name for name, kind in suites.SUITES.items()}


@dataclass(frozen=True, slots=True)
class PublicPrincipal:
    """What others know of a principal."""

    name: str
    verify_key: bytes  # Ed25519, 32 bytes
    box_key: bytes  # X25519, 32 bytes, or hybrid, 1216 bytes

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > LONGEST_NAME or not self.name.isprintable():
            raise ValueError(f"a name has 1 to {LONGEST_NAME} printable characters")
        if len(self.verify_key) != signing.PUBLIC_BYTES or len(self.box_key) not in _BY_LENGTH:
            raise ValueError("a principal has an Ed25519 key and one to seal to")

    @property
    def id(self) -> bytes:
        """12 bytes that stand for these keys."""
        return sha256(_PREFIX + self.verify_key + self.box_key).digest()[:ID_BYTES]

    @property
    def suite(self) -> str:
        """The suite that is sealed with."""
        return _BY_LENGTH[len(self.box_key)]

    def line(self) -> str:
        """One line to hand on; ``from_line`` reads it."""
        keys = b64encode(_ALGORITHM + self.verify_key + self.box_key).decode()
        return f"{self.name}+{self.id.hex()}+{keys}"

    @classmethod
    def from_line(cls, text: str) -> PublicPrincipal:
        """Read what ``line`` gave.

        Raises:
            SealingError: it is not one, or its id does not fit its keys.
        """
        try:
            # base64 may hold "+", and so may the name of a person
            parts = text.strip().split("+")
            at = next(i for i, part in enumerate(parts) if i and _is_id(part))
            blob = b64decode("+".join(parts[at + 1 :]), validate=True)
            if blob[:1] != _ALGORITHM:
                raise ValueError("unknown algorithm")
            found = cls("+".join(parts[:at]), blob[1:33], blob[33:])
            if found.id.hex() != parts[at]:
                raise ValueError("the id does not fit the keys")
        except (ValueError, StopIteration) as error:
            raise SealingError(
                f"this is not a principal's public key ({error or 'it has no id'}); it is the one"
                " line that `provkeep keys new` wrote into a .pub file"
            ) from error
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A principal with its private keys. They show in no repr."""

    public: PublicPrincipal
    seed: bytes = field(repr=False)  # Ed25519, 32 bytes
    box_key: bytes = field(repr=False)  # raw, of the suite

    def __post_init__(self) -> None:
        mine = signing.verifying_key(self.seed), suites.public_of(self.box_key)
        if mine != (self.public.verify_key, self.public.box_key):
            raise ValueError("the private keys do not belong to the public ones")

    @property
    def name(self) -> str:
        """Its name, as it says itself."""
        return self.public.name


def new_principal(name: str, suite: str = suites.SUITE) -> Principal:
    """Make a key pair for a reader.

    Args:
        name: who it is, such as an address; stands sealed in grants and accesses.
        suite: of ``suites.SUITES``.
    """
    seed, box = signing.new_seed(), suites.generate(suite)
    public = PublicPrincipal(name, signing.verifying_key(seed), suites.public_of(box))
    return Principal(public=public, seed=seed, box_key=box)


def write_principal(principal: Principal, path: Path) -> Path:
    """Write the key file (0600), and beside it the public line; returns the latter's path.

    Raises:
        KeyFileError: there is such a file already, or it cannot be written.
    """
    public = path.with_name(path.name + PUBLIC_SUFFIX)
    for each in (path, public):
        if each.exists():
            raise KeyFileError(str(each), "is there already", "name another; keys stay as they are")
    try:
        write_whole(path, keyfiles.to_text(_fields(principal)))
        write_whole(public, principal.public.line() + "\n", 0o644)
    except OSError as error:
        raise KeyFileError(
            str(path), f"cannot be written ({error.strerror})", "name a folder that can"
        ) from error
    return public


def _fields(principal: Principal) -> dict[str, Any]:
    return {
        "kind": KIND,
        "name": principal.name,
        "public": principal.public.line(),
        "seed": b64encode(principal.seed).decode(),
        "box_key": b64encode(principal.box_key).decode(),
    }


def read_principal(path: str | os.PathLike[str]) -> Principal:
    """Read a principal's key file.

    Raises:
        KeyFileError: missing, malformed, or open to other users.
        ProviderError: the provider that protects it is absent, slow, or refuses.
    """
    where = Path(path)
    fields = keyfiles.read_fields(
        where,
        {"kind", "name", "public", "seed", "box_key"},
        remedy="name the key file that `provkeep keys new` wrote",
    )
    try:
        public = PublicPrincipal.from_line(fields["public"])
        found = Principal(
            public=public,
            seed=b64decode(fields["seed"], validate=True),
            box_key=b64decode(fields["box_key"], validate=True),
        )
        if fields["kind"] != KIND or fields["name"] != public.name:
            raise ValueError("it is not a principal's")
    except (ValueError, TypeError, AttributeError, SealingError) as error:
        raise KeyFileError(
            str(where), f"is malformed ({error})", "restore it from a copy, or ask for a new grant"
        ) from error
    return found


def own_identity(home: Path, name: str) -> Principal:
    """The key pair of whoever reads with the keys in this home; made when there is none.

    Raises:
        KeyFileError: it is malformed, open to other users, or cannot be written.
    """
    path = home / IDENTITY
    if not path.exists():
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = new_principal(name)
            write_whole(path, keyfiles.to_text(_fields(made)), replace=False)
        except FileExistsError:
            pass  # another process was faster
        except OSError as error:
            raise KeyFileError(
                str(path),
                f"cannot be written ({error.strerror})",
                "make its folder writable: every access is signed with this key",
            ) from error
    return read_principal(path)


def _is_id(text: str) -> bool:
    return len(text) == 2 * ID_BYTES and all(c in "0123456789abcdef" for c in text)
