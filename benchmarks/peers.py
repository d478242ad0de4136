"""The recorders that are compared: where they are installed from, and how they are switched on.

Each is set up as its own documentation says. Those that keep what they hear on this machine write
into ``folder``; the others send to ``sink``, a server on the loopback interface that accepts
everything. Nothing here is imported before its recorder is measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FRAMEWORKS: Final = (
    "langchain-core==1.7.2",
    "langchain==1.4.7",
    "langgraph==1.2.22",
    "llama-index-core==0.14.25",
)
LANGCHAIN, LLAMAINDEX = "langchain", "llamaindex"
CHAINS: Final = (LANGCHAIN,)
BOTH: Final = (LANGCHAIN, LLAMAINDEX)


def _nothing() -> None:
    pass


@dataclass(slots=True, kw_only=True)
class Live:
    """A recorder that is ready. ``handlers`` go into a chain's config while it is on."""

    handlers: list[Any] = field(default_factory=list)
    on: Callable[[], Any] = _nothing
    off: Callable[[], Any] = _nothing
    flush: Callable[[], Any] = _nothing


Begin = Callable[[str, Path, str], Live]  # framework, folder, address of the sink


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One recorder in one configuration."""

    title: str
    environment: str
    keeps: str  # file, sqlite, memory, wire, nothing
    begin: Begin
    frameworks: tuple[str, ...] = CHAINS
    stays: bool = False  # cannot be switched off again, so that calls cannot be paired


def _none(framework: str, folder: Path, sink: str) -> Live:
    return Live()


def _no_op(framework: str, folder: Path, sink: str) -> Live:
    from record import Noop

    return Live(handlers=[Noop()])


def _collector(framework: str, folder: Path, sink: str) -> Live:
    from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

    handler = RunCollectorCallbackHandler()
    return Live(handlers=[handler], flush=handler.traced_runs.clear)


def _provkeep(durability: str) -> Begin:
    def begin(framework: str, folder: Path, sink: str) -> Live:
        os.environ["PROVKEEP_HOME"] = str(folder.with_name(folder.name + "-home"))
        path = folder / "audit.db"
        if framework == LLAMAINDEX:
            from provkeep.llamaindex import instrument

            held: list[Any] = []
            return Live(
                on=lambda: held.append(
                    instrument(path, actor="alice@example.com", durability=durability)
                ),
                off=lambda: held.pop().detach(),
                flush=lambda: held[-1].flush() if held else None,
            )
        from provkeep.langchain import ProvenanceHandler

        handler = ProvenanceHandler(path, actor="alice@example.com", durability=durability)
        return Live(handlers=[handler], flush=handler.flush)

    return begin


def _to_file(folder: Path) -> Any:
    """OpenTelemetry's own exporter that writes: one JSON document a line."""
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    out = (folder / "spans.jsonl").open("a", encoding="utf-8")
    return ConsoleSpanExporter(out=out, formatter=lambda span: span.to_json(indent=None) + "\n")


def _inference(framework: str) -> Any:
    if framework == LLAMAINDEX:
        from openinference.instrumentation.llama_index import LlamaIndexInstrumentor

        return LlamaIndexInstrumentor()
    from openinference.instrumentation.langchain import LangChainInstrumentor

    return LangChainInstrumentor()


def _instrumented(instrumentor: Any, provider: Any) -> Live:
    return Live(
        on=lambda: instrumentor.instrument(tracer_provider=provider),
        off=instrumentor.uninstrument,
        flush=provider.force_flush,
    )


def _openinference(batch: bool) -> Begin:
    def begin(framework: str, folder: Path, sink: str) -> Live:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

        provider = TracerProvider()
        processor = BatchSpanProcessor if batch else SimpleSpanProcessor
        provider.add_span_processor(processor(_to_file(folder)))
        return _instrumented(_inference(framework), provider)

    return begin


