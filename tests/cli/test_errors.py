"""Each way to go wrong has its exit code and one line that says what to do; none a traceback."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from provkeep import errors
from provkeep.cli import output
from provkeep.langchain import ProvenanceHandler


def one_line(text: str) -> bool:
    return text.startswith("provkeep: ") and text.count("\n") == 1


def broken_files(tmp_path):
    (tmp_path / "text.db").write_text("not a database\n" * 100)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE t(x)")
    return ["missing.db", "text.db", "other.db"]


@pytest.mark.parametrize("command", ["runs", "show", "lineage", "sources", "accesses", "verify"])
def test_what_is_no_store_is_code_3(tmp_path, typed, command):
    for name in broken_files(tmp_path):
        done = typed(command, tmp_path / name)
        assert done.code == 3, (name, done.err)
        assert one_line(done.err)
        assert name in done.err
    assert not (tmp_path / "missing.db").exists()


def test_init_does_not_take_over_a_file_of_others(tmp_path, typed):
    for name in broken_files(tmp_path)[1:]:
        before = (tmp_path / name).read_bytes()
        assert typed("init", tmp_path / name).code == 3
        assert (tmp_path / name).read_bytes() == before


def test_a_newer_schema_is_code_3(audit, typed):
    connection = sqlite3.connect(audit)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    for command in ("runs", "verify"):
        done = typed(command, audit)
        assert done.code == 3
        assert "999" in done.out + done.err


def test_missing_keys_are_code_3_where_something_is_to_be_opened(
    audit, typed, tmp_path, monkeypatch
):
    monkeypatch.setenv("PROVKEEP_HOME", str(tmp_path / "elsewhere"))
    done = typed("show", audit, "--purpose", "p")
    assert done.code == 3
    assert one_line(done.err)
    assert "reader.json" in done.err
    runs = typed("runs", audit, "--json")
    assert runs.code == 0  # structure needs no key
    assert all(t["actor"].startswith("(") for t in runs.json)


@pytest.mark.parametrize(
    "words",
    [
        ["show", "ffff"],
        ["show", "not-hex"],
        ["lineage", "ffff.a1"],
        ["impact", "nowhere.pdf"],
        ["lineage", "--from", "nowhere.pdf"],
        ["accesses", "--trace", "ffff"],
    ],
)
def test_an_unknown_id_is_code_2(audit, typed, words):
    done = typed(words[0], audit, *words[1:])
    assert done.code == 2
    assert one_line(done.err)


def test_an_unknown_part_of_a_trace_is_code_2(audit, typed):
    trace = typed("runs", audit, "--json").json[0]["id"]
    for place in ("a999", "r999", "x", ""):
        assert typed("show", audit, f"{trace}.{place}").code == 2
        assert typed("show", audit, f"{trace}.{place}", "--purpose", "p").code == 2


def test_an_ambiguous_prefix_is_code_2_and_names_what_fits(audit, typed):
    done = typed("show", audit, "0")
    assert done.code == 2
    assert "fits several" in done.err
    assert one_line(done.err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "No such command"),
        (["runs"], "Missing argument"),
        (["runs", "a.db", "--limit", "0"], "--limit"),
        (["export", "a.db", "--format", "gif"], "--format"),
        (["export", "a.db", "--payloads"], "--purpose"),
        (["export", "a.db", "--purpose", "p"], "--payloads"),
        (["export", "a.db", "--format", "svg", "--payloads", "--purpose", "p"], "json"),
        (["lineage", "a.db", "ff", "--downstream", "--from", "a1"], "--from"),
        (["lineage", "a.db", "--downstream"], "needs an ID"),
        (["verify", "a.db", "--key", "no-such-file"], "--key"),
    ],
)
def test_wrong_use_is_code_2(typed, words, message):
    done = typed(*words)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_place_that_cannot_be_written_is_code_2(audit, typed, tmp_path):
    done = typed("export", audit, "-o", tmp_path / "no" / "folder" / "x.json")
    assert done.code == 2
    assert "cannot be written" in done.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.StoreLockedError("a.db"), 3),
        (errors.StoreReadOnlyError("a.db"), 3),
        (errors.StoreNewerError("a.db", 9, 1), 3),
        (errors.KeyFileError("reader.json", "is missing", "restore it"), 3),
        (errors.AccessNotRecordedError("the disk is full"), 3),
        (errors.PinError("there is no pin", "pin.json"), 3),
        (errors.ExportError("malformed"), 3),
        (errors.UnknownIdError("trace", "ff"), 2),
        (errors.AmbiguousIdError("f", ["fa", "fb"]), 2),
        (errors.MissingExtraError("pandas", "pandas"), 2),
        (PermissionError(13, "Permission denied", "a.db"), 3),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda x: type(x).__name__,
)
def test_every_error_has_its_code_and_one_line(monkeypatch, typed, error, code):
    def fail(*_args, **_more):
        raise error

    monkeypatch.setattr("provkeep.trail.open", fail)
    done = typed("runs", "a.db")
    assert done.code == code
    assert done.out == ""
    assert one_line(done.err.lstrip("\n"))


def test_a_changed_byte_is_code_1_and_named(audit, typed):
    assert typed("verify", audit).code == 0
    whole = bytearray(audit.read_bytes())
    at = whole.rindex(b"KeywordRetriever")
    whole[at] ^= 1
    audit.write_bytes(whole)
    done = typed("verify", audit)
    assert done.code == 1
    assert "FAILED" in done.out
    told = typed("verify", audit, "--json")
    assert told.code == 1
    assert told.json["ok"] is False
    assert told.json["findings"]


def test_a_log_that_was_exchanged_is_held_against_the_pin_of_the_one_that_was_here(
    audit, typed, tmp_path
):
    """A forger's own store verifies by its own lights; here stood another one."""
    with ProvenanceHandler(tmp_path / "forged.db"):
        pass
    assert typed("verify", tmp_path / "forged.db").code == 0
    for suffix in ("", "-keys"):
        shutil.copy(tmp_path / f"forged.db{suffix}", f"{audit}{suffix}")
    done = typed("verify", audit)
    assert done.code == 1
    assert "pin-mismatch" in done.out or "origin-mismatch" in done.out
    audit.write_bytes(b"nothing at all")
    assert typed("verify", audit).code == 1
    audit.unlink()
    assert typed("verify", audit).code == 1


def test_verify_takes_its_pin_and_key_from_elsewhere(audit, typed, tmp_path, monkeypatch, home):
    (folder,) = (home / "stores").iterdir()
    safe = tmp_path / "safe"
    shutil.copytree(folder, safe)
    monkeypatch.setenv("PROVKEEP_HOME", str(tmp_path / "elsewhere"))
    assert typed("verify", audit).code == 1  # nobody says which key signs
    by_files = typed("verify", audit, "--pin", safe / "pin.json", "--key", safe / "log.pub")
    assert by_files.code == 0
    assert "pinned" in by_files.out
    line = (safe / "log.pub").read_text().strip()
    assert "unpinned" in typed("verify", audit, "--key", line).out
    wrong = line.replace(line[-6:-2], "AAAA")
    assert typed("verify", audit, "--key", wrong).code == 1


def test_a_closed_pipe_ends_quietly(audit):
    code = "import sys; from provkeep.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "export", str(audit)]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_bar_is_drawn_only_where_a_person_watches(monkeypatch, capsys):
    monkeypatch.setattr(output, "PATIENCE_S", 0.0)
    with output.progress("work") as step:
        step(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with output.progress("work") as step:
        step(1, 2)
        step(2, 2)
    assert "work" in capsys.readouterr().err
