"""Imports only point down: ARCHITECTURE's layer table and its "must never" table, as data.

The source is parsed, never run, so an import inside a function or under ``TYPE_CHECKING`` counts
like any other, and so does ``importlib.import_module("…")`` with a literal name.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
PACKAGE = "provkeep"

# Units of one layer are siblings and do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("model", "masking"),
    ("sealing", "store"),
    ("policy", "tlog"),
    ("recording", "reading"),
    ("langchain", "llamaindex", "export"),
    ("display",),
    ("trail",),
    ("cli", "demo"),
)
LAYER_OF = {unit: number for number, units in enumerate(LAYERS) for unit in units}
TOP = len(LAYERS)  # provkeep/__init__.py and __main__.py: may import anything, imported by nobody

# `provkeep demo` is a command, so its siblings meet here and only here.
SIBLINGS_THAT_MEET = {("cli", "demo")}

# Packages of others -> the only places that may import them.
FOREIGN: dict[tuple[str, ...], tuple[str, ...]] = {
    ("langchain", "langgraph"): ("langchain/", "demo/"),  # the demo records a real chain
    ("llama_index",): ("llamaindex/", "demo/"),
    ("sqlite3", "sqlite_utils", "aiosqlite", "psycopg"): ("store/",),
    ("cryptography",): (
        "sealing/",
        "tlog/checkpoint",
        "tlog/cosignature",
        "tlog/mldsa",
        "tlog/timestamp",
    ),
    ("rfc3161_client",): ("tlog/timestamp",),
}
PREFIXES = ("langchain", "langgraph", "llama_index", "psycopg")  # langchain_core, psycopg2, …

# Pairs that the layer numbers alone would allow, or that deserve their own reason.
NEVER: tuple[tuple[str, str, str], ...] = (
    ("store/", "sealing", "storage holds bytes it cannot read"),
    ("tlog/", "sealing", "verification needs no key"),
    ("reading/verify", "sealing", "verification needs no key"),
    ("recording/", "reading", "a recorder cannot read"),
    ("reading/", "recording", "a reader cannot invent events"),
    ("langchain/", "reading", "an adapter translates into recording, and reads nothing back"),
    ("llamaindex/", "reading", "an adapter translates into recording, and reads nothing back"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported module, and where it stands."""

    path: str  # of the importing file, relative to the package: "store/sqlite.py"
    line: int
    target: str  # absolute dotted name


def imports(package: Path) -> Iterator[Import]:
    """Every import in the package, at whatever depth it stands."""
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package)
        inside = [PACKAGE, *path.parts[:-1]]  # the package that a leading dot means
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), filename=str(file))):
            for target in targets(node, inside):
                yield Import(path=path.as_posix(), line=getattr(node, "lineno", 0), target=target)