def _openllmetry(framework: str, folder: Path, sink: str) -> Live:
    """Its instrumentations, with the SDK's batch processor to a file; they stay on."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ["TRACELOOP_TELEMETRY"] = "false"
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(_to_file(folder)))
    if framework == LLAMAINDEX:
        from opentelemetry.instrumentation.llamaindex import LlamaIndexInstrumentor as Instrumentor
    else:
        from opentelemetry.instrumentation.langchain import LangchainInstrumentor as Instrumentor
    Instrumentor().instrument(tracer_provider=provider)
    return Live(flush=provider.force_flush)


def _langfuse(framework: str, folder: Path, sink: str) -> Live:
    from langfuse import Langfuse

    client = Langfuse(public_key="pk-lf-none", secret_key="sk-lf-none", base_url=sink)
    if framework == LLAMAINDEX:  # its documentation names OpenInference's instrumentor
        instrumentor = _inference(framework)
        return Live(on=instrumentor.instrument, off=instrumentor.uninstrument, flush=client.flush)
    from langfuse.langchain import CallbackHandler

    return Live(handlers=[CallbackHandler()], flush=client.flush)


def _langsmith(framework: str, folder: Path, sink: str) -> Live:
    from langchain_core.tracers.langchain import LangChainTracer
    from langsmith import Client

    client = Client(api_url=sink, api_key="none")
    tracer = LangChainTracer(project_name="comparison", client=client)
    return Live(handlers=[tracer], flush=client.flush)


def _opik(framework: str, folder: Path, sink: str) -> Live:
    os.environ.update(
        OPIK_URL_OVERRIDE=f"{sink}/api",
        OPIK_WORKSPACE="default",
        OPIK_SENTRY_ENABLE="false",
        OPIK_CONFIG_PATH=str(folder / "opik.config"),
    )
    from opik.integrations.langchain import OpikTracer

    tracer = OpikTracer()
    return Live(handlers=[tracer], flush=tracer.flush)


def _mlflow(framework: str, folder: Path, sink: str) -> Live:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.create_experiment("comparison", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("comparison")
    if framework == LLAMAINDEX:
        import mlflow.llama_index as flavour
    else:
        import mlflow.langchain as flavour

    return Live(
        on=flavour.autolog,
        off=lambda: flavour.autolog(disable=True),
        flush=mlflow.flush_trace_async_logging,
    )


def _phoenix(framework: str, folder: Path, sink: str) -> Live:
    from phoenix.otel import register

    provider = register(
        project_name="comparison",
        endpoint=f"{sink}/v1/traces",
        protocol="http/protobuf",
        batch=True,
        set_global_tracer_provider=False,
        verbose=False,
    )
    return _instrumented(_inference(framework), provider)


ENVIRONMENTS: Final[dict[str, tuple[str, ...]]] = {
    "provkeep": (f"--editable={Path(__file__).resolve().parents[1]}",),
    "openinference": (
        "openinference-instrumentation-langchain==0.1.80",
        "openinference-instrumentation-llama-index==4.6.1",
        "opentelemetry-sdk==1.45.2",
    ),
    "openllmetry": (
        "opentelemetry-instrumentation-langchain==0.62.4",
        "opentelemetry-instrumentation-llamaindex==0.62.4",
        "opentelemetry-sdk==1.45.2",
    ),
    "langfuse": ("langfuse==5.0.4", "openinference-instrumentation-llama-index==4.6.1"),
    "langsmith": ("langsmith==0.15.0",),
    "opik": ("opik==2.2.122",),
    "mlflow": ("mlflow==3.17.2",),
    "phoenix": (
        "arize-phoenix-otel==0.17.2",
        "openinference-instrumentation-langchain==0.1.80",
        "opentelemetry-sdk==1.45.2",
    ),
}

PEERS: Final[dict[str, Peer]] = {
    "none": Peer(
        title="no handler", environment="provkeep", keeps="nothing", begin=_none, frameworks=BOTH
    ),
    "no-op": Peer(
        title="handler that does nothing", environment="provkeep", keeps="nothing", begin=_no_op
    ),
    "provkeep": Peer(
        title="**provkeep** (`trace`)",
        environment="provkeep",
        keeps="sqlite",
        begin=_provkeep("trace"),
        frameworks=BOTH,
    ),
    "provkeep-batch": Peer(
        title="**provkeep** (`batch`)",
        environment="provkeep",
        keeps="sqlite",
        begin=_provkeep("batch"),
        frameworks=BOTH,
    ),
    "collector": Peer(
        title="LangChain run collector", environment="provkeep", keeps="memory", begin=_collector
    ),
    "openinference-batch": Peer(
        title="OpenInference, batch",
        environment="openinference",
        keeps="file",
        begin=_openinference(batch=True),
        frameworks=BOTH,
    ),
    "openinference-simple": Peer(
        title="OpenInference, simple",
        environment="openinference",
        keeps="file",
        begin=_openinference(batch=False),
        frameworks=BOTH,
    ),
    "openllmetry": Peer(
        title="OpenLLMetry (traceloop), batch, not paired",
        environment="openllmetry",
        keeps="file",
        begin=_openllmetry,
        stays=True,
        frameworks=BOTH,
    ),
    "langfuse": Peer(
        title="Langfuse", environment="langfuse", keeps="wire", begin=_langfuse, frameworks=BOTH
    ),
    "langsmith": Peer(title="LangSmith", environment="langsmith", keeps="wire", begin=_langsmith),
    "opik": Peer(title="Opik", environment="opik", keeps="wire", begin=_opik),
    "mlflow": Peer(
        title="MLflow autolog", environment="mlflow", keeps="sqlite", begin=_mlflow, frameworks=BOTH
    ),
    "phoenix": Peer(title="Phoenix, batch", environment="phoenix", keeps="wire", begin=_phoenix),
}
