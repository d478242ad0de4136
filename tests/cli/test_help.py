"""Every help page ends in examples, and the examples are commands that exist."""

import shlex

import click
import pytest

from provkeep.cli.commands import COMMANDS
from provkeep.cli.main import provkeep

BY_NAME = {
    " ".join(name): command
    for top in COMMANDS
    for name, command in (
        [((top.name, inner.name), inner) for inner in top.commands.values()]
        if isinstance(top, click.Group)
        else [((top.name,), top)]
    )
}


@pytest.mark.parametrize("name", BY_NAME)
def test_the_help_holds_examples(typed, name):
    for flag in ("--help", "-h"):
        done = typed(*name.split(), flag)
        assert done.code == 0
        assert "Examples:\n  " in done.out
        assert f"provkeep {name}" in done.out
        assert "--json" in done.out
        assert "\b" not in done.out


@pytest.mark.parametrize("name", BY_NAME)
def test_every_example_parses(name):
    command = BY_NAME[name]
    assert command.examples
    for example in command.examples:
        words = shlex.split(example)
        words = words[words.index("provkeep") + 1 :]
        for end in ("|", ">"):
            if end in words:
                words = words[: words.index(end)]
        size = len(name.split())
        assert words[:size] == name.split()
        command.make_context(name, words[size:])


def test_commands_are_listed_with_a_whole_sentence(typed):
    out = typed("--help").out
    listed = out.partition("Commands:\n")[2].splitlines()
    for command, line in zip(COMMANDS, listed, strict=False):
        assert line.split()[0] == command.name
        assert line.endswith(".")
        assert not line.endswith("...")
    assert list(provkeep.commands) == [command.name for command in COMMANDS]


def test_help_names_the_exit_codes(typed):
    assert "0 fine, 1 a finding (verify failed), 2 wrong use, 3 cannot read" in typed("-h").out
