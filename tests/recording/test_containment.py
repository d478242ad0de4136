"""What stands in a target is found with its exact place; what does not is not."""

# ruff: noqa: RUF001  (Chinese punctuation is what these tests are about)

from __future__ import annotations

import html
import json
import random
import textwrap
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provkeep.recording.containment import (
    Span,
    Target,
    contained,
    quotations,
    short_in,
)
from provkeep.recording.tokens import TEXT_CHARS, TokenCache, Tokens, decoded

COMMON_WORDS = """
    the of and to in a is that for it as was with be by on not he his but at are this have from
    or had an they which one you were all her she there would their we him been has when who will
    no more if out so up said what its about than into them can only other time new some could
"""
COMMON = COMMON_WORDS.split()

DOCUMENT = (
    "The maximum daily dose for adults is 40 mg, taken with food.\n"
    "Patients with impaired kidneys need half of it & a check after two weeks.\n"
    'Tell your doctor if you take <other> medicines, even "harmless" ones like Bob\'s tea.\n'
    "Store below 25 °C in C:\\temp\\new boxes; Müller & Söhne deliver naïve cafés 😀 daily.\n"
)


def _numbered(text: str) -> str:
    return "\n".join(f"{n:>4}. {line}" for n, line in enumerate(text.splitlines(), 1))


WHOLE: dict[str, Callable[[str], str]] = {
    "indented": lambda text: textwrap.indent(text, "      "),
    "quoted": lambda text: textwrap.indent(text, "> ", lambda _: True),
    "numbered": _numbered,
    "numbered like a file": lambda text: "\n".join(
        f"{n}\t{line}" for n, line in enumerate(text.splitlines(), 1)
    ),
    "wrapped": lambda text: textwrap.fill(text, 30, break_long_words=False),
    "wrapped and numbered": lambda text: _numbered(
        textwrap.fill(text, 30, break_long_words=False, break_on_hyphens=False)
    ),
    "on one line": lambda text: " ".join(text.split()),
    "upper case": str.upper,
    "json": json.dumps,
    "json, not ascii": lambda text: json.dumps(text, ensure_ascii=False),
    "json twice": lambda text: json.dumps({"content": json.dumps([text])}),
    "repr": repr,
    "ascii": ascii,
    "repr of a list": lambda text: repr([{"page_content": text}]),
    "html": html.escape,
    "html twice": lambda text: html.escape(html.escape(text)),
    "html in json": lambda text: json.dumps(html.escape(text)),
    "json in html": lambda text: html.escape(json.dumps(text)),
    "json for a script tag": lambda text: (
        json.dumps(html.escape(text)).replace("&", "\\u0026").replace("<", "\\u003c")
    ),
}

words = st.text("abcdefghijklmnopqrstuvwxyzäéößñ0123456789", min_size=1, max_size=9) | st.text(
    "αβγδжзиклмн中文字日本", min_size=1, max_size=6
)
separators = st.sampled_from(
    [" ", " ", " ", ", ", ". ", "\n", "\n\n", "\t", " & ", ' "', "' ", "\\ "]
)


@st.composite
def texts(draw: st.DrawFn, least: int = 16, most: int = 60) -> str:
    """Words with the separators that escaping touches."""
    chosen = draw(st.lists(words, min_size=least, max_size=most))
    return "".join(word + draw(separators) for word in chosen)


@pytest.mark.parametrize("how", WHOLE)
def test_a_transformed_document_is_found_whole_in_its_prompt(how):
    prompt = f"Use only this context:\n\n{WHOLE[how](DOCUMENT)}\n\nQuestion: how much may I take?"
    found = contained(prompt, DOCUMENT)
    assert found is not None
    assert found.coverage_permille >= 950
    assert contained(prompt.replace(WHOLE[how](DOCUMENT), "nothing"), DOCUMENT) is None


@settings(max_examples=40, deadline=None)
@given(chosen=st.lists(words, min_size=16, max_size=60, unique_by=str.casefold), data=st.data())
def test_any_text_split_by_a_line_is_found_whole(chosen, data):
    """Of a text that only repeats itself, or one word cut off alone, this cannot be promised."""
    at = data.draw(st.integers(2, len(chosen) - 2))
    inserted = [*chosen[:at], "\n--- page 3 of 12, internal use ---\n", *chosen[at:]]
    found = contained(" ".join(inserted), " ".join(chosen))
    assert found is not None
    assert found.coverage_permille >= 950
    _assert_sound(" ".join(inserted), " ".join(chosen), found.spans)


