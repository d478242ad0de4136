"""Every command answers, to people and to programs."""

import stat
import sys

import pytest

import provkeep
from provkeep.cli import main
from provkeep.cli.output import json_text, short_ids
from provkeep.display.words import clean
from provkeep.langchain import ProvenanceHandler

ANSWER = (
    "Whoever gets the database alone reads nothing."
    " A changed byte in a record or in a ciphertext is noticed."
)
QUESTIONS = [
    (["runs"], ["ManualChain", "ManualAgent", "alice@example.com", "ticket-1"]),
    (["show"], ["KeywordRetriever", "retriever", "(answer)"]),
    (["lineage"], ["DOCUMENT", "verifying.md", "◉ OUTPUT"]),
    (["sources"], ["manual/verifying.md", "contained", "56 chars"]),
    (["impact", "keys.md"], ["reached", "ManualChain"]),
    (["accesses"], ["reading for the test"]),
    (["verify"], ["verified", "pinned"]),
]


@pytest.mark.parametrize(("words", "expected"), QUESTIONS, ids=lambda x: x[0])
def test_a_question_is_answered_in_words(audit, typed, words, expected):
    typed("show", audit, "--purpose", "reading for the test")
    done = typed(words[0], audit, *words[1:])
    assert done.code == 0, done.err
    for text in expected:
        assert text in done.out


@pytest.mark.parametrize("words", [q for q, _ in QUESTIONS], ids=lambda x: x[0])
def test_a_question_is_answered_in_json(audit, typed, words):
    typed("show", audit, "--purpose", "reading for the test")
    done = typed(words[0], audit, *words[1:], "--json")
    assert done.code == 0, done.err
    assert done.json


def test_no_answer_but_an_opened_text_holds_what_was_said(audit, typed):
    for words, _ in QUESTIONS:
        for form in ([], ["--json"]):
            done = typed(words[0], audit, *words[1:], *form)
            assert "changed byte" not in done.out
            assert "Whoever" not in done.out


def test_runs_are_filtered_and_counted(audit, typed):
    assert [t["name"] for t in typed("runs", audit, "--json").json] == [
        "ManualChain",
        "ManualAgent",
    ]
    assert len(typed("runs", audit, "--json", "--limit", 1).json) == 1
    assert "--offset 1" in typed("runs", audit, "--limit", 1).err
    assert len(typed("runs", audit, "--session", "ticket-1", "--json").json) == 2
    assert typed("runs", audit, "--session", "ticket-2").out == "no traces fit\n"
    assert typed("runs", audit, "--status", "error", "--json").json == []
    assert len(typed("runs", audit, "--actor", "alice@example.com", "--json").json) == 2


def test_ids_that_are_printed_can_be_typed(audit, typed):
    for line in typed("runs", audit).out.splitlines()[2:]:
        assert typed("show", audit, line.split()[0]).code == 0


def test_ids_are_shortened_only_as_far_as_they_differ():
    a, b = "0" * 31 + "1", "0" * 31 + "2"
    assert short_ids([a, b]) == {a: a, b: b}
    assert short_ids([a, a]) == {a: a[:12]}
    assert short_ids([]) == {}


def test_show_opens_a_text_only_for_a_purpose_and_says_that_it_is_recorded(audit, typed):
    """The access is in the log with reader and purpose; without a purpose there is none."""
    typed("show", audit)
    assert not [a for a in typed("accesses", audit, "--json").json if a["what"] != "names"]
    done = typed("show", audit, "--purpose", "complaint 4711", "--reader", "bob")
    assert done.out == ANSWER
    assert "access recorded: bob, “complaint 4711”" in done.err
    (access,) = typed("accesses", audit, "--actor", "bob", "--json").json[:1]
    assert access["what"] == "names" or access["purpose"] == "complaint 4711"
    purposes = [a["purpose"] for a in typed("accesses", audit, "--actor", "bob", "--json").json]
    assert "complaint 4711" in purposes


def test_show_tells_about_a_part_and_opens_it(audit, typed):
    place = typed("lineage", audit, "--json").json["focus"]
    about = typed("show", audit, place)
    assert "output" in about.out
    assert "derived" in about.out
    assert ANSWER not in about.out
    assert typed("show", audit, place, "--json").json["characters"] == len(ANSWER)
    opened = typed("show", audit, place, "--purpose", "check", "--json").json
    assert opened == {"id": place, "value": ANSWER}


def test_show_gives_a_pipe_the_very_characters(tmp_path, typed):
    """Redirected text is evidence: no character is replaced, visible or not."""
    from langchain_core.runnables import RunnableLambda

    said = "one\ttwo\r\n\x1b[31mred \u202egnirts\n"
    with ProvenanceHandler(tmp_path / "a.db") as handler:
        RunnableLambda(lambda _: said).invoke("go", config={"callbacks": [handler]})
    assert typed("show", tmp_path / "a.db", "--purpose", "p").out.encode() == said.encode()


