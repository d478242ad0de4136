"""Keys made apart from the store that they will be for; see docs/OPERATIONS.md."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from pathlib import Path
from typing import Final

from provkeep.errors import KeyFileError
from provkeep.model.files import write_whole
from provkeep.sealing import keyfiles, signing, suites
from provkeep.sealing.home import read_admin_seed
from provkeep.sealing.keyring import CompartmentKeys
from provkeep.sealing.recipients import RECIPIENTS_FILE, sign_recipients

READER_FILE: Final = "reader.json"
ADMIN_FILE: Final = "admin.json"


def make_recipients(
    folder: Path,
    suite: str = suites.SUITE,
    *,
    admin: Path | None = None,
    at_us: int | None = None,
) -> dict[str, str]:
    """Make key pairs for all compartments and an admin key, and write them.

    Args:
        folder: made when missing; must be empty. Gets ``recipients.json`` (public, 0644),
            ``reader.json`` and ``admin.json`` (0600).
        suite: of ``suites.SUITES``.
        admin: an admin's key file that is there already; then none is made.
        at_us: when, UTC microseconds since 1970; now unless told.

    Returns:
        File name -> the admin's public key, base64.

    Raises:
        KeyFileError: the folder is not empty, or cannot be written.
    """
    keys = CompartmentKeys.generate(suite)
    seed = signing.new_seed() if admin is None else read_admin_seed(admin)
    at = time.time_ns() // 1000 if at_us is None else at_us
    signed = sign_recipients(keys.public(), seed, at_us=at)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise KeyFileError(
                str(folder), "is not empty", "name a new folder; keys are not replaced"
            )
        write_whole(folder / READER_FILE, keyfiles.to_text({"private": keys.to_json()}))
        if admin is None:
            said = {"kind": "admin", "seed": b64encode(seed).decode()}
            write_whole(folder / ADMIN_FILE, keyfiles.to_text(said))
        text = json.dumps(signed.to_json(), indent=2, sort_keys=True) + "\n"
        write_whole(folder / RECIPIENTS_FILE, text, 0o644)
    except OSError as error:
        raise KeyFileError(
            str(folder), f"cannot be written ({error.strerror})", "name a folder that can"
        ) from error
    public = b64encode(signed.admin).decode()
    names = (RECIPIENTS_FILE, READER_FILE, *((ADMIN_FILE,) if admin is None else ()))
    return dict.fromkeys(names, public)
