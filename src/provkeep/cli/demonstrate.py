"""``demo``: everything once, on the manual that comes with the package."""

from __future__ import annotations

from pathlib import Path

import click

from provkeep.cli.output import as_json, say, say_json, width
from provkeep.cli.pages import command


@command(
    "Record, ask, draw, verify, tamper, catch it: everything once.",
    "provkeep demo",
    "provkeep demo --dir try-provkeep --open",
    "provkeep demo --no-keep --json",
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Put the files here (a new or empty folder) instead of into a temporary one.",
)
@click.option("--keep/--no-keep", default=True, show_default=True, help="Leave the files there.")
@click.option("--open", "look", is_flag=True, help="Show the picture in the browser at the end.")
@as_json
def demo(folder: Path | None, keep: bool, look: bool, as_json: bool) -> int:
    """Record, ask, draw, verify, tamper, catch it: all of provkeep once, in a few seconds.

    A LangChain retrieval chain, a tool-calling agent and a LlamaIndex query engine answer
    questions over provkeep's own manual. No network and no language model: ExtractiveChatModel
    copies the sentences that fit best. The database, the keys of the demo, lineage.json and
    lineage.svg stay in one folder, which is named at the end; nothing is put into your
    configuration.
    """
    from provkeep.demo import run_demo

    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise click.BadParameter(f"{folder} is not empty; name a new folder", param_hint="--dir")
    result = run_demo(folder, say=_nothing if as_json else say, keep=keep, width=width(100))
    if as_json:
        say_json(result.to_dict())
    if look and keep:
        click.launch(str(result.picture))
    return 0 if result.caught else 1


def _nothing(text: str) -> None:
    """Say nothing: the answer is JSON."""
