"""The main job on real input: a question about the news, a model's answer, and where it came from.

What provkeep says is compared with a second witness: the prompt as the model's own server rendered
it, searched for the text of every one of the 300 news items.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

import provkeep
from provkeep.langchain import ProvenanceHandler
from provkeep.reading.lineage import Source
from tests.e2e.real import SLOT_TOKENS, MiniLM, SmolLM, missing, news

REQUIRED = "PROVKEEP_E2E_REQUIRED"  # set by `make e2e`, where a skipped test would prove nothing
_absent = missing()

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        bool(_absent) and not os.environ.get(REQUIRED),
        reason=f"not installed: {', '.join(_absent)}; `make e2e` installs them",
    ),
]

RETRIEVED = 6
PROMPT_CHARS = 2_500  # room for news in the prompt: about half of what is retrieved
LEAST_CUT = 200  # characters of an item cut off at the end of that room, or it is left out
OPENING = 60  # characters at the head of an item by which it is found in a prompt
QUOTED_WORDS = 12  # words in a row that no two texts share by chance


@pytest.fixture(scope="module")
def items() -> list[Document]:
    found = news()
    assert len(found) == 300
    return found


@pytest.fixture(scope="module")
def store(items: list[Document]) -> InMemoryVectorStore:
    made = InMemoryVectorStore(MiniLM())
    made.add_documents(items)
    return made


@pytest.fixture(scope="module")
def server() -> SmolLM:
    return SmolLM()


@pytest.fixture
def model(server: SmolLM) -> Iterator[SmolLM]:
    yield server
    server.prompts.clear()


def fit(documents: list[Document]) -> str:
    """As much of the best documents as there is room for; the last one may be cut off."""
    texts: list[str] = []
    room = PROMPT_CHARS
    for document in documents:
        if room >= LEAST_CUT:
            texts.append(document.page_content[:room])
            room -= len(texts[-1])
    return "\n\n".join(texts)


def rag(store: InMemoryVectorStore, model: SmolLM) -> Runnable[str, str]:
    retriever = store.as_retriever(search_kwargs={"k": RETRIEVED})
    prompt = ChatPromptTemplate.from_messages(
        [
            (
                "system",
                "Answer the question from the news below. Quote the sentence that holds the"
                " answer, word for word.\n\n{news}",
            ),
            ("human", "{question}"),
        ]
    )
    shown = {"news": retriever | RunnableLambda(fit), "question": RunnablePassthrough()}
    return shown | prompt | model | StrOutputParser()


def in_prompt(prompt: str, items: list[Document], retrieved: list[Document]) -> set[str]:
    """Sources of the retrieved items that stand in a prompt, by plain search for all 300."""
    found = [d for d in items if d.page_content[:OPENING] in prompt]
    ours = [d for d in retrieved if d.page_content[:OPENING] in prompt]
    # ten of the 300 open like another one: the same story, sent twice
    assert {d.page_content[:OPENING] for d in found} == {d.page_content[:OPENING] for d in ours}
    return {d.metadata["source"] for d in ours}


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def quotes(answer: str, item: str) -> bool:
    """Do answer and item share a long run of words? By the standard library's matcher."""
    matcher = SequenceMatcher(None, words(answer), words(item), autojunk=False)
    return matcher.find_longest_match().size >= QUOTED_WORDS


def check_prompt_spans(
    trail: provkeep.Trail, sources: list[Source], prompt: str, texts: dict[str, str]
) -> None:
    """Each span that lineage names is that item's text, and stands in what the model was shown."""
    places = {place for source in sources for place, _ in source.prompt_spans}
    messages = trail.values(places, purpose="compare with the prompt")
    for source in sources:
        assert source.prompt_spans, (
            f"{source.name} reached the prompt, so it stands in it somewhere"
        )
        for place, span in source.prompt_spans:
            here = messages[place]["content"][span.target_start : span.target_end]
            assert here == texts[source.name][span.source_start : span.source_end]
            assert here in prompt


def check_quotations(sources: list[Source], answer: str, texts: dict[str, str]) -> int:
    """Each quotation says the same words on both sides, and no long one is missed."""
    for source in sources:
        text = texts[source.name]
        for q in source.quotations:
            said = answer[q.start : q.end]
            assert words(said) == words(text[q.document_start : q.document_end]), source.name
        if quotes(answer, text):
            longest = max(q.end - q.start for q in source.quotations)
            assert longest >= QUOTED_WORDS * 2, source.name
    return sum(len(source.quotations) for source in sources)


