"""Providers that need no one else: a key file, an environment variable, a passphrase.

Each comes down to a key of 32 bytes. With the context it gives a wrapping key (HKDF-Expand,
RFC 5869, section 2.3), and that wraps by RFC 3394, so that what was wrapped for one thing does not
unwrap for another.
"""

from __future__ import annotations

import os
import stat
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from provkeep.errors import ProviderError
from provkeep.sealing.envelope import hkdf_expand
from provkeep.sealing.providers.base import KEY_BYTES, check_key, only, sign_locally

SALT_BYTES: Final = 16
# RFC 9106, section 4, second recommended option: 64 MiB, three passes, four lanes
MEMORY_KIB: Final = 65_536
PASSES: Final = 3
LANES: Final = 4
SHORTEST: Final = 12  # characters of a passphrase
_INFO: Final = b"provkeep/provider/1"


def wrap_with(master: bytes, key: bytes, context: bytes) -> bytes:
    """Wrap a key of 32 bytes for one context; returns 40 bytes."""
    return aes_key_wrap(hkdf_expand(master, _INFO + context, KEY_BYTES), check_key(key))


def unwrap_with(name: str, master: bytes, wrapped: bytes, context: bytes) -> bytes:
    """Unwrap what ``wrap_with`` gave.

    Raises:
        ProviderError: another master key or context, or it was altered.
    """
    try:
        return aes_key_unwrap(hkdf_expand(master, _INFO + context, KEY_BYTES), wrapped)
    except (InvalidUnwrap, ValueError) as error:
        raise ProviderError(
            name,
            "the key does not unwrap: it was wrapped elsewhere or for something else, or altered",
            "use the key or passphrase that it was protected with",
        ) from error


class FileProvider:
    """A file with 32 bytes, base64, mode 0600; made when it is not there and something is wrapped.

    It protects when it is elsewhere than what it protects: on a medium that is taken out, or in a
    folder that an orchestrator mounts.
    """

    name = "file"

    def __init__(self, settings: Mapping[str, str]) -> None:
        only(settings, "path")
        self.settings = {"path": str(Path(settings["path"]).absolute())}
        self._path = Path(self.settings["path"])

    def _master(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                blob = file.read(1_000)
        except OSError as error:
            raise ProviderError(
                "file", f"{self._path} cannot be read ({error.strerror})", "mount or restore it"
            ) from error
        if os.name == "posix" and mode & 0o077:
            raise ProviderError(
                "file",
                f"{self._path} is open to other users (mode {mode:04o})",
                f"run: chmod 600 '{self._path}'",
            )
        return _decoded("file", blob.decode("ascii", "replace"), str(self._path))

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See ``Provider``; makes the file if there is none."""
        from base64 import b64encode

        from provkeep.model.files import write_whole

        if not self._path.exists():
            try:
                write_whole(self._path, b64encode(os.urandom(KEY_BYTES)).decode() + "\n")
            except OSError as error:
                raise ProviderError(
                    "file", f"{self._path} cannot be written ({error.strerror})", "name another"
                ) from error
        return wrap_with(self._master(), key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See ``Provider``."""
        return unwrap_with("file", self._master(), wrapped, context)

    def sign(self, wrapped: bytes, message: Mapping[str, object], context: bytes) -> bytes:
        """See ``Provider``."""
        return sign_locally(self, wrapped, message, context)


class EnvironmentProvider:
    """32 bytes in base64 in a variable of the environment, as orchestrators hand out secrets."""

    name = "env"

    def __init__(self, settings: Mapping[str, str]) -> None:
        only(settings, "variable")
        self.settings = {"variable": settings.get("variable", "PROVKEEP_KEY")}

    def _master(self) -> bytes:
        variable = self.settings["variable"]
        value = os.environ.get(variable)
        if value is None:
            raise ProviderError(
                "env", f"{variable} is not set", "set it to 32 random bytes in base64"
            )
        return _decoded("env", value, variable)

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See ``Provider``."""
        return wrap_with(self._master(), key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See ``Provider``."""
        return unwrap_with("env", self._master(), wrapped, context)

    def sign(self, wrapped: bytes, message: Mapping[str, object], context: bytes) -> bytes:
        """See ``Provider``."""
        return sign_locally(self, wrapped, message, context)


class PassphraseProvider:
    """A passphrase, made into a key by Argon2id (RFC 9106: 64 MiB, 3 passes, 4 lanes).

    It is read from a variable of the environment; the command line asks for it and sets it for
    itself. A salt of 16 bytes stands before each wrapped key.
    """

    name = "passphrase"

    def __init__(self, settings: Mapping[str, str]) -> None:
        only(settings, "variable")
        self.settings = {"variable": settings.get("variable", "PROVKEEP_PASSPHRASE")}

    def _master(self, salt: bytes) -> bytes:
        variable = self.settings["variable"]
        said = os.environ.get(variable)
        if not said:
            raise ProviderError("passphrase", f"{variable} is not set", "set it to the passphrase")
        kdf = Argon2id(
            salt=salt, length=KEY_BYTES, iterations=PASSES, lanes=LANES, memory_cost=MEMORY_KIB
        )
        return kdf.derive(said.encode("utf-8", "surrogateescape"))

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See ``Provider``; refuses a passphrase of fewer than 12 characters."""
        if len(os.environ.get(self.settings["variable"], "x" * SHORTEST)) < SHORTEST:
            raise ProviderError(
                "passphrase", f"it has fewer than {SHORTEST} characters", "choose a longer one"
            )
        salt = os.urandom(SALT_BYTES)
        return salt + wrap_with(self._master(salt), key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See ``Provider``."""
        salt, rest = wrapped[:SALT_BYTES], wrapped[SALT_BYTES:]
        if len(salt) < SALT_BYTES:
            raise ProviderError("passphrase", "what it wrapped was cut", "restore it from a copy")
        return unwrap_with("passphrase", self._master(salt), rest, context)

    def sign(self, wrapped: bytes, message: Mapping[str, object], context: bytes) -> bytes:
        """See ``Provider``."""
        return sign_locally(self, wrapped, message, context)


def _decoded(name: str, text: str, where: str) -> bytes:
    """32 bytes of base64; the error shows nothing of them."""
    try:
        return check_key(b64decode(text.strip(), validate=True))
    except ValueError:
        pass
    raise ProviderError(
        name, f"{where} does not hold 32 bytes in base64", "restore it; a new key opens nothing old"
    )
