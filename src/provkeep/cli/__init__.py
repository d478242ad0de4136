"""The command line: ``provkeep COMMAND DATABASE …``."""

from provkeep.cli.main import main

__all__ = ["main"]
