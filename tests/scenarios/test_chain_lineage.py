"""Lineage of chains: exactly what reached the prompt, whatever the glue does to it."""

from __future__ import annotations

import html
import json
import textwrap
from operator import itemgetter
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
)

from tests.scenarios.lineage_kit import (
    Retriever,
    Story,
    document,
    fresh,
    joined,
    model,
    retriever,
    words,
)

QUESTION = "What does the handbook say of returns?"
PROMPT = ChatPromptTemplate.from_messages(
    [
        ("system", "You answer from the context alone, and you are brief.\n\n{context}"),
        ("human", "{question}"),
    ]
)


def rag(find: Any, form: Any, prompt: Any = PROMPT, answer: str = "I would say so.") -> Any:
    context = find | RunnableLambda(form).with_config(run_name="form")
    parts = RunnableParallel(context=context, question=RunnablePassthrough())
    return parts | prompt | model(answer) | StrOutputParser()


def test_every_document_in_the_prompt_is_a_source_and_so_is_the_question(story: Story) -> None:
    rag(retriever("a", "b", "c"), joined).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a", "b", "c"}
    assert story.basis("a") == "contained"
    assert QUESTION in story.came_from()


def test_what_a_reranker_dropped_is_not_a_source(story: Story) -> None:
    rerank = RunnableLambda(lambda found: [found[2], found[0]]).with_config(run_name="rerank")
    rag(retriever("a", "b", "c", "d") | rerank, joined).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a", "c"}


def test_what_a_format_function_dropped_is_not_a_source(story: Story) -> None:
    chain = rag(retriever("a", "b", "c", "d"), lambda found: joined(found[:2]))
    chain.invoke(QUESTION, config=story.config())
    assert story.sources() == {"a", "b"}


