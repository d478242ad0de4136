"""Evidence bundles for the tests: real ones, and ones whose log an attacker signed as it likes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from provkeep.demo.app import manual_chain
from provkeep.errors import ExportError
from provkeep.export.verdict import verify_bundle
from provkeep.langchain import ProvenanceHandler
from provkeep.model.canonical import canonical
from provkeep.tlog.checkpoint import LogKey
from provkeep.tlog.merkle import inclusion_proof, leaf_hash, root_of
from tests import independent_bundle_reader as other
from tests.reading import forging

QUESTION = "What happens when a byte is changed, and who gets to read the database?"
SAID = "How long may they take to answer my claim, at the very most, in days?"
VERIFIED, WRONG, NO_BUNDLE = "verified", "wrong", "no bundle"


def record(path: Path, turns: int = 2) -> None:
    """Two retrievals over the manual, then a conversation whose turns take up the last one."""
    with ProvenanceHandler(path, actor="alice@example.com") as handler:
        for _ in range(2):
            manual_chain().invoke(QUESTION, config={"callbacks": [handler]})
    with ProvenanceHandler(path, actor="alice@example.com", session="ticket-1") as handler:
        messages: list[Any] = [HumanMessage(SAID, id="h-0")]
        for turn in range(turns):
            said = AIMessage(f"Answer {turn}: within five days, in writing.", id=f"a-{turn}")
            model = GenericFakeChatModel(messages=iter([said]))
            (RunnableLambda(lambda m: m) | model).invoke(messages, config={"callbacks": [handler]})
            messages = [*messages, said, HumanMessage(f"And then, in turn {turn}?", id=f"q-{turn}")]


def verdicts(blob: bytes, vkey: str, pin: dict[str, Any] | None, folder: Path) -> tuple[str, str]:
    """What provkeep says of a bundle, and what the verifier written from the page says."""
    file = folder / "case.json"
    file.write_bytes(blob)
    remembered = None
    if pin is not None:
        remembered = folder / "pin.json"
        remembered.write_text(json.dumps(pin))
    try:
        ours = VERIFIED if verify_bundle(file, key=vkey, pin=remembered) else WRONG
    except ExportError:
        ours = NO_BUNDLE
    try:
        other.verify(blob, vkey, pin)
        theirs = VERIFIED
    except other.Wrong:
        theirs = WRONG
    except other.NoBundle:
        theirs = NO_BUNDLE
    return ours, theirs


def signed(
    bodies: Iterable[dict[str, Any] | bytes],
    *,
    focus: str = f"{1:032x}.r0",
    shown: Sequence[int] | None = None,
    key: LogKey = forging.KEY,
) -> dict[str, Any]:
    """A bundle over a log that holds exactly these bodies after record 0; proofs are good."""
    raw = [canonical(forging.init_body())]
    raw += [each if isinstance(each, bytes) else canonical(each) for each in bodies]
    leaves = [leaf_hash(each) for each in raw]
    spelled = [
        [other.b64encode(each).decode() for each in inclusion_proof(leaves, at)]
        for at in range(len(raw))
    ]
    return {
        "format": "provkeep-bundle",
        "version": 1,
        "focus": focus,
        "checkpoint": key.sign_checkpoint(len(leaves), root_of(leaves)),
        "consistency": [],
        "records": [
            {"seq": at, "body": raw[at].decode("ascii", "replace"), "proof": spelled[at]}
            for at in (range(len(raw)) if shown is None else shown)
        ],
        "reveals": [],
    }


def trace(number: int, *entries: Any, n: int = 0, **more: Any) -> dict[str, Any]:
    """A record of a trace: a run that ended, and these entries."""
    begun = ["s", 0, "chain", "RunnableSequence", -1, 0, "A" * 22, {}]
    return {
        "k": "trace",
        "v": 1,
        "t": f"{number:032x}",
        "n": n,
        "t0": "1700000000000000000",
        "e": [begun, *entries, ["x", 0, 5_000, "ok", {}]],
        **more,
    }
