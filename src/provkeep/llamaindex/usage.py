"""What a model's answer and a template say of themselves, in whichever shape they say it.

Duck-typed: providers' objects are dictionaries or classes of their own, and their names differ.
"""

from __future__ import annotations

from typing import Any, Final


def template_text(template: Any) -> Any:
    """The words of a prompt template, with their gaps."""
    inner = template.__dict__.get("default_template") or template
    messages = inner.__dict__.get("message_templates")
    if messages:
        return [[str(getattr(m.role, "value", m.role)), m.content] for m in messages]
    text = inner.__dict__.get("template")
    return text if type(text) is str else None


def field(value: Any, name: str) -> Any:
    """A field of a dictionary or an object, or None."""
    if isinstance(value, dict):
        return value.get(name)
    try:
        return getattr(value, name, None)
    except Exception:  # noqa: BLE001  # a property of an integration's object
        return None


_IN: Final = ("prompt_tokens", "input_tokens", "prompt_token_count", "prompt_eval_count")
_OUT: Final = ("completion_tokens", "output_tokens", "candidates_token_count", "eval_count")
_ALL: Final = ("total_tokens", "total_token_count")
Usage = tuple[int | None, int | None, int | None]


def usage_of(response: Any) -> Usage | None:
    """Tokens in, out and in all, where the integration says so; None when unknown."""
    raw, more = field(response, "raw"), field(response, "additional_kwargs")
    for place in (field(raw, "usage"), field(raw, "usage_metadata"), more, raw):
        if place is None:
            continue
        found = _number(place, _IN), _number(place, _OUT), _number(place, _ALL)
        if any(n is not None for n in found):
            return found
    return None


def _number(place: Any, names: tuple[str, ...]) -> int | None:
    for name in names:
        value = field(place, name)
        if type(value) is int and 0 <= value < 2**53:
            return value
    return None


def answered_by(response: Any) -> tuple[str | None, str | None]:
    """The model that answered and why it stopped, where the answer says so."""
    raw = field(response, "raw")
    choices = field(raw, "choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return _text(raw, ("model", "model_name")), (
        _text(first, ("finish_reason",))
        or _text(raw, ("stop_reason", "finish_reason", "done_reason"))
    )


def _text(place: Any, names: tuple[str, ...]) -> str | None:
    if place is not None:
        for name in names:
            value = field(place, name)
            if type(value) is str and value:
                return value
    return None