@pytest.mark.parametrize("how", WHOLE)
@settings(max_examples=25, deadline=None)
@given(text=texts())
def test_any_transformed_text_is_found_whole(how, text):
    target = f"Context begins.\n{WHOLE[how](text)}\nAnd here it ends."
    found = contained(target, text)
    assert found is not None
    assert found.coverage_permille >= 950
    _assert_sound(target, text, found.spans)


@settings(max_examples=60, deadline=None)
@given(text=texts(), before=texts(least=0, most=20), after=texts(least=0, most=20))
def test_verbatim_spans_have_the_same_characters(text, before, after):
    target = f"{before}|{text}|{after}"
    found = contained(target, text)
    assert found is not None
    assert (found.coverage_permille, found.verbatim) == (1000, True)
    for span in found.spans:
        ours = text[span.source_start : span.source_end]
        assert target[span.target_start : span.target_end] == ours


def _assert_sound(target: str, source: str, spans: tuple[Span, ...]) -> None:
    """Spans are in order, apart in the target, and within both texts."""
    end = 0
    for span in spans:
        assert end <= span.target_start < span.target_end <= len(target)
        assert 0 <= span.source_start < span.source_end <= len(source)
        end = span.target_end


@pytest.mark.parametrize("how", ["indented", "wrapped", "json", "repr", "html"])
def test_a_span_of_an_escaped_text_names_the_escaped_characters(how):
    target = f"Context: {WHOLE[how](DOCUMENT)} End."
    found = contained(target, DOCUMENT)
    assert found is not None
    (span,) = found.spans
    excerpt = target[span.target_start : span.target_end]
    source = DOCUMENT[span.source_start : span.source_end]
    assert Tokens(excerpt).words == Tokens(source).words
    assert not found.verbatim
    assert excerpt[:3] == "The"
    assert excerpt[-5:] == "daily"


