"""Nothing that a person, model, tool or document said is in any file in the clear.

A secret stands in every field of a recorded RAG chain, an agent, streams and errors; then every
byte of every file is searched, in every form text usually takes, while the recorder is open and its
write-ahead log is full. Component names are in the clear by design (docs/THREATS.md): the names of
runs, nodes, tools and models, of custom events, the types of errors; what a model or a server says
where such a name is expected is not.
"""

import base64
import contextlib
import hashlib
import json
import logging
import os
import tempfile
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import dispatch_custom_event
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_core.tools import tool

import provkeep
from provkeep.errors import ProvkeepError, RecordingError
from provkeep.langchain import ProvenanceHandler
from provkeep.recording.recorder import Scope, recorder_for
from provkeep.recording.trace import Trace
from tests.scenarios.recording_kit import say

planted: dict[str, str] = {}


def secret(field: str) -> str:
    """A text that stands nowhere else, with letters that JSON may escape."""
    core = hashlib.sha256(field.encode()).hexdigest()[:20]
    planted[field] = core
    return f"sé{core}✓"


def forms(core: str) -> Iterator[tuple[str, bytes]]:
    """How a text may lie in a file. The core is ASCII, so JSON, URLs and UTF-8 leave it alone."""
    plain = core.encode()
    yield "plain", plain
    yield "UTF-16", core.encode("utf-16-le")
    yield "UTF-16, big end first", core.encode("utf-16-be")
    yield "UTF-32", core.encode("utf-32-le")
    yield "hexadecimal", plain.hex().encode()
    yield "HEXADECIMAL", plain.hex().upper().encode()
    yield "bytes of hexadecimal", bytes.fromhex(core)  # the core itself is hexadecimal
    yield "backwards", plain[::-1]
    yield "escaped", "".join(f"\\u{ord(c):04x}" for c in core).encode()
    for shift in range(3):
        coded = base64.b64encode(b"\x00" * shift + plain)
        yield f"base64 at {shift}", coded[4:-4]
        yield f"base85 at {shift}", base64.b85encode(b"\x00" * shift + plain)[5:-5]
    for digest in (hashlib.sha256, hashlib.sha1, hashlib.md5):  # a bare hash confirms a guess
        yield f"{digest.__name__} hash", digest(plain).digest()
        yield f"{digest.__name__} hash in hexadecimal", digest(plain).hexdigest().encode()


def found_in(blobs: dict[Path, bytes]) -> list[str]:
    out = []
    for field, core in planted.items():
        for form, needle in forms(core):
            out += [f"{field} as {form} in {p.name}" for p, b in blobs.items() if needle in b]
    return out


def read_all(*folders: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for f in folders for p in f.rglob("*") if p.is_file()}


class Retriever(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [
            Document(
                id=secret("document id"),
                page_content=f"The text of the document says {secret('document text')} and more.",
                metadata={
                    "source": secret("document source"),
                    "score": 0.5,
                    secret("metadata key"): secret("metadata value"),
                    "nested": {"deep": [secret("nested metadata")]},
                },
            )
        ]


def model(*messages: AIMessage) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter(messages))


