"""The notebooks are stored as they ran: with pictures, without errors, without texts."""

import json
import re
from pathlib import Path

import pytest

from provkeep.demo.corpus import pages
from provkeep.demo.model import sentences

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_as_it_ran(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert sum("image/svg+xml" in o.get("data", {}) for o in outputs) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_output_holds_a_text_or_a_place(path):
    """A notebook is committed with its outputs: no recorded text, no folder of who ran it."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    shown = json.dumps([cell.get("outputs") for cell in cells], ensure_ascii=False)
    for text in pages().values():
        for sentence in sentences(text):
            assert sentence[:40] not in shown
    assert not re.search(r"provkeep-notebook-|/home/|/tmp/|/Users/|[A-Z]:\\\\", shown)


def test_the_notebooks_are_those_of_the_readme():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_record_a_chain",
        "02_where_did_it_come_from",
        "03_prove_nothing_changed",
        "04_who_may_read",
    ]