def targets(node: ast.AST, inside: list[str]) -> list[str]:
    """Absolute names that one syntax node imports."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = inside[: len(inside) - level + 1] if level else []
            stem = ".".join([*base, *([module] if module else [])])
            # `from provkeep import store` imports the unit store: the names count too.
            return [f"{stem}.{alias.name}" for alias in names]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [".".join([*inside, name.lstrip(".")]) if name.startswith(".") else name]
        case _:
            return []


def unit_of(dotted: str) -> str | None:
    """The unit a name inside the package belongs to; None for the package itself."""
    unit = dotted.split(".")[1] if "." in dotted else ""
    return unit if unit in LAYER_OF else None


def violations(src: Path) -> list[str]:
    """What the tree under ``src`` does that the tables forbid; empty when it keeps to them."""
    package = src / PACKAGE
    found = [
        f"{name}: not in the layer table"
        for path in sorted(package.glob("*"))
        if path.suffix == ".py" or any(path.glob("*.py"))
        if (name := path.stem) not in LAYER_OF and name not in {"__init__", "__main__"}
    ]
    for item in imports(package):
        reason = forbidden(item)
        if reason:
            found.append(f"{item.path}:{item.line} imports {item.target}: {reason}")
    return found


def forbidden(item: Import) -> str | None:
    """Why this import may not stand here, or None."""
    root = item.target.split(".")[0]
    if root == PACKAGE:
        return forbidden_inside(item)
    for packages, places in FOREIGN.items():
        named = any(
            root == name or (name in PREFIXES and root.startswith(name)) for name in packages
        )
        if named and not item.path.startswith(places):
            return f"only {' and '.join(places)} may"
    return None


def forbidden_inside(item: Import) -> str | None:
    """The same for an import of one of our own modules."""
    importer = item.path.split("/")[0].removesuffix(".py")
    if importer in {"__init__", "__main__"}:
        return None
    imported = unit_of(item.target)
    for place, unit, reason in NEVER:
        if item.path.startswith(place) and imported == unit:
            return reason
    if (
        importer not in LAYER_OF
        or importer == imported
        or (importer, imported) in SIBLINGS_THAT_MEET
    ):
        return None
    above, below = LAYER_OF[importer], TOP if imported is None else LAYER_OF[imported]
    if below == above:
        return f"{importer} and {imported} are siblings"
    return f"layer {above} may not look up to layer {below}" if below > above else None


def test_the_source_keeps_to_the_layers():
    assert violations(SRC) == []


def test_importing_the_package_loads_no_framework():
    """Whoever only verifies or reads does not pay for two frameworks."""
    code = (
        "import sys, provkeep;"
        "print(sorted({m.split('.')[0] for m in sys.modules"
        " if m.startswith(('langchain', 'langgraph', 'llama_index'))}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def tree(tmp_path: Path, path: str, source: str) -> Path:
    file = tmp_path / PACKAGE / path
    file.parent.mkdir(parents=True)
    file.write_text(source, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("display/ledger.py", "from provkeep.reading import lineage\nfrom ..model import graph"),
        ("reading/reader.py", "from provkeep.sealing import keyring"),
        ("tlog/checkpoint.py", "from cryptography.hazmat.primitives import hashes"),
        ("langchain/handler.py", "import langchain_core, langgraph.graph"),
        ("langchain/middleware.py", "from provkeep.recording import recorder"),
        ("store/sqlite.py", "import sqlite3\nfrom . import schema\nfrom .base import Store"),
        ("store/postgres/pool.py", "from ...errors import StoreError\nfrom ..base import Store"),
        ("cli/main.py", "from provkeep import demo"),
        ("__init__.py", "def open(path):\n    from provkeep.reading import open_trail"),
        ("model/values.py", "import langcodes, sqlparse"),
    ],
)
def test_an_import_that_the_tables_allow_passes(tmp_path, path, source):
    assert violations(tree(tmp_path, path, source)) == []


@pytest.mark.parametrize(
    ("path", "source", "reason"),
    [
        (
            "model/values.py",
            "from provkeep.store import base",
            "layer 1 may not look up to layer 2",
        ),
        ("model/values.py", "from .. import store", "layer 1 may not look up to layer 2"),
        (
            "model/values.py",
            "from ..display.dag import draw",
            f"may not look up to layer {LAYER_OF['display']}",
        ),
        (
            "model/values.py",
            "def f():\n    import provkeep.cli",
            f"may not look up to layer {LAYER_OF['cli']}",
        ),
        ("model/values.py", "import provkeep", f"may not look up to layer {TOP}"),
        ("demo/story.py", "from provkeep import __version__", f"may not look up to layer {TOP}"),
        ("tlog/log.py", "from provkeep.policy import rules", "tlog and policy are siblings"),
        ("export/prov.py", "from provkeep.langchain import x", "export and langchain are siblings"),
        ("demo/story.py", "from provkeep.cli import main", "demo and cli are siblings"),
        ("cli.py", "import langchain_core.messages", "only langchain/ and demo/ may"),
        ("recording/recorder.py", "from langgraph import graph", "only langchain/ and demo/ may"),
        ("langchain/handler.py", "import llama_index.core", "only llamaindex/ and demo/ may"),
        ("reading/reader.py", "import sqlite3 as db", "only store/ may"),
        ("export/json.py", "from sqlite_utils import Database", "only store/ may"),
        ("tlog/log.py", "import psycopg2", "only store/ may"),
        (
            "tlog/merkle.py",
            "from cryptography.x509 import Name",
            "only sealing/ and tlog/checkpoint",
        ),
        ("store/sqlite.py", "from provkeep.sealing import envelope", "bytes it cannot read"),
        ("tlog/checkpoint.py", "from ..sealing import keyring", "verification needs no key"),
        (
            "reading/verify.py",
            "from provkeep.sealing.keyring import x",
            "verification needs no key",
        ),
        ("reading/verify/pins.py", "from provkeep import sealing", "verification needs no key"),
        ("recording/edges.py", "from provkeep.reading import lineage", "a recorder cannot read"),
        ("reading/lineage.py", "from provkeep.recording import parts", "cannot invent events"),
        ("langchain/handler.py", "import provkeep.reading.reader", "reads nothing back"),
        ("llamaindex/spans.py", "import provkeep.reading.reader", "reads nothing back"),
        (
            "model/values.py",
            "import typing\nif typing.TYPE_CHECKING:\n    from provkeep.tlog import log",
            "layer 1 may not look up to layer 3",
        ),
        (
            "model/values.py",
            "import importlib\nimportlib.import_module('provkeep.reading')",
            "layer 1 may not look up to layer 4",
        ),
        ("model/values.py", "__import__('llama_index')", "only llamaindex/ and demo/ may"),
        ("util.py", "", "util: not in the layer table"),
        ("helpers/text.py", "", "helpers: not in the layer table"),
    ],
)
def test_a_forbidden_import_is_named_with_its_place_and_reason(tmp_path, path, source, reason):
    found = violations(tree(tmp_path, path, source))
    assert len(found) == 1, found
    assert reason in found[0]
    assert found[0].startswith((path, path.split("/")[0].removesuffix(".py")))
