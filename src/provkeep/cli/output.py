"""What every command shares: printing safely, tables, JSON, progress, and common options.

Whatever is printed passes ``display.words.clean``: a name may hold a terminal's escape codes.
Answers go to stdout, everything about them to stderr, so that a pipe carries answers only.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from provkeep.display.tables import table
from provkeep.display.words import clean, duration

if TYPE_CHECKING:
    from provkeep.reading.answers import TraceSummary
    from provkeep.trail import Trail

Progress = Callable[[int, int], None]
_F = TypeVar("_F", bound=Callable[..., Any])

LEDGER_WIDTH: Final = 120  # where there is no terminal to ask
UNLIMITED: Final = 10_000  # columns: a table that is piped is not cut
SHORTEST_ID: Final = 12  # hex digits
_AS: Final = "provkeep.as"
PATIENCE_S: Final = 0.4  # a bar that would be gone at once is not drawn

database = click.argument("database", type=click.Path(path_type=Path), metavar="DATABASE")
one_id = click.argument("wanted", required=False, metavar="[ID]")
as_json = click.option("--json", "as_json", is_flag=True, help="Answer as JSON, for a program.")


def reader(command: _F) -> _F:
    """The options that say who reads, and with which key."""
    command = click.option(
        "--as",
        "as_",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        envvar="PROVKEEP_AS",
        expose_value=False,
        callback=_remember_key,
        help="Read with this key file and what was granted to it (also PROVKEEP_AS).",
    )(command)
    return click.option(
        "--reader",
        metavar="NAME",
        envvar="PROVKEEP_READER",
        help="Who reads, for the access record; by default the user of the operating system"
        " (also PROVKEEP_READER).",
    )(command)


def _remember_key(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    context.meta[_AS] = value


def opened(path: Path, who: str | None = None) -> Trail:
    """Open a store to ask it."""
    from provkeep.trail import open as open_trail

    context = click.get_current_context(silent=True)
    return open_trail(path, actor=who, as_=None if context is None else context.meta.get(_AS))


def say(text: str = "") -> None:
    """Print text of several lines, each cleaned."""
    click.echo("\n".join(clean(line) for line in text.split("\n")))


def note(text: str) -> None:
    """Say something about the answer, on stderr."""
    click.echo(clean(text), err=True)


def complain(text: str) -> None:
    """Say what went wrong, on one line of stderr."""
    note(f"provkeep: {text}")


def say_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table that fits the terminal; it is not cut when it goes into a pipe."""
    click.echo(table(headers, rows, width=width(UNLIMITED)))


def width(elsewhere: int) -> int:
    """Columns of the terminal, or ``elsewhere`` when there is none."""
    return shutil.get_terminal_size((elsewhere, 0)).columns


def say_json(value: Any) -> None:
    """Print JSON; characters that cannot be seen stand as escapes, which mean the same."""
    click.echo(json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON that is safe to show in any terminal."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, indent=2, ensure_ascii=not utf8)
    if text.isascii():
        return text
    return "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text)


def short_ids(ids: Sequence[str]) -> dict[str, str]:
    """Beginnings of ids that tell them apart, with a little to spare."""
    size = SHORTEST_ID
    while size < 32 and len({i[:size] for i in ids}) < len(set(ids)):
        size += 1
    return {i: i[: min(32, size + (2 if size > SHORTEST_ID else 0))] for i in ids}


def took(trace: TraceSummary) -> str | None:
    """How long a trace took, in words."""
    if trace.ended_us is None:
        return None
    return duration(max(0, trace.ended_us - trace.started_us) * 1000)


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """A bar on stderr for work that turns out to be long, only where a person watches."""
    bar: Any = None
    begun = time.monotonic()

    def step(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            if time.monotonic() - begun < PATIENCE_S or not sys.stderr.isatty():
                return
            bar = click.progressbar(length=total, label=what, file=sys.stderr)
            bar.__enter__()
        bar.length = total
        bar.update(done - bar.pos)

    try:
        yield step
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)
