"""A store with something in it, and a way to type commands."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from provkeep.cli import main
from provkeep.demo.app import manual_agent, manual_chain
from provkeep.langchain import ProvenanceHandler

QUESTION = "What happens when a byte is changed, and who gets to read the database?"


@dataclass(frozen=True, slots=True)
class Typed:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def typed(capfd) -> Callable[..., Typed]:
    """Run a command as a user would: ``typed("runs", path)``."""

    def run(*words: object) -> Typed:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return Typed(code, out, err)

    return run


@pytest.fixture
def audit(tmp_path, home) -> Path:
    """Two traces: an agent, then a retrieval chain."""
    path = tmp_path / "audit.db"
    config: dict[str, Any] = {"metadata": {"session_id": "ticket-1"}}
    with ProvenanceHandler(path, actor="alice@example.com") as handler:
        config["callbacks"] = [handler]
        manual_agent().invoke("How long is the page on keys?", config=config)
        manual_chain().invoke(QUESTION, config=config)
    return path