def test_a_truncated_document_is_found_with_its_share():
    body = " ".join(f"{word}{n}" for n, word in enumerate(COMMON * 2))
    front = contained("Context: " + body[: len(body) // 2] + " [...]", body)
    middle = contained("Context: ..." + body[len(body) // 3 : len(body) // 2] + "...", body)
    assert front is not None
    assert middle is not None
    assert 450 <= front.coverage_permille <= 520
    assert 130 <= middle.coverage_permille <= 170  # below the share, but a long run
    assert front.verbatim
    (span,) = front.spans
    assert span.source_start == 0


def test_a_sentence_of_a_long_document_is_not_containment():
    body = " ".join(f"{word}{n}" for n, word in enumerate(COMMON * 10))
    assert contained("As the text says: " + body[500:580], body) is None


def test_outer_whitespace_does_not_spoil_a_verbatim_match():
    source = "\n   the quick brown fox jumps over it\n"
    target = "Context: the quick brown fox jumps over it."
    found = contained(target, source)
    assert found is not None
    assert found.spans == (Span(target_start=9, target_end=42, source_start=4, source_end=37),)
    assert found.verbatim


def test_every_occurrence_is_told_up_to_the_limit():
    source = "the quick brown fox jumps over it"
    found = contained(" | ".join([source] * 3), source)
    assert found is not None
    assert [span.target_start for span in found.spans] == [0, 36, 72]
    crowded = contained("\n".join([source] * 40), source)
    assert crowded is not None
    assert len(crowded.spans) == 16


def test_escaped_occurrences_are_told_too():
    source = "the quick\nbrown fox\njumps over\nthe lazy dog\ntwice a day\nand rests"
    found = contained(json.dumps([source, "between", source]), source)
    assert found is not None
    assert len(found.spans) == 2
    assert found.coverage_permille == 1000


def test_a_header_that_all_chunks_share_belongs_to_each_chunks_own_place():
    rng = random.Random(4)
    header = "Source handbook of the company, chapter on leave and pay, all rights reserved. "
    chunks = [header + " ".join(f"w{rng.randrange(10**6)}" for _ in range(60)) for _ in range(6)]
    target = json.dumps("\n\n".join(chunks[:5]).upper())
    for chunk in chunks[:5]:
        found = contained(target, chunk)
        assert found is not None
        assert len(found.spans) == 1
    assert contained(target, chunks[5]) is None


def test_a_text_too_short_to_mean_anything_is_refused():
    assert contained("the answer is forty-two, so there", "the answer is forty-two") is None
    assert contained("x" * 100, " " * 30 + "x" * 23) is None
    assert contained("x" * 100, "x" * 24) is not None


def test_unrelated_texts_of_common_words_are_not_contained():
    rng = random.Random(7)
    target = Target(" ".join(rng.choices(COMMON, k=4000)))
    for _ in range(200):
        length = rng.choice([10, 20, 60, 200])
        assert target.contained(" ".join(rng.choices(COMMON, k=length))) is None


def test_text_without_spaces_is_found():
    source = (
        "成人每日最大剂量为四十毫克，需随餐服用。肾功能不全者减半，两周后复查。儿童禁用，孕妇慎用。"
    )
    wrapped = "\n".join(f"> {source[n : n + 11]}" for n in range(0, len(source), 11))
    for target in (wrapped, json.dumps(source), json.dumps(json.dumps({"文": source}))):
        found = contained(f"上下文：{target} 问题：剂量？", source)
        assert found is not None
        assert found.coverage_permille >= 950
    assert contained("问题：" + source[::-1], source) is None
    (span,) = quotations("答：" + source[14:40] + "。", source)
    assert span.source_start == 14


def test_thai_and_characters_outside_the_first_plane_are_found():
    thai = "ขนาดยาสูงสุดต่อวันสำหรับผู้ใหญ่คือสี่สิบมิลลิกรัม"
    rare = "𠀀𠀁𠀂𠀃𠀄𠀅𠀆𠀇𠀈𠀉𠀊𠀋𠀌𠀍𠀎𠀏𠀐𠀑𠀒𠀓𠀔𠀕𠀖𠀗"
    for source in (thai, rare):
        found = contained(json.dumps("x\n" + source[:9] + "\n" + source[9:]), source)
        assert found is not None
        assert found.coverage_permille >= 950


def test_few_long_words_are_found_only_as_a_whole():
    source = "Überdosierung Niereninsuffizienz"
    found = contained(json.dumps(f"bei {source} gilt"), source)
    assert found is not None
    assert found.coverage_permille == 1000
    assert contained("bei überdosierung und niereninsuffizienz gilt", source) is None


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("a " * 200_000, "a " * 190_000 + "b"),
        ("A " * 200_000, "a " * 500_000),
        ("ab " * 5, "a " * 500_000),
        ("a b " * 90_000, "b  a " * 200_000),
        ("x" * 5_000_000, "y" * 5_000_000),
        ("x" * 5_000_000, "X" * 5_000_000),
        ("\\n" * 500_000, "\\t" * 500_000),
        ("\\u00e9" * 100_000, "&amp;" * 200_000),
        ("\\" * 5_000_000, "\\" * 4_000_000 + "n" * 50),
        ("&" * 5_000_000, "&amp;" * 200_000 + "x"),
        ("1\n" * 200_000, "1 2 " * 100_000),
        ("中" * 2_000_000, "中 " * 500_000),
    ],
    ids=lambda text: f"{len(text)} {text[:8]!r}",
)
def test_hostile_texts_return(target, source):
    """No claim about the answer, only that there is one: the suite would hang otherwise."""
    probe = Target(target)
    for spans in (getattr(probe.contained(source), "spans", ()), probe.quotations(source)):
        _assert_sound(target, source, spans)
    assert len(short_in(target, "a")) <= 16


def test_a_quotation_runs_as_far_as_the_words_agree():
    answer = 'You may take "The maximum daily dose for adults is 40 mg, taken with" water only.'
    (span,) = quotations(answer, DOCUMENT)
    assert answer[span.target_start : span.target_end] == (
        "The maximum daily dose for adults is 40 mg, taken with"
    )
    assert DOCUMENT[span.source_start : span.source_end] == (
        "The maximum daily dose for adults is 40 mg, taken with"
    )


def test_quotations_survive_the_escapes_of_a_tool_result():
    answer = "Tell your doctor if you take <other> medicines, even “harmless” ones."
    source = json.dumps({"text": html.escape(DOCUMENT)})
    (span,) = quotations(answer, source)
    assert (span.target_start, answer[span.target_start : span.target_end]) == (0, answer[:-1])
    assert source[span.source_start :].startswith("Tell your doctor if you take &lt;other&gt;")


def test_the_longest_quotation_wins_where_two_overlap():
    source = "one two three four five six and then three four five six seven eight nine ten"
    answer = "zero one two three four five six seven eight nine ten"
    (span,) = quotations(answer, source)
    assert answer[span.target_start : span.target_end] == "three four five six seven eight nine ten"


def test_a_few_agreeing_words_are_no_quotation():
    assert quotations("The maximum daily dose of this is unknown", DOCUMENT) == ()
    assert quotations("a b c d e f g h", "x a b c d e f g y") == ()  # seven words, 13 characters
    assert quotations("", DOCUMENT) == ()
    assert quotations("The maximum daily dose", "") == ()


def test_a_short_answer_is_a_quotation_only_when_all_of_it_stands_there():
    (span,) = quotations("IMPAIRED kidneys.", DOCUMENT)
    assert (span.target_start, span.target_end) == (0, 16)
    assert DOCUMENT[span.source_start : span.source_end] == "impaired kidneys"
    assert quotations("impaired kidney", DOCUMENT) == ()
    assert quotations("kidneys", DOCUMENT) == ()  # shorter than eight characters
    assert quotations("impaired livers", DOCUMENT) == ()


@settings(max_examples=60, deadline=None)
@given(texts(), texts(least=0, most=20), texts(least=0, most=20), st.data())
def test_quotations_are_sound(source, before, after, data):
    """Whatever is reported has equal words on both sides, and a long enough copy is reported."""
    start = data.draw(st.integers(0, len(source) - 1))
    answer = f"{before} {source[start : start + 200]} {after}"
    spans = quotations(answer, source)
    _assert_sound(answer, source, spans)
    for span in spans:
        left = Tokens(answer[span.target_start : span.target_end]).words
        assert left == Tokens(source[span.source_start : span.source_end]).words
        assert len(left) >= 5 or len(spans) == 1


@pytest.mark.parametrize(
    ("target", "short", "starts"),
    [
        ("42", "42", [0]),
        ("take 42 mg, not 421 or 142 or 42.", "42", [5, 30]),
        ("42.5 3,42 1.42 42,", "42", [15]),
        ("the cat, a category, a bobcat: cat", "cat", [4, 31]),
        ("cat_flap cat-flap Cat", "cat", [9]),
        ("是Bob的书", "Bob", [1]),
        ("价格四十二元", "四十二", [2]),
        ("cafe\u0301 cafe", "cafe", [6]),
        ("(+49) 30", "(+49)", [0]),
        ("anything", "", []),
    ],
)
def test_a_short_string_is_found_as_a_whole_word(target, short, starts):
    spans = short_in(target, short)
    assert [span.target_start for span in spans] == starts
    for span in spans:
        assert target[span.target_start : span.target_end] == short
        assert (span.source_start, span.source_end) == (0, len(short))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8")) | st.text("\\&;#xun0afmplt1\"' \n", max_size=40))
def test_decoding_keeps_every_character_in_its_place(text):
    assert len(decoded(text)) == len(text)
    tokens = Tokens(text)
    assert list(tokens.starts) == sorted(tokens.starts)
    assert all(a < b for a, b in zip(tokens.starts, tokens.ends, strict=True))


def test_a_probed_target_answers_as_the_functions_do():
    target = Target(json.dumps(DOCUMENT))
    for source in (DOCUMENT, DOCUMENT[:90], "something else entirely, not in it"):
        assert target.contained(source) == contained(target.text, source)
        assert target.quotations(source) == quotations(target.text, source)


def test_a_verbatim_match_reads_no_words(monkeypatch):
    monkeypatch.setattr("provkeep.recording.containment.Tokens", None)
    monkeypatch.setattr("provkeep.recording.containment._words_of", None)
    assert contained("Context: " + DOCUMENT, DOCUMENT) is not None


def test_the_cache_of_words_stays_within_its_limit():
    cache = TokenCache(limit_chars=5 * (20 + TEXT_CHARS))
    kept = cache("a" * 20)
    for letter in "bcde":
        cache(letter * 20)
        assert cache("a" * 20) is kept
    cache("f" * 20)
    assert cache.held_chars == 5 * (20 + TEXT_CHARS)
    assert cache("a" * 20) is kept
    assert cache("z" * 80) is not cache("z" * 80)  # too large a share to keep
    for letter in "ghijk":
        cache(letter * 20)
    assert cache("a" * 20) is not kept


def test_many_short_texts_cost_what_the_cache_may_hold_and_no_more():
    """Questions of a few words would fill memory long before they fill a count of characters."""
    cache = TokenCache(limit_chars=100_000)
    asked = [f"Where is order {i}?" for i in range(2_000)]
    for text in asked:
        cache(text)
    kept = sum(text in cache._tokens for text in asked)
    assert 400 < kept < 500
    tracemalloc.start()
    try:
        more = [f"And where is order {i}, then?" for i in range(2_000)]
        before = tracemalloc.get_traced_memory()[0]
        for text in more:
            _ = len(cache(text).starts)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held < 10 * 100_000
