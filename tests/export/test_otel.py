"""What leaves as OTLP/JSON is what OpenTelemetry's definitions accept, and no more than it may."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import provkeep
from provkeep.demo.app import manual_chain
from provkeep.export.otel import MAX_LINKS, span_id, to_otlp_json, trace_id
from provkeep.langchain import ProvenanceHandler
from provkeep.model.graph import Edge, Graph, Node
from tests.display import sample

IDS = frozenset({"traceId", "spanId", "parentSpanId"})


def parsed(document: dict[str, Any]) -> list[Any]:
    """The spans, read with OpenTelemetry's definitions. OTLP has ids as hex, protobuf base64."""

    def coded(value: Any) -> Any:
        if isinstance(value, list):
            return [coded(v) for v in value]
        if not isinstance(value, dict):
            return value
        return {
            k: base64.b64encode(bytes.fromhex(v)).decode() if k in IDS else coded(v)
            for k, v in value.items()
        }

    text = json.dumps(coded(json.loads(json.dumps(document))))
    request = json_format.Parse(text, ExportTraceServiceRequest())
    [resource] = request.resource_spans
    [scope] = resource.scope_spans
    assert scope.scope.name == "provkeep" and scope.scope.version == provkeep.__version__
    for span in scope.spans:
        assert len(span.trace_id) == 16 and any(span.trace_id)
        assert len(span.span_id) == 8 and any(span.span_id)
        assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano or not span.links
    return list(scope.spans)


def said(span: Any) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        if kind == "array_value":
            value = [v.string_value for v in value.values]
        out[pair.key] = value
    return out


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "audit.db"
    with ProvenanceHandler(path, actor="alice@example.com", session="ticket 4711") as handler:
        chain = manual_chain()
        chain.invoke("Where are the private keys kept?", config={"callbacks": [handler]})
    return path


def test_every_run_is_a_span_under_its_parent(asked: Path) -> None:
    with provkeep.open(asked) as trail:
        whole = trail.run()
    spans = {s.span_id.hex(): s for s in parsed(whole.to_otlp())}
    runs = list(whole.graph.of("run"))
    assert set(spans) == {span_id(run.id) for run in runs}
    parents = {e.effect: e.cause for e in whole.graph.edges if e.type == "informed"}
    for run in runs:
        span = spans[span_id(run.id)]
        assert span.trace_id.hex() == run.trace
        assert (span.start_time_unix_nano, span.end_time_unix_nano) == (run.start_ns, run.end_ns)
        above = parents.get(run.id)
        assert span.parent_span_id.hex() == ("" if above is None else span_id(above))
    assert sum(not s.parent_span_id for s in spans.values()) == 1


def test_the_model_s_span_speaks_the_semantic_conventions(tmp_path: Path) -> None:
    meta = {"finish_reason": "STOP", "model_name": "gpt-4o-2024-08-06"}
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    answer = AIMessage("yes", response_metadata=meta, usage_metadata=usage)
    chat = GenericFakeChatModel(messages=iter([answer]), metadata={"ls_model_name": "gpt-4o"})
    with ProvenanceHandler(tmp_path / "audit.db") as handler:
        chat.invoke("well?", {"callbacks": [handler]})
    with provkeep.open(tmp_path / "audit.db") as trail:
        [span] = parsed(trail.run().to_otlp())
    found = said(span)
    assert (span.kind, found["gen_ai.operation.name"]) == (3, "chat")
    assert found["gen_ai.response.finish_reasons"] == ["stop"]
    assert found["gen_ai.response.model"] == "gpt-4o-2024-08-06"
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (3, 4)
    assert "gen_ai.conversation.id" not in found


def test_content_that_flowed_is_a_link_and_says_its_basis(asked: Path) -> None:
    with provkeep.open(asked) as trail:
        lineage = trail.lineage()
    spans = parsed(lineage.to_otlp())
    [found] = [s for s in spans if said(s).get("gen_ai.operation.name") == "retrieval"]
    linked = {
        (link.span_id, value.value.string_value)
        for s in spans
        for link in s.links
        for value in link.attributes
        if value.key == "provkeep.edge.basis"
    }
    assert (found.span_id, "contained") in linked
    ids = {s.span_id for s in spans}
    assert {i for i, _ in linked} <= ids


