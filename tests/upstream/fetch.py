"""Source distributions of what is installed, kept in a folder."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path


def sdist(package: str, folder: Path) -> Path:
    """The archive of the installed release of ``package``, from the folder or the registry."""
    name = f"{package.replace('-', '_')}-{version(package)}.tar.gz"
    if not (folder / name).is_file():
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--no-binary", package]
        release = f"{package}=={version(package)}"
        subprocess.run([*pip, "-d", str(folder), release], check=True)
    return folder / name
