"""The keyring of the operating system: Keychain, Credential Manager, Secret Service."""

from __future__ import annotations

import os
import secrets
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Final

from provkeep.errors import MissingExtraError, ProviderError
from provkeep.sealing.providers.base import KEY_BYTES, only, patience, sign_locally, within
from provkeep.sealing.providers.local import _decoded, unwrap_with, wrap_with

SERVICE: Final = "provkeep"


class KeyringProvider:
    """A key of 32 bytes in the user's keyring, made when something is wrapped first.

    A keyring may ask a person to unlock it; it has ``patience_s`` seconds for that.
    """

    name = "keyring"

    def __init__(self, settings: Mapping[str, str]) -> None:
        only(settings, "account")
        self._patience_s = patience(settings)
        account = settings.get("account") or f"key-{secrets.token_hex(8)}"
        self.settings = {**settings, "account": account}

    def _ask(self, question: str, *words: str) -> Any:
        try:
            import keyring
        except ImportError as error:
            raise MissingExtraError("keyring", "keyring") from error

        try:
            return within(
                self._patience_s,
                "keyring",
                lambda: getattr(keyring, question)(SERVICE, self.settings["account"], *words),
            )
        except keyring.errors.KeyringError as error:
            raise ProviderError(
                "keyring",
                f"it refuses or there is none ({type(error).__name__})",
                "unlock it; on a machine without a desktop use another provider",
            ) from error

    def _master(self) -> bytes:
        found = self._ask("get_password")
        if found is None:
            raise ProviderError(
                "keyring",
                f"it holds no key {SERVICE}/{self.settings['account']}",
                "use the account and machine on which it was protected",
            )
        return _decoded("keyring", found, f"{SERVICE}/{self.settings['account']}")

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See ``Provider``."""
        if self._ask("get_password") is None:
            self._ask("set_password", b64encode(os.urandom(KEY_BYTES)).decode())
        return wrap_with(self._master(), key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See ``Provider``."""
        return unwrap_with("keyring", self._master(), wrapped, context)

    def sign(self, wrapped: bytes, message: Mapping[str, object], context: bytes) -> bytes:
        """See ``Provider``."""
        return sign_locally(self, wrapped, message, context)
