"""Recorded RAG turns to erase from: one document each, an answer that quotes it, a person."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from provkeep.langchain import ProvenanceHandler

HANDBOOK = "Goods may be returned within thirty days of purchase, unused and in their wrapping."
PRICES = "A parcel within the country costs four euros, and abroad it costs nine euros a piece."
TEXTS = {"handbook.pdf": HANDBOOK, "prices.pdf": PRICES}


def ask(handler: Any, source: str, question: str, *, metadata: dict[str, Any] | None = None) -> str:
    """One retrieval, one answer that quotes the document; returns the answer."""
    text = TEXTS[source]
    shelf = RunnableLambda(lambda _: text, name="glue")
    prompt = ChatPromptTemplate.from_messages([("system", "Answer from: {news}"), ("human", "{q}")])
    model = GenericFakeChatModel(messages=iter([AIMessage(f"It says: {text}")]))

    from langchain_core.retrievers import BaseRetriever

    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: object) -> list[Document]:
            return [Document(page_content=text, metadata={"source": f"docs/{source}"})]

    chain = {"news": Shelf() | shelf, "q": RunnablePassthrough()} | prompt | model
    config = {"callbacks": [handler], "metadata": metadata or {}}
    return (chain | StrOutputParser()).invoke(question, config)


def record(path: Path, turns: Iterable[tuple[str, str, str]]) -> list[str]:
    """Record turns of (source, question, subject) with a handler each; ids, oldest first."""
    for source, question, subject in turns:
        with ProvenanceHandler(path, actor="alice@example.com", subject=subject) as handler:
            ask(handler, source, question)
    with closing(sqlite3.connect(path)) as db:
        return [tid.hex() for (tid,) in db.execute("SELECT tid FROM trace ORDER BY id")]


def wrapped_keys(path: Path) -> dict[int, bytes]:
    """The wrapped keys by number, as they lie in the key file."""
    with closing(sqlite3.connect(f"{path}-keys")) as db:
        return dict(db.execute("SELECT id, wrapped FROM datakey"))


def keys_of(path: Path, *tids: str) -> set[int]:
    """Numbers of the keys that records of these traces name, by another road than the package."""
    import json

    out: set[int] = set()
    with closing(sqlite3.connect(path)) as db:
        for (raw,) in db.execute("SELECT body FROM record"):
            body = json.loads(raw)
            if body.get("t") in tids and body["k"] == "trace":
                out.update(key[1] for key in body.get("keys", ()))
    return out


def files_with(needles: Iterable[bytes], *folders: Path) -> list[str]:
    """Names of files that hold one of these."""
    wanted = list(needles)
    found = []
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file():
                blob = file.read_bytes()
                if any(needle in blob for needle in wanted):
                    found.append(file.name)
    return sorted(found)
