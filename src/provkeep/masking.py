"""What should not be stored at all is replaced before it is sealed: secrets, and structured PII.

A masker takes a text and gives it back with parts replaced by a word in brackets, such as
``[email]``, and counts them by kind. The same text is always masked alike, so that what is equal or
contained stays so, and lineage works. Patterns find what has a form; they find no names, no
addresses, nothing that only a reader would know. Every pattern reads a text once: none backtracks
further than a fixed length.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

Check = Callable[[str], bool]
Mask = Callable[[str], str]  # what users may give instead of a Masker

CUSTOM: Final = "custom"  # kind of what a function of the user's changed
FAILED: Final = "failed"  # kind of a text that a function of the user's could not take
MAX_CARD_DIGITS, MIN_CARD_DIGITS = 19, 13  # ISO/IEC 7812
MAX_IBAN, MIN_IBAN = 34, 15  # ISO 13616


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of thing, the pattern that finds it, and what must hold of a find."""

    kind: str  # stands in the record's counts, and in brackets in the text
    pattern: re.Pattern[str]
    needs: str = ""  # a text without any of these characters holds none
    check: Check | None = None
    group: int = 0  # the part of the find that is replaced


class Masker:
    """Replaces what some rules find; give it as ``mask=`` to a handler.

    Args:
        rules: applied in this order, each to what the ones before left.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)

    def __repr__(self) -> str:
        return f"<Masker of {', '.join(dict.fromkeys(rule.kind for rule in self.rules))}>"

    def __call__(self, text: str) -> str:
        """The masked text."""
        return self.mask(text)[0]

    def __add__(self, other: Masker) -> Masker:
        """Both, this one first."""
        return Masker((*self.rules, *other.rules))

    def mask(self, text: str) -> tuple[str, Counter[str]]:
        """The masked text, and how many of each kind were replaced."""
        counts: Counter[str] = Counter()
        for rule in self.rules:
            if rule.needs and not any(character in text for character in rule.needs):
                continue

            def replace(found: re.Match[str], rule: Rule = rule) -> str:
                whole, part = found[0], found[rule.group]
                if rule.check is not None and not rule.check(part):
                    return whole
                counts[rule.kind] += 1
                begin = found.start(rule.group) - found.start()
                return f"{whole[:begin]}[{rule.kind}]{whole[begin + len(part) :]}"

            text = rule.pattern.sub(replace, text)
        return text, counts


class Masks:
    """Several masks as one, total: what a function cannot take is replaced as a whole.

    Raises:
        TypeError: something that was given cannot be called with a text.
    """

    def __init__(self, masks: Mask | Sequence[Mask]) -> None:
        self._masks = (masks,) if callable(masks) else tuple(masks)
        for mask in self._masks:
            if not callable(mask):
                raise TypeError(
                    "mask= takes maskers of provkeep.masking, or functions from text to text"
                )

    def __repr__(self) -> str:
        return f"<Masks: {len(self._masks)}>"

    def mask(self, text: str) -> tuple[str, Counter[str]]:
        """The masked text, and how many of each kind were replaced."""
        counts: Counter[str] = Counter()
        for mask in self._masks:
            try:
                if isinstance(mask, Masker):
                    text, some = mask.mask(text)
                    counts += some
                    continue
                made = mask(text)
                if not isinstance(made, str):
                    raise TypeError("not a text")
            except Exception:  # noqa: BLE001  # never store what could not be masked
                return f"[{FAILED}]", Counter({FAILED: 1})
            if made != text:
                text = made
                counts[CUSTOM] += 1
        return text, counts


def is_card(text: str) -> bool:
    """Is this a card number: 13 to 19 digits with a right Luhn digit (ISO/IEC 7812-1, annex B)?"""
    digits = [int(character) for character in text if character.isdigit()]
    if not MIN_CARD_DIGITS <= len(digits) <= MAX_CARD_DIGITS or len(set(digits)) == 1:
        return False
    doubled = [2 * d - 9 * (d > 4) for d in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_iban(text: str) -> bool:
    """Is this an IBAN with right check digits (ISO 13616, ISO/IEC 7064 MOD 97-10)?"""
    plain = text.replace(" ", "").upper()
    if not MIN_IBAN <= len(plain) <= MAX_IBAN:
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def is_address(text: str) -> bool:
    """Is this an IP address, version 4 or 6?"""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_phone(text: str) -> bool:
    """Does this have 7 to 15 digits (ITU-T E.164), and not the look of a date?"""
    digits = sum(character.isdigit() for character in text)
    return 7 <= digits <= 15 and not re.fullmatch(r"\d{4}-\d\d-\d\d|\d\d\.\d\d\.\d{4}", text)


def _rule(
    kind: str, pattern: str, needs: str = "", check: Check | None = None, group: int = 0
) -> Rule:
    return Rule(kind, re.compile(pattern), needs, check, group)


_WORD: Final = r"[A-Za-z0-9_-]"

SECRETS: Final = Masker(
    [
        _rule(
            "private key",
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]{0,20000}"
            r"(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?",
            "-",
        ),
        _rule(
            "credentials",
            r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,30}://([^\s/:@]{0,200}:[^\s/@]{1,400})@",
            "@",
            group=1,
        ),
        _rule("token", r"\beyJ[\w-]{8,4000}\.eyJ[\w-]{8,8000}\.[\w-]{8,4000}", "."),  # RFC 7519
        _rule(
            "token",
            rf"(?<!{_WORD})(?:sk-|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|hf_|npm_|pypi-){_WORD}{{16,400}}",
            "-_",
        ),
        _rule("token", r"\bAIza[\w-]{35}\b|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", "A"),
        _rule("token", r"(?i)\bbearer\s{1,8}([\w.~+/-]{16,8000}={0,2})", "rR", group=1),
        _rule(
            "secret",
            r"(?i)\b(?:api[_-]?key|secret(?:[_-]?(?:access[_-]?)?key)?|access[_-]?token|auth[_-]?token"
            r"|password|passwd|pwd)[\"']?\s{0,8}[:=]\s{0,8}[\"']?([^\s\"',;\[\]]{6,400})",
            ":=",
            group=1,
        ),
    ]
)
"""API keys, tokens, private keys, passwords in connection strings and in settings."""

PERSONAL: Final = Masker(
    [
        _rule(
            "email",
            r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b",
            "@",
        ),
        _rule(
            "iban",
            r"(?<![A-Za-z0-9])[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"
            r"(?![A-Za-z0-9])",
            "",
            is_iban,
        ),
        _rule("card", r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])", "", is_card),
        _rule("ip", r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)", ".", is_address),
        _rule(
            "ip",
            r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])",
            ":",
            is_address,
        ),
        _rule(
            "phone",
            r"(?<![\w.+/-])(?:\+\d{1,3}[ .-]?|0|\(0?\d{1,4}\) ?)\(?\d{1,5}\)?"
            r"(?:[ ./-]?\d{2,5}){1,5}(?![\w-])",
            "",
            is_phone,
        ),
    ]
)
"""E-mail addresses, IBANs, card numbers, IP addresses and phone numbers."""
