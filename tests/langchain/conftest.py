"""A database of its own for every test, and a handler on it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from provkeep.errors import ProvkeepError
from provkeep.langchain import ProvenanceHandler
from provkeep.recording import recorder


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Path]:
    """Where this test records; whatever still records there afterwards is closed."""
    path = tmp_path / "audit.db"
    yield path
    found = recorder._recorders.pop(path.resolve(), None)
    if found is not None:
        with contextlib.suppress(ProvkeepError):  # told to the test that broke the store
            found.close()


@pytest.fixture
def handler(db: Path) -> Iterator[ProvenanceHandler]:
    with ProvenanceHandler(db) as made:
        yield made
