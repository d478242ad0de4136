"""Every field that passes by is recorded, and reads back as it was."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from langchain_core.callbacks import (
    CallbackManagerForLLMRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.documents import Document
from langchain_core.language_models import LLM, BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import PromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from provkeep.langchain import ProvenanceHandler
from tests.langchain.recorded import DOCUMENTS, Recorded, Shelf, Witness, chat, rag, text_model


class Chat(BaseChatModel):
    """A chat model with everything a real one says of itself."""

    answers: int = 1
    model: str = "big-model"
    temperature: float = 0.25

    @property
    def _llm_type(self) -> str:
        return "chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "temperature": self.temperature}

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
        params = super()._get_ls_params(stop=stop, **kwargs)
        return {**params, "ls_provider": "acme", "ls_model_name": self.model}

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        offered = [{"type": "function", "function": {"name": t.name}} for t in tools]
        return self.bind(tools=offered, **kwargs)

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        generations = [
            ChatGeneration(
                message=AIMessage(
                    f"answer {i}",
                    usage_metadata={"input_tokens": 9, "output_tokens": 2, "total_tokens": 11},
                    response_metadata={"model_name": "big-model-0611", "finish_reason": "stop"},
                    additional_kwargs={"logprobs": [0.5, -1.5]},
                ),
                generation_info={"finish_reason": "stop", "index": i},
            )
            for i in range(self.answers)
        ]
        return ChatResult(generations=generations, llm_output={"system_fingerprint": "fp"})


@tool
def weather(city: str) -> str:
    """Say the weather."""
    return f"rain in {city}"


@tool(response_format="content_and_artifact")
def table(rows: int) -> tuple[str, dict[str, Any]]:
    """Make a table."""
    return f"{rows} rows", {"values": list(range(rows)), "raw": np.arange(rows)}


@tool
def broken(x: int) -> int:
    """Fail."""
    raise ValueError("no such x")


def config(handler: ProvenanceHandler) -> Any:
    return {"callbacks": [handler]}


def test_messages_are_recorded_field_by_field(db, handler):
    messages = [
        SystemMessage("Be brief.", id="s1"),
        HumanMessage(
            [
                {"type": "text", "text": "Look:"},
                {"type": "image_url", "image_url": {"url": "a.png"}},
            ]
        ),
        AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Rome"}, "id": "c1"}]),
        ToolMessage("rain", tool_call_id="c1", name="weather", artifact={"mm": 3}),
        HumanMessage("And now?", name="alice", additional_kwargs={"x": (1, 2)}),
    ]
    Chat().invoke(messages, config(handler))
    with Recorded(db) as recorded:
        system, human, ai, result, last = recorded.input(recorded.run("Chat"))
    assert (system["type"], system["content"], system["id"]) == ("system", "Be brief.", "s1")
    assert human["content"][1] == {"type": "image_url", "image_url": {"url": "a.png"}}
    assert ai["tool_calls"][0]["args"] == {"city": "Rome"}
    assert (result["tool_call_id"], result["name"], result["status"]) == (
        "c1",
        "weather",
        "success",
    )
    assert last["name"] == "alice"
    assert last["additional_kwargs"]["x"] == {"$type": "tuple", "value": [1, 2]}


def test_what_a_model_says_of_itself_and_of_its_answer_is_recorded(db, handler):
    model = Chat().bind_tools([weather], tool_choice="any")
    model.invoke(
        "Hi", {**config(handler), "tags": ["mine"], "metadata": {"team": "desk"}}, stop=["\n"]
    )
    with Recorded(db) as recorded:
        (run,) = recorded.runs()
        attrs, answer = recorded.attrs(run), recorded.output(run)
    assert (run.kind, run.attrs["model"], run.attrs["provider"]) == (
        "model",
        "big-model-0611",
        "acme",
    )
    assert run.attrs["finish_reason"] == "stop"
    assert run.attrs["usage"] == {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11}
    params = attrs["invocation_params"]
    assert params["tools"][0]["function"]["name"] == "weather"
    assert (params["tool_choice"], params["stop"]) == ("any", ["\n"])
    assert (params["model"], params["temperature"]) == ("big-model", 0.25)
    assert attrs["metadata"]["team"] == "desk"
    assert attrs["tags"] == ["mine"]
    assert attrs["generation_info"] == [{"finish_reason": "stop", "index": 0}]
    assert attrs["llm_output"]["system_fingerprint"] == "fp"
    assert attrs["serialized"]["id"][-1] == "Chat"
    assert answer["content"] == "answer 0"
    assert answer["additional_kwargs"] == {"logprobs": [0.5, -1.5]}
    assert answer["usage_metadata"]["total_tokens"] == 11


def test_every_generation_is_recorded(db, handler):
    Chat(answers=3).generate([[HumanMessage("a")], [HumanMessage("b")]], callbacks=[handler])
    with Recorded(db) as recorded:
        for run in recorded.runs():
            assert [m["content"] for m in recorded.output(run)] == [
                "answer 0",
                "answer 1",
                "answer 2",
            ]
        assert len(recorded.runs()) == 2


class Token(LLM):
    """A text model that tells its usage as text models do, and retries once."""

    @property
    def _llm_type(self) -> str:
        return "token"

    def _call(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
        return prompt.upper()

    def _generate(self, prompts: Any, stop: Any = None, run_manager: Any = None, **kw: Any) -> Any:
        result = super()._generate(prompts, stop, run_manager, **kw)
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        result.llm_output = {"token_usage": usage, "model_name": "old-model"}
        result.generations[0][0].generation_info = {"finish_reason": "length"}
        return result


def test_text_models_are_recorded_with_prompt_usage_and_reason(db, handler):
    (PromptTemplate.from_template("say {word}") | Token()).invoke({"word": "yes"}, config(handler))
    with Recorded(db) as recorded:
        run = recorded.run("Token")
        assert (recorded.input(run), recorded.output(run)) == ("say yes", "SAY YES")
        assert run.attrs["usage"] == {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4}
        assert (run.attrs["model"], run.attrs["finish_reason"]) == ("old-model", "length")
        template = recorded.run("PromptTemplate")
        assert recorded.input(template) == {"word": "yes"}
        assert "say {word}" in repr(recorded.attrs(template)["serialized"])


class Usage(BaseChatModel):
    """Streams three chunks; only the last one tells usage and reason."""

    @property
    def _llm_type(self) -> str:
        return "usage"

    def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    def _stream(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        for text in ("one ", "two ", ""):
            message = AIMessageChunk(text)
            if not text:
                message.usage_metadata = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
                message.response_metadata = {"finish_reason": "stop", "model_name": "m"}
            yield ChatGenerationChunk(message=message)


@pytest.mark.parametrize("listed", [1, 2])
def test_tokens_are_recorded_when_asked_for(db, listed):
    with ProvenanceHandler(db, tokens=True) as handler:
        assert handler.tokens
        text = "".join(c.content for c in Usage().stream("x", {"callbacks": [handler] * listed}))
    with Recorded(db) as recorded:
        (run,) = recorded.runs()
        ((name, chunks),) = recorded.notes(run)
        assert name == "tokens"
        sizes = [size for _, size in chunks]
        assert sizes[:3] == [4, 4, 0]
        assert [at for at, _ in chunks] == sorted(at for at, _ in chunks)
        answer = recorded.output(run)["content"]
        assert answer == text == "one two "
        assert (answer[: sizes[0]], answer[sizes[0] :]) == ("one ", "two ")  # boundaries
        assert run.attrs["usage"]["total_tokens"] == 7
        assert run.attrs["finish_reason"] == "stop"


def test_tokens_are_not_recorded_unasked(db, handler):
    list(chat().stream("x", config(handler)))
    with Recorded(db) as recorded:
        assert recorded.notes(recorded.runs()[0]) == []
    assert not handler._streams


class Scored(BaseRetriever):
    """Gives documents with scores, one without id, one with a value that is not JSON."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForLLMRun) -> Any:
        return [
            Document(id="a", page_content="first", metadata={"source": "f.txt", "score": 0.75}),
            Document(page_content="second", metadata={"page": 3, "vector": np.array([1.5])}),
            Document(id="c", page_content="", metadata={}),
        ]


