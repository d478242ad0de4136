"""Words and codes of the stored records; docs/FORMAT.md describes them in full.

A record's body is canonical JSON. A trace's bodies hold *entries*, small arrays whose first item
says what they are; concatenated over the records of a trace they are its graph.
"""

from __future__ import annotations

import binascii
from typing import Any, Final

FORMAT: Final = 1
COMPARTMENTS: Final = ("prompt", "output", "document", "tool", "meta")
KINDS: Final = (  # artifact kinds by code; append only
    "message",
    "prompt",
    "text",
    "document",
    "tool_call",
    "tool_result",
    "error",
    "data",
    "composite",
    "note",
)
KIND_CODE: Final = {k: i for i, k in enumerate(KINDS)}
CLASS_CODE: Final = {c: i for i, c in enumerate(COMPARTMENTS)}
BASES: Final = ("observed", "id", "content", "contained", "structural")
BASIS_CODE: Final = {b: i for i, b in enumerate(BASES)}

LOG_KEY: Final = "logkey"  # kind of the record by which a log changes its signing key
RECIPIENTS: Final = "recipients"  # kind of the record by which an admin names other public keys

# Entry tags
RUN: Final = "s"  # [s, run, kind, name, parent or -1, dt ns, uuid, {options}]
END: Final = "x"  # [x, run, dt ns, status, {options}]
ARTIFACT: Final = "a"  # [a, number, kind, compartment, run or -1, chars or -1, payload or -1, {}]
DERIVED: Final = "d"  # [d, cause, effect, basis, coverage permille or -1, [spans, flat by four]]
USED: Final = "u"  # [u, run, [artifacts]]
NOTE: Final = "o"  # [o, run, dt ns, name, artifact or -1]
META: Final = "m"  # [m, payload]
SOURCE: Final = "S"  # [S, tag, payload]
LINK: Final = "l"  # [l, tag, artifact, role]: 0 gives, 1 takes
FINAL: Final = "f"  # [f, output or -1, answer or -1, [payloads of sources that reached it]]

_URL: Final = bytes.maketrans(b"+/", b"-_")
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
# What an access opened: one payload, several at once, one shown in a bundle, names, or nothing.
OPENED: Final = ("payload", "payloads", "reveal", "names", "refused")
GIVES, TAKES = 0, 1
TAG_BYTES: Final = 12


def b64(data: bytes) -> str:
    """Base64, URL alphabet, without padding."""
    return binascii.b2a_base64(data, newline=False).translate(_URL, b"=").decode()


def unb64(text: str) -> bytes:
    """The bytes of :func:`b64`; ValueError when it is not that."""
    if not isinstance(text, str):
        raise ValueError("not base64 text")
    raw = text.encode("ascii").translate(_STANDARD)
    data = binascii.a2b_base64(raw + b"=" * (-len(raw) % 4))
    if b64(data) != text:
        raise ValueError("not canonical base64")
    return data


def payload_context(
    store_id: bytes, scope: str, record: int, index: int, compartment: str
) -> bytes:
    """What an envelope is bound to: store, trace (or record kind), record number in it, place."""
    return (
        b"provkeep/1\x00"
        + store_id
        + f"\x00{scope}\x00{record}\x00{index}\x00{compartment}".encode()
    )


class Pending:
    """A record on its way into the log: its body without numbers, and its sealed payloads."""

    __slots__ = ("body", "envelopes", "p0", "sealed_with", "seq")

    def __init__(self, body: dict[str, Any], envelopes: list[bytes]) -> None:
        self.body, self.envelopes = body, envelopes
        self.sealed_with: list[Any] = []  # for each envelope, until it is committed; see Sealer
        self.seq = self.p0 = -1  # known once committed
