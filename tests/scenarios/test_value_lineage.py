"""What passed by is what comes back: each story's values are compared when it ends."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from tests.scenarios.lineage_kit import (
    Retriever,
    Story,
    calling,
    document,
    joined,
    model,
    retriever,
    words,
)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    note: str


ODD: list[Any] = [
    "",
    "short",
    words("long", 100),
    "\ud800 a lone surrogate, and some more text behind it",
    0,
    1.5,
    float("nan"),
    True,
    2**70,
    b"\x00\xff" * 20,
    [],
    {},
    [1, "two", None, "a string that is stored on its own", [words("deep", 30)]],
    ["yes", "no", "yes"],
    ("a", words("tuple", 10)),
    {"a": {"b": {"c": words("deeper", 10), "d": "short"}}, "e": ["x", "y"]},
    {"$ref": 0, "$type": "mine", "plain": words("escaped", 10)},
    {1: "one", "two": words("keys", 10)},
    Colour.RED,
    Point(3, words("noted", 10)),
    HumanMessage([{"type": "text", "text": words("block", 10)}, {"type": "text", "text": "b"}]),
    [HumanMessage("hello"), AIMessage("hello"), HumanMessage("hello")],
    [HumanMessage("hello", name="alice"), HumanMessage("hello", name="bob")],
    [document("a"), document("b"), document("a")],
    {"documents": [document("a"), "between", document("b")], "n": 3},
    [words("text one", 10), words("text two", 10), words("text one", 10)],
    Document(page_content="", metadata={"n": 1}),
    Document(page_content="42", id="id 1", metadata={"score": 0.25, "source": "a", "deep": {}}),
]


@pytest.mark.parametrize("value", ODD, ids=lambda v: type(v).__name__)
def test_any_value_comes_back_as_it_was(story: Story, value: Any) -> None:
    (RunnableLambda(lambda v: v) | RunnableLambda(lambda v: {"again": v, "twice": [v, v]})).invoke(
        value, config=story.config()
    )


def test_a_prompt_made_of_documents_comes_back_character_for_character(story: Story) -> None:
    """It is stored as pieces of the documents and what stands between them."""
    found = [document(str(i), words(str(i), 80) + "\n\t “ü” \U0001f600 ") for i in range(6)]
    prompt = ChatPromptTemplate.from_messages([("system", "<< {a} | {b} | {a} >>"), ("human", "?")])
    chat = model()

    def both(docs: list[Document]) -> dict[str, str]:
        return {"a": joined(docs[:3]), "b": joined(docs[2:])}

    chain = Retriever(documents=found) | RunnableLambda(both) | prompt | chat | StrOutputParser()
    chain.invoke("?", config=story.config())
    with story.trail() as trail:
        (system,) = [n for n in trail.graph().of("artifact") if n.attrs.get("role") == "system"]
        assert trail.text(system) == chat.prompts[0][0].content
    assert story.stored() < 2 * sum(len(d.page_content.encode()) for d in found) + 8_000


def test_scores_that_differ_by_query_leave_the_document_what_it_is(story: Story) -> None:
    """The score is kept with the finding; the document is stored once."""
    for score in (0.25, 0.5):
        found = document("a", score=score)
        (Retriever(documents=[found]) | RunnableLambda(joined)).invoke("?", story.config())
    with story._connection() as conn:
        assert conn.execute("SELECT count(*) FROM doc").fetchone() == (1,)


def test_five_thousand_documents_in_one_list(story: Story) -> None:
    """They fill several records; the three that are used are found among them."""
    found = [document(f"d{i}", words(f"d{i}", 12)) for i in range(5_000)]
    pick = RunnableLambda(lambda docs: [docs[4_900], docs[17], docs[2_500]])
    chain = Retriever(documents=found) | pick | RunnableLambda(joined) | model()
    chain.invoke("?", config=story.config())
    assert story.sources() == {"d17", "d2500", "d4900"}
    with story._connection() as conn:
        (records,) = conn.execute("SELECT count(*) FROM trec").fetchone()
        assert records > 5


def test_a_conversation_of_three_thousand_messages(story: Story) -> None:
    talk: list[Any] = [SystemMessage("You listen, and you are patient.")]
    for i in range(1_500):
        talk += [HumanMessage(f"question {i}"), AIMessage(f"answer {i}", id=f"id {i}")]
    chat = model("And that was that, at last.", "Indeed, it was.")
    said = chat.invoke(talk, config=story.config())
    before = story.stored()
    chat.invoke([*talk, said, HumanMessage("Was that all?")], config=story.config())
    assert story.stored() - before < 8_000
    assert {"question 0", "question 1499", "answer 700", "Was that all?"} <= story.came_from(1)


def test_messages_taken_from_an_earlier_trace_open_as_they_were(story: Story) -> None:
    """Whole lists, single messages of them, and lists that begin elsewhere."""
    chain = RunnableLambda(lambda talk: talk) | model(words("one", 9), words("two", 9), "three")
    talk: list[Any] = [HumanMessage("first question"), AIMessage("by hand"), HumanMessage("second")]
    talk.append(chain.invoke(talk, config=story.config()))
    talk.append(HumanMessage("third"))
    talk.append(chain.invoke(talk, config=story.config()))
    window = RunnableLambda(lambda all_: [SystemMessage("only the last"), *all_[3:]])
    (window | chain).invoke(talk, config=story.config())
    with story.trail() as trail:
        trace = story.traces()[-1]
        run = next(n for n in trail.graph(trace).of("run", "model"))
        (used,) = [e.cause for e in trail.graph(trace).into[run.id] if e.type == "used"]
        assert [m["content"] for m in trail.value(used)] == [
            "only the last",
            words("one", 9),
            "third",
            words("two", 9),
        ]


def test_arguments_that_a_person_edited_are_a_call_of_their_own(story: Story) -> None:
    """The edited call keeps its id; both versions come back."""
    first = calling("send", "c1", to="everybody")
    edited = calling("send", "c1", to="alice")
    (RunnableLambda(lambda _: first) | RunnableLambda(lambda _: edited)).invoke("?", story.config())
    with story.trail() as trail:
        calls = [trail.value(n)["args"] for n in trail.graph().of("artifact", "tool_call")]
    assert {"to": "everybody"} in calls
    assert {"to": "alice"} in calls


def test_a_document_without_a_name_is_not_named_by_its_text(story: Story) -> None:
    secret = words("secret", 30)
    find = Retriever(documents=[Document(page_content=secret), Document(page_content="b" * 30)])
    (find | RunnableLambda(joined) | model()).invoke("?", config=story.config())
    names = story.sources()
    assert len(names) == 2
    assert not any(secret[:10] in name for name in names)


def test_what_was_said_twice_is_stored_once(story: Story) -> None:
    text = words("a very long text", 2_000)
    chain = RunnablePassthrough() | RunnablePassthrough() | RunnableLambda(lambda v: v)
    chain.invoke(text, config=story.config())
    assert story.stored() < 1.5 * len(text)


def test_retrieving_the_same_documents_again_stores_them_once(story: Story) -> None:
    chain = retriever("a", "b") | RunnableLambda(joined) | model()
    chain.invoke("?", config=story.config())
    first = story.stored()
    chain.invoke("?", config=story.config())
    with story._connection() as conn:
        assert conn.execute("SELECT count(*) FROM doc").fetchone() == (2,)
    assert story.stored() - first < first