def test_every_document_is_recorded_with_its_score(db, handler):
    Scored().invoke("which?", config(handler))
    with Recorded(db) as recorded:
        run = recorded.run("Scored")
        assert (run.kind, recorded.input(run)) == ("retriever", "which?")
        first, second, third = recorded.output(run)
        assert (first["id"], first["page_content"]) == ("a", "first")
        assert first["metadata"]["source"] == "f.txt"
        assert first["metadata"]["score"] == 0.75
        assert second["metadata"]["page"] == 3
        assert second["metadata"]["vector"]["value"]["values"] == [1.5]
        assert (third["id"], third["page_content"]) == ("c", "")


def test_a_tool_call_is_recorded_with_id_arguments_result_and_status(db, handler):
    call = {"name": "weather", "args": {"city": "Rome"}, "id": "call-7", "type": "tool_call"}
    weather.invoke(call, config(handler))
    with Recorded(db) as recorded:
        run = recorded.run("weather")
        result = recorded.output(run)
        assert (run.kind, recorded.input(run)) == ("tool", {"city": "Rome"})
        assert (result["content"], result["tool_call_id"]) == ("rain in Rome", "call-7")
        assert (result["status"], result["name"]) == ("success", "weather")


def test_a_plain_tool_result_is_recorded(db, handler):
    weather.invoke({"city": "Oslo"}, config(handler))
    weather.invoke("Bergen", config(handler))
    with Recorded(db) as recorded:
        assert [recorded.output(r) for r in recorded.runs()] == ["rain in Oslo", "rain in Bergen"]
        assert [recorded.input(r) for r in recorded.runs()] == [{"city": "Oslo"}, "Bergen"]


