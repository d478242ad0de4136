"""What a reader leaves behind, and whose trust it brings."""

from __future__ import annotations

import shutil
from pathlib import Path

from langchain_core.runnables import RunnableLambda

import provkeep
from provkeep.langchain import ProvenanceHandler


def _record(path: Path, text: str) -> None:
    with ProvenanceHandler(path) as handler:
        RunnableLambda(str.upper).invoke(text, {"callbacks": [handler]})


def test_a_reading_is_signed_when_the_reader_closes(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    _record(path, "who may return shoes?")
    with provkeep.open(path) as trail:
        assert trail.text(purpose="a test") == "WHO MAY RETURN SHOES?"
    with provkeep.open(path) as trail:
        report = trail.verify()
        assert report
        assert "unsigned-tail" not in report.codes


def test_another_store_put_in_its_place_does_not_bring_its_own_trust(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "a.db", tmp_path / "b.db"
    _record(ours, "the true history")
    _record(theirs, "a prettier history")
    for suffix in ("", "-keys"):
        shutil.copyfile(f"{theirs}{suffix}", f"{ours}{suffix}")
    with provkeep.open(ours) as trail:
        assert not trail.verify()
    with provkeep.open(theirs) as trail:
        assert trail.verify()
