"""Small files that are written whole or not at all.

Keys and pins are replaced, never edited: after a crash or on a full disk either the old file is
there or the new one. Nothing here knows what the files hold.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

PRIVATE: Final = 0o600  # only the owner reads and writes


def write_whole(path: Path, text: str, mode: int = PRIVATE, *, replace: bool = True) -> None:
    """Write or replace a file so that a crash leaves the old one or the new one, never a part.

    Args:
        path: the file; its folder must exist.
        text: what it shall hold, written as UTF-8.
        mode: its permissions; it never has wider ones, not even while it is written.
        replace: what is there already; without it, it stays as it is.

    Raises:
        FileExistsError: it is there, and is not to be replaced.
        OSError: the folder is missing, full or not writable; the old file is still there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # refused if it is there
            temporary.unlink()
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power loss; Windows cannot open folders and needs no help."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
