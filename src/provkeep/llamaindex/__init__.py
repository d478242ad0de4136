"""LlamaIndex: a listener on its dispatcher that records what passes by."""

from provkeep.llamaindex.guard import guard
from provkeep.llamaindex.install import ProvenanceHandler, instrument
from provkeep.llamaindex.refusal import PolicyBlocked
from provkeep.llamaindex.scopes import scope

__all__ = ["PolicyBlocked", "ProvenanceHandler", "guard", "instrument", "scope"]
