"""However a chain is called and however the handler gets there, the same runs are recorded."""

import asyncio
import concurrent.futures
import copy
import os
import subprocess
import sys
import threading

import pytest
from langchain_core.callbacks import CallbackManager
from langchain_core.runnables import RunnableLambda, RunnableParallel

import provkeep.langchain
from provkeep.errors import ProvkeepError
from provkeep.langchain import ProvenanceHandler
from tests.langchain.recorded import RAG_SHAPE, Recorded, chat, rag, text_model


def call(chain, config):
    return [chain.invoke("When?", config)]


def stream(chain, config):
    return ["".join(chain.stream("When?", config))]


def batch(chain, config):
    return chain.batch(["When?", "Why?"], config)


def transform(chain, config):
    return ["".join(chain.transform(iter(["Wh", "en?"]), config))]


def as_completed(chain, config):
    return [out for _, out in chain.batch_as_completed(["When?"], config)]


async def ainvoke(chain, config):
    return [await chain.ainvoke("When?", config)]


async def astream(chain, config):
    return ["".join([c async for c in chain.astream("When?", config)])]


async def abatch(chain, config):
    return await chain.abatch(["When?", "Why?"], config)


async def astream_events(chain, config):
    events = [e async for e in chain.astream_events("When?", config, version="v2")]
    return [events[-1]["data"]["output"]]


async def astream_log(chain, config):
    async for _ in chain.astream_log("When?", config=config):
        pass


CALLS = [call, stream, batch, transform, as_completed]
ASYNC_CALLS = [ainvoke, astream, abatch, astream_events]


def check(db, question="When?"):
    with Recorded(db) as recorded:
        for trace in recorded.traces:
            assert sorted(recorded.shape(trace)) == RAG_SHAPE
            assert recorded.parents(trace)["Shelf"] == "RunnableSequence"
            assert recorded.trail.text(trace, purpose="test") == "Within 5 days, I think."
            root = recorded.runs(trace)[0]
            assert recorded.input(root) in (question, "Why?")
        assert recorded.trail.verify()
        return len(recorded.traces)


@pytest.mark.parametrize("way", CALLS)
def test_every_way_to_call_a_chain_is_recorded(db, handler, way):
    way(rag(), {"callbacks": [handler]})
    handler.flush()
    assert check(db) == (2 if way is batch else 1)


@pytest.mark.parametrize("way", ASYNC_CALLS)
async def test_every_way_to_await_a_chain_is_recorded(db, handler, way):
    await way(rag(), {"callbacks": [handler]})
    handler.flush()
    assert check(db) == (2 if way is abatch else 1)


@pytest.mark.filterwarnings("ignore:astream_log")
async def test_astream_log_is_recorded(db, handler):
    await astream_log(rag(), {"callbacks": [handler]})
    handler.flush()
    assert check(db) == 1


@pytest.mark.parametrize(
    "bound",
    [
        lambda h: rag().with_config(callbacks=[h]),
        lambda h: rag().with_config({"callbacks": CallbackManager([h], [h])}),
        lambda h: rag().with_config(callbacks=[h]).with_config(callbacks=[h]),
    ],
)
def test_with_config_records(db, handler, bound):
    assert bound(handler).invoke("When?") == "Within 5 days, I think."
    handler.flush()
    assert check(db) == 1


def test_threads_each_get_a_trace_of_their_own(db, handler):
    chain, config = rag(), {"callbacks": [handler]}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: chain.invoke("When?", config), range(24)))
    assert check(db) == 24


async def test_tasks_each_get_a_trace_of_their_own(db, handler):
    chain, config = rag(), {"callbacks": [handler]}
    await asyncio.gather(*(chain.ainvoke("When?", config) for _ in range(12)))
    handler.flush()
    assert check(db) == 12


def test_a_constructor_callback_records_its_part_under_an_unknown_parent(db, handler):
    """Such a callback is local: LangChain tells it of this component only."""
    model = chat().model_copy(update={"callbacks": [handler]})
    rag(model).invoke("When?")
    handler.flush()
    with Recorded(db) as recorded:
        assert recorded.shape() == [("model", "GenericFakeChatModel", "ok")]
        assert recorded.runs()[0].attrs["unknown_parent"] is True


def test_constructor_and_config_together_record_once(db, handler):
    rag(chat().model_copy(update={"callbacks": [handler]})).invoke(
        "When?", {"callbacks": [handler]}
    )
    assert check(db) == 1


@pytest.mark.parametrize("way", [call, batch])
def test_a_handler_registered_twice_records_once(db, handler, way):
    way(rag(), {"callbacks": [handler, handler]})
    assert check(db) == (2 if way is batch else 1)


def test_two_handlers_on_one_path_share_a_recorder_and_record_once(db):
    with ProvenanceHandler(db) as one, ProvenanceHandler(str(db)) as two:
        assert one._recorder is two._recorder
        rag().invoke("When?", {"callbacks": [one, two]})
    assert check(db) == 1


