"""A database of its own for every test, and a handler on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from provkeep.langchain import ProvenanceHandler
from provkeep.recording import recorder


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Path]:
    """Where this test records; whatever still records there afterwards is closed."""
    path = tmp_path / "audit.db"
    yield path
    found = recorder._recorders.pop(path.resolve(), None)
    if found is not None:
        found.close()


@pytest.fixture
def handler(db: Path) -> Iterator[ProvenanceHandler]:
    with ProvenanceHandler(db) as made:
        yield made
