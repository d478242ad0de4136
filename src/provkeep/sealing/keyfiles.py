"""Key files: JSON, private, whole, and where wanted encrypted under a key provider.

A protected file keeps what is public in it in the clear and everything secret in one box:

    "protected": {"provider": name, "settings": {...}, "wrapped": base64, "box": base64}

    box = nonce (12) || AES-256-GCM(secret fields as JSON) || tag (16)

under a random key of 32 bytes that the provider wrapped, with the clear fields as associated data.
A key stands in no message and no repr.
"""

from __future__ import annotations

import json
import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from provkeep.errors import KeyFileError
from provkeep.model.files import PRIVATE, write_whole
from provkeep.sealing import providers

FILE_FORMAT: Final = 1
MAX_FILE_BYTES: Final = 1_000_000
SECRET_FIELDS: Final = frozenset(
    {"log_seed", "log_second_seed", "fingerprint_key", "fingerprints", "private", "seed", "box_key"}
)
PROTECTED: Final = "protected"
NONCE_BYTES: Final = 12
RESTORE: Final = "restore it from a copy; without one, what it protects is lost"
MISSING: Final = "run 'provkeep init', or set PROVKEEP_HOME to the folder that holds the keys"
_POSIX: Final = os.name == "posix"  # Windows keeps other users out by the profile's access list
_CONTEXT: Final = b"provkeep/key-file/1\x00"


def read_text(path: Path, *, allowed: int = PRIVATE, remedy: str = MISSING) -> str:
    """Read a small text file, unless its mode lets other users do more than ``allowed``.

    Raises:
        KeyFileError: missing, unreadable, too large, or open to other users.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if _POSIX and mode & 0o077 & ~allowed:
                raise KeyFileError(
                    str(path),
                    f"is open to other users (mode {mode:04o})",
                    f"run: chmod {allowed:o} '{path}'",
                )
            blob = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise KeyFileError(str(path), "is missing", remedy) from error
    except OSError as error:
        raise KeyFileError(
            str(path), f"cannot be read ({error.strerror})", "make it readable for this user"
        ) from error
    if len(blob) > MAX_FILE_BYTES:
        raise KeyFileError(str(path), "is malformed (far too large)", RESTORE)
    return blob.decode(errors="replace")  # an error would carry the file's bytes along


def read_fields(
    path: Path,
    names: Collection[str],
    *,
    optional: Collection[str] = (),
    remedy: str = MISSING,
) -> dict[str, Any]:
    """Read a key file of exactly these fields, and open it if it is protected.

    Args:
        path: the file.
        names: fields that it must have, besides ``format``.
        optional: fields that it may have.
        remedy: what to do when it is missing.

    Raises:
        KeyFileError: missing, malformed, of another format, or open to other users.
        ProviderError: the provider that protects it is absent, slow, or refuses.
    """
    fields = _parse(read_text(path, remedy=remedy))
    if fields is not None and PROTECTED in fields:
        fields = _opened(path, fields)
    needed = {"format", *names}
    if fields is None or not needed <= fields.keys() <= needed | set(optional):
        problem = f"is malformed (it needs exactly the fields {', '.join(sorted(needed))})"
        raise KeyFileError(str(path), problem, RESTORE)
    if fields["format"] != FILE_FORMAT:
        raise KeyFileError(
            str(path),
            f"is not of format {FILE_FORMAT}, which is all that this version reads",
            "use the version of provkeep that wrote it",
        )
    return fields


def to_text(fields: Mapping[str, Any]) -> str:
    """A key file as it is written."""
    return json.dumps({"format": FILE_FORMAT, **fields}, indent=2, sort_keys=True) + "\n"


def write_fields(path: Path, fields: Mapping[str, Any], *, like: Path | None = None) -> None:
    """Write or replace a key file whole, mode 0600; protected as it was, if it was.

    Args:
        path: the file.
        fields: all of it, besides ``format``.
        like: another key file, whose protection a new file takes.

    Raises:
        KeyFileError: it cannot be written.
        ProviderError: the provider that protects it is absent, slow, or refuses.
    """
    model = path if like is None or path.exists() else like
    old = _parse(read_text(model)) if model.exists() else None
    text = to_text(fields)
    if old is not None and PROTECTED in old:
        said = old[PROTECTED]
        text = _protected(json.loads(text), providers.make(said["provider"], said["settings"]))
    try:
        write_whole(path, text)
    except OSError as error:
        raise KeyFileError(
            str(path), f"cannot be written ({error.strerror})", "make its folder writable"
        ) from error


def change_fields(path: Path, changes: Mapping[str, Any]) -> None:
    """Exchange some fields of a key file, which stays protected as it is.

    Raises:
        KeyFileError: it cannot be read or written, or is malformed.
        ProviderError: the provider that protects it is absent, slow, or refuses.
    """
    fields = _parse(read_text(path))
    if fields is None:
        raise KeyFileError(str(path), "is malformed", RESTORE)
    if PROTECTED in fields:
        fields = _opened(path, fields)
    write_fields(path, {**{k: v for k, v in fields.items() if k != "format"}, **changes})


def protect(path: Path, provider: providers.Provider | None) -> tuple[str, ...]:
    """Encrypt the secrets of a key file under a provider, or store them plainly with None.

    Returns:
        The names of the fields that are secret.

    Raises:
        KeyFileError: it is not a key file, or cannot be written.
        ProviderError: a provider, old or new, is absent, slow, or refuses.
    """
    fields = _parse(read_text(path))
    if fields is not None and PROTECTED in fields:
        fields = _opened(path, fields)
    secrets = sorted(SECRET_FIELDS & fields.keys()) if fields is not None else []
    if fields is None or not secrets:
        raise KeyFileError(str(path), "is no key file of provkeep", "name one with private keys")
    text = to_text(fields) if provider is None else _protected(fields, provider)
    try:
        write_whole(path, text)
    except OSError as error:
        raise KeyFileError(
            str(path), f"cannot be written ({error.strerror})", "make its folder writable"
        ) from error
    return tuple(secrets)


def _parse(text: str) -> dict[str, Any] | None:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None  # a JSONDecodeError carries the whole document: it must not be chained
    return fields if isinstance(fields, dict) else None


def _context(clear: Mapping[str, Any]) -> bytes:
    """What the provider's key is for: this store's, or this person's, file."""
    whose = clear.get("store_id") or clear.get("name") or clear.get("kind") or ""
    return _CONTEXT + str(whose).encode("utf-8", "surrogatepass")[:64]


