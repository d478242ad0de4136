"""LangChain and LangGraph: a callback handler that records what passes by."""

from provkeep.langchain.handler import ProvenanceHandler
from provkeep.langchain.install import install, uninstall

__all__ = ["ProvenanceHandler", "install", "uninstall"]
