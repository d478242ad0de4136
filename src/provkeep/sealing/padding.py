"""Hide the exact length of a payload: Padmé padding.

A ciphertext is as long as its plaintext, and a length alone can tell a yes from a no. Padmé
rounds up so that only O(log log n) bits of a length remain visible, for at most 12 % more bytes.
Follows Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with
PURBs" (2019), section 4; the marker is that of ISO/IEC 7816-4. No keys here.
"""

from __future__ import annotations

from provkeep.errors import UnsealError

MIN_PADDED_BYTES = 16

_MARKER = b"\x80"


def padded_length(length: int) -> int:
    """Return the length that ``length`` bytes are padded to, at least 16."""
    if length <= MIN_PADDED_BYTES:
        if length < 0:
            raise ValueError(f"a length is not negative, got {length}")
        return MIN_PADDED_BYTES
    exponent = length.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (length + mask) & ~mask


def pad(plaintext: bytes) -> bytes:
    """Append 0x80 and as many zeros as make ``padded_length(len(plaintext) + 1)`` bytes."""
    marked = plaintext + _MARKER
    return marked.ljust(padded_length(len(marked)), b"\x00")


def unpad(padded: bytes) -> bytes:
    """Take off what ``pad`` appended.

    Raises:
        UnsealError: not the padding that ``pad`` writes; call this on authenticated bytes only.
    """
    marked = padded.rstrip(b"\x00")
    if not marked.endswith(_MARKER) or len(padded) != padded_length(len(marked)):
        raise UnsealError("envelope", "its padding is malformed; it was sealed by another program")
    return marked[:-1]
