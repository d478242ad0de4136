"""Every command and code block in the documentation runs.

A file's blocks run in order, in one temporary folder: Python in one namespace, shell commands
with this tree's ``provkeep`` first on the path. Two HTML comments steer it, invisible in the page:

    <!-- not run: reason -->      on the line before a block: it is not run, for this reason
    <!-- run first                Python that the blocks below it need, such as a fake model
    ...
    -->
"""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()
]

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>\w*)")
NOT_RUN = re.compile(r"^\s*<!-- not run: \S.* -->\s*$")
RUN_FIRST = re.compile(r"^\s*<!-- run first\s*$")
PYTHON = {"python", "py"}
SHELL = {"bash", "sh", "shell", "console"}
# A block with another command says why it is not run: an installer has no place in a test.
COMMANDS = {
    "provkeep",
    "cat",
    "cd",
    "cp",
    "echo",
    "export",
    "grep",
    "head",
    "ls",
    "mkdir",
    "rm",
    "true",
}
COMMAND_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block to run."""

    language: str  # "python" or "shell"
    text: str
    line: int  # of its first line of code, counted from 1


class BlockError(AssertionError):
    """A block of the documentation does not do what it says."""


def blocks(document: str) -> Iterator[Block]:
    """The blocks of a Markdown document that run, in order."""
    lines = document.splitlines()
    at = 0
    while at < len(lines):
        opening = FENCE.match(lines[at])
        hidden = RUN_FIRST.match(lines[at])
        if not opening and not hidden:
            at += 1
            continue
        first, marked = at + 1, at > 0 and NOT_RUN.match(lines[at - 1])
        end = "-->" if opening is None else opening["fence"]
        at = first
        while at < len(lines) and not lines[at].strip().startswith(end):
            at += 1
        if at == len(lines):
            raise BlockError(f"line {first}: the block does not end")
        text = textwrap.dedent("\n".join(lines[first:at])) + "\n"
        language = "python" if opening is None else opening["language"].lower()
        at += 1
        if marked:
            continue
        if language in PYTHON:
            yield Block(language="python", text=text, line=first + 1)
        elif language in SHELL:
            typed = from_console(text) if language == "console" else text
            yield Block(language="shell", text=typed, line=first + 1)


def from_console(text: str) -> str:
    """What was typed in a recorded session: lines after ``$``, and ``>`` lines that go on."""
    return "".join(f"{line[2:]}\n" for line in text.splitlines() if line.startswith(("$ ", "> ")))


def first_words(script: str) -> Iterator[str]:
    """The command of every pipeline stage in a script of simple commands."""
    expected = True
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in lexer:
            if expected and "=" not in word:
                yield word
                expected = False
            elif set(word) <= set("|&;"):
                expected = True
        expected = True


def run(name: str, document: str, folder: Path) -> int:
    """Run a document's blocks in ``folder``, the working directory; return how many ran.

    Raises:
        BlockError: a block failed; the message begins with ``name`` and its line.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    found = list(blocks(document))
    for block in found:
        place = f"{name}:{block.line}"
        if block.language == "python":
            run_python(place, block, name, namespace)
        else:
            run_shell(place, block, folder)
    return len(found)


def run_python(place: str, block: Block, name: str, namespace: dict[str, Any]) -> None:
    source = "\n" * (block.line - 1) + block.text  # a traceback names the line of the document
    try:
        exec(compile(source, name, "exec"), namespace)
    except Exception as error:
        raise BlockError(f"{place}: {type(error).__name__}: {error}") from error


def run_shell(place: str, block: Block, folder: Path) -> None:
    unknown = sorted(set(first_words(block.text)) - COMMANDS)
    if unknown:
        raise BlockError(
            f"{place}: not a command that the test runs: {', '.join(unknown)};"
            " put <!-- not run: reason --> on the line before the block"
        )
    programs = folder.parent / "documented-programs"
    if not programs.exists():
        programs.mkdir()
        program = programs / "provkeep"
        code = "import sys; from provkeep.cli import main; sys.exit(main())"
        program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-c", code])} "$@"\n')
        program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    if done.returncode:
        raise BlockError(f"{place}: exit {done.returncode}\n{done.stdout}{done.stderr}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    path = tmp_path / "reader"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_of_the_document_runs(document, folder):
    run(document.name, document.read_text(encoding="utf-8"), folder)


def test_blocks_run_in_order_in_one_namespace_and_one_folder(folder):
    document = textwrap.dedent(
        """
        <!-- run first
        answer = 41
        -->
        ```python
        from pathlib import Path
        Path("answer.txt").write_text(str(answer + 1))
        ```
        1. then, in a list:
           ```console
           $ cat answer.txt \\
           >   > copy.txt
           42
           ```
        ```json
        {"not": "run"}
        ```
        """
    )
    assert run("page.md", document, folder) == 3
    assert (folder / "copy.txt").read_text() == "42"


def test_a_marked_block_is_not_run_and_a_reason_is_asked_for(folder):
    block = "```python\nraise SystemError\n```\n"
    assert run("page.md", f"<!-- not run: needs a server -->\n{block}", folder) == 0
    for unmarked in ("<!-- not run: -->\n", "<!-- not run -->\n", "<!-- not run: far away -->\n\n"):
        with pytest.raises(BlockError, match=r"page\.md:\d: SystemError"):
            run("page.md", unmarked + block, folder)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("```python\n1 / 0\n```", r"^page\.md:3: ZeroDivisionError"),
        ("```python\nassert 1 == 2\n```", r"^page\.md:3: AssertionError"),
        ("```py\nx = (\n```", r"^page\.md:3: SyntaxError"),
        ("```bash\nls\ncat missing.txt\n```", r"(?s)^page\.md:3: exit 1.*missing\.txt"),
        ("```console\n$ cat missing.txt | head\n```", r"^page\.md:3: exit 1"),
        ("```bash\nls && sudo reboot\n```", r"not a command that the test runs: sudo"),
        ("```bash\nA=1 pip install provkeep\n```", r"not a command that the test runs: pip"),
        ("```python\nprint(1)\n", r"line 2: the block does not end"),
    ],
)
def test_a_broken_block_fails_with_its_place(folder, block, message):
    with pytest.raises(BlockError, match=message):
        run("page.md", f"\n{block}\n", folder)


def test_the_command_that_runs_is_this_tree(folder):
    """A provkeep that happens to be installed elsewhere proves nothing about this one."""
    pytest.importorskip("provkeep.cli")
    run("page.md", "```bash\nprovkeep --help > help.txt\n```\n", folder)
    assert "provkeep" in (folder / "help.txt").read_text()
