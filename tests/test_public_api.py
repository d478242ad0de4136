"""What users type works as it is written down, and nothing else is promised.

The calls are those of the page "Public surface" of the project's architecture, for LangChain.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
import types
from importlib.resources import files
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

import provkeep
from provkeep.langchain import ProvenanceHandler

# A name is added here and in the documentation, or nowhere.
EXPORTED = {
    "provkeep": {
        "Lineage",
        "ProvkeepError",
        "Trail",
        "__version__",
        "load_export",
        "open",
        "verify_bundle",
    },
    "provkeep.langchain": {"ProvenanceHandler", "install", "uninstall"},
}
SOURCE = Path(provkeep.__file__).parent

HANDBOOK = (
    "Goods may be returned within thirty days of purchase, unused and in their wrapping. The"
    " price is paid back within a week of their arrival, by the way in which it was paid."
)
PRICES = (
    "A parcel within the country costs four euros, abroad it costs nine euros. Two parcels of one"
    " order that are sent on the same day cost as much as one."
)
QUESTION = "Until when may I return what I bought?"
ANSWER = "Goods may be returned within thirty days of purchase, unused and in their wrapping."


class Shelf(BaseRetriever):
    """Returns both documents, always."""

    def _get_relevant_documents(self, query: str, *, run_manager: object) -> list[Document]:
        return [
            Document(page_content=HANDBOOK, metadata={"source": "docs/handbook.pdf"}),
            Document(page_content=PRICES, metadata={"source": "docs/prices.pdf"}),
        ]


def chain_of() -> Runnable[str, str]:
    """Retrieves two documents and shows the model the first."""
    first = RunnableLambda(lambda documents: documents[0].page_content)
    prompt = ChatPromptTemplate.from_messages([("system", "Answer from: {news}"), ("human", "{q}")])
    model = GenericFakeChatModel(messages=iter([AIMessage(ANSWER)]))
    shown = {"news": Shelf() | first, "q": RunnablePassthrough()}
    return shown | prompt | model | StrOutputParser()


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recorded as a user would: two lines, a relative path."""
    monkeypatch.chdir(tmp_path)
    handler = ProvenanceHandler("audit.db", actor="alice@example.com")
    assert chain_of().invoke(QUESTION, config={"callbacks": [handler]}) == ANSWER
    handler.close()
    return tmp_path / "audit.db"


def test_every_call_of_the_public_surface_answers(database: Path) -> None:
    with provkeep.open("audit.db") as trail:
        (run,) = trail.runs()
        assert (run.status, run.actor) == ("ok", "alice@example.com")
        answer = trail.output()
        assert trail.output(run.id) == answer
        lineage = trail.lineage(answer)

        (source,) = lineage.sources()
        assert source.name == "docs/handbook.pdf" and source.basis == "contained"
        (quotation,) = source.quotations
        assert ANSWER.startswith(ANSWER[quotation.start : quotation.end])
        assert HANDBOOK.startswith(HANDBOOK[quotation.document_start : quotation.document_end])

        (document,) = (n for n in lineage.nodes if n.kind == "document")
        assert answer.id in lineage.between(document, answer).graph.nodes
        assert answer.id in trail.lineage(answer).downstream().graph.nodes
        assert answer.id in trail.downstream(document).graph.nodes
        assert [n.kind for n in lineage.filter(kind="document")] == ["document"]

        assert trail.text(answer, purpose="complaint 4711") == ANSWER
        (access,) = trail.accesses(source="handbook.pdf")
        assert access.purpose == "complaint 4711" and not trail.accesses(source="prices.pdf")
        assert [found.id for found in trail.impact(source="handbook.pdf").reached] == [run.id]
        assert not trail.impact(source="prices.pdf").reached
        assert trail.timeline(actor="alice@example.com") == [run]
        assert trail.verify()