def test_arguments_that_differ_from_the_call_are_recorded_as_they_were(db, handler):
    """Code between the model and the tool may change them."""

    def act(message: AIMessage) -> Any:
        call = {**message.tool_calls[0], "args": {"city": "Turin, corrected"}}
        return weather.invoke(call)

    asked = AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Tirin"}, "id": "c1"}])
    (chat(asked) | RunnableLambda(act)).invoke("?", config(handler))
    with Recorded(db) as recorded:
        assert "Turin, corrected" in repr(recorded._values(recorded.run("weather"), "used"))


def test_a_tools_artifact_is_kept_beside_the_message(db, handler):
    table.invoke(
        {"name": "table", "args": {"rows": 3}, "id": "c", "type": "tool_call"}, config(handler)
    )
    with Recorded(db) as recorded:
        run = recorded.run("table")
        assert recorded.output(run)["content"] == "3 rows"
        assert "artifact" not in recorded.output(run)
        ((name, kept),) = recorded.notes(run)
        assert name == "tool artifact"
        assert kept["values"] == [0, 1, 2]
        assert kept["raw"]["value"]["dtype"] == "int64"


def test_a_tool_error_that_is_handled_is_a_result_with_status_error(db, handler):
    lenient = broken.model_copy(update={"handle_tool_error": True})

    @tool
    def refuses(x: int) -> int:
        """Refuse."""
        from langchain_core.tools import ToolException

        raise ToolException("not today")

    refuses.handle_tool_error = True
    call = {"name": "refuses", "args": {"x": 1}, "id": "c", "type": "tool_call"}
    refuses.invoke(call, config(handler))
    with pytest.raises(ValueError, match="no such x"):
        lenient.invoke({"x": 1}, config(handler))
    with Recorded(db) as recorded:
        assert [r.status for r in recorded.runs()] == ["ok", "error"]
        assert recorded.output(recorded.run("refuses"))["status"] == "error"
        assert recorded.error(recorded.run("broken"))["message"] == "no such x"


