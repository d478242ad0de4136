"""Nothing secret is where debuggers and error trackers look: names, reprs, dumps, arguments.

What is searched for is what ``test_no_plaintext`` plants, and the keys themselves.
"""

import ast
import base64
import dataclasses
import json
import traceback
from pathlib import Path
from typing import Any

import pytest

import provkeep
from provkeep.errors import ProvkeepError
from provkeep.masking import PERSONAL
from provkeep.recording.recorder import Scope
from provkeep.sealing.home import load_reader_keys, load_recorder_config
from tests.scenarios import test_no_plaintext
from tests.scenarios.test_no_plaintext import found_in, planted, secret

recorded = test_no_plaintext.recorded  # the fixture
SOURCE = Path(provkeep.__file__).parent
NAMES = {"actor", "subject", "session", "document source", "application", "version"}


def plain(value: Any, seen: set[int] | None = None) -> str:
    """Everything that can be reached from a value, as a crash reporter would dump it."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, type):
        return ""
    seen.add(id(value))
    if isinstance(value, str | bytes | int | float | None.__class__):
        return f"{value} {value!r} "
    if isinstance(value, dict):
        return " ".join(plain(k, seen) + plain(v, seen) for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return " ".join(plain(v, seen) for v in value)
    inner = ""
    if dataclasses.is_dataclass(value):
        inner = " ".join(plain(getattr(value, f.name), seen) for f in dataclasses.fields(value))
    elif hasattr(value, "__dict__"):
        inner = plain(vars(value), seen)
    return f"{value!r} {inner}"


def keys_of(store_id: bytes) -> list[bytes]:
    config = load_recorder_config(store_id)
    private = load_reader_keys(store_id).private.values()
    return [config.log_seed, config.fingerprint_key, *private]


def shows(text: str, keys: list[bytes]) -> bool:
    forms = [f for k in keys for f in (repr(k), k.hex(), base64.b64encode(k).decode())]
    return any(form in text for form in forms)


def without_names() -> None:
    """Names are opened for a reader, after one access record; texts are not."""
    for name in NAMES:
        planted.pop(name, None)


def test_file_names_say_nothing(recorded):
    handler, folder, home, scratch = recorded
    handler.flush()
    names = [
        str(p.relative_to(folder.parent)) for f in (folder, home, scratch) for p in f.rglob("*")
    ]
    assert names
    assert found_in({Path("names"): "\n".join(names).encode()}) == []


def test_what_a_trail_answers_holds_no_text_and_no_key(recorded):
    handler, folder, _, _ = recorded
    handler.flush()
    with provkeep.open(folder / "audit.db") as trail:
        runs = trail.runs()
        values: list[Any] = [runs, trail.accesses(), trail.holds(), trail.erasures()]
        for run in runs:
            lineage = trail.run(run)
            values += [lineage, lineage.graph, lineage.to_dict(), lineage.to_mermaid()]
            values += [lineage._repr_mimebundle_(), lineage.to_text(), lineage.to_prov()]
        values += [trail.impact(secret("document source")), trail.verify()]
        values.append(trail.plan_erasure(trace=runs[0].id))
        keys = keys_of(trail._store.store_id)
    without_names()
    dumped = plain(values)
    assert len(dumped) > 10_000
    assert found_in({Path("answers"): dumped.encode()}) == []
    assert not shows(dumped, keys)


def test_dumping_the_attributes_of_what_users_hold_shows_no_text_and_no_key(recorded):
    """As a debugger or an error tracker shows a frame's variables: the repr of each attribute."""
    handler, folder, _, _ = recorded
    with provkeep.open(folder / "audit.db") as trail:
        trail.text(trail.runs()[-1], purpose="a test")
        recorder = handler._recorder
        writer = recorder._writer
        opener = trail._opener
        objects = [handler, recorder, writer, writer._outbox.opened, trail, trail._access]
        dumped = " ".join(
            repr({name: getattr(each, name, None) for name in _attributes(each)})
            for each in [*objects, opener._ring, writer._outbox._sealer, Scope(mask=PERSONAL)]
        )
        keys = keys_of(trail._store.store_id)
        keys += [key.key for ready in writer._outbox._sealer._ready.values() for key in ready]
        keys += [epoch.key for _, epoch in writer._outbox._sealer._epochs.values()]
    assert len(dumped) > 1_000
    for name in ("actor", "application", "version", "subject"):
        planted.pop(name)  # a handler holds the names it was given
    assert found_in({Path("attributes"): dumped.encode()}) == []
    assert not shows(dumped, keys)


def _attributes(value: Any) -> list[str]:
    slots = [s for c in type(value).__mro__ for s in getattr(c, "__slots__", ())]
    opened = {"_opened"} if type(value).__name__ == "Keyring" else set()  # epoch keys, by design
    return [n for n in [*getattr(value, "__dict__", {}), *slots] if n not in opened]


def test_errors_of_erasing_and_masking_name_nobody(recorded):
    handler, folder, _, _ = recorded
    handler.flush()
    said = []
    with provkeep.open(folder / "audit.db") as trail:
        who = secret("subject")
        trail.hold(subject=who, reason=secret("reason of a hold"))
        gone = trail.plan_erasure(subject=who)
        for attempt in (
            lambda: trail.erase(gone, reason=secret("reason")),
            lambda: trail.plan_erasure(subject=secret("a person nobody knows")),
            lambda: trail.lift_hold(subject=secret("another person"), reason="x"),
        ):
            with pytest.raises(ProvkeepError) as caught:
                attempt()
            said += [*traceback.format_exception_only(caught.value), repr(caught.value)]
            said += [plain(vars(caught.value))]
        trail.lift_hold(subject=who, reason=secret("reason to lift it"))
        trail.erase(gone, reason=secret("reason"))
        with pytest.raises(ProvkeepError) as caught:
            trail.text(trail.runs()[-1], purpose=secret("purpose"))
        said += [str(caught.value), plain(vars(caught.value))]
    assert found_in({Path("errors"): " ".join(said).encode()}) == []
    handler.close()
    blobs = {p: p.read_bytes() for p in folder.iterdir()}
    assert found_in(blobs) == [], "reasons and names are sealed"


def test_no_other_process_is_started_so_no_argument_shows_anything():
    """A list of processes shows everybody's arguments. Names can be given on standard input."""
    starters = {"subprocess", "multiprocessing", "pty"}
    calls = {"system", "popen", "execv", "execve", "execvp", "spawnv", "posix_spawn", "startfile"}
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "os"
                and node.attr in calls
            ):
                found.append(f"{path.name}: os.{node.attr}")
            found += [f"{path.name}: {n}" for n in names if n.partition(".")[0] in starters]
    assert found == []


def test_stored_notebooks_show_no_key_and_no_folder_of_whoever_ran_them():
    notebooks = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
    for path in notebooks:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        shown = json.dumps([cell.get("outputs", []) for cell in cells])
        for mark in ("log_seed", "fingerprint_key", "PRIVATE KEY", "/home/", "/root/", "/Users/"):
            assert mark not in shown, f"{path.name} shows {mark}"
