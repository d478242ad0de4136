"""Help pages: commands with examples that are printed as they are typed, in an order of use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click


class Command(click.Command):
    """A command whose help ends in examples."""

    def __init__(
        self,
        *args: Any,
        examples: Sequence[str] = (),
        terms: tuple[str, Sequence[tuple[str, str]]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples, self.terms = tuple(examples), terms

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the explained words and the examples below the options."""
        if self.terms is not None:
            title, words = self.terms
            with formatter.section(title):
                formatter.write_dl(list(words))
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Topic(Command, click.Group):
    """Commands on one subject, such as ``keys``, in the order they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands."""
        return list(self.commands)


class Group(click.Group):
    """A group that lists its commands in the order they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands."""
        return list(self.commands)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the group is for, and how to begin."""
        super().format_help_text(ctx, formatter)
        with formatter.section("Begin here"):
            formatter.write_dl(
                [
                    ("provkeep demo", "record, ask, draw, verify, tamper, catch it"),
                    ("provkeep runs audit.db", "what was recorded"),
                    ("provkeep sources audit.db", "which documents the newest answer came from"),
                    ("provkeep verify audit.db", "is the record still what was written?"),
                ]
            )


def command(
    short: str,
    *examples: str,
    terms: tuple[str, Sequence[tuple[str, str]]] | None = None,
    dashes: bool = False,
) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command: ``short`` stands in the list of commands.

    With ``dashes`` an argument may begin with one, as an id in base64 does once in 64 times.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        return click.command(
            cls=Command,
            short_help=short,
            examples=examples,
            terms=terms,
            context_settings={"ignore_unknown_options": dashes},
        )(function)

    return decorate
