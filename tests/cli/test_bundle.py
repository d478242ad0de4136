"""``bundle`` and ``verify-bundle`` as they are typed, on two machines."""

import json
import shutil
import stat
import sys

import pytest

from provkeep.tlog.checkpoint import LogKey

ANSWER = "A changed byte in a record or in a ciphertext is noticed."


@pytest.fixture
def case(audit, home, typed, tmp_path):
    """A bundle that reveals the answer, and the log's public key."""
    path = tmp_path / "case.json"
    words = ("--reveal", "output", "--purpose", "case 17")
    done = typed("bundle", audit, *words, "-o", path)
    assert done.code == 0, done.err
    (key,) = home.glob("stores/*/log.pub")
    return path, key


@pytest.fixture
def elsewhere(case, tmp_path, monkeypatch):
    """The machine of whoever received it: two files, no database, no home."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for file in case:
        shutil.copy(file, folder)
    monkeypatch.setenv("PROVKEEP_HOME", str(folder / "no-home"))
    monkeypatch.chdir(folder)
    return folder


def test_the_owner_writes_a_case_and_the_access_is_recorded(audit, typed, case):
    path, _ = case
    document = json.loads(path.read_text())
    assert (document["format"], len(document["reveals"])) == ("provkeep-bundle", 1)
    assert ANSWER in path.read_text()
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listed = typed("accesses", audit, "--json").json
    assert ("reveal", "case 17") in [(a["what"], a["purpose"]) for a in listed]


def test_what_was_written_is_told_to_programs_and_people(audit, typed, tmp_path):
    path = tmp_path / "x.json"
    done = typed("bundle", audit, "-o", path, "--json")
    assert done.json["records"][0] == 0 and done.json["revealed"] == []
    done = typed("bundle", audit, "--reveal", "output,tool", "--purpose", "y", "-o", path)
    assert done.code == 0 and done.out == ""
    assert "payloads revealed" in done.err and "access recorded" in done.err and "“y”" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--reveal", "output"], "--purpose"),
        (["--purpose", "x"], "--reveal"),
        (["--reveal", "secrets", "--purpose", "x"], "secrets"),
        (["ffff"], "ffff"),
    ],
)
def test_wrong_use_writes_nothing_and_records_nothing(audit, typed, tmp_path, words, said):
    done = typed("bundle", audit, *words, "-o", tmp_path / "x.json")
    assert done.code == 2 and said in done.err
    assert not (tmp_path / "x.json").exists()
    assert typed("accesses", audit, "--json").json == []


def test_a_stranger_verifies_it_and_is_told_what_that_leaves_open(elsewhere, typed):
    done = typed("verify-bundle", "case.json", "--key", "log.pub")
    assert done.code == 0 and "verified" in done.out
    for words in ("proved:", "open:", "what was sealed", "no pin was given", "not revealed"):
        assert words in done.out
    assert ANSWER not in done.out
    assert ANSWER in typed("verify-bundle", "case.json", "--key", "log.pub", "--show").out
    assert not (elsewhere / "no-home").exists()


def test_a_stranger_s_program_gets_json(elsewhere, typed):
    key = (elsewhere / "log.pub").read_text().strip()
    done = typed("verify-bundle", "case.json", "--key", key, "--json")
    assert done.code == 0 and done.json["ok"] and done.json["proved"]
    assert ANSWER not in done.out
    shown = typed("verify-bundle", "case.json", "--key", key, "--json", "--show").json
    assert ANSWER in shown["revealed"][0]["text"]


def test_a_pin_says_which_log_it_has_to_be(audit, home, typed, case):
    path, _ = case
    (pin,) = home.glob("stores/*/pin.json")
    done = typed("verify-bundle", path, "--pin", pin)
    assert done.code == 0 and "the pin remembers" in done.out and "no pin" not in done.out
    changed = json.loads(pin.read_text())
    changed["size"] = 1
    pin.write_text(json.dumps(changed))
    done = typed("verify-bundle", path, "--pin", pin)
    assert done.code == 1 and "pin-unproved" in done.out


def test_a_changed_text_is_a_finding(elsewhere, typed):
    text = (elsewhere / "case.json").read_text()
    (elsewhere / "case.json").write_text(text.replace("is noticed", "is missed"))
    done = typed("verify-bundle", "case.json", "--key", "log.pub")
    assert done.code == 1
    assert "reveal-false" in done.out and "nothing is proved" in done.out
    assert "proved:\n" not in done.out
    assert not typed("verify-bundle", "case.json", "--key", "log.pub", "--json").json["ok"]


def test_another_key_is_a_finding_and_no_key_is_wrong_use(elsewhere, typed):
    key = LogKey.generate("provkeep/another").public.vkey()
    assert typed("verify-bundle", "case.json", "--key", key).code == 1
    assert typed("verify-bundle", "case.json").code == 2
    assert typed("verify-bundle", "case.json", "--key", "no-such-file").code == 2
    (elsewhere / "log.pub").write_bytes(b"\xff\xfe")
    assert typed("verify-bundle", "case.json", "--key", "log.pub").code == 2


@pytest.mark.parametrize("blob", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"format": NaN}'])
def test_what_is_no_bundle_cannot_be_read(elsewhere, typed, blob):
    (elsewhere / "case.json").write_bytes(blob)
    done = typed("verify-bundle", "case.json", "--key", "log.pub")
    assert (done.code, done.out) == (3, "") and done.err.startswith("provkeep: ")
    assert done.err.count("\n") == 1
    assert typed("verify-bundle", "nowhere.json", "--key", "log.pub").code == 3


def test_escapes_in_a_revealed_text_do_not_reach_the_terminal(tmp_path, typed, home, monkeypatch):
    from langchain_core.runnables import RunnableLambda

    from provkeep.langchain import ProvenanceHandler

    with ProvenanceHandler(tmp_path / "odd.db") as handler:
        odd = RunnableLambda(lambda text: text + "\x1b[2Jgone\u202e")
        odd.invoke("a text that is long enough", config={"callbacks": [handler]})
    words = ("--reveal", "all", "--purpose", "x", "-o", tmp_path / "odd.json")
    assert typed("bundle", tmp_path / "odd.db", *words).code == 0
    (key,) = home.glob("stores/*/log.pub")
    for form in ([], ["--json"]):
        done = typed("verify-bundle", tmp_path / "odd.json", "--key", key, "--show", *form)
        assert done.code == 0 and "gone" in done.out
        assert "\x1b" not in done.out and "\u202e" not in done.out