def rag(config: dict[str, Any], tokens_too: bool) -> None:
    prompt = ChatPromptTemplate.from_messages(
        [("system", secret("prompt template") + " {context}"), ("human", "{question}")]
    )
    answer = AIMessage(
        content=f"It is said in the document that {secret('answer')} holds.",
        id=secret("message id"),
        name=secret("message name"),
        additional_kwargs={secret("additional key"): secret("additional value")},
        response_metadata={"note": secret("response metadata"), "finish_reason": "stop"},
        usage_metadata={"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
    )
    chain = (
        RunnableParallel(context=Retriever(), question=RunnablePassthrough())
        | prompt
        | model(answer, answer).bind(stop=[secret("model keyword")])
        | StrOutputParser()
    )
    question = f"What of {secret('question')}, and why?"
    if tokens_too:
        list(chain.stream(question, config))
    else:
        chain.invoke(question, config)


@tool(response_format="content_and_artifact")
def look_up(**arguments: Any) -> tuple[str, Any]:
    """Look something up."""
    return f"found {secret('tool result')} there", {secret("artifact key"): secret("tool artifact")}


def agent(config: dict[str, Any]) -> None:
    call = ToolCall(
        name="look_up",
        args={"arguments": {secret("argument name"): secret("argument value")}},
        id=secret("tool call id"),
    )
    made_up = ToolCall(name=secret("tool that is none"), args={}, id="made up")
    asks = AIMessage(content=secret("thought"), tool_calls=[call, made_up])
    says = AIMessage(
        content=f"so {secret('final answer')} it is",
        response_metadata={
            "finish_reason": secret("finish reason"),
            "model_name": f"I am {secret('model that answered')}",
        },
    )
    chat = model(asks, says)

    def step(state: dict[str, Any]) -> dict[str, Any]:
        messages = [SystemMessage(secret("system message")), HumanMessage(state["said"])]
        asked = chat.invoke(messages)
        got = [look_up.invoke(asked.tool_calls[0])]
        dispatch_custom_event("progress", {secret("event key"): secret("event value")})
        return {secret("state key"): chat.invoke([*messages, asked, *got]).content}

    RunnableLambda(step, name="agent").invoke({"said": secret("human message")}, config)


class Odd:
    def __repr__(self) -> str:
        return secret("repr of an object")


def odd(config: dict[str, Any]) -> None:
    value = {
        "bytes": secret("bytes").encode(),
        "set": {secret("set member")},
        "object": Odd(),
        (secret("tuple key"),): 1,
        "path": Path(secret("path")),
        "number": 8_231_771_923_441_009,
        "long": f"{secret('long text')} " * 500,
        "role": BaseMessage(content="", type=secret("role")),
        "messages": [ToolMessage(secret("tool message"), tool_call_id=secret("other call id"))],
    }
    RunnableLambda(lambda x: x, name="odd").invoke(value, config)


def failing(config: dict[str, Any]) -> None:
    def step(_: Any) -> Any:
        error = ValueError(secret("error message"), secret("error argument"))
        error.add_note(secret("error note"))
        try:
            raise KeyError(secret("cause of an error"))
        except KeyError as cause:
            raise error from cause

    with contextlib.suppress(ValueError):
        RunnableLambda(step, name="failing").invoke(secret("input of a failing step"), config)


def failing_stream(config: dict[str, Any]) -> None:
    def step(_: Any) -> Iterator[str]:
        yield secret("first chunk")
        raise RuntimeError(secret("error in a stream"))

    with contextlib.suppress(RuntimeError):
        chain = RunnableLambda(lambda x: x, name="first") | RunnableLambda(step, name="stream")
        list(chain.stream(secret("streamed input"), config))


@pytest.fixture
def recorded(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch):
    """A handler that has heard all of it, still open, and its folder."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("SQLITE_TMPDIR", str(scratch))
    planted.clear()
    folder = tmp_path / "data"
    folder.mkdir()
    handler = ProvenanceHandler(
        folder / "audit.db",
        tokens=True,
        **{name: secret(name) for name in ("actor", "subject", "application", "version")},
    )
    config = {
        "callbacks": [handler],
        "tags": [secret("tag")],
        "metadata": {
            "thread_id": secret("session"),
            secret("config key"): secret("config value"),
        },
    }
    rag(config, tokens_too=False)
    rag(config, tokens_too=True)
    agent(config)
    odd(config)
    failing(config)
    failing_stream(config)
    yield handler, folder, home, scratch
    with contextlib.suppress(ProvkeepError):
        handler.close()


def test_no_secret_is_in_any_file_while_the_recorder_runs_nor_after(recorded):
    handler, folder, home, scratch = recorded
    assert len(planted) > 45
    during = read_all(folder, home, scratch)
    assert (folder / "audit.db-wal").stat().st_size > 50_000
    assert found_in(during) == []
    handler.flush()
    assert found_in(read_all(folder, home, scratch)) == []
    handler.close()
    assert not (folder / "audit.db-wal").exists()
    assert found_in(read_all(folder, home, scratch)) == []


def test_the_search_would_find_what_is_there(recorded):
    """Every secret was recorded, and a planted copy is found in whatever form it takes."""
    _, folder, _, _ = recorded
    said: list[str] = []
    with provkeep.open(folder / "audit.db") as trail:
        for (number,) in trail._store.query("SELECT id FROM payload"):
            value = trail._open().payload(number)
            said.append(json.dumps(value, ensure_ascii=False, default=str))
    everything = " ".join(said)
    hexadecimal = planted.pop("bytes").encode().hex()
    assert hexadecimal in everything
    planted.pop("first chunk")  # LangChain tells nobody what a stream had said when it failed
    assert [field for field, core in planted.items() if core not in everything] == []
    core = planted["question"]
    for form, needle in forms(core):
        assert f"question as {form} in x" in found_in({Path("x"): b"a" + needle + b"b"})
    assert found_in({Path("x"): zlib.compress(core.encode())}) == []  # the honest limit


def test_files_are_for_their_owner_only(recorded):
    _, folder, home, _ = recorded
    modes = {p.name: p.stat().st_mode & 0o777 for p in [*folder.iterdir(), *home.rglob("*.*")]}
    assert modes.pop("log.pub") == 0o644
    assert set(modes) >= {
        *("audit.db", "audit.db-wal", "audit.db-shm"),
        *("audit.db-keys", "audit.db-keys-wal", "audit.db-keys-shm"),
        *("recorder.json", "reader.json", "pin.json", "location.json"),
    }
    if os.name == "posix":
        assert set(modes.values()) == {0o600}
        assert {p.stat().st_mode & 0o777 for p in (home / "stores").iterdir()} == {0o700}


def test_private_keys_are_not_beside_the_database(recorded):
    _, folder, home, _ = recorded
    [reader] = home.glob("stores/*/reader.json")
    private = json.loads(reader.read_text())["private"]
    for blob in read_all(folder).values():
        for key in private.values():
            assert base64.b64decode(key["key"]) not in blob
            assert key["key"].encode() not in blob


def test_no_secret_is_in_a_repr(recorded):
    handler, folder, _, _ = recorded
    handler.flush()
    recorder = handler._recorder
    writer = recorder._writer
    outbox = writer._outbox
    opened = outbox.opened
    sealer = outbox._sealer
    keys = [key for ready in sealer._ready.values() for key in ready]
    assert keys
    shown = [handler, recorder, writer, outbox, opened, opened.config, opened.log_key, sealer]
    shown += [opened.store, opened.keys, *keys, *sealer._epochs.values()]
    with provkeep.open(folder / "audit.db") as trail:
        text = " ".join(map(repr, [*shown, trail, trail.runs(), trail.lineage(trail.runs()[-1])]))
    assert found_in({Path("reprs"): text.encode()}) == []
    for key in keys:
        assert repr(key.key) not in text
    assert repr(opened.config.log_seed) not in text
    assert repr(opened.config.fingerprint_key) not in text


def test_no_secret_is_in_a_log_or_an_error_when_recording_itself_fails(
    recorded, monkeypatch, caplog
):
    """An exception's own text may quote what it failed on; it is neither logged nor chained."""
    handler = recorded[0]
    caplog.set_level(logging.DEBUG, "provkeep")
    handler.flush()
    feed = Trace.feed

    def fail(trace: Trace, event: Any) -> None:
        feed(trace, event)
        raise ValueError(f"cannot place {secret('what could not be placed')}")

    monkeypatch.setattr(Trace, "feed", fail)
    RunnableLambda(lambda x: x).invoke(secret("a late input"), {"callbacks": [handler]})
    with pytest.raises(RecordingError, match=r"ValueError in .*test_no_plaintext, line") as caught:
        handler.flush()
    assert caught.value.lost == 2
    said = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(caught.value)
    assert "events lost" in caplog.text
    assert found_in({Path("log and error"): said.encode()}) == []


def test_no_secret_is_in_a_log_when_a_callback_fails(recorded, monkeypatch, caplog):
    handler = recorded[0]
    caplog.set_level(logging.DEBUG, "provkeep")
    handler.flush()

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError(f"cannot take {secret('what could not be taken')}")

    monkeypatch.setattr(handler, "_start", fail)
    RunnableLambda(lambda x: x).invoke(secret("a late input"), {"callbacks": [handler]})
    with pytest.raises(RecordingError) as caught:
        handler.flush()
    said = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(caught.value)
    assert found_in({Path("log and error"): said.encode()}) == []


def test_no_secret_is_in_an_error_about_a_store_that_refuses(recorded):
    handler, folder, _, _ = recorded
    (folder / "audit.db").rename(folder / "elsewhere")
    RunnableLambda(lambda x: x).invoke(secret("a late input"), {"callbacks": [handler]})
    with pytest.raises(RecordingError) as caught:
        handler.flush()
    said = "".join(traceback.format_exception(caught.value))
    assert found_in({Path("error"): said.encode(), **read_all(folder)}) == []
    (folder / "elsewhere").rename(folder / "audit.db")


def test_what_is_lost_by_a_crash_of_the_disk_is_not_spilled_anywhere(recorded, tmp_path):
    """Waiting records are kept in memory; no file holds them in the clear."""
    handler, folder, home, scratch = recorded
    connection = handler._recorder._writer._outbox.opened.store._writer.get()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    for i in range(5):
        say(recorder_for(folder / "audit.db"), Scope(), secret(f"waiting {i}") * 500)
    assert found_in(read_all(folder, home, scratch)) == []
    connection.execute("PRAGMA max_page_count = 1073741823")
    handler.flush()
    assert found_in(read_all(folder, home, scratch)) == []
