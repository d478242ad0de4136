"""A story per test, checked when the test has said its own."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.lineage_kit import Story


@pytest.fixture
def story(home: Path, tmp_path: Path) -> Iterator[Story]:
    """Records into a store of its own; at the end, its values and its index are checked."""
    told = Story(tmp_path / "audit.db")
    yield told
    told.check()
    told.handler.close()


@pytest.fixture
def deprecated() -> Iterator[None]:
    """RunnableWithMessageHistory is, since langchain-core 1.7; it is what many programs use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