def test_closing_one_handler_leaves_the_other_recording(db):
    one, two = ProvenanceHandler(db), ProvenanceHandler(db)
    one.close()
    one.close()
    rag().invoke("When?", {"callbacks": [two]})
    two.close()
    assert check(db) == 1


def test_a_closed_handler_opens_again_for_a_run_that_comes_later(db):
    handler = ProvenanceHandler(db)
    handler.close()
    rag().invoke("When?", {"callbacks": [handler]})
    assert check(db) == 1


def test_installed_it_records_everything_until_uninstalled(db):
    installed = provkeep.langchain.install(db)
    try:
        rag().invoke("When?")
        worker = threading.Thread(target=lambda: rag().invoke("When?"))
        worker.start()
        worker.join()
        asyncio.run(rag().ainvoke("When?"))
        rag().invoke("When?", {"callbacks": [installed]})
    finally:
        provkeep.langchain.uninstall()
    rag().invoke("When?")
    provkeep.langchain.uninstall()
    assert check(db) == 4


def test_installing_again_replaces(db, tmp_path):
    provkeep.langchain.install(tmp_path / "first.db")
    try:
        rag().invoke("When?")
        provkeep.langchain.install(db)
        rag().invoke("When?")
    finally:
        provkeep.langchain.uninstall()
    assert (check(db), check(tmp_path / "first.db")) == (1, 1)


def test_installing_where_nothing_can_be_written_keeps_what_was_installed(db, tmp_path):
    provkeep.langchain.install(db)
    try:
        (tmp_path / "not.db").write_bytes(b"something else" * 500)
        with pytest.raises(ProvkeepError):
            provkeep.langchain.install(tmp_path / "not.db")
        rag().invoke("When?")
    finally:
        provkeep.langchain.uninstall()
    assert check(db) == 1


def test_the_environment_variable_installs(db):
    code = (
        "import provkeep.langchain\nfrom tests.langchain.recorded import rag\nrag().invoke('When?')"
    )
    env = {**os.environ, "PROVKEEP_LANGCHAIN": str(db), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=60)
    assert check(db) == 1


def test_branches_in_threads_belong_to_one_trace(db, handler):
    def deeper(x):
        return RunnableLambda(lambda y: y + 1).with_config(run_name="inner").invoke(x)

    chain = RunnableParallel(
        {k: RunnableLambda(deeper).with_config(run_name=k) for k in "abcdefgh"}
    )
    for _ in range(5):
        chain.invoke(1, {"callbacks": [handler]})
    with Recorded(db) as recorded:
        assert [len(recorded.runs(t)) for t in recorded.traces] == [17] * 5
        for trace in recorded.traces:
            assert recorded.graph(trace).nodes[f"{trace}.r0"].status == "ok"


def test_text_models_are_recorded_sync_and_async(db, handler):
    config = {"callbacks": [handler]}
    text_model().invoke("When?", config)
    asyncio.run(text_model().ainvoke("When?", config))
    list(text_model().stream("When?", config))
    text_model("one", "two").generate(["first", "second"], callbacks=[handler])
    with Recorded(db) as recorded:
        assert recorded.shape() == [("model", "FakeListLLM", "ok")] * 5
        assert sorted(recorded.output(r) for r in recorded.runs()) == sorted(
            ["Within 5 days."] * 3 + ["one", "two"]
        )


def test_copies_of_a_handler_are_the_handler(handler):
    """LangChain copies configurations; a lock inside would break ``model_copy(deep=True)``."""
    assert copy.copy(handler) is handler
    assert copy.deepcopy({"callbacks": [handler]})["callbacks"][0] is handler
    model = text_model().model_copy(update={"callbacks": [handler]})
    assert model.model_copy(deep=True).callbacks[0] is handler
    assert {handler, handler} == {handler}


def test_sessions_are_taken_from_the_metadata(db, handler):
    step = RunnableLambda(lambda x: x)
    step.invoke(1, {"callbacks": [handler], "metadata": {"session_id": "a"}})
    step.invoke(1, {"callbacks": [handler], "metadata": {"thread_id": 7}})
    step.invoke(1, {"callbacks": [handler], "metadata": {"conversation_id": ["odd"]}})
    with Recorded(db) as recorded:
        assert [t.session for t in reversed(recorded.trail.runs())] == ["a", "7", None]


def test_who_and_what_is_kept_with_the_trace(db):
    names = {"actor": "alice@example.com", "session": "s1", "subject": "bob"}
    with ProvenanceHandler(db, **names, application="desk", version="1.2") as handler:
        RunnableLambda(lambda x: x).invoke("question", {"callbacks": [handler]})
    with Recorded(db) as recorded:
        (trace,) = recorded.trail.runs()
        assert (trace.actor, trace.session, trace.subject) == tuple(names.values())
        meta = [
            recorded.trail._open().payload(n) for n in recorded.trail._paths.trace(trace.id).metas
        ]
        assert meta[0]["names"]["application"] == "desk"
        assert meta[0]["names"]["version"] == "1.2"


def test_a_wrong_durability_is_refused(db):
    with pytest.raises(ValueError, match="durability is one of"):
        ProvenanceHandler(db, durability="soon")
