"""The programs of the demo are honest: what they answer stands in the manual, word for word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from provkeep.demo.app import PROMPTED, keep_best, manual_agent, manual_chain, manual_tools
from provkeep.demo.corpus import pages, passages
from provkeep.demo.engine import FOUND, ExtractiveLLM, manual_engine
from provkeep.demo.model import NOTHING_FOUND, ExtractiveChatModel, sentences
from provkeep.demo.search import Index, KeywordRetriever, best, words

WORDS = sorted({word for text in pages().values() for word in words(text)})


@pytest.fixture(scope="module")
def engine():
    return manual_engine()


NO_NODES = "Empty Response"  # what LlamaIndex answers when nothing was retrieved
ALL = {s for text in pages().values() for s in sentences(text)}


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6))
def test_an_answer_is_made_of_sentences_of_the_manual(asked):
    answer = manual_chain().invoke(" ".join(asked))
    left = answer
    for sentence in sorted(ALL, key=len, reverse=True):
        left = left.replace(sentence, "")
    assert left.strip() in ("", NOTHING_FOUND)


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6))
def test_an_answer_of_the_query_engine_is_made_of_sentences_of_the_manual(engine, asked):
    left = str(engine.query(" ".join(asked)))
    for sentence in sorted(ALL, key=len, reverse=True):
        left = left.replace(sentence, "")
    assert left.strip() in ("", NOTHING_FOUND, NO_NODES)


def test_the_query_engine_finds_sections_of_pages_and_streams_the_same_answer(engine):
    found = engine.query("What is the pin?").source_nodes
    assert found[0].metadata["file_path"] == "manual/verifying.md"
    assert len(found) == FOUND
    whole, streamed = ExtractiveLLM().complete, ExtractiveLLM().stream_complete
    prompt = "The pin is kept elsewhere.\n\nQuestion: pin?"
    assert [c.text for c in streamed(prompt)][-1] == whole(prompt).text
    assert whole(prompt).text == "The pin is kept elsewhere."
    assert whole("nothing of the kind").text == NOTHING_FOUND


def test_what_the_passages_do_not_say_is_not_answered():
    assert manual_chain().invoke("xylophone zebra") == NOTHING_FOUND
    assert manual_chain().invoke("") == NOTHING_FOUND


@given(st.text(max_size=200))
def test_any_text_can_be_asked_and_searched(text):
    scores = Index(["a pin is kept", text]).scores(text)
    assert len(scores) == 2
    assert all(s >= 0 for s in scores)
    manual_chain().invoke(text)


def test_a_rare_word_counts_more_than_a_common_one():
    scores = Index(["key key key", "key pin", "key"]).scores("key pin")
    assert best(scores, 1) == [1]
    assert Index([]).scores("pin") == []
    assert best([0.0, 0.0], 5) == []


def test_the_retriever_returns_whole_passages_with_their_page():
    found = KeywordRetriever(passages=passages(), count=5).invoke("What is the pin?")
    assert len(found) == 5
    assert found[0].metadata["source"] == "manual/verifying.md"
    assert keep_best(found) == found[:PROMPTED]


def test_the_agent_searches_counts_and_answers_from_what_the_tools_said():
    answer = manual_agent().invoke("What does verify compare, and how long is that page?")
    words_of_page = len(pages()["verifying.md"].split())
    assert f"The page verifying.md is {words_of_page} words long." in answer
    assert "hashes every record" in answer


def test_a_tool_is_called_only_when_the_question_is_about_it():
    bound = ExtractiveChatModel().bind_tools(manual_tools())
    (call,) = bound.invoke([HumanMessage("Where is the pin?")]).tool_calls
    assert call["name"] == "search_manual"
    assert call["args"] == {"query": "Where is the pin?"}
    assert bound.invoke([HumanMessage("Good morning")]).tool_calls == []
    answered = [
        HumanMessage("Where is the pin?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("The pin is in your configuration.", tool_call_id=call["id"]),
    ]
    assert bound.invoke(answered).text == "The pin is in your configuration."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# Head\n\nOne two three four. Five six seven eight!", 2),
        ("```python\nfor a in b: one two three.\n```\n", 0),
        ("Is this a long enough question?", 0),
        ("Too short.", 0),
        ("One two three\nfour five.", 1),
    ],
)
def test_sentences_are_prose(text, found):
    assert len(sentences(text)) == found


def test_the_model_says_what_it_is():
    said = ExtractiveChatModel().invoke(
        [SystemMessage("The pin is kept elsewhere."), HumanMessage("pin?")]
    )
    assert said.response_metadata["model_name"] == "extractive-1"
    assert said.usage_metadata["output_tokens"] == 5
    assert ExtractiveChatModel()._llm_type == "extractive"
