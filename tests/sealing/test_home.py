"""Key files are complete, private, and say what to do when they are not."""

import json
import os
import stat
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from provkeep.errors import KeyFileError
from provkeep.sealing.home import (
    RecorderConfig,
    create_store_home,
    default_origin,
    find_by_path,
    home_dir,
    load_reader_keys,
    load_recorder_config,
    log_public,
    pin_path,
    remember_location,
)
from provkeep.sealing.keyring import COMPARTMENTS, CompartmentKeys

STORE, OTHER = bytes(range(16)), bytes(16)
SEED = bytes(range(50, 82))
ORIGIN = default_origin(STORE)
VKEY = f"{ORIGIN}+0011aabb+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
posix_only = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of this test's own."""
    monkeypatch.setenv("PROVKEEP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def create(store_id: bytes = STORE, db_path: str | Path = "audit.db") -> RecorderConfig:
    origin = default_origin(store_id)
    vkey = VKEY.replace(ORIGIN, origin)
    return create_store_home(store_id, origin, db_path, log_seed=SEED, log_vkey=vkey)


def folder(home: Path) -> Path:
    return home / "stores" / STORE.hex()


def names_in(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


def edit(path: Path, **changes: Any) -> None:
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))


def test_what_was_created_is_what_is_loaded(home: Path) -> None:
    config = create()
    assert load_recorder_config(STORE) == config
    assert (config.origin, config.log_seed) == (f"provkeep/{STORE.hex()}", SEED)
    keys = load_reader_keys(STORE)
    assert keys.held == tuple(sorted(COMPARTMENTS))
    assert keys.public() == config.recipients
    assert log_public(STORE) == VKEY
    assert pin_path(STORE) == folder(home) / "pin.json"
    assert len(config.fingerprint_key) == 32
    assert names_in(folder(home)) == [
        "admin.json",
        "location.json",
        "log.pub",
        "reader.json",
        "recorder.json",
    ]
    assert names_in(home / "stores") == [STORE.hex()]


@posix_only
def test_only_the_owner_can_read_what_is_secret(home: Path) -> None:
    create()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder(home).iterdir()}
    assert modes == {
        "recorder.json": 0o600,
        "reader.json": 0o600,
        "admin.json": 0o600,
        "location.json": 0o600,
        "log.pub": 0o644,
    }
    for path in (home / "stores", folder(home)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


@posix_only
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_key_file_open_to_others_is_refused_with_the_remedy(home: Path, mode: int) -> None:
    create()
    for name, load in (("recorder.json", load_recorder_config), ("reader.json", load_reader_keys)):
        path = folder(home) / name
        path.chmod(mode)
        with pytest.raises(KeyFileError, match=f"chmod 600 '.*{name}'"):
            load(STORE)
        path.chmod(0o600)
        load(STORE)


@posix_only
def test_a_log_key_that_others_may_write_is_refused(home: Path) -> None:
    create()
    (folder(home) / "log.pub").chmod(0o664)
    with pytest.raises(KeyFileError, match="chmod 644"):
        log_public(STORE)


def test_keys_are_never_replaced(home: Path) -> None:
    config = create()
    with pytest.raises(KeyFileError, match="holds keys already"):
        create()
    assert load_recorder_config(STORE) == config
    assert names_in(home / "stores") == [STORE.hex()]


def test_a_creation_that_fails_leaves_nothing_half_done(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, seen = Path.replace, []

    def full_at_the_third(source: Path, target: Path) -> Path:
        seen.append(target)
        if len(seen) == 3:
            raise OSError(28, "No space left on device")
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full_at_the_third)
        with pytest.raises(KeyFileError, match="No space"):
            create()
    assert names_in(home / "stores") == []
    create()


def test_missing_files_say_how_to_get_them(home: Path) -> None:
    for load in (load_recorder_config, load_reader_keys, log_public):
        with pytest.raises(KeyFileError, match=r"provkeep init.*PROVKEEP_HOME"):
            load(STORE)


def test_a_recorders_folder_without_private_halves_still_records(home: Path) -> None:
    config = create()
    (folder(home) / "reader.json").unlink()
    assert load_recorder_config(STORE) == config
    with pytest.raises(KeyFileError, match="missing"):
        load_reader_keys(STORE)


def test_a_reader_may_hold_some_compartments_only(home: Path) -> None:
    create()
    path = folder(home) / "reader.json"
    private = json.loads(path.read_text())["private"]
    edit(path, private={"output": private["output"]})
    assert load_reader_keys(STORE).held == ("output",)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"store_id": OTHER.hex()},
        {"origin": ...},
        {"origin": ""},
        {"extra": 1},
        {"log_seed": "AAAA"},
        {"log_seed": "%%%%"},
        {"log_seed": 7},
        {"fingerprint_key": "AAAA"},
        {"recipients": {}},
        {"admin": ...},
        {"signed": ...},
        {"signed": {"at": 1}},
        {"admin": 7},
        {"recipients": {"prompt": {"suite": "x25519", "public": b64encode(bytes(32)).decode()}}},
    ],
)
def test_a_malformed_recorder_file_is_refused(home: Path, changes: dict[str, Any]) -> None:
    create()
    path = folder(home) / "recorder.json"
    edit(path, **changes)
    with pytest.raises(KeyFileError, match=r"recorder\.json") as caught:
        load_recorder_config(STORE)
    assert caught.value.path == str(path)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "private",
    [
        [],
        {},
        {"diary": {"suite": "x25519", "key": b64encode(bytes(32)).decode()}},
        {"prompt": {"suite": "rot13", "key": b64encode(bytes(32)).decode()}},
        {"prompt": {"suite": "x25519", "key": "AAAA"}},
        {"prompt": {"suite": "x25519"}},
        {"prompt": "key"},
    ],
)
def test_a_malformed_reader_file_is_refused(home: Path, private: object) -> None:
    create()
    edit(folder(home) / "reader.json", private=private)
    with pytest.raises(KeyFileError, match=r"reader\.json.*malformed"):
        load_reader_keys(STORE)


