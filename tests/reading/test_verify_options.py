"""What verification does to the program that calls it."""

from __future__ import annotations

import gc
from pathlib import Path

from provkeep.reading.verify import SELDOM, verify
from tests.reading.forging import KEY, make, trace


def test_the_collector_is_as_it_was_after_verifications_inside_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    pin = make(path, [trace(n) for n in range(1, 600)])
    before = gc.get_threshold()
    meanwhile: list[int] = []

    def progress(done: int, _: int) -> None:
        if not meanwhile:
            meanwhile.append(gc.get_threshold()[0])
            assert verify(path, pin=pin, public=KEY.public)
            meanwhile.append(gc.get_threshold()[0])

    try:
        gc.set_threshold(500, 7, 8)
        assert verify(path, pin=pin, public=KEY.public, progress=progress)
        assert gc.get_threshold() == (500, 7, 8)
        assert meanwhile == [SELDOM, SELDOM]
        gc.set_threshold(0)
        meanwhile.clear()
        assert verify(path, pin=pin, public=KEY.public, progress=progress)
        assert meanwhile == [0, 0] and gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*before)
