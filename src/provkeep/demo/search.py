"""Keyword search over passages: BM25, in memory, without a package of its own.

Follows S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond"
(2009), section 3.5, with the usual constants.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import PrivateAttr

K1: Final = 1.2
B: Final = 0.75
_WORD: Final = re.compile(r"[a-z][a-z0-9_]+")
# Words that say nothing about what a sentence is about.
_COMMON_WORDS: Final = """
    a about all also an and any are as at be been but by can come did do does for from get
    gives go had has have how if in into is it its many me may more must no not of on one or
    other our page say says she so some such than that the their them then there these they
    this those to too up was we were what when where which while who whom why will with word
    would you your
"""
_COMMON: Final = frozenset(_COMMON_WORDS.split())
_ENDINGS: Final = ("ations", "ation", "ings", "ing", "ies", "ied", "ers", "es", "ed", "er", "s")
_STEM: Final = 4  # letters that stay at least


def words(text: str) -> list[str]:
    """The words that matter, in lower case, without the commonest endings."""
    return [_stem(w) for w in _WORD.findall(text.lower()) if w not in _COMMON]


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _STEM:
            return word[: -len(ending)]
    return word.removesuffix("e") if len(word) > _STEM else word


class Index:
    """BM25 over some texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = [Counter(words(text)) for text in texts]
        self._sizes = [sum(text.values()) for text in self._texts]
        self._mean = sum(self._sizes) / max(1, len(self._sizes)) or 1.0
        self._in = Counter(word for text in self._texts for word in text)

    def scores(self, query: str) -> list[float]:
        """How well each text fits, 0 when no word of the query stands in it."""
        wanted = set(words(query))
        return [
            sum(self._weight(w) * self._of(text[w], size) for w in wanted if w in text)
            for text, size in zip(self._texts, self._sizes, strict=True)
        ]

    def _weight(self, word: str) -> float:
        n = self._in[word]
        return math.log(1 + (len(self._texts) - n + 0.5) / (n + 0.5))

    def _of(self, count: int, size: int) -> float:
        return count * (K1 + 1) / (count + K1 * (1 - B + B * size / self._mean))


def best(scores: Sequence[float], count: int) -> list[int]:
    """Places of the highest scores above 0, best first."""
    order = sorted(range(len(scores)), key=lambda n: (-scores[n], n))
    return [n for n in order[:count] if scores[n] > 0]


class KeywordRetriever(BaseRetriever):
    """Returns the passages that share the rarest words with the question."""

    passages: list[Document]
    count: int = 4
    _index: Index = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Count words once."""
        super().model_post_init(context)
        self._index = Index(p.page_content for p in self.passages)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return [self.passages[n] for n in best(self._index.scores(query), self.count)]