def everything_in(error: BaseException | None) -> str:
    """All that a logger, a debugger or an error service may show of an error."""
    shown = []
    while error is not None:
        shown += [str(error), repr(error), repr(vars(error)), repr(error.args)]
        shown += [repr(getattr(error, name, "")) for name in ("doc", "object")]
        error = error.__cause__ or error.__context__
    return "\n".join(shown)


@pytest.mark.parametrize("name", ["recorder.json", "reader.json"])
@pytest.mark.parametrize("damage", ["cut", "bytes", "wrong type", "wrong length", "huge"])
def test_no_error_about_a_key_file_shows_a_key(home: Path, name: str, damage: str) -> None:
    """A JSONDecodeError, for one, carries the whole document along."""
    create()
    path = folder(home) / name
    text = path.read_text()
    secrets = [b64encode(key).decode() for key in load_reader_keys(STORE).private.values()]
    config = load_recorder_config(STORE)
    secrets += [b64encode(key).decode() for key in (config.log_seed, config.fingerprint_key)]
    damaged = {
        "cut": text[:-5].encode(),
        "bytes": text.encode() + b"\xff",
        "wrong type": text.replace('": "', '": ["', 1).replace('",', '"],', 1).encode(),
        "wrong length": text.replace('=="', '="').replace('="', '"').encode(),
        "huge": text.encode() + b" " * 1_000_000,
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(KeyFileError) as caught:
        (load_recorder_config if name == "recorder.json" else load_reader_keys)(STORE)
    shown = everything_in(caught.value)
    assert not [secret for secret in secrets if secret.rstrip("=") in shown]


def test_keys_show_in_no_repr(home: Path) -> None:
    config = create()
    for secret in (config.log_seed, config.fingerprint_key):
        assert repr(secret)[2:-1] not in repr(config)


def test_a_store_is_found_by_where_its_database_was_last_seen(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "data" / "audit.db"
    assert find_by_path(database) is None
    create(STORE, database)
    create(OTHER, tmp_path / "other.db")
    monkeypatch.chdir(tmp_path)
    assert find_by_path(database) == find_by_path("data/../data/audit.db") == STORE
    assert find_by_path(tmp_path / "nowhere.db") is None
    remember_location(STORE, tmp_path / "moved.db")
    assert find_by_path(tmp_path / "moved.db") == STORE
    assert find_by_path(database) is None


def test_the_latest_store_seen_at_a_path_counts(home: Path, tmp_path: Path) -> None:
    """A database that was deleted and made anew has a new id at the old place."""
    for age, store_id in ((20, STORE), (10, OTHER)):
        create(store_id, tmp_path / "audit.db")
        path = home / "stores" / store_id.hex() / "location.json"
        os.utime(path, ns=(10**18 - age, 10**18 - age))
    assert find_by_path(tmp_path / "audit.db") == OTHER


def test_rubbish_among_the_stores_hides_no_store(home: Path, tmp_path: Path) -> None:
    create(STORE, tmp_path / "audit.db")
    for name, content in ((OTHER.hex(), "{"), ("notes", "{}"), ("00", '{"database": 1}')):
        (home / "stores" / name).mkdir()
        (home / "stores" / name / "location.json").write_text(content)
    assert find_by_path(tmp_path / "audit.db") == STORE


def test_a_location_without_a_store_is_refused(home: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be written"):
        remember_location(STORE, "audit.db")


def test_what_cannot_be_a_store_is_refused(home: Path) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        pin_path(b"../../etc")
    with pytest.raises(ValueError, match="origin"):
        create_store_home(STORE, ORIGIN, "a.db", log_seed=SEED, log_vkey="elsewhere+00+AA")
    with pytest.raises(ValueError, match="log seed"):
        create_store_home(STORE, ORIGIN, "a.db", log_seed=b"", log_vkey=VKEY)
    with pytest.raises(ValueError, match="public key for each"):
        RecorderConfig(
            store_id=STORE,
            origin=ORIGIN,
            log_seed=SEED,
            fingerprint_key=bytes(32),
            recipients=CompartmentKeys({"prompt": bytes(32)}).public(),
        )


def test_without_the_variable_the_users_configuration_folder_is_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PROVKEEP_HOME", raising=False)
    assert home_dir().name == "provkeep"
    assert home_dir().is_absolute()
