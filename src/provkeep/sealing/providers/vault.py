"""HashiCorp Vault or OpenBao: their transit engine wraps; a policy says who may unwrap.

The context goes along for derived keys, and its hash is wrapped with the key, so that it counts for
keys that are not derived as well. The token is read from VAULT_TOKEN or BAO_TOKEN.
"""

from __future__ import annotations

import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote, urlsplit

from provkeep.errors import MissingExtraError, ProviderError
from provkeep.sealing.providers.base import check_key, only, patience, sign_locally, within

TOKENS: Final = ("VAULT_TOKEN", "BAO_TOKEN")
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class VaultProvider:
    """A key of the transit engine."""

    name = "vault"

    def __init__(self, settings: Mapping[str, str]) -> None:
        only(settings, "address", "key", "mount")
        self._patience_s = patience(settings)
        address = urlsplit(settings["address"])
        if address.scheme != "https" and address.hostname not in LOOPBACK:
            raise ValueError("address must begin with https://, or name this machine")
        self._url = "/".join(
            (
                settings["address"].rstrip("/"),
                "v1",
                quote(settings.get("mount", "transit").strip("/")),
                "{}",
                quote(settings["key"], safe=""),
            )
        )
        self.settings = dict(settings)

    def _ask(self, question: str, words: Mapping[str, str]) -> Any:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("httpx", "vault") from error
        token = next((os.environ[name] for name in TOKENS if os.environ.get(name)), None)
        if token is None:
            raise ProviderError("vault", "there is no token", f"set {' or '.join(TOKENS)}")

        def ask() -> Any:
            answer = httpx.post(
                self._url.format(question),
                json=dict(words),
                headers={"X-Vault-Token": token},
                timeout=self._patience_s,
                trust_env=False,
            )
            if answer.status_code != 200:
                raise ProviderError(
                    "vault",
                    f"it refuses (HTTP {answer.status_code})",
                    "see the token's policy, the name of the key, and that it is not sealed",
                )
            return answer.json()["data"]

        try:
            return within(self._patience_s, "vault", ask)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ProviderError(
                "vault",
                f"it cannot be asked ({type(error).__name__})",
                "see address and network",
            ) from None  # the request, with its token, hangs on these errors
        except (ValueError, KeyError, TypeError) as error:
            raise ProviderError(
                "vault", "its answer is not one of Vault's", "see address and mount"
            ) from error

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See ``Provider``."""
        plaintext = sha256(context).digest() + check_key(key)
        said = {"plaintext": _b64(plaintext), "context": _b64(context)}
        return str(self._ask("encrypt", said)["ciphertext"]).encode()

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See ``Provider``."""
        said = {"ciphertext": wrapped.decode("ascii", "replace"), "context": _b64(context)}
        try:
            found = b64decode(self._ask("decrypt", said)["plaintext"], validate=True)
        except ValueError:
            found = b""
        if not hmac.compare_digest(found[:32], sha256(context).digest()):
            raise ProviderError(
                "vault",
                "the key was wrapped for something else",
                "use the file that it was protected in",
            )
        return found[32:]

    def sign(self, wrapped: bytes, message: Mapping[str, object], context: bytes) -> bytes:
        """See ``Provider``."""
        return sign_locally(self, wrapped, message, context)


def _b64(data: bytes) -> str:
    return b64encode(data).decode()
