"""Recording without passing a handler: for the whole process, by a call or by the environment.

LangChain asks registered hooks for a handler whenever it configures callbacks. Hooks cannot be
taken back, so one is registered once, and what it answers can change.
"""

from __future__ import annotations

import os
from typing import Any, Final

from provkeep.langchain.handler import ProvenanceHandler

ENVIRONMENT: Final = "PROVKEEP_LANGCHAIN"  # path of the database; read when this is imported


class _Current:
    """Stands where LangChain expects a context variable; the same for every thread."""

    handler: ProvenanceHandler | None = None
    registered = False

    def get(self) -> ProvenanceHandler | None:
        """The handler that every new run gets, or None."""
        return self.handler


_current = _Current()


def install(path: str | os.PathLike[str], **options: Any) -> ProvenanceHandler:
    """Record every LangChain and LangGraph run of this process from now on.

    Args:
        path: the database.
        options: as for :class:`ProvenanceHandler`.

    Returns:
        The handler, for ``flush()``. An earlier installed one is flushed and replaced.
    """
    handler = ProvenanceHandler(path, **options)
    uninstall()
    _current.handler = handler
    if not _current.registered:
        from langchain_core.tracers.context import register_configure_hook  # loads langsmith

        register_configure_hook(_current, inheritable=True)  # type: ignore[arg-type]  # it only calls get()
        _current.registered = True
    return handler


def uninstall() -> None:
    """Stop recording new runs; what was heard is committed. Without effect when not installed."""
    handler, _current.handler = _current.handler, None
    if handler is not None:
        handler.close()


if os.environ.get(ENVIRONMENT):
    install(os.environ[ENVIRONMENT])
