"""The one way a record's body becomes bytes, so that its hash means one thing.

JSON with sorted keys, compact separators, ASCII only, integers within 2**53 - 1, no floats: the
subset on which RFC 8785 and the standard library agree. What is hashed is what is stored.
"""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

MAX_INT: Final = 2**53 - 1  # RFC 8785, section 3.2.2.3 (IEEE 754 exact integers)
MAX_BODY: Final = 65_535  # C2SP tlog-tiles: an entry's length is a uint16


def canonical(body: dict[str, Any]) -> bytes:
    """Return the canonical bytes of ``body``.

    Args:
        body: JSON values without floats, which this does not look for and ``verify`` refuses.

    Raises:
        ValueError: it holds an integer past 2**53 - 1 or something JSON has no word for.
    """
    try:
        data = orjson.dumps(body, option=orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"not a canonical body: {type(error).__name__}") from None
    if data.isascii() and b"\x7f" not in data:  # json writes U+007F as an escape
        return data
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