def test_a_compressing_retriever_names_what_it_kept(story: Story) -> None:
    class Compressing(BaseRetriever):
        base: BaseRetriever

        def _get_relevant_documents(
            self, query: str, *, run_manager: CallbackManagerForRetrieverRun
        ) -> list[Document]:
            found = self.base.invoke(query, config={"callbacks": run_manager.get_child()})
            half = found[0].page_content[: len(found[0].page_content) // 2]
            short = Document(page_content=half, metadata=found[0].metadata)
            return [short, found[2]]

    find = Compressing(base=retriever("a", "b", "c", "d"))
    rag(find, joined).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a", "c"}


def test_a_multi_query_retriever_names_what_it_kept(story: Story) -> None:
    class MultiQuery(BaseRetriever):
        bases: list[BaseRetriever]
        rephrase: Any

        def _get_relevant_documents(
            self, query: str, *, run_manager: CallbackManagerForRetrieverRun
        ) -> list[Document]:
            config: RunnableConfig = {"callbacks": run_manager.get_child()}
            queries = self.rephrase.invoke(f"Rephrase: {query}", config=config).content.split("\n")
            found: dict[str, Document] = {}
            for base, text in zip(self.bases, queries, strict=True):
                for one in base.invoke(text, config=config):
                    found.setdefault(one.page_content, one)
            return list(found.values())[:3]

    find = MultiQuery(
        bases=[retriever("a", "b"), retriever("b", "c", "d")],
        rephrase=model("what about returning goods?\nhow are goods returned?"),
    )
    rag(find, joined).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a", "b", "c"}
    assert "what about returning goods?\nhow are goods returned?" in story.came_from()


def test_a_document_in_the_input_that_the_template_does_not_use_is_not_a_source(
    story: Story,
) -> None:
    docs = [document("a"), document("b")]
    chain = PROMPT | model()
    given = {"question": QUESTION, "context": joined(docs[:1]), "found": docs}
    chain.invoke(given, config=story.config())
    assert story.sources() == {"a"}


def test_a_constant_system_prompt_in_glue_brings_nothing_in(story: Story) -> None:
    chat = model()

    def answer(question: str, config: RunnableConfig) -> Any:
        found = retriever("a", "b", "c").invoke(question, config=config)
        said = [
            SystemMessage("You are the helpful voice of a large and friendly shop."),
            HumanMessage(f"{joined(found[:1])}\n\n{question}"),
        ]
        return chat.invoke(said, config=config)

    RunnableLambda(answer).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a"}


def numbered(found: list[Document]) -> str:
    return "\n".join(f"[{i}] {d.page_content}" for i, d in enumerate(found, 1))


def indented(found: list[Document]) -> str:
    return "\n".join(textwrap.indent(textwrap.fill(d.page_content, 40), "    ") for d in found)


def quoted(found: list[Document]) -> str:
    return "\n".join("> " + textwrap.fill(d.page_content, 60).replace("\n", "\n> ") for d in found)


def as_json(found: list[Document]) -> str:
    return json.dumps([{"text": d.page_content, "from": d.metadata["source"]} for d in found])


def as_html(found: list[Document]) -> str:
    return "".join(f"<p>{html.escape(d.page_content)}</p>" for d in found)


def rewrapped(found: list[Document]) -> str:
    return "\n\n".join(textwrap.fill(d.page_content.replace("\n", " "), 33) for d in found)


def truncated(found: list[Document]) -> str:
    return "\n".join(d.page_content[: len(d.page_content) // 2] + "…" for d in found)


def excerpts(found: list[Document]) -> str:
    return "\n".join("- " + d.page_content[:60] for d in found)


def as_repr(found: list[Document]) -> str:
    return repr(found)


FORMS = [numbered, indented, quoted, as_json, as_html, rewrapped, truncated, excerpts, as_repr]


@pytest.mark.parametrize("form", FORMS)
def test_a_document_is_known_again_however_it_is_written_into_the_prompt(
    story: Story, form: Any
) -> None:
    """Quotes, newlines, ampersands and umlauts are what escaping changes."""
    texts = {n: f'{words(n, 20)}\n"{n} & Söhne" <{n}>: {words(n + "2", 20)}' for n in "abcd"}
    find = Retriever(documents=[document(n, text) for n, text in texts.items()])
    rag(find, lambda found: form(found[:2])).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a", "b"}
    assert story.basis("a") == "contained"


@pytest.mark.parametrize("form", FORMS)
def test_glue_between_question_and_context_explains_both(story: Story, form: Any) -> None:
    def compose(given: dict[str, Any]) -> str:
        return f"Context:\n{form(given['docs'][:2])}\n\nNow then: {given['question']}"

    parts = RunnableParallel(docs=retriever("a", "b", "c"), question=RunnablePassthrough())
    chain = parts | RunnableLambda(compose) | model() | StrOutputParser()
    chain.invoke(QUESTION, config=story.config())
    assert story.sources() == {"a", "b"}
    assert QUESTION in story.came_from()


def test_documents_put_into_a_template_as_they_are(story: Story) -> None:
    """Without a format function the prompt holds the `repr` of a list of documents."""
    parts = RunnableParallel(
        context=retriever("a", "b", "c") | RunnableLambda(lambda found: found[:2]),
        question=RunnablePassthrough(),
    )
    (parts | PROMPT | model()).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a", "b"}


def test_documents_handed_on_behind_the_frameworks_back(story: Story) -> None:
    """A variable that two steps share is in no input; the text says where it is from."""
    shelf: list[Document] = []

    def put(question: str, config: RunnableConfig) -> str:
        shelf.extend(retriever("a", "b").invoke(question, config=config))
        return question

    def answer(question: str, config: RunnableConfig) -> Any:
        return model().invoke(f"{shelf[0].page_content}\n\n{question}", config=config)

    (RunnableLambda(put) | RunnableLambda(answer)).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a"}


def test_overlapping_chunks_do_not_vouch_for_each_other(story: Story) -> None:
    """Chunks are cut with an overlap: what two share does not bring the second one in."""
    text = words("long", 200)
    size, step = 400, 300
    chunks = [
        document(f"chunk {i}", text[i * step : i * step + size]) for i in range(len(text) // step)
    ]
    assert len(chunks) > 3
    find = Retriever(documents=chunks)
    rag(find, lambda found: joined([found[1]])).invoke(QUESTION, config=story.config())
    assert story.sources() == {"chunk 1"}


def test_identical_chunks_keep_all_candidates(story: Story) -> None:
    same = words("same")
    find = Retriever(documents=[document("a", same), document("b", same), document("c")])
    rag(find, lambda found: joined(found[:1])).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a", "b"}


def test_a_parallel_branch_is_not_a_source(story: Story) -> None:
    left = rag(retriever("a"), joined, answer="The left answer, given at length.")
    right = rag(retriever("b"), joined, answer="The right answer, given at length.")
    last = ChatPromptTemplate.from_template("Say this again: {left}") | model()
    (RunnableParallel(left=left, right=right) | last).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a"}


@pytest.mark.parametrize("take", ["lambda", "pick"])
def test_a_parallel_branch_with_an_equal_short_answer_is_not_a_source(
    story: Story, take: str
) -> None:
    """Equal answers of two models are two objects; the one handed on is the one meant."""
    left = rag(retriever("a"), joined, answer="yes")
    right = rag(retriever("b"), joined, answer="yes")

    both = RunnableParallel(left=left | RunnableLambda(fresh), right=right | RunnableLambda(fresh))
    one = RunnableLambda(lambda given: given["left"]) if take == "lambda" else RunnablePick("left")
    last = ChatPromptTemplate.from_template("Is it {input}? Say it again.") | model("It is.")
    (both | one | last).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a"}


def test_equal_short_answers_that_both_go_on_are_both_kept(story: Story) -> None:
    left = rag(retriever("a"), joined, answer="yes")
    right = rag(retriever("b"), joined, answer="yes")
    last = ChatPromptTemplate.from_template("One says {left}, one says {right}.") | model("Well.")
    (RunnableParallel(left=left, right=right) | last).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a", "b"}


def test_a_parallel_output_is_an_answer_as_a_whole(story: Story) -> None:
    left, right = rag(retriever("a"), joined), rag(retriever("b"), joined)
    RunnableParallel(left=left, right=right).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a", "b"}


def test_branches_with_equal_documents_keep_their_own(story: Story) -> None:
    """The same chunks found twice are two findings; the branch that is used counts."""
    left = rag(retriever("a"), joined, answer="The left answer, given at length.")
    right = rag(retriever("a"), joined, answer="The right answer, given at length.")
    last = ChatPromptTemplate.from_template("Say this again: {left}") | model()
    chain = RunnableParallel(left=left, right=right) | last
    chain.invoke(QUESTION, config=story.config())
    (source,) = story.lineage().sources()
    assert len(source.documents) == 1


def test_a_short_document_is_supported_by_the_structure(story: Story) -> None:
    find = Retriever(documents=[document("a", "42"), document("b", "17"), document("c", "yes")])
    rag(find, lambda found: ", ".join(d.page_content for d in found[:2])).invoke(
        QUESTION, config=story.config()
    )
    assert story.sources() == {"a", "b"}


def test_a_short_text_that_the_question_says_too_is_not_enough(story: Story) -> None:
    given = {"question": "Is it 42 or not?", "context": words("b"), "other": [document("a", "42")]}
    (PROMPT | model()).invoke(given, config=story.config())
    assert story.sources() == set()


def test_titles_alone_are_a_use_of_their_documents(story: Story) -> None:
    docs = [document(n, title=f"The {words(n, 2)[:-1]} question") for n in "abcd"]

    def titles(found: list[Document]) -> str:
        return "Known titles: " + "; ".join(d.metadata["title"] for d in found[:2])

    rag(Retriever(documents=docs), titles).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a", "b"}


def test_glue_that_hides_everything_leaves_the_shape_of_the_chain(story: Story) -> None:
    """Nothing can be recognised in a digest: lineage says that only the structure speaks."""

    def digest(question: str, config: RunnableConfig) -> str:
        found = retriever("a", "b").invoke(question, config=config)
        return str([len(d.page_content) for d in found])

    chain = RunnableLambda(digest) | ChatPromptTemplate.from_template("Use {sizes}") | model()
    chain.invoke(QUESTION, config=story.config())
    assert story.sources() == {"a", "b"}
    assert story.basis("a") == "structural"


def test_a_text_prompt_and_a_json_parser_carry_lineage(story: Story) -> None:
    prompt = PromptTemplate.from_template("Use {context} for {question} and give JSON.")
    chain = (
        RunnableParallel(
            context=retriever("a", "b") | RunnableLambda(lambda found: found[0].page_content),
            question=RunnablePassthrough(),
        )
        | prompt
        | model('{"verdict": "it can be returned within the month", "days": 30}')
        | JsonOutputParser()
        | RunnableLambda(lambda said: said["verdict"])
    )
    assert chain.invoke(QUESTION, config=story.config()).startswith("it can")
    assert story.sources() == {"a"}


def test_the_answer_beside_its_documents_is_what_lineage_is_about(story: Story) -> None:
    """`{"answer": …, "context": documents}`: the documents handed back are not sources by that."""
    chain = RunnablePassthrough.assign(
        context=itemgetter("question") | retriever("a", "b", "c")
    ) | RunnablePassthrough.assign(
        answer=RunnableLambda(
            lambda given: {"question": given["question"], "context": joined(given["context"][:1])}
        )
        | PROMPT
        | model()
        | StrOutputParser()
    )
    chain.invoke({"question": QUESTION}, config=story.config())
    assert story.sources() == {"a"}


def test_a_branch_not_taken_brings_nothing_in(story: Story) -> None:
    chain = RunnableBranch(
        (lambda question: "returns" in question, rag(retriever("a"), joined)),
        rag(retriever("b"), joined),
    )
    chain.invoke(QUESTION, config=story.config())
    assert story.sources() == {"a"}


def test_streamed_and_asked_at_once_are_the_same_lineage(story: Story) -> None:
    chain = rag(retriever("a", "b", "c"), lambda found: joined(found[:2]))
    assert "".join(chain.stream(QUESTION, config=story.config())) == "I would say so."
    assert story.sources() == {"a", "b"}
    assert QUESTION in story.came_from()


async def test_asynchronous_streams_are_the_same_lineage(story: Story) -> None:
    chain = rag(retriever("a", "b", "c"), lambda found: joined(found[:2]))
    said = [piece async for piece in chain.astream(QUESTION, config=story.config())]
    assert "".join(said) == "I would say so."
    assert story.sources() == {"a", "b"}
    assert QUESTION in story.came_from()


def test_two_hops_keep_the_first_answer_and_its_documents(story: Story) -> None:
    first = rag(retriever("a", "b"), lambda found: joined(found[:1]), answer=words("hop", 12))
    second = rag(retriever("c", "d"), lambda found: joined(found[1:]))
    (first | second).invoke(QUESTION, config=story.config())
    assert story.sources() == {"a", "d"}
    assert words("hop", 12) in story.came_from()


def test_quotations_say_which_characters_stand_where(story: Story) -> None:
    a, b = words("a"), words("b")
    quote = b[40:120].strip()
    answer = f"As the handbook has it: {quote}. So it is."
    rag(retriever("a", "b"), joined, answer=answer).invoke(QUESTION, config=story.config())
    by_name = {s.name: s for s in story.lineage().sources()}
    assert by_name["a"].quotations == ()
    (found,) = by_name["b"].quotations
    assert answer[found.start : found.end] in quote
    assert b[found.document_start : found.document_end] == answer[found.start : found.end]
    assert found.end - found.start > 60
    assert a != b


def test_a_quotation_may_differ_in_case_and_wrapping(story: Story) -> None:
    quote = words("b")[40:120].strip()
    answer = "As it has:\n" + textwrap.fill(quote.upper(), 30)
    rag(retriever("a", "b"), joined, answer=answer).invoke(QUESTION, config=story.config())
    by_name = {s.name: s for s in story.lineage().sources()}
    assert by_name["a"].quotations == ()
    (found,) = by_name["b"].quotations
    assert answer[found.start : found.end].split() == quote.upper().split()[1:-1]


def test_prompt_spans_say_where_a_document_stands_in_the_prompt(story: Story) -> None:
    chat = model()
    chain = (
        RunnableParallel(
            context=retriever("a", "b") | RunnableLambda(numbered), question=RunnablePassthrough()
        )
        | PROMPT
        | chat
    )
    chain.invoke(QUESTION, config=story.config())
    prompt = str(chat.prompts[0][0].content)
    for source in story.lineage().sources():
        (place,) = source.prompt_spans
        span = place[1]
        assert prompt[span.target_start : span.target_end] == words(source.name)
