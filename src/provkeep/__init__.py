"""Provenance for LangChain, LangGraph and LlamaIndex: recorded, sealed, and provable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from provkeep.errors import ProvkeepError

if TYPE_CHECKING:
    from provkeep.trail import Lineage, Trail, load_export, open, verify_bundle

__version__ = "0.1.0"
__all__ = [
    "Lineage",
    "ProvkeepError",
    "Trail",
    "__version__",
    "load_export",
    "open",
    "verify_bundle",
]

_LAZY = frozenset({"Lineage", "Trail", "load_export", "open", "verify_bundle"})


def __getattr__(name: str) -> Any:
    """Load the read side on first use: recording alone never needs it."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module("provkeep.trail"), name)
    raise AttributeError(f"module 'provkeep' has no attribute {name!r}")