def test_a_terminal_is_given_no_escape_codes(tmp_path, typed, monkeypatch):
    from langchain_core.runnables import RunnableLambda

    with ProvenanceHandler(tmp_path / "a.db", actor="\x1b[2Jeve\u202e") as handler:
        step = RunnableLambda(lambda _: "\x1b[31mred\nline").with_config(run_name="\x1b[8mghost")
        step.invoke("go", config={"callbacks": [handler]})
    for words in (["runs"], ["show"], ["lineage"], ["runs", "--json"], ["export"]):
        done = typed(words[0], tmp_path / "a.db", *words[1:])
        assert "\x1b" not in done.out + done.err
        assert "\u202e" not in done.out + done.err
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert (
        typed("show", tmp_path / "a.db", "--purpose", "p").out == clean("\x1b[31mred") + "\nline\n"
    )


def test_json_with_invisible_characters_means_the_same():
    import json

    value = {"é\u202e": "\ud800 \U000e0001 \x85 ok\n"}
    text = json_text(value)
    assert "\u202e" not in text
    assert "\x85" not in text
    assert json.loads(text) == value


def test_lineage_follows_what_it_is_told_to(audit, typed):
    whole = typed("lineage", audit, "--json").json
    near = typed("lineage", audit, "--depth", 1, "--json").json
    assert len(near["nodes"]) < len(whole["nodes"])
    documents = typed("lineage", audit, "--kind", "document", "--json").json["nodes"]
    assert {n["kind"] for n in documents} == {"document"}
    on_path = typed("lineage", audit, "--from", "manual/keys.md", "--json").json["nodes"]
    assert "keys.md" in [n["label"] for n in on_path]
    assert "verifying.md" not in [n["label"] for n in on_path]
    one = next(n["id"] for n in documents if n["label"] == "keys.md")
    down = typed("lineage", audit, one, "--downstream", "--json").json
    assert whole["focus"] in [n["id"] for n in down["nodes"]]
    assert typed("lineage", audit, "--kind", "document").code == 0
    drawn = typed("lineage", audit, one, "--downstream").out
    assert drawn.count("◉") == 1 and drawn.count("●") > 2
    whole = typed("lineage", audit, one, "--downstream", "--whole").out
    assert whole.count("●") == drawn.count("●")
    assert "verifying.md" in whole and "verifying.md" not in drawn
    assert typed("lineage", audit, "--whole", "--json").code == 2


def test_sources_quote_for_a_purpose(audit, typed):
    done = typed("sources", audit, "--purpose", "complaint 4711")
    assert "“A changed byte in a record or in a ciphertext is noticed" in done.out
    assert "access recorded" in done.err
    listed = typed("sources", audit, "--purpose", "check", "--json").json
    quoted = {s["name"]: [q["text"] for q in s["quotations"]] for s in listed}
    assert quoted["manual/keys.md"] == ["Whoever gets the database alone reads nothing"]
    plain = typed("sources", audit, "--json").json
    assert not any("text" in q for s in plain for q in s["quotations"])


def test_an_export_answers_as_the_store_did(audit, typed, tmp_path):
    target = tmp_path / "lineage.json"
    assert typed("export", audit, "-o", target).code == 0
    with provkeep.open(audit) as trail:
        expected = [s.name for s in trail.sources()]
    assert [s.name for s in provkeep.load_export(target).sources()] == expected
    assert provkeep.load_export(typed("export", audit).out).sources()
    told = typed("export", audit, "-o", target, "--json").json
    assert told["file"] == str(target)
    assert told["payloads"] == 0
    assert ANSWER not in target.read_text("utf-8")


def test_an_export_has_texts_only_for_a_purpose(audit, typed, tmp_path):
    target = tmp_path / "with-texts.json"
    done = typed("export", audit, "--payloads", "--purpose", "complaint 4711", "-o", target)
    assert done.code == 0
    assert "access recorded" in done.err
    assert ANSWER in target.read_text("utf-8")
    purposes = [a["purpose"] for a in typed("accesses", audit, "--json").json]
    assert purposes.count("complaint 4711") == 1


@pytest.mark.parametrize(
    ("form", "begins"),
    [("svg", "<svg"), ("mermaid", "flowchart TD"), ("prov", "{"), ("otlp", "{"), ("json", "{")],
)
def test_every_format_is_written_and_printed(audit, typed, tmp_path, form, begins):
    target = tmp_path / "out"
    assert typed("export", audit, "--format", form, "-o", target).code == 0
    assert target.read_text("utf-8").startswith(begins)
    assert typed("export", audit, "--format", form).out.startswith(begins)
    assert typed("export", audit, "--whole", "--format", form).code == 0


def test_init_says_what_the_keys_protect_and_keeps_them_elsewhere(tmp_path, home, typed):
    path = tmp_path / "store" / "new.db"
    done = typed("init", path)
    assert done.code == 0
    assert "whoever gets the database alone reads nothing" in done.out
    assert "whoever gets this user account reads everything" in done.out
    keys = [p for p in home.rglob("*") if p.is_file()]
    assert {p.name for p in keys} >= {"reader.json", "recorder.json", "pin.json"}
    for file in keys:
        if file.name != "log.pub":
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not [p for p in path.parent.iterdir() if not p.name.startswith("new.db")]
    again = typed("init", path, "--json")
    assert again.json["created"] is False
    assert again.json["keys"] in done.out
    assert typed("runs", path).out == "no traces recorded yet\n"
    assert typed("accesses", path).out == "no accesses recorded yet\n"


def test_the_version_and_the_bare_command_answer(typed):
    assert typed("--version").out.startswith("provkeep 0.")
    assert "Begin here" in typed().out
    assert main([]) == 0
