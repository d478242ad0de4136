"""A store per test; nothing of a test stays attached to the process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index_instrumentation import get_dispatcher

from tests.llamaindex.kit import Store


@pytest.fixture
def store(home: Path, tmp_path: Path) -> Iterator[Store]:
    yield Store(tmp_path / "audit.db")


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    dispatcher: Any = get_dispatcher()
    before = list(dispatcher.span_handlers), list(dispatcher.event_handlers)
    yield
    after = list(dispatcher.span_handlers), list(dispatcher.event_handlers)
    dispatcher.span_handlers, dispatcher.event_handlers = list(before[0]), list(before[1])
    for was, now in zip(before, after, strict=True):
        assert [id(h) for h in now] == [id(h) for h in was]
