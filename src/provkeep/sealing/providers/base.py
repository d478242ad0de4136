"""What a key provider is, and how one is asked: never for longer than a stated time.

A provider wraps 32-byte keys. The key files of provkeep are encrypted under such a key where they
are protected (``sealing.keyfiles``), so any provider keeps any of them. Providers are asked when a
key file is opened and then no more: recording seals to public keys, which need none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final, Protocol, TypeVar

from provkeep.errors import ProviderError
from provkeep.sealing import signing

KEY_BYTES: Final = 32
PATIENCE_S: Final = 10.0  # how long a provider may take to answer, unless its settings say so
_T = TypeVar("_T")


class Provider(Protocol):
    """A place that keeps keys.

    ``context`` says what a key is for; it opens for nothing else. ``settings`` stand in the clear
    in key files and hold no secret.
    """

    @property
    def name(self) -> str:
        """The name in ``NAMES``."""

    @property
    def settings(self) -> Mapping[str, str]:
        """What ``make`` needs to find this place again."""

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Wrap a key of 32 bytes.

        Raises:
            ProviderError: absent, slow, or it refuses.
        """

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The key that was wrapped for this context.

        Raises:
            ProviderError: absent, slow, it refuses, or wrapped elsewhere or for something else.
        """

    def sign(self, wrapped: bytes, message: Mapping[str, object], context: bytes) -> bytes:
        """Sign with the Ed25519 seed that was wrapped; the seed is forgotten at once.

        Raises:
            ProviderError: as ``unwrap``.
        """


_PLACES: Final = {
    "file": ("local", "FileProvider"),
    "env": ("local", "EnvironmentProvider"),
    "passphrase": ("local", "PassphraseProvider"),
    "keyring": ("desktop", "KeyringProvider"),
    "aws": ("aws", "AwsProvider"),
    "vault": ("vault", "VaultProvider"),
}
NAMES: Final = tuple(_PLACES)


def make(name: str, settings: Mapping[str, str]) -> Provider:
    """Make a provider from its name and settings.

    Args:
        name: of ``NAMES``.
        settings: ``file``: ``path``. ``env``: ``variable`` (PROVKEEP_KEY). ``passphrase``:
            ``variable`` (PROVKEEP_PASSPHRASE). ``keyring``: ``account``. ``aws``: ``key``,
            ``region``, ``endpoint``. ``vault``: ``address``, ``key``, ``mount`` (transit). All:
            ``patience_s``, how long it may take to answer.

    Raises:
        ProviderError: there is no such provider, or a setting is missing, unknown or malformed.
        MissingExtraError: it needs a package that is not installed.
    """
    if name not in _PLACES:
        raise ProviderError(name, "there is none of this name", f"use one of {', '.join(NAMES)}")
    module, cls = _PLACES[name]
    found = getattr(import_module(f"provkeep.sealing.providers.{module}"), cls)
    try:
        provider: Provider = found(dict(settings))
    except (KeyError, ValueError) as error:
        raise ProviderError(
            name, f"a setting is missing or malformed ({error})", "see make()"
        ) from (error)
    return provider


def patience(settings: Mapping[str, str]) -> float:
    """Seconds that a provider may take to answer."""
    seconds = float(settings.get("patience_s", PATIENCE_S))
    if not 0 < seconds <= 600:
        raise ValueError("patience_s must be within 600 seconds")
    return seconds


def only(settings: Mapping[str, str], *known: str) -> None:
    """Raise ValueError for a setting that the provider does not have."""
    unknown = sorted(set(settings) - {*known, "patience_s"})
    if unknown:
        raise ValueError(f"no such setting: {', '.join(unknown)}")


def check_key(key: bytes) -> bytes:
    """Return a key of 32 bytes; ValueError for any other."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key to wrap has {KEY_BYTES} bytes, got {len(key)}")
    return key


def within(seconds: float, name: str, ask: Callable[[], _T]) -> _T:
    """Ask a provider on a thread of its own, and wait for the answer no longer than this.

    Raises:
        ProviderError: no answer in time. The thread is left to end by itself.
    """
    answers: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:  # noqa: BLE001  # raised again where it was asked
            errors.append(error)

    thread = threading.Thread(target=run, name=f"provkeep-provider-{name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise ProviderError(
            name,
            f"no answer within {seconds:g} s",
            "see that it runs and can be reached; what records already goes on without it",
        )
    return answers[0]


def sign_locally(
    provider: Provider, wrapped: bytes, message: Mapping[str, object], context: bytes
) -> bytes:
    """Unwrap an Ed25519 seed, sign with it, and forget it."""
    return signing.sign(provider.unwrap(wrapped, context), context.decode(), message)