def test_a_streamed_answer_comes_from_exactly_the_news_in_its_prompt(
    store: InMemoryVectorStore, model: SmolLM, items: list[Document], tmp_path: Path
) -> None:
    question = "What did the Israeli army do in Gaza?"
    path = tmp_path / "audit.db"
    with ProvenanceHandler(path, actor="reader@example.com", tokens=True) as handler:
        pieces = list(rag(store, model).stream(question, config={"callbacks": [handler]}))
    answer = "".join(pieces)
    (prompt,) = model.prompts
    texts = {d.metadata["source"]: d.page_content for d in items}
    best = store.similarity_search(question, k=RETRIEVED)
    retrieved = {d.metadata["source"] for d in best}
    shown = in_prompt(prompt, items, best)
    # else what follows would prove nothing
    assert len(pieces) > 10 and len(answer) > 50
    assert 1 < len(shown) < RETRIEVED and shown < retrieved

    with provkeep.open(path) as trail:
        node = trail.output()
        sources = trail.lineage(node).sources()
        assert {source.name for source in sources} == shown
        assert {source.basis for source in sources} == {"contained"}
        check_prompt_spans(trail, sources, prompt, texts)
        assert check_quotations(sources, answer, texts)

        assert trail.text(node, purpose="compare with what was streamed") == answer
        (summary,) = trail.runs()
        assert summary.actor == "reader@example.com" and summary.status == "ok"
        assert set(trail.source_names().values()) == retrieved
        for name in shown:
            assert [t.id for t in trail.impact(name).reached] == [summary.id]
            assert trail.accesses(source=name)[0].purpose == "compare with what was streamed"
        for name in retrieved - shown:
            assert not trail.impact(name).reached, f"{name} was retrieved and not shown"
            assert not trail.accesses(source=name)
        assert trail.verify()


def test_a_model_call_is_recorded_with_the_time_of_every_token(
    store: InMemoryVectorStore, model: SmolLM, tmp_path: Path
) -> None:
    path = tmp_path / "audit.db"
    with ProvenanceHandler(path, tokens=True) as handler:
        config = {"callbacks": [handler]}
        question = "Which town did the bushfire in the Southern Highlands move towards?"
        answer = "".join(rag(store, model).stream(question, config=config))

    with provkeep.open(path) as trail:
        graph = trail.graph()
        (call,) = graph.of("run", "model")
        usage = call.attrs["usage"]
        assert call.attrs["model"] == "SmolLM2-135M-Instruct"
        assert call.attrs["provider"] == "llama.cpp"
        assert call.attrs["finish_reason"] in ("stop", "length")
        assert usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"]
        assert usage["input_tokens"] < SLOT_TOKENS  # the server cut nothing off

        (note,) = graph.of("artifact", "note")
        chunks = trail.value(note, purpose="how fast it wrote")
        times, sizes = [at for at, _ in chunks], [size for _, size in chunks]
        assert sum(sizes) == len(answer)
        assert len([size for size in sizes if size]) <= usage["output_tokens"] <= len(sizes)
        assert times == sorted(times) and times[0] == 0
        assert call.start_ns is not None and call.end_ns is not None
        assert 0 < times[-1] < call.end_ns - call.start_ns


def test_answers_made_at_the_same_time_keep_their_own_sources(
    store: InMemoryVectorStore, model: SmolLM, items: list[Document], tmp_path: Path
) -> None:
    questions = ("Why did Qantas staff go on strike?", "Where did the Taliban leader hide?")
    path = tmp_path / "audit.db"
    chain = rag(store, model)
    with ProvenanceHandler(path) as handler, ThreadPoolExecutor(len(questions)) as pool:
        config = {"callbacks": [handler]}
        answers = list(pool.map(lambda q: "".join(chain.stream(q, config=config)), questions))
    shown = {
        q: in_prompt(p, items, store.similarity_search(q, k=RETRIEVED))
        for p in model.prompts
        for q in questions
        if q in p
    }
    assert len(shown) == len(questions) and not set.intersection(*shown.values())

    texts = {d.metadata["source"]: d.page_content for d in items}
    with provkeep.open(path) as trail:
        made = {
            trail.text(trail.output(run), purpose="which is which"): run for run in trail.runs()
        }
        for question, answer in zip(questions, answers, strict=True):
            sources = trail.sources(made[answer])
            assert {source.name for source in sources} == shown[question]
            check_quotations(sources, answer, texts)
        assert trail.verify()

    # The lie: one byte of one sealed payload, in a copy.
    copy = tmp_path / "copy.db"
    shutil.copy(path, copy)
    with closing(sqlite3.connect(copy)) as database, database:
        (data,) = database.execute("SELECT data FROM payload WHERE id = 3").fetchone()
        edited = data[:-1] + bytes([data[-1] ^ 1])
        database.execute("UPDATE payload SET data = ? WHERE id = 3", (edited,))
    with provkeep.open(copy) as trail:
        assert not trail.verify()