def _authenticated(clear: Mapping[str, Any]) -> bytes:
    return json.dumps(clear, sort_keys=True, separators=(",", ":")).encode()


def _protected(fields: Mapping[str, Any], provider: providers.Provider) -> str:
    clear = {k: v for k, v in fields.items() if k not in SECRET_FIELDS}
    secret = {k: v for k, v in fields.items() if k in SECRET_FIELDS}
    key, nonce = os.urandom(32), os.urandom(NONCE_BYTES)
    sealed = AESGCM(key).encrypt(nonce, json.dumps(secret).encode(), _authenticated(clear))
    said = {
        "provider": provider.name,
        "wrapped": b64encode(provider.wrap(key, _context(clear))).decode(),
        "settings": dict(provider.settings),
        "box": b64encode(nonce + sealed).decode(),
    }
    return to_text({**clear, PROTECTED: said})


def _opened(path: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    said = fields[PROTECTED]
    clear = {k: v for k, v in fields.items() if k != PROTECTED}
    try:
        if not isinstance(said, dict) or not isinstance(said["settings"], dict):
            raise ValueError("protected must say provider, settings, wrapped and box")
        wrapped = b64decode(said["wrapped"], validate=True)
        box = b64decode(said["box"], validate=True)
        settings = {str(k): str(v) for k, v in said["settings"].items()}
        name = str(said["provider"])
    except (ValueError, KeyError, TypeError) as error:
        raise KeyFileError(
            str(path), f"is malformed ({type(error).__name__} in 'protected')", RESTORE
        ) from None
    key = providers.make(name, settings).unwrap(wrapped, _context(clear))
    try:
        text = AESGCM(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], _authenticated(clear))
    except (InvalidTag, ValueError):
        raise KeyFileError(
            str(path), "was altered since it was protected (its box does not open)", RESTORE
        ) from None
    return {**clear, **json.loads(text)}
