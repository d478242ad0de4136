"""The group of commands, and how each ends: one line on stderr and an exit code, no traceback.

Exit codes: 0 fine; 1 a finding (verification failed); 2 wrong use; 3 cannot read (missing key,
locked, not a provkeep file, newer schema). 130 and 141 are the shell's: interrupted, pipe closed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from provkeep.cli.commands import COMMANDS
from provkeep.cli.output import complain
from provkeep.cli.pages import Group
from provkeep.errors import (
    AmbiguousIdError,
    HeldError,
    MissingExtraError,
    PolicyError,
    ProvkeepError,
    UnknownIdError,
)

FINE: Final = 0
WRONG_USE: Final = 2
CANNOT_READ: Final = 3
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

_WRONG_USE: Final = (
    UnknownIdError,
    AmbiguousIdError,
    MissingExtraError,
    PolicyError,
    HeldError,
)


@click.group(
    cls=Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 fine, 1 a finding (verify failed), 2 wrong use, 3 cannot read.",
)
@click.version_option(package_name="provkeep", message="provkeep %(version)s")
@click.pass_context
def provkeep(context: click.Context) -> None:
    """Keep and question the provenance of what a LangChain, LangGraph or LlamaIndex program made.

    The program records with `provkeep.langchain.ProvenanceHandler("audit.db")`. These commands
    say what was recorded, where an answer came from, what a document reached and who read what,
    and whether anything was changed since.

    An ID is a trace's id or the beginning of one (`provkeep runs` prints them), or one step or
    part of a trace as `provkeep show` prints them: 01a20a34.r3, 01a20a34.a12. Without an ID the
    newest trace, or its answer, is meant.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in COMMANDS:
    provkeep.add_command(_command)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an old code page must not turn an answer into an error
            stream.reconfigure(errors="backslashreplace")
    try:
        code: Any = provkeep.main(
            args=None if args is None else list(args),
            prog_name="provkeep",
            standalone_mode=False,
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else FINE
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        complain("interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return WRONG_USE
    except (BrokenPipeError, SystemExit):  # click exits by itself for nothing else
        # Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except ProvkeepError as error:
        complain(str(error))
        return WRONG_USE if isinstance(error, _WRONG_USE) else CANNOT_READ
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}; check the path and its permissions")
        return CANNOT_READ
