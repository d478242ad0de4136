"""Whom a recorder seals to is what an admin signed, or nothing is recorded."""

import json
import sqlite3
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from provkeep.errors import KeyFileError, RecipientsError
from provkeep.recording.opening import open_for_recording
from provkeep.sealing import suites
from provkeep.sealing.ceremony import make_recipients
from provkeep.sealing.home import install_recipients, load_admin_seed, load_reader_keys
from provkeep.sealing.keyring import COMPARTMENTS, CompartmentKeys
from provkeep.sealing.recipients import (
    SignedRecipients,
    read_recipients,
    sign_recipients,
)
from provkeep.sealing.signing import new_seed

OTHER = b64encode(suites.public_of(suites.generate())).decode()


@pytest.fixture
def ceremony(tmp_path: Path) -> Path:
    make_recipients(tmp_path / "ceremony")
    return tmp_path / "ceremony"


def test_a_ceremony_makes_public_keys_that_fit_the_private_ones(ceremony: Path) -> None:
    signed = read_recipients(ceremony / "recipients.json")
    keys = load_reader_keys(bytes(16), ceremony / "reader.json")
    assert keys.public() == signed.recipients
    seed = load_admin_seed(bytes(16), ceremony / "admin.json")
    assert sign_recipients(signed.recipients, seed, at_us=signed.at_us) == signed
    text = (ceremony / "recipients.json").read_text()
    for secret in (*keys.private.values(), seed):
        assert b64encode(secret).decode() not in text
    with pytest.raises(KeyFileError, match="not empty"):
        make_recipients(ceremony)


def exchange(value: dict[str, Any]) -> None:
    value["recipients"]["output"]["public"] = OTHER


def drop(value: dict[str, Any]) -> None:
    del value["recipients"]["tool"]


def swap(value: dict[str, Any]) -> None:
    given = value["recipients"]
    given["prompt"], given["output"] = given["output"], given["prompt"]


LIES: list[Callable[[dict[str, Any]], Any]] = [
    exchange,
    drop,
    swap,
    lambda value: value.update(at=value["at"] + 1),
    lambda value: value.update(signature=b64encode(bytes(64)).decode()),
    lambda value: value.update(admin=b64encode(bytes(range(32))).decode()),
    lambda value: value.update(format=2),
    lambda value: value.update(more=1),
    lambda value: value.pop("admin"),
    lambda value: value.update(at="now"),
]


@pytest.mark.parametrize("lie", LIES)
def test_a_recipients_file_that_was_changed_is_refused(
    ceremony: Path, lie: Callable[[dict[str, Any]], Any], tmp_path: Path
) -> None:
    path = ceremony / "recipients.json"
    value = json.loads(path.read_text())
    lie(value)
    path.write_text(json.dumps(value))
    with pytest.raises(RecipientsError, match=r"recipients\.json"):
        read_recipients(path)


def test_a_file_that_is_no_recipients_file_is_refused(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", "[" * 10_000):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(RecipientsError):
            read_recipients(tmp_path / "r.json")
    with pytest.raises(RecipientsError, match="cannot be read"):
        read_recipients(tmp_path / "missing.json")


def record(database: Path, **more: Any) -> None:
    open_for_recording(database, **more).close()


def test_the_recorders_own_file_with_another_key_is_refused(
    ceremony: Path, tmp_path: Path, home: Path
) -> None:
    """Whoever can write recorder.json cannot make it seal to a key of theirs."""
    database = tmp_path / "audit.db"
    record(database, recipients=read_recipients(ceremony / "recipients.json"))
    (path,) = home.glob("stores/*/recorder.json")
    fields = json.loads(path.read_text())
    fields["recipients"]["output"]["public"] = OTHER
    path.write_text(json.dumps(fields))
    with pytest.raises(RecipientsError, match="a public key was exchanged"):
        record(database)


def test_the_recorders_own_file_signed_by_another_admin_is_refused(
    ceremony: Path, tmp_path: Path, home: Path
) -> None:
    """Record 0 says which admin it was."""
    database = tmp_path / "audit.db"
    record(database, recipients=read_recipients(ceremony / "recipients.json"))
    (path,) = home.glob("stores/*/recorder.json")
    fields = json.loads(path.read_text())
    forged = sign_recipients(CompartmentKeys.generate().public(), new_seed(), at_us=10**15)
    said = forged.to_json()
    fields |= {"recipients": said["recipients"], "admin": said["admin"]}
    fields["signed"] = {"at": said["at"], "signature": said["signature"]}
    path.write_text(json.dumps(fields))
    with pytest.raises(RecipientsError, match="another admin key"):
        record(database)


@pytest.mark.parametrize("made_here", [True, False])
def test_a_recipient_key_exchanged_in_the_store_is_refused(
    ceremony: Path, tmp_path: Path, made_here: bool
) -> None:
    database = tmp_path / "audit.db"
    signed = None if made_here else read_recipients(ceremony / "recipients.json")
    record(database, recipients=signed)
    with closing(sqlite3.connect(database)) as db, db:
        (body,) = db.execute("SELECT body FROM record WHERE seq=0").fetchone()
        fields = json.loads(body)
        fields["recipients"]["output"]["public"] = OTHER
        changed = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
        db.execute("UPDATE record SET body=? WHERE seq=0", (changed,))
    with pytest.raises(RecipientsError, match=r"the log of audit\.db"):
        record(database)


def test_other_recipients_for_a_store_that_is_there_are_refused(
    ceremony: Path, tmp_path: Path
) -> None:
    database = tmp_path / "audit.db"
    signed = read_recipients(ceremony / "recipients.json")
    record(database, recipients=signed)
    record(database, recipients=signed)
    make_recipients(tmp_path / "second")
    with pytest.raises(RecipientsError, match="made for others"):
        record(database, recipients=read_recipients(tmp_path / "second" / "recipients.json"))


def test_new_recipients_are_taken_from_the_same_admin_only_and_not_older_ones(
    ceremony: Path, tmp_path: Path
) -> None:
    database = tmp_path / "audit.db"
    first = read_recipients(ceremony / "recipients.json")
    opened = open_for_recording(database, recipients=first)
    opened.close()
    seed = load_admin_seed(bytes(16), ceremony / "admin.json")
    keys = CompartmentKeys.generate(suites.HYBRID).public()
    store_id = opened.store.store_id
    later = sign_recipients(keys, seed, at_us=first.at_us + 1)
    assert install_recipients(store_id, later).recipients == keys
    assert open_for_recording(database).config.recipients == keys
    with pytest.raises(RecipientsError, match="older"):
        install_recipients(store_id, first)
    with pytest.raises(RecipientsError, match="another admin"):
        install_recipients(store_id, sign_recipients(keys, new_seed(), at_us=first.at_us + 2))


def test_recipients_need_every_compartment() -> None:
    some = CompartmentKeys({"prompt": suites.generate()}).public()
    with pytest.raises(ValueError, match="each of"):
        sign_recipients(some, new_seed(), at_us=1)
    whole = CompartmentKeys.generate().public()
    with pytest.raises(ValueError, match="microseconds"):
        SignedRecipients(recipients=whole, admin=bytes(32), at_us=0, signature=bytes(64))
    assert set(whole.recipients) == set(COMPARTMENTS)
