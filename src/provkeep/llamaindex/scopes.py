"""Who a query is for: session, actor and subject, for everything that begins inside a block.

A context variable, so it follows ``await``, tasks, ``asyncio.to_thread`` and workflow steps. The
value before is remembered rather than a token, so that leaving a block in another context than it
was entered in (a generator, a test fixture) is no error.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

_names: ContextVar[dict[str, str] | None] = ContextVar("provkeep_llamaindex_scope", default=None)
NAMES: Final = ("actor", "session", "subject", "application", "version")


def current() -> dict[str, str] | None:
    """The names said by the blocks around the caller; inner ones win."""
    return _names.get()


class scope:  # read as a word: with scope(session="4711"):
    """Name session, actor or subject of the traces that begin inside this block.

    Use as ``with scope(session="4711", actor="alice@example.com"):``, nested as needed; what an
    inner block does not name is inherited. A trace that has begun keeps the names it began with.

    Args:
        session: conversation that the traces belong to; sealed.
        actor: who answers for them; sealed.
        subject: the person they are about, the unit of erasure; sealed.
    """

    def __init__(
        self,
        *,
        session: str | None = None,
        actor: str | None = None,
        subject: str | None = None,
    ) -> None:
        said = {"session": session, "actor": actor, "subject": subject}
        self._said = {k: str(v) for k, v in said.items() if v is not None}
        self._before: list[dict[str, str] | None] = []

    def __enter__(self) -> scope:
        """Begin the block."""
        before = _names.get()
        self._before.append(before)
        _names.set({**(before or {}), **self._said})
        return self

    def __exit__(self, *_: object) -> None:
        """End the block."""
        _names.set(self._before.pop())
