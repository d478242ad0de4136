"""The programs that the demo records: an ordinary retrieval chain and an ordinary agent loop.

Nothing in here knows of provkeep: a handler in the callbacks is all it takes.
"""

from __future__ import annotations

from typing import Any, Final

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.tools import BaseTool, tool

from provkeep.demo.corpus import pages, passages
from provkeep.demo.model import ExtractiveChatModel
from provkeep.demo.search import KeywordRetriever

RETRIEVED: Final = 5
PROMPTED: Final = 3  # the rest is retrieved and dropped, as a reranker would
MAX_STEPS: Final = 6


def manual_chain(model: BaseChatModel | None = None) -> Runnable[str, str]:
    """Retrieve passages of the manual, keep the best, and answer from them."""
    prompt = ChatPromptTemplate.from_messages(
        [
            ("system", "Answer from these passages of the manual only:\n\n{passages}"),
            ("human", "{question}"),
        ]
    )
    retriever = KeywordRetriever(passages=passages(), count=RETRIEVED)
    found = retriever | RunnableLambda(keep_best) | RunnableLambda(number_passages)
    given: Runnable[str, Any] = RunnableParallel(passages=found, question=RunnablePassthrough())
    chain = given | prompt | (model or ExtractiveChatModel()) | StrOutputParser()
    return chain.with_config(run_name="ManualChain")


def keep_best(found: list[Document]) -> list[Document]:
    """Drop what does not fit into the prompt."""
    return found[:PROMPTED]


def number_passages(found: list[Document]) -> str:
    """Write the passages as a template does: numbered, with their page."""
    return "\n\n".join(
        f"[{n}] {d.metadata['source']}\n{d.page_content}" for n, d in enumerate(found, start=1)
    )


def manual_tools() -> list[BaseTool]:
    """Two tools over the manual."""
    texts = pages()
    retriever = KeywordRetriever(passages=passages(), count=PROMPTED)

    @tool
    def search_manual(query: str) -> str:
        """Search the manual: record, ask, lineage, impact, export, keys, pin, verify, limits."""
        return number_passages(retriever.invoke(query))

    @tool
    def count_words(page: str) -> str:
        """Count how long a page of the manual is, its length in words."""
        return f"The page {page} is {len(texts[page].split())} words long."

    return [search_manual, count_words]


def manual_agent(model: BaseChatModel | None = None) -> Runnable[str, str]:
    """Let the model call tools until it answers."""
    tools = {t.name: t for t in manual_tools()}
    bound = (model or ExtractiveChatModel(sentences=3)).bind_tools(list(tools.values()))

    def agent(question: str, config: RunnableConfig) -> str:
        messages: list[BaseMessage] = [HumanMessage(question)]
        for _ in range(MAX_STEPS):
            said = bound.invoke(messages, config)
            messages.append(said)
            if not isinstance(said, AIMessage) or not said.tool_calls:
                return said.text
            for call in said.tool_calls:
                messages.append(tools[call["name"]].invoke({**call, "type": "tool_call"}, config))
        return messages[-1].text

    return RunnableLambda(agent).with_config(run_name="ManualAgent")
