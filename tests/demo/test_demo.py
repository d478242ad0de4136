"""The demo as a newcomer runs it: offline, in an empty folder, with nothing left elsewhere."""

import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import provkeep
from provkeep.cli import main
from provkeep.demo import run_demo, story
from provkeep.demo.corpus import pages

ROOT = Path(__file__).parent.parent.parent
OFFLINE = """
import socket, sys
sys.modules["langchain"] = sys.modules["langgraph"] = None  # not among the dependencies
def refused(*a, **k):
    raise OSError("the demo asked for a network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
from provkeep.cli import main
sys.exit(main())
"""


def demo(folder: Path, *words: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OFFLINE, "demo", "--dir", str(folder), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PROVKEEP_HOME": str(home)},
        cwd=folder.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_demo_tells_the_whole_story_offline(tmp_path):
    home = tmp_path / "my-home"
    done = demo(tmp_path / "d", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for expected in (
        "A changed byte in a record or in a",  # the answer
        "manual/verifying.md",  # a source
        "“Whoever gets the database alone reads nothing”",  # a quotation
        "◉ OUTPUT",  # the ledger
        "5 passages were retrieved, 3 reached the model",
        "search_manual",  # the agent's tool
        "5. LLAMAINDEX  asked:",
        "reached, in both frameworks: IngestionPipeline.run, RetrieverQueryEngine.query",
        "provkeep demo",  # the access and its purpose
        "verified",
        "FAILED",
        "payload-altered",
    ):
        assert expected in done.stdout, expected
    assert not home.exists()  # nothing reaches the user's own keys
    assert {p.name for p in tmp_path.iterdir()} == {"d"}
    assert not re.search("Traceback|Error", done.stdout)


def test_what_the_demo_leaves_can_be_asked(tmp_path, monkeypatch):
    told = json.loads(demo(tmp_path / "d", "--json", home=tmp_path / "h").stdout)
    assert told["caught"] is told["verified"] is True
    assert told["sources"] == [
        s.name for s in provkeep.load_export(Path(told["document"])).sources()
    ]
    picture = Path(told["picture"]).read_text("utf-8")
    assert picture.startswith("<svg")
    for text in (told["answer"], told["question"], "Whoever"):
        assert text not in picture
        assert text not in Path(told["document"]).read_text("utf-8")
    monkeypatch.setenv("PROVKEEP_HOME", told["home"])
    with provkeep.open(told["database"]) as trail:
        assert [t.name for t in trail.runs()] == [
            "ManualChain",
            "ManualAgent",
            "RetrieverQueryEngine.query",
            "IngestionPipeline.run",
        ]
        assert any(s.quotations for s in trail.sources(trail.runs()[2]))
        assert {s.name for s in trail.sources()} >= {"manual/verifying.md", "manual/keys.md"}
        agent = trail.sources(trail.runs()[1])
        assert any(s.quotations for s in agent)
        assert trail.verify()
    with provkeep.open(tmp_path / "d" / "forged" / "audit.db") as trail:
        assert trail.verify().codes >= {"payload-altered"}


def test_a_folder_with_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "audit.db").write_text("mine")
    assert main(["demo", "--dir", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert (tmp_path / "audit.db").read_text() == "mine"


def test_nothing_is_kept_when_that_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(story.tempfile, "tempdir", str(tmp_path))
    before = os.environ["PROVKEEP_HOME"]
    result = run_demo(say=lambda text: None, keep=False)
    assert result.caught
    assert result.folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []
    assert os.environ["PROVKEEP_HOME"] == before


def test_a_forgery_that_is_not_caught_fails_the_demo(tmp_path, monkeypatch, capsys):
    """Were verify to overlook the byte, the demo must not say that all is well."""

    def pretend(database, document, folder):
        forged = story_forge(database, document, folder)
        whole = bytearray(forged.path.read_bytes())
        whole[forged.offset] = forged.before
        forged.path.write_bytes(whole)
        return forged

    story_forge = story.forge
    monkeypatch.setattr(story, "forge", pretend)
    assert main(["demo", "--dir", str(tmp_path / "d"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["caught"] is False


def test_the_documents_are_the_manual(home):
    """The pages in the package are those that docs/manual shows."""
    ours = {p.name: p.read_text("utf-8") for p in (ROOT / "docs" / "manual").glob("*.md")}
    shipped = files("provkeep.demo").joinpath("manual")
    assert {p.name: p.read_text(encoding="utf-8") for p in shipped.iterdir()} == ours
    assert len(ours) >= 10
    assert set(pages()) == set(ours)
    assert not any("<!--" in text for text in pages().values())


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs" / "manual").glob("*.md")), ids=lambda p: p.name
)
def test_the_code_of_the_manual_runs(page, tmp_path, monkeypatch):
    from tests.test_docs import run

    folder = tmp_path / "reader"
    folder.mkdir()
    monkeypatch.chdir(folder)
    run(page.name, page.read_text("utf-8"), folder)


def test_every_link_of_the_readme_and_the_manual_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs" / "manual").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), (page.name, target)
