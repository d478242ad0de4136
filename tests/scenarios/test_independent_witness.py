"""A witness that nobody here wrote cosigns this log while it grows, and refuses it when it lies.

``aics-witness`` checks the log's signature and the consistency proof by itself, on a server of its
own in another interpreter; what it signs is checked by ``verify``.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from provkeep.errors import AnchorConflictError, AnchorError
from provkeep.reading.verify import verify
from provkeep.store.sqlite import SqliteStore
from provkeep.tlog.anchorbook import AnchorBook
from provkeep.tlog.checkpoint import LogPublicKey
from provkeep.tlog.log import Log
from tests.anchor_kit import anchor_and_record, submit
from tests.independent_tlog import independent_python, plain
from tests.reading.forging import KEY, make, trace, traces

SERVE = """
import contextlib, json, os, sys, threading
from aics_witness import Witness, WitnessStore, load_config, load_or_create_key, make_server
from aics_witness.cli import main

origin, vkey = sys.argv[1:]
with contextlib.redirect_stdout(sys.stderr):
    for words in (["init", "--name", "witness.example.org/w1"],
                  ["add-log", "--origin", origin, "--vkey", vkey]):
        assert main([words[0], "--config", "witness.json", *words[1:]]) == 0
config = load_config("witness.json")
key = load_or_create_key(config.key_path, create=False)[0]
with WitnessStore(config.db_path) as store:
    witness = Witness(config.name, key, store, config.logs)
    server = make_server(witness, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"url": server.url, "key": witness.vkey_text}), flush=True)
    sys.stdin.read()  # until the test closes it
    server.shutdown()
    server.server_close()
"""


@contextmanager
def witness(folder: Path, public: LogPublicKey) -> Iterator[dict[str, str]]:
    folder.mkdir()
    with (
        (folder / "said").open("w") as said,
        subprocess.Popen(
            [independent_python(), "-c", SERVE, public.origin, public.vkey()],
            cwd=folder,
            env=plain(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process,
    ):
        line = process.stdout.readline()
        assert line, (folder / "said").read_text()
        yield json.loads(line)
        process.stdin.close()
        assert process.wait(60) == 0, (folder / "said").read_text()


def named(folder: Path, fields: dict[str, str]) -> AnchorBook:
    book = AnchorBook(folder / "anchors.json")
    book.add("w1", "witness", **fields)
    book.write()
    return book


def test_it_cosigns_a_log_that_grows_and_refuses_one_that_was_rewritten_or_cut(tmp_path):
    path = tmp_path / "audit.db"
    make(path, traces(300))
    with witness(tmp_path / "w", KEY.public) as fields:
        book = named(tmp_path, fields)
        for step in range(3):
            anchor_and_record(path, book)
            with closing(SqliteStore(path)) as store:
                log = Log(store)
                log.append([trace(1000 + 100 * step + n) for n in range(1 + 90 * step)])
                log.checkpoint(KEY)
        anchor_and_record(path, book)
        report = verify(path, pin=None, public=KEY.public, anchors=book.path)
        assert report, report.table()
        assert report.codes == {"unpinned", "anchored"}

        forged = tmp_path / "forged.db"
        make(forged, [trace(9000), *traces(700)[1:]])
        (refused,) = submit(forged, book)
        assert isinstance(refused.error, AnchorConflictError)
        make(tmp_path / "cut.db", traces(200))
        (refused,) = submit(tmp_path / "cut.db", book)
        assert isinstance(refused.error, AnchorConflictError)
    for lie in (forged, tmp_path / "cut.db"):
        assert not verify(lie, pin=None, public=KEY.public, anchors=book.path)


def test_a_log_that_it_was_not_told_of_is_not_cosigned(tmp_path):
    path = tmp_path / "audit.db"
    make(path, traces(10))
    other = LogPublicKey("provkeep/other", KEY.public.key)
    with witness(tmp_path / "w", other) as fields:
        book = named(tmp_path, fields)
        (refused,) = submit(path, book)
    assert isinstance(refused.error, AnchorError)
    with pytest.raises(AnchorError, match=r"give its operator the log's public key"):
        raise refused.error
