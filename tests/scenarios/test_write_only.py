"""A host that records with public keys only cannot read what it recorded."""

import re
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

import provkeep
from provkeep.cli import main
from provkeep.errors import KeyFileError
from provkeep.langchain import ProvenanceHandler

SAID = "the patient's dose is five milligrams"
READ = """
import sys, provkeep
with provkeep.open(sys.argv[1]) as trail:
    assert trail.verify()
    try:
        print(trail.text(purpose="curiosity"))
    except provkeep.ProvkeepError as error:
        print(type(error).__name__)
"""


def record(database: Path, said: str = SAID) -> None:
    with ProvenanceHandler(database, actor="alice@example.com") as handler:
        config: Any = {"callbacks": [handler]}
        RunnableLambda(lambda _: said).invoke("which dose?", config=config)


@pytest.fixture(params=["x25519", "hybrid"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    words = ["keys", "recipients", "--out", str(tmp_path / "office"), "--suite", request.param]
    assert main(words) == 0
    host = tmp_path / "host"
    host.mkdir()
    shutil.copy(tmp_path / "office" / "recipients.json", host)
    assert main(["init", str(host / "a.db"), "--recipients", str(host / "recipients.json")]) == 0
    record(host / "a.db")
    return host / "a.db"


def test_a_process_with_everything_on_the_host_reads_nothing(written: Path, home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ, str(written)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["KeyFileError"], done.stderr


def test_nothing_on_the_host_is_a_key_that_opens_it(written: Path, home: Path) -> None:
    """Every 32 and 96 bytes in base64 that stand in a file of the host are tried as a key."""
    from provkeep.sealing.keyring import COMPARTMENTS, open_epoch
    from provkeep.store.keyfile import KeyFile, keys_path
    from provkeep.store.sqlite import SqliteStore

    texts = [p.read_text("utf-8", "replace") for p in home.rglob("*") if p.is_file()]
    texts += [p.read_bytes().decode("latin-1") for p in written.parent.iterdir()]
    strings = {m for text in texts for m in re.findall(r"[A-Za-z0-9+/]{42,}={0,2}", text)}
    found = set()
    for text in strings:
        try:
            found.add(b64decode(text, validate=True))
        except ValueError:
            continue
    candidates = [blob for blob in found if len(blob) in (32, 96)]
    assert len(candidates) >= 3, "the log's seed and the fingerprint key at the least"
    store, keys = SqliteStore(written, read_only=True), KeyFile(keys_path(written), read_only=True)
    tried = 0
    number = 0
    while len({*COMPARTMENTS}) > tried and number < 200:
        number += 1
        row = keys.key(number)
        if row is None:
            continue
        _, eid, compartment, sealed, _ = row
        tried += 1
        for blob in candidates:
            with pytest.raises(provkeep.ProvkeepError):
                open_epoch(
                    sealed, blob, store_id=store.store_id, compartment=compartment, epoch_id=eid
                )
    assert tried
    store.close()
    keys.close()


def test_whoever_holds_the_private_keys_reads_it(written: Path, home: Path, tmp_path: Path) -> None:
    (folder,) = (home / "stores").iterdir()
    assert not (folder / "reader.json").exists() and not (folder / "admin.json").exists()
    with provkeep.open(written) as trail, pytest.raises(KeyFileError, match=r"reader\.json"):
        trail.text()
    shutil.copy(tmp_path / "office" / "reader.json", folder)
    with provkeep.open(written) as trail:
        assert trail.text(purpose="round") == SAID
        assert trail.runs()[0].actor == "alice@example.com"
        assert trail.verify()


def test_the_host_goes_on_recording(written: Path) -> None:
    record(written, "another")
    with provkeep.open(written) as trail:
        assert len(trail.runs()) == 2 and trail.verify()


def test_init_refuses_a_file_that_was_changed(tmp_path: Path, capsys: Any) -> None:
    main(["keys", "recipients", "--out", str(tmp_path / "office")])
    path = tmp_path / "office" / "recipients.json"
    path.write_text(path.read_text().replace('"x25519"', '"x25518"', 1))
    assert main(["init", str(tmp_path / "b.db"), "--recipients", str(path)]) == 3
    assert "recipients.json" in capsys.readouterr().err
    assert not (tmp_path / "b.db").exists()


def test_a_hybrid_store_made_here_reads_and_verifies(tmp_path: Path) -> None:
    assert main(["init", str(tmp_path / "h.db"), "--suite", "hybrid"]) == 0
    record(tmp_path / "h.db")
    with provkeep.open(tmp_path / "h.db") as trail:
        assert trail.text(purpose="check") == SAID and trail.verify()
