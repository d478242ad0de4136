"""The error of a call that a guard did not let through."""

from __future__ import annotations

from provkeep.errors import ProvkeepError


class PolicyBlocked(ProvkeepError):  # says what happened, as a user meets it
    """A guard stopped a call before it ran; the refusal is recorded."""

    def __init__(self, kind: str, name: str, reason: str) -> None:
        super().__init__(
            f"the {kind} {name!r} was not called: {reason};"
            " change what is asked of it, or its guard"
        )
        self.kind, self.name, self.reason = kind, name, reason
