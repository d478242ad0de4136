"""What a node is called, coloured and measured as when it is shown.

Everything shown passes ``clean`` first: a label may come from a file name or a tool someone else
wrote, so control characters (terminal escapes) and characters that reorder text are made visible.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Mapping
from typing import Final

from provkeep.model.graph import Node

ELLIPSIS: Final = "…"
PALE: Final = "#94a3b8"
_GREY: Final = "#64748b"

_ROLES: Final[Mapping[str, str]] = {
    "human": "INPUT",
    "user": "INPUT",
    "humanmessage": "INPUT",
    "ai": "RESPONSE",
    "assistant": "RESPONSE",
    "aimessage": "RESPONSE",
    "system": "SYSTEM",
    "developer": "SYSTEM",
    "systemmessage": "SYSTEM",
    "tool": "RESULT",
    "function": "RESULT",
    "toolmessage": "RESULT",
}
_WORDS: Final[Mapping[tuple[str, str], str]] = {
    ("run", "prompt"): "TEMPLATE",
    ("run", "embedding"): "EMBEDDING",
    ("artifact", "tool_call"): "TOOL CALL",
    ("artifact", "tool_result"): "RESULT",
    ("artifact", "composite"): "GROUP",
}
_COLOURS: Final[Mapping[str, str]] = {
    "ACTOR": "#6b7280",
    "AGENT": "#475569",
    "CHAIN": "#475569",
    "DATA": "#64748b",
    "DOCUMENT": "#d97706",
    "EMBEDDING": "#0f766e",
    "ERROR": "#dc2626",
    "GRAPH": "#475569",
    "GROUP": "#94a3b8",
    "INDEX": "#a16207",
    "INPUT": "#2563eb",
    "MESSAGE": "#64748b",
    "MODEL": "#9333ea",
    "NODE": "#475569",
    "NOTE": "#be123c",
    "OUTPUT": "#16a34a",
    "PARSER": "#64748b",
    "PROMPT": "#7c3aed",
    "RESPONSE": "#c026d3",
    "RESULT": "#0e7490",
    "RETRIEVER": "#0d9488",
    "SOURCE": "#b45309",
    "SYSTEM": "#4f46e5",
    "TEMPLATE": "#6d28d9",
    "TEXT": "#0369a1",
    "TOOL": "#0891b2",
    "TOOL CALL": "#0284c7",
}
# (fill, most sensitive first): the rank decides which label is shown when not all fit
_LABELS: Final[Mapping[str, tuple[int, str]]] = {
    "secret": (0, "#fca5a5"),
    "restricted": (1, "#fca5a5"),
    "pii": (2, "#fecaca"),
    "untrusted": (3, "#e9d5ff"),
    "confidential": (4, "#fde68a"),
    "internal": (6, "#bfdbfe"),
    "public": (7, "#d1fae5"),
}
_OTHER_RANK: Final = 5
_OTHER_FILLS: Final = ("#e2e8f0", "#ddd6fe", "#bae6fd", "#fbcfe8", "#e7e5e4", "#d9f99d")

# C0, DEL, C1, the characters that reorder or hide text, lone surrogates, non-characters
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e0fff]"
)
_MARKS: Final = 2  # combining marks kept on one character


def clean(text: str) -> str:
    """Return ``text`` on one line, with what cannot be seen made visible.

    White space becomes a space, a control character its picture (``␛``), anything else that hides
    or reorders text ``⟨U+202E⟩``. The zero-width joiner stays: emoji are built with it.
    """
    text = _UNSAFE.sub(_visible, text)
    return text if text.isascii() else _few_marks(text)


def _visible(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if character in "\t\n\r\x0b\x0c\x85\u2028\u2029":
        return " "
    if character == "\u200d":
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"⟨U+{code:04X}⟩"


def _few_marks(text: str) -> str:
    """Drop combining marks past the second: stacked ones cover the rows above."""
    out: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= _MARKS:
            out.append(character)
    return "".join(out)


def columns(text: str) -> int:
    """Return how many terminal cells ``text`` (cleaned) takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.combining(character) or character in "\u200d\ufe0e\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clip(text: str, limit: int) -> str:
    """Return ``text`` (cleaned) cut to ``limit`` cells, with an ellipsis where it was cut."""
    if len(text) <= limit and columns(text) <= limit:
        return text
    used, end = 0, 0
    for character in text:
        used += _cells(character)
        if used > limit - 1:
            break
        end += 1
    return text[:end].rstrip("\u200d ") + ELLIPSIS if limit > 0 else ""


def kind_word(node: Node) -> str:
    """Return the one or two capitals words that name what ``node`` is."""
    word = _WORDS.get((node.type, node.kind))
    if word is None and node.type == "artifact" and node.kind in ("message", "prompt"):
        role = node.attrs.get("role")
        word = _ROLES.get((role if isinstance(role, str) else node.label).strip().lower())
        word = None if node.kind == "prompt" and word == "INPUT" else word
    if word is None and node.type in ("actor", "source") and node.kind.upper() not in _COLOURS:
        word = node.type.upper()
    return word or clip(clean(node.kind.replace("_", " ")).upper(), 9) or node.type.upper()


def colour(word: str) -> str:
    """Return the colour of a kind word, as ``#rrggbb``."""
    return _COLOURS.get(word, _GREY)


def name(node: Node) -> str:
    """Return the label of ``node``, cleaned, or its kind where it has none."""
    return clean(node.label).strip() or clean(node.kind).strip() or node.type


def extent(node: Node) -> str:
    """Return the size of an artifact in words, or nothing."""
    if node.type != "artifact" or node.size is None:
        return ""
    return f"{node.size:,} char{'' if node.size == 1 else 's'}"


def by_weight(labels: tuple[str, ...]) -> list[str]:
    """Return labels, each once, the most sensitive first."""
    return sorted(
        set(filter(str.strip, labels)),
        key=lambda x: (_LABELS.get(x.lower(), (_OTHER_RANK, ""))[0], x),
    )


def label_fill(label: str) -> str:
    """Return the background of a label; the same label always has the same one."""
    known = _LABELS.get(label.lower())
    if known is not None:
        return known[1]
    return _OTHER_FILLS[zlib.crc32(label.encode("utf-8", "replace")) % len(_OTHER_FILLS)]


def duration(ns: int) -> str:
    """Return a length of time in words: ``850 ms``, ``2.1 s``, ``3 min 20 s``, ``2.5 d``."""
    if ns < 1000:
        return f"{ns} ns" if ns else "0 s"
    if ns < 999_500:
        return f"{ns / 1e3:.0f} µs"
    if ns < 999_500_000:
        return f"{ns / 1e6:.0f} ms"
    seconds = ns / 1e9
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"