def test_a_parser_is_recorded_with_what_it_made(db, handler):
    (text_model('{"a": [1, 2]}') | JsonOutputParser()).invoke("x", config(handler))
    with Recorded(db) as recorded:
        run = recorded.run("JsonOutputParser")
        assert (run.kind, recorded.input(run)) == ("parser", '{"a": [1, 2]}')
        assert recorded.output(run) == {"a": [1, 2]}


def test_custom_events_are_recorded_in_their_run(db, handler):
    def step(x: Any, config: Any) -> Any:
        dispatch_custom_event("progress", {"done": 1, "raw": b"x"}, config=config)
        dispatch_custom_event("progress", None, config=config)
        return x

    async def astep(x: Any) -> Any:
        await adispatch_custom_event("progress", "halfway")
        return x

    RunnableLambda(step, name="step").invoke(1, config(handler))
    with Recorded(db) as recorded:
        assert recorded.notes(recorded.run("step")) == [
            ("progress", {"done": 1, "raw": {"$type": "bytes", "value": "78"}}),
            ("progress", None),
        ]


async def test_custom_events_are_recorded_once_by_two_handlers_on_one_path(db, handler):
    async def step(x: Any, config: Any) -> Any:
        data = {"n": 1}
        for _ in range(2):  # the program may say the same thing twice
            await adispatch_custom_event("progress", data, config=config)
        return x

    with ProvenanceHandler(db) as other:
        callbacks = [handler, Witness(), other, ProvenanceHandler(db)]
        await RunnableLambda(step, name="step").ainvoke(1, {"callbacks": callbacks})
        callbacks[-1].close()
    with Recorded(db) as recorded:
        assert recorded.notes(recorded.run("step")) == [("progress", {"n": 1})] * 2


@pytest.mark.parametrize("handlers", [1, 2])
def test_retry_attempts_are_recorded(db, handler, handlers):
    seen: list[int] = []

    def flaky(x: Any) -> Any:
        seen.append(1)
        if len(seen) < 3:
            raise OSError(f"attempt {len(seen)} failed")
        return x

    step = RunnableLambda(flaky, name="flaky").with_retry(
        stop_after_attempt=3, wait_exponential_jitter=False
    )
    with ProvenanceHandler(db) as other:
        (step | (lambda x: x)).invoke(1, {"callbacks": [handler, other][:handlers]})
    with Recorded(db) as recorded:
        around, *attempts = [r for r in recorded.runs() if r.label == "flaky"]
        assert around.status == "ok"
        assert [r.status for r in attempts] == ["error", "error", "ok"]
        assert [recorded.notes(r) for r in attempts] == [[], [("retry", "2")], [("retry", "3")]]
        assert recorded.error(attempts[1])["message"] == "attempt 2 failed"
        assert [t.errors for t in recorded.trail.runs()] == [2]


def test_a_text_model_that_tries_again_says_so(db, handler):
    class Stumbles(Token):
        def _generate(
            self, prompts: Any, stop: Any = None, run_manager: Any = None, **kw: Any
        ) -> Any:
            run_manager.on_retry(SimpleNamespace(attempt_number=2, outcome=None))
            return super()._generate(prompts, stop, run_manager, **kw)

    Stumbles().invoke("x", config(handler))
    with Recorded(db) as recorded:
        assert recorded.notes(recorded.run("Stumbles")) == [("retry", 2)]


def test_the_input_of_a_stream_is_recorded_though_it_comes_late(db, handler):
    list(
        (RunnableLambda(lambda x: x, name="a") | RunnableLambda(str, name="b")).stream(
            {"q": 1}, config(handler)
        )
    )
    with Recorded(db) as recorded:
        root = recorded.runs()[0]
        assert recorded.input(root) == {"q": 1}
        assert recorded.input(recorded.run("a")) == {"q": 1}