def test_no_text_and_no_name_of_a_person_session_or_source_leaves(asked: Path) -> None:
    with provkeep.open(asked) as trail:
        lineage = trail.run()
        sources = [n.label for n in lineage.graph.of("source")]
        answer = trail.text(purpose="test")
        text = json.dumps(lineage.to_otlp())
        sessions = {said(s)["gen_ai.conversation.id"] for s in parsed(lineage.to_otlp())}
    assert sources and len(sessions) == 1
    for secret in (*sources, answer[:30], "alice@example.com", "ticket 4711"):
        assert secret not in text


def test_a_failed_run_says_the_class_of_its_error(tmp_path: Path) -> None:
    def fail(_: Any) -> Any:
        raise KeyError("the name of the patient")

    with ProvenanceHandler(tmp_path / "audit.db") as handler, pytest.raises(KeyError):
        RunnableLambda(fail, name="fails").invoke("x", {"callbacks": [handler]})
    with provkeep.open(tmp_path / "audit.db") as trail:
        [span] = parsed(trail.run().to_otlp())
    assert span.status.code == 2 and not span.status.message
    assert said(span)["error.type"] == "builtins.KeyError"


@pytest.mark.parametrize("made", [sample.hostile, lambda: Graph((), ())], ids=["hostile", "empty"])
def test_any_graph_gives_what_the_definitions_accept(made: Callable[[], Graph]) -> None:
    graph = made()
    assert len(parsed(to_otlp_json(graph))) == len(list(graph.of("run")))


def test_odd_times_ids_and_circles_are_made_fit() -> None:
    nodes = [
        Node(id="a", type="run", kind="model", label="a", trace="0" * 32, start_ns=-5),
        Node(id="b", type="run", kind="tool", label="\ud800", end_ns=2**70, status="open"),
    ]
    edges = [
        Edge(type="informed", cause=x, effect=y, basis="observed", flow=False)
        for x, y in (("a", "b"), ("b", "a"))
    ]
    first, second = parsed(to_otlp_json(Graph(nodes, edges)))
    assert first.start_time_unix_nano == 0 and first.trace_id != bytes(16)
    assert second.end_time_unix_nano == 2**64 - 1
    assert {first.name[:4], second.name} == {"chat", "execute_tool ?"}
    assert trace_id("ab" * 16) == "ab" * 16


def test_a_parent_that_is_left_out_is_passed_over() -> None:
    runs = [Node(id=i, type="run", kind="chain", label=i, trace="t") for i in "abc"]
    up = [
        Edge(type="informed", cause=x, effect=y, basis="observed", flow=False)
        for x, y in (("a", "b"), ("b", "c"))
    ]
    part = Graph([runs[0], runs[2]], [])
    spans = {s.name: s for s in parsed(to_otlp_json(part, Graph(runs, up)))}
    assert spans["c"].parent_span_id.hex() == span_id("a")


def test_links_past_the_limit_are_counted() -> None:
    many = [Node(id=f"m{i}", type="run", kind="tool", label="t") for i in range(MAX_LINKS + 3)]
    made = [Node(id=f"x{i}", type="artifact", kind="text", label="x") for i in range(len(many))]
    end = Node(id="end", type="run", kind="model", label="m", start_ns=1)
    edges = [
        Edge(type=kind, cause=cause, effect=effect, basis="observed")
        for run, item in zip(many, made, strict=True)
        for kind, cause, effect in (("generated", run.id, item.id), ("used", item.id, "end"))
    ]
    document = to_otlp_json(Graph([*many, *made, end], edges))
    spans = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    [last] = [s for s in spans if s["spanId"] == span_id("end")]
    assert (len(last["links"]), last["droppedLinksCount"]) == (MAX_LINKS, 3)
