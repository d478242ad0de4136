"""A time-stamping authority: its signature says that a tree head existed at a time.

Follows RFC 3161, over HTTP as its section 3.4 has it; needs the extra ``timestamp``. The bytes
that are stamped are the checkpoint as it stands, its signature included, so that a head signed
later with the same key does not fit. Certificates come from the user; those in a response are not
trusted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Final

from cryptography import x509

from provkeep.errors import AnchorError, MissingExtraError
from provkeep.tlog.anchor import MAX_TOKEN, TIMEOUT_S, Offer, Proof
from provkeep.tlog.checkpoint import Checkpoint
from provkeep.tlog.post import post

QUERY: Final = "application/timestamp-query"  # RFC 3161, section 3.4
PEM_LIMIT: Final = 100_000  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class TimestampAnchor:
    """One authority: see ``tlog.anchor.Anchor``."""

    name: str
    url: str
    certificates: str  # PEM: the authority's root, and what stands between it and the signer
    timeout_s: float = TIMEOUT_S
    kind: str = "timestamp"

    def submit(self, offer: Offer) -> Proof:
        """Have the checkpoint time-stamped."""
        client = _client()
        builder = client.TimestampRequestBuilder().data(offer.head.note.encode())
        request = builder.hash_algorithm(client.HashAlgorithm.SHA256).build()
        answer = post(self.name, self.url, request.as_bytes(), QUERY, timeout_s=self.timeout_s)
        if answer.status != 200:
            problem = f"it answered with status {answer.status}"
            raise AnchorError(self.name, problem, again=answer.status >= 500)
        if len(answer.body) > MAX_TOKEN:
            raise AnchorError(self.name, f"its answer has more than {MAX_TOKEN} bytes")
        proof = Proof(note=offer.head.note, at_us=offer.now_us, token=answer.body)
        self._verify(proof, request.nonce)
        return proof

    def check(self, proof: Proof) -> int | None:
        """Return the time that the authority signed."""
        return self._verify(proof, None)

    def _verify(self, proof: Proof, nonce: int | None) -> int:
        client = _client()
        roots, others = split_certificates(self.name, self.certificates)
        verifier = client.VerifierBuilder(roots=roots, intermediates=others, nonce=nonce).build()
        try:
            response = client.decode_timestamp_response(proof.token)
            seconds = int(response.tst_info.gen_time.timestamp())
            verifier.verify_message(response, proof.note.encode())
        except (ValueError, OverflowError, client.VerificationError) as error:
            problem = "its time stamp is not good: of another head, another authority, or altered"
            raise AnchorError(self.name, problem) from error
        return seconds

    def held(self) -> Iterator[Checkpoint | None]:
        """Nothing that could be read from here."""
        return iter(())


def split_certificates(
    anchor: str, pem: str
) -> tuple[list[x509.Certificate], list[x509.Certificate]]:
    """Return the roots (issued by themselves) and the others of a PEM file.

    Raises:
        AnchorError: it holds no certificate, or no root.
    """
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise AnchorError(anchor, "its certificates are not PEM") from error
    roots = [each for each in found if each.issuer == each.subject]
    if not roots:
        problem = "its certificates lack the root, which is issued by itself"
        raise AnchorError(anchor, problem)
    return roots, [each for each in found if each.issuer != each.subject]


def _client() -> ModuleType:
    try:
        import rfc3161_client
    except ImportError as error:
        raise MissingExtraError("rfc3161-client", "timestamp") from error
    return rfc3161_client
