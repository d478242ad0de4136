"""The log as files that any C2SP tlog-tiles client reads: hashes, records, checkpoint.

    checkpoint                       the newest signed tree head
    tile/<L>/<N>[.p/<W>]             hashes: 256 of 32 bytes, or W of them
    tile/entries/<N>[.p/<W>]         record bodies, each after its length in two bytes

Hashes are computed from the record bodies, so a folder that was written agrees with its checkpoint.
No payload leaves the store: bodies hold hashes of ciphertexts only. Follows
https://c2sp.org/tlog-tiles.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from provkeep.errors import TilesError
from provkeep.model.files import write_whole
from provkeep.tlog.heads import Head, View
from provkeep.tlog.log import TILE
from provkeep.tlog.merkle import Frontier, leaf_hash, root_of

PUBLIC_MODE = 0o644  # of the checkpoint, which a web server hands out
LENGTH_BYTES = 2  # uint16, big-endian


@dataclass(frozen=True, slots=True, kw_only=True)
class TilesExport:
    """What an export wrote."""

    size: int  # records
    root: bytes  # over them, 32 bytes
    written: int  # files that were not there before
    unchanged: int  # files that were there already, with the same bytes


def tile_path(level: int | str, index: int, width: int = TILE) -> str:
    """Return the path of a tile, such as ``tile/0/x001/x234/067`` or ``tile/1/000.p/3``.

    Args:
        level: 0 to 63, or ``entries``.
        index: place of the tile in its level, from 0.
        width: hashes or entries in it; fewer than 256 make it partial.
    """
    groups: list[str] = []
    rest = index
    while True:
        rest, group = divmod(rest, 1000)
        groups.append(f"x{group:03d}" if groups else f"{group:03d}")
        if not rest:
            break
    partial = "" if width == TILE else f".p/{width}"
    return f"tile/{level}/{'/'.join(reversed(groups))}{partial}"


def export_tiles(
    view: View,
    head: Head,
    folder: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> TilesExport:
    """Write the first ``head.size`` records and their tree; the checkpoint comes last.

    A folder that holds an earlier export of the same log is continued: full tiles that are there
    are compared and left. Takes about 32 bytes of memory for each 256 records.

    Args:
        view: the log.
        head: a tree head that the log signed.
        folder: where to; made when missing.
        progress: called with records done and in all.

    Raises:
        TilesError: the folder holds tiles of another log, or the records do not lead to the root
            of the head; no checkpoint was written then.
        OSError: the folder cannot be written.
    """
    where = Path(folder)
    files = _Files(where)
    tree, above = Frontier(), []
    for start in range(0, head.size, TILE):
        stop = min(start + TILE, head.size)
        bodies = view.bodies(start, stop)
        if len(bodies) != stop - start:
            raise TilesError(where, f"records {start}..{stop - 1} are not all there")
        leaves = [leaf_hash(body) for body in bodies]
        for leaf in leaves:
            tree.append(leaf)
        index, width = start // TILE, stop - start
        entries = b"".join(len(b).to_bytes(LENGTH_BYTES, "big") + b for b in bodies)
        files.put(tile_path("entries", index, width), entries)
        files.put(tile_path(0, index, width), b"".join(leaves))
        if width == TILE:
            above.append(root_of(leaves))
        if progress is not None:
            progress(stop, head.size)
    level = 1
    while above:
        higher = []
        for start in range(0, len(above), TILE):
            hashes = above[start : start + TILE]
            files.put(tile_path(level, start // TILE, len(hashes)), b"".join(hashes))
            if len(hashes) == TILE:
                higher.append(root_of(hashes))
        level, above = level + 1, higher
    if tree.root() != head.root:
        raise TilesError(where, "the records do not lead to the root that the log signed")
    write_whole(where / "checkpoint", head.note, PUBLIC_MODE)
    return TilesExport(
        size=head.size, root=head.root, written=files.written, unchanged=files.unchanged
    )


class _Files:
    """Files of one export: written whole, never changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.written = self.unchanged = 0
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, data: bytes) -> None:
        path = self._folder / name
        try:
            found = path.read_bytes()
        except FileNotFoundError:
            pass
        else:
            if found != data:
                raise TilesError(self._folder, f"{name} is there and holds something else")
            self.unchanged += 1
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self.written += 1
