"""All commands, in the order in which help lists their topics."""

from __future__ import annotations

from typing import Final

import click

from provkeep.cli.anchors import anchor
from provkeep.cli.bundle import bundle, verify_bundle
from provkeep.cli.demonstrate import demo
from provkeep.cli.erasing import erase, hold, retain
from provkeep.cli.export import export
from provkeep.cli.grants import grant, grants, revoke
from provkeep.cli.keeping import init, verify
from provkeep.cli.keys import keys
from provkeep.cli.lineage import lineage, sources
from provkeep.cli.outside import pin, tiles
from provkeep.cli.questions import accesses, impact, runs
from provkeep.cli.show import show

COMMANDS: Final[tuple[click.Command, ...]] = (
    demo,
    init,
    runs,
    show,
    lineage,
    sources,
    impact,
    accesses,
    export,
    verify,
    bundle,
    verify_bundle,
    grant,
    revoke,
    grants,
    keys,
    erase,
    retain,
    hold,
    pin,
    tiles,
    anchor,
)
