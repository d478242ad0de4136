"""The lineage of many outputs, one after the other, is that of each."""

from __future__ import annotations

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from provkeep import trail as trails
from provkeep.errors import UnknownIdError
from tests.scenarios.lineage_kit import Story, joined, model, retriever

ASK = ChatPromptTemplate.from_template("What follows from this? {text}")


def record(story: Story, *names: str, count: int = 1) -> None:
    chain = retriever(*names) | RunnableLambda(joined) | ASK | model() | StrOutputParser()
    for _ in range(count):
        chain.invoke("Well?", config=story.config())


def test_each_is_what_lineage_says(story: Story) -> None:
    record(story, "hub", "one", count=3)
    record(story, "two")
    record(story, "hub", "two", count=2)
    with story.trail() as trail:
        outputs = trail.impact("hub").outputs
        assert len(outputs) == 5
        for output, many in zip(outputs, trail.lineages(outputs), strict=True):
            alone = trail.lineage(output)
            assert len(many) == len(alone) > 4
            assert many.path == alone.path
            assert many.graph.nodes == alone.graph.nodes
            assert many.graph.edges == alone.graph.edges
            assert {s.name for s in many.sources()} == {s.name for s in alone.sources()} > {"hub"}
            assert len(many) == len(many.graph)


def test_it_says_how_far_it_is(story: Story) -> None:
    record(story, "hub", count=3)
    told: list[tuple[int, int]] = []
    with story.trail() as trail:
        outputs = list(trail.impact("hub").outputs) * 50
        found = list(trail.lineages(outputs, progress=lambda *at: told.append(at)))
        assert list(trail.lineages([], progress=lambda *at: told.append(at))) == []
    assert len(found) == 150 and told == [(100, 150), (150, 150)]


def test_an_unknown_one_is_named_when_it_is_reached(story: Story) -> None:
    record(story, "hub")
    with story.trail() as trail:
        (output,) = trail.impact("hub").outputs
        found = trail.lineages([output, "0" * 32 + ".a1"])
        assert len(next(found)) > 3
        with pytest.raises(UnknownIdError):
            next(found)


def test_jupyter_shows_what_stands_beside_a_lineage_unless_that_is_too_much(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(story, "hub", "one")
    found = story.lineage()
    part, whole = found.to_svg(), found.to_svg(whole=True)
    assert len(found.whole) > len(found) and part != whole
    assert found._repr_mimebundle_()["image/svg+xml"] == whole
    monkeypatch.setattr(trails, "DRAWN_WHOLE", len(found.whole) - 1)
    assert found._repr_mimebundle_()["image/svg+xml"] == part
