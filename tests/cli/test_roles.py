"""From the command line: keys for a reader, a grant, a reading, a refusal, a revocation."""

import datetime as dt
import json
from dataclasses import replace

import pytest

from provkeep.cli.grants import until_us
from provkeep.reading import granting
from provkeep.sealing.grants import GRANT_ID_BYTES

HOUR_US = 3_600_000_000


@pytest.fixture
def alice(tmp_path, typed):
    done = typed("keys", "new", "--name", "alice@example.com", "--out", tmp_path / "alice.key")
    assert done.code == 0, done.err
    return tmp_path / "alice.key"


def grant(typed, audit, alice, *more):
    pub = alice.with_name("alice.key.pub")
    words = ["--to", pub, "--purpose", "complaint 4711", "--until", "30d", "--json", *more]
    done = typed("grant", audit, "reviewer", *words)
    assert done.code == 0, done.err
    return done.json["id"]


def test_a_reader_opens_with_a_grant_and_is_refused_after_its_revocation(audit, typed, alice):
    refused = typed("show", audit, "--purpose", "p", "--as", alice)
    assert (refused.code, refused.out) == (3, "")
    assert refused.err.startswith("provkeep: refused: nothing was granted")
    name = grant(typed, audit, alice)
    read = typed("show", audit, "--purpose", "complaint 4711", "--as", alice)
    assert read.code == 0 and "Whoever gets the database alone" in read.out
    assert "access recorded: alice@example.com" in read.err
    (listed,) = typed("grants", audit, "--json").json
    assert (listed["id"], listed["status"], listed["name"]) == (name, "active", "alice@example.com")
    assert "complaint 4711" in typed("grants", audit).out
    assert typed("revoke", audit, name[:6], "--reason", "done", "--yes").code == 0
    gone = typed("show", audit, "--purpose", "p", "--as", alice)
    assert gone.code == 3 and "revoked" in gone.err
    whys = [a["why"] for a in typed("accesses", audit, "--json").json if a["what"] == "refused"]
    assert whys == ["revoked", "no-grant"]
    assert "refused: revoked" in typed("accesses", audit).out
    refused = typed("accesses", audit, "--what", "refused", "--json").json
    assert [a["why"] for a in refused] == whys
    assert typed("accesses", audit, "--what", "reveal").out == "no accesses fit\n"
    assert typed("accesses", audit, "--what", "everything").code == 2
    assert typed("verify", audit).code == 0


def test_the_key_may_be_named_by_the_environment(audit, typed, alice, monkeypatch):
    grant(typed, audit, alice)
    monkeypatch.setenv("PROVKEEP_AS", str(alice))
    assert typed("show", audit, "--purpose", "p").code == 0
    by = [a["actor"] for a in typed("accesses", audit, "--json").json if a["what"] == "payload"]
    assert by != [], "and it is the reader of the grant who stands there"


def test_a_grant_takes_a_line_as_well_as_its_file(audit, typed, alice):
    line = alice.with_name("alice.key.pub").read_text().strip()
    words = ["--to", line, "--purpose", "p", "--until", "2099-12-31"]
    done = typed("grant", audit, "auditor", *words)
    assert done.code == 0 and "the graph only" in done.out and "2099-12-31" in done.out
    for wrong in (
        ["king", "--to", line, "--purpose", "p", "--until", "1d"],
        ["auditor", "--to", line + "x", "--purpose", "p", "--until", "1d"],
        ["auditor", "--to", "missing.pub", "--purpose", "p", "--until", "1d"],
        ["auditor", "--to", line, "--purpose", "p", "--until", "0d"],
    ):
        assert typed("grant", audit, *wrong).code == 3
    assert typed("grant", audit, "auditor", *words[:-1], "soon").code == 2


def test_a_revocation_asks_first(audit, typed, alice, monkeypatch):
    import io
    import sys

    name = grant(typed, audit, alice)
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert typed("revoke", audit, name, "--reason", "x").code != 0
    assert [g["status"] for g in typed("grants", audit, "--json").json] == ["active"]
    assert typed("revoke", audit, "nothing", "--reason", "x", "--yes").code == 2


def test_times_are_spans_or_dates():
    now = 1_700_000_000_000_000
    assert until_us("12h", now) == now + 12 * HOUR_US
    assert until_us("30d", now) == now + 720 * HOUR_US
    assert until_us("2w", now) == now + 336 * HOUR_US
    noon = dt.datetime(2099, 12, 31, 12, tzinfo=dt.UTC)
    assert until_us("2099-12-31T13:00+01:00") == int(noon.timestamp()) * 1_000_000
    for wrong in ("", "soon", "-1d", "1y"):
        with pytest.raises(ValueError):
            until_us(wrong)


def test_a_key_file_is_protected_and_opened_by_a_passphrase(
    audit, typed, alice, monkeypatch, tmp_path
):
    grant(typed, audit, alice)
    monkeypatch.setenv("PROVKEEP_PASSPHRASE", "correct horse battery")
    done = typed("keys", "protect", alice, "--with", "passphrase", "--json")
    assert done.json["protected"] == ["box_key", "seed"]
    assert "seed" not in json.loads(alice.read_text())
    assert typed("show", audit, "--purpose", "p", "--as", alice).code == 0
    monkeypatch.setenv("PROVKEEP_PASSPHRASE", "another one entirely")
    wrong = typed("show", audit, "--purpose", "p", "--as", alice)
    assert wrong.code == 3 and "does not unwrap" in wrong.err and "another one" not in wrong.err
    monkeypatch.setenv("PROVKEEP_PASSPHRASE", "correct horse battery")
    plain = typed("keys", "protect", alice, "--with", "plain")
    assert plain.code == 0 and "seed" in json.loads(alice.read_text())
    assert typed("keys", "protect", tmp_path / "none", "--with", "plain").code == 3
    assert typed("keys", "protect", alice, "--with", "aws", "--set", "key").code == 2


def test_accesses_are_asked_by_person(audit, typed, alice):
    typed("show", audit, "--purpose", "look")
    words = ["accesses", audit, "--person", "alice@example.com", "--json"]
    assert [a["purpose"] for a in typed(*words).json] == ["look"]
    assert typed("accesses", audit, "--person", "nobody").out == "no accesses fit\n"


@pytest.mark.parametrize("begin", [b"\xf8", b"\xfb\xe0", b"\xff"], ids=["-", "--", "_"])
def test_a_grant_whose_id_begins_with_a_dash_is_revoked_by_it(
    audit, typed, alice, monkeypatch, begin
):
    """Ids are base64url, so one in 64 looks like an option."""
    made = granting.new_terms
    fixed = begin.ljust(GRANT_ID_BYTES, b"\x01")
    monkeypatch.setattr(granting, "new_terms", lambda *a, **k: replace(made(*a, **k), id=fixed))
    name = grant(typed, audit, alice)
    assert typed("revoke", audit, name[:6], "--reason", "done", "--yes").code == 0
    (listed,) = typed("grants", audit, "--json").json
    assert (listed["id"], listed["status"]) == (name, "revoked")
    assert typed("revoke", audit, name[:6], "--resaon", "done", "--yes").code == 2