def test_a_lineage_leaves_in_every_form_that_is_promised(database: Path) -> None:
    with provkeep.open("audit.db") as trail:
        lineage = trail.lineage()
        written = lineage.to_json("lineage.json")
        ids = {node.id for node in lineage}
        assert {node["id"] for node in json.loads(written.read_text())["nodes"]} == ids
        assert {node["id"] for node in lineage.to_dict()["nodes"]} == ids
        assert set(lineage.to_networkx()) == ids
        nodes, edges = lineage.to_pandas()
        assert len(nodes) == len(ids) and len(edges) == len(lineage.edges)
        assert lineage.to_prov()["entity"] and lineage.to_mermaid().startswith("flowchart")
        assert lineage.to_otlp()["resourceSpans"]
        bundle = lineage._repr_mimebundle_()
        assert "image/svg+xml" in bundle and "text/plain" in bundle
        assert ANSWER[:20] not in json.dumps(bundle), "a picture shows no payload"
        again = provkeep.load_export(written)
        assert again.sources() == lineage.sources()


def test_the_store_says_nothing_to_whoever_has_no_keys(
    database: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROVKEEP_HOME", str(tmp_path / "another"))
    with provkeep.open("audit.db") as trail:
        assert [run.actor for run in trail.runs()] != ["alice@example.com"]
        assert trail.lineage().sources(), "structure needs no key"
        with pytest.raises(provkeep.ProvkeepError):
            trail.text()
        assert not trail.verify(), "nobody said which key signs this log"


@pytest.mark.parametrize("name", EXPORTED)
def test_a_package_exports_what_is_documented_and_nothing_more(name: str) -> None:
    module = importlib.import_module(name)
    assert set(module.__all__) == EXPORTED[name]
    for each in EXPORTED[name]:
        assert getattr(module, each) is not None
    shown = {n for n in vars(module) if not n.startswith("_")} - {"TYPE_CHECKING", "Any"}
    public = {
        n
        for n in shown
        if not isinstance(vars(module)[n], types.ModuleType) and n not in {"annotations"}
    }
    assert public <= EXPORTED[name], "what can be imported by accident will be"


def test_a_name_that_is_not_exported_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'opened'"):
        provkeep.opened  # noqa: B018  # asking for it is the test


IMPORTS = """
import sys
import provkeep{more}
frameworks = ("langchain", "langchain_core", "langgraph", "llama_index")
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & set(frameworks)))
"""


@pytest.mark.parametrize(
    ("more", "loaded"),
    [("", set()), (".trail", set()), (".langchain", {"langchain_core"})],
)
def test_an_import_loads_no_framework_but_the_one_it_is_for(more: str, loaded: set[str]) -> None:
    command = [sys.executable, "-c", IMPORTS.format(more=more)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == loaded


def test_type_checkers_find_the_types() -> None:
    assert files(provkeep).joinpath("py.typed").is_file()


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _public(tree: ast.AST, prefix: str = "") -> list[tuple[str, Definition]]:
    found: list[tuple[str, Definition]] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Definition):
            setter = any(ast.unparse(d).endswith(".setter") for d in node.decorator_list)
            if node.name.startswith("_") or setter:
                continue
            found.append((prefix + node.name, node))
            if isinstance(node, ast.ClassDef):
                found += _public(node, f"{prefix}{node.name}.")
    return found


# Its methods are documented once, by the protocol they follow.
BY_PROTOCOL = {"store/sqlite.py"}


def test_every_module_and_public_function_and_class_says_what_it_is_for() -> None:
    silent = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        silent += [] if ast.get_docstring(tree) else [name]
        silent += [
            f"{name}: {where}"
            for where, node in _public(tree)
            if not ast.get_docstring(node) and not (name in BY_PROTOCOL and "." in where)
        ]
    assert not silent


@pytest.mark.parametrize("cls", [provkeep.Trail, provkeep.Lineage, ProvenanceHandler])
def test_what_help_shows_of_a_public_class_is_documented(cls: type) -> None:
    members = inspect.getmembers(cls, lambda m: inspect.isfunction(m) or isinstance(m, property))
    ours = [(n, m) for n, m in members if not n.startswith("_")]
    assert ours and not [n for n, m in ours if not inspect.getdoc(m)]


def test_what_records_is_loaded_by_the_first_handler_and_not_by_importing_the_adapter() -> None:
    program = (
        "import sys, langchain_core.runnables, provkeep.langchain\n"
        "heavy = {'cryptography', 'sqlite3', 'provkeep.recording.recorder'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PROVKEEP_")}
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "[]"