def test_an_input_that_looks_late_but_is_not_is_recorded(db, handler):
    RunnableLambda(len, name="len").invoke({"input": ""}, config(handler))
    with Recorded(db) as recorded:
        assert recorded.attrs(recorded.run("len"))["inputs"] == {"input": ""}


def test_a_document_passed_on_is_the_same_artifact(db, handler):
    rag().invoke("When?", config(handler))
    with Recorded(db) as recorded:
        documents = list(recorded.graph().of("artifact", "document"))
        assert len(documents) == len(DOCUMENTS)
        assert recorded.output(recorded.run("Shelf"))[0]["id"] == "doc-0"


def test_objects_that_change_later_are_recorded_as_they_were(db, handler):
    def step(message: AIMessage) -> AIMessage:
        message.content = "changed"
        return message

    (chat("said") | RunnableLambda(step, name="step")).invoke("x", config(handler))
    with Recorded(db) as recorded:
        assert recorded.output(recorded.run("GenericFakeChatModel"))["content"] == "said"
        assert recorded.input(recorded.run("step"))["content"] == "said"
        assert recorded.output(recorded.run("step"))["content"] == "changed"


ODD = {
    "bytes": b"\x00\xff",
    "tuple": (1, (2,)),
    "set": {1, 2},
    "nan": float("nan"),
    "huge": 2**200,
    "surrogate": "a\ud800b" * 20,
    "keys": {1: "a", "$ref": 0, "\udc00": 2},
    "array": np.array([1, 2]),
    "cause": ValueError("outer"),
    "document": Document(page_content="inside a dictionary, a document"),
    "message": HumanMessage("inside a dictionary, a message"),
}
ODD["cause"].__cause__ = KeyError("inner")  # type: ignore[attr-defined]
SHOWN = {
    "bytes": {"$type": "bytes", "value": "00ff"},
    "tuple": {"$type": "tuple", "value": [1, {"$type": "tuple", "value": [2]}]},
    "set": {"$type": "set", "value": [1, 2]},
    "nan": {"$type": "float", "value": "nan"},
    "huge": {"$type": "int", "value": str(2**200)},
    "surrogate": "a\ud800b" * 20,
    "keys": {"$type": "dict", "value": [[1, "a"], ["$ref", 0], ["\udc00", 2]]},
    "array": {
        "$type": "numpy.ndarray",
        "value": {"dtype": "int64", "shape": [2], "values": [1, 2]},
    },
}


def test_values_that_are_not_json_pass_through_a_chain_and_read_back(db, handler):
    out = RunnableLambda(lambda x: {"again": x}, name="step").invoke(ODD, config(handler))
    assert out["again"] is ODD
    with Recorded(db) as recorded:
        run = recorded.run("step")
        given = recorded.input(run)
        assert {k: given[k] for k in SHOWN} == SHOWN
        assert given["cause"]["message"] == "outer"
        assert given["cause"]["cause"]["fields"]["message"] == "'inner'"
        assert given["document"]["page_content"] == "inside a dictionary, a document"
        assert given["message"]["content"] == "inside a dictionary, a message"
        assert recorded.output(run)["again"] == given
        for node in recorded.graph().of("artifact"):
            assert isinstance(recorded.trail.text(node), str)
    handler.flush()


def test_a_text_of_fifty_megabytes_is_recorded_whole(db, handler):
    text = "0123456789" * 5_000_000
    RunnableLambda(lambda x: x, name="step").invoke({"text": text}, config(handler))
    with Recorded(db) as recorded:
        assert recorded.input(recorded.run("step"))["text"] == text


def test_batches_keep_their_inputs_apart(db, handler):
    asyncio.run(Shelf().abatch(["a", "b"], config(handler)))
    with Recorded(db) as recorded:
        assert sorted(recorded.input(r) for r in recorded.runs()) == ["a", "b"]
