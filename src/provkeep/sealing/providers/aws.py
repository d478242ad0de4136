"""AWS Key Management Service: a symmetric key wraps, and its policy says who may unwrap.

The context goes along as KMS's encryption context, which KMS authenticates and CloudTrail shows.
Credentials are found where boto3 finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provkeep.errors import MissingExtraError, ProviderError
from provkeep.sealing.providers.base import check_key, only, patience, sign_locally, within


class AwsProvider:
    """A KMS key, by id, ARN or alias."""

    name = "aws"

    def __init__(self, settings: Mapping[str, str]) -> None:
        only(settings, "key", "region", "endpoint")
        self._key, self._patience_s = settings["key"], patience(settings)
        self.settings = dict(settings)
        self._client: Any = None

    def _ask(self, question: str, **words: Any) -> Any:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise MissingExtraError("boto3", "aws") from error

        def ask() -> Any:
            if self._client is None:
                config = Config(
                    connect_timeout=self._patience_s,
                    read_timeout=self._patience_s,
                    retries={"total_max_attempts": 2},
                )
                self._client = boto3.client(
                    "kms",
                    region_name=self.settings.get("region"),
                    endpoint_url=self.settings.get("endpoint"),
                    config=config,
                )
            return getattr(self._client, question)(KeyId=self._key, **words)

        try:
            return within(self._patience_s, "aws", ask)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "?")
            raise ProviderError(
                "aws",
                f"KMS refuses ({code})",
                "see the key's policy and state; what was wrapped for something else does not open",
            ) from error
        except BotoCoreError as error:
            raise ProviderError(
                "aws",
                f"KMS cannot be asked ({type(error).__name__})",
                "see region, credentials and network",
            ) from error

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See ``Provider``."""
        said = {"provkeep": context.hex()}
        found = self._ask("encrypt", Plaintext=check_key(key), EncryptionContext=said)
        return bytes(found["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See ``Provider``."""
        said = {"provkeep": context.hex()}
        return bytes(
            self._ask("decrypt", CiphertextBlob=wrapped, EncryptionContext=said)["Plaintext"]
        )

    def sign(self, wrapped: bytes, message: Mapping[str, object], context: bytes) -> bytes:
        """See ``Provider``."""
        return sign_locally(self, wrapped, message, context)
