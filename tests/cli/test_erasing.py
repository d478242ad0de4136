"""Forgetting from the command line: shown, asked about, done, and listed."""

import io
import sys

import pytest

import provkeep
from provkeep.langchain import ProvenanceHandler
from tests.scenarios.erasing_kit import ask, record, wrapped_keys


@pytest.fixture
def store(tmp_path, home):
    path = tmp_path / "audit.db"
    record(path, [("handbook.pdf", "Until when may I return it?", "anna")])
    record(path, [("prices.pdf", "What does a parcel cost?", "bert")])
    return path


def answer(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_a_dry_run_shows_what_would_go_and_destroys_nothing(store, typed):
    before = wrapped_keys(store)
    done = typed("erase", store, "--source", "handbook.pdf", "--dry-run")
    assert done.code == 0
    assert "2 keys would go" in done.out and "1 document, 1 meta" in done.out
    assert "something made from it stays in" in done.out and "docs/handbook.pdf" in done.out
    plan = typed("erase", store, "--source", "handbook.pdf", "--dry-run", "--json").json
    assert plan["keys"] == 2 and len(plan["derived"]) == 1 and plan["what"] == "source"
    assert before.keys() <= wrapped_keys(store).keys()


def test_it_asks_first_and_no_means_no(store, typed, monkeypatch):
    before = wrapped_keys(store)
    answer(monkeypatch, "n\n")
    done = typed("erase", store, "--source", "handbook.pdf", "--reason", "request 17")
    assert done.code == 130 and "Nothing brings them back" in done.err
    assert before.keys() <= wrapped_keys(store).keys()
    answer(monkeypatch, "y\n")
    done = typed("erase", store, "--source", "handbook.pdf", "--reason", "request 17")
    assert done.code == 0 and "2 keys destroyed, in no file any more" in done.out
    assert len(before.keys() - wrapped_keys(store).keys()) == 2
    assert typed("verify", store).code == 0
    listed = typed("erase", store, "--list")
    assert "request 17" in listed.out and "source" in listed.out
    assert typed("erase", store, "--list", "--json").json[0]["reason"] == "request 17"
    assert typed("erase", store, "--finish").out == "nothing is pending\n"


def test_a_name_is_read_from_standard_input_so_that_it_is_no_argument(store, typed, monkeypatch):
    answer(monkeypatch, "anna\n")
    done = typed("erase", store, "--subject", "-", "--reason", "request 17", "--yes", "--json")
    assert done.code == 0 and done.json["traces"] == 1 and "anna" not in done.out + done.err
    shown = typed("show", store, "--json", "--purpose", "a test", done_trace(store))
    assert "Until when" not in shown.out


def done_trace(store):
    with provkeep.open(store) as trail:
        return trail.runs()[-1].id


@pytest.mark.parametrize(
    "words",
    [
        ["--reason", "x"],
        ["--trace", "01", "--source", "a", "--reason", "x"],
        ["--subject", "nobody", "--reason", "x", "--yes"],
        ["--source", "handbook.pdf", "--yes"],
        ["--trace", "ffffffff", "--reason", "x", "--yes"],
    ],
)
def test_wrong_use_is_said_and_destroys_nothing(store, typed, words):
    before = wrapped_keys(store)
    done = typed("erase", store, *words)
    assert done.code == 2 and done.err
    assert "nobody" not in done.err, "a name is in no message"
    assert before.keys() <= wrapped_keys(store).keys()


def test_a_hold_keeps_it_and_is_listed_and_lifted(store, typed):
    assert typed("hold", "list", store).err == "no holds\n"
    target = ("--source", "handbook.pdf", "--reason", "case 4711")
    assert typed("hold", "add", store, *target).code == 0
    listed = typed("hold", "list", store)
    assert "case 4711" in listed.out and "handbook.pdf" in listed.out
    assert typed("hold", "list", store, "--json").json[0]["what"] == "source"
    done = typed("erase", store, *target, "--yes")
    assert done.code == 2 and "legal hold" in done.err
    assert typed("hold", "remove", store, *target).code == 0
    assert typed("erase", store, *target, "--yes").code == 0
    assert typed("verify", store).code == 0


def test_what_is_too_old_is_erased_and_what_is_held_stays(store, typed, monkeypatch):
    day = 24 * 3600
    now = __import__("time").time
    assert "nothing to erase" in typed("retain", store, "--older-than", "1d", "--yes").out
    assert typed("hold", "add", store, "--subject", "bert", "--reason", "case").code == 0
    monkeypatch.setattr("provkeep.cli.erasing.time.time_ns", lambda: int((now() + 2 * day) * 1e9))
    shown = typed("retain", store, "--older-than", "1d", "--class", "prompt", "--dry-run")
    assert "1 key would go" in shown.out and "left out, being under a legal hold: 2" in shown.out
    done = typed("retain", store, "--older-than", "1d", "--class", "prompt", "--yes", "--json")
    assert done.code == 0 and done.json[0]["keys"] == 1 and done.json[0]["what"] == "retention"
    done = typed("retain", store, "--older-than", "1d", "--yes", "--json")
    (all_of_it,) = done.json
    assert all_of_it["keys"] > 2 and all_of_it["sources"] == 1
    with provkeep.open(store) as trail:
        held, _ = trail.runs()
        assert "It says" in trail.text(held, purpose="a test")
    assert typed("verify", store).code == 0


def test_a_document_is_as_old_as_the_newest_trace_that_retrieved_it(store, typed):
    with provkeep.open(store) as trail:
        first = trail.runs()[-1]
    with ProvenanceHandler(store) as handler:
        ask(handler, "handbook.pdf", "And once more, until when?")
    with provkeep.open(store) as trail:
        plan = trail.plan_erasure(older_than_us=first.ended_us + 1)
        assert [t.id for t in plan.traces] == [first.id] and plan.sources == ()
        trail.erase(plan, reason="old")
        newest = trail.plan_erasure(older_than_us=2**60)
        assert sorted(newest.payloads) == ["document", "meta", "output", "prompt"]


def test_a_policy_says_how_long_each_compartment_is_kept(store, typed, home, tmp_path):
    config = home / "config.toml"
    config.write_text('[retention]\nall = "3y"\nprompt = "180d"\n')
    done = typed("retain", store, "--policy", "--dry-run")
    assert done.code == 0
    assert done.out.index("prompt older than 180d") < done.out.index("everything older than 3y")
    other = tmp_path / "policy.toml"
    for text, complaint in (
        ("", "no table"),
        ('[retention]\nprompts = "1d"', "'prompts'"),
        ('[retention]\nprompt = "1 day"', "no age"),
        ("[retention]\nprompt = 180", "no age"),
        ("[[", "not TOML"),
    ):
        other.write_text(text)
        done = typed("retain", store, "--policy", other, "--dry-run")
        assert done.code == 2 and complaint in done.err
    assert typed("retain", store, "--policy", tmp_path / "none.toml").code == 2
    assert typed("retain", store).code == 2
    assert typed("retain", store, "--older-than", "0d").code == 2
