"""Documents, stored once per content across traces, and the names of what they came from."""

from __future__ import annotations

from typing import Any, Final

from provkeep.model.records import SOURCE, b64
from provkeep.model.values import Typed, encode_json
from provkeep.recording.parts import Artifact
from provkeep.recording.sheet import Sheet
from provkeep.recording.ties import Ties

SOURCE_FIELDS: Final = ("source", "file_path", "file_name", "url", "path")
_SCORES: Final = ("score", "distance", "similarity")

_Uncommitted = tuple[int, bytes, list[Artifact]]  # place, fingerprint, the documents stored there


class Documents:
    """The documents of one trace while it is open."""

    def __init__(self, sheet: Sheet, ties: Ties) -> None:
        self._sheet, self.ties = sheet, ties
        self.scores: dict[str, Any] = {}  # sealed with the attributes: they differ by query
        self._fresh: dict[bytes, list[Artifact]] = {}  # first stored here, by fingerprint
        self._waiting: list[_Uncommitted] = []
        self._flying: list[_Uncommitted] = []

    def store(self, artifact: Artifact, fields: dict[str, Any], extra: dict[str, Any]) -> None:
        """Write a document's entry, and its payload unless some trace has stored it already.

        What a retriever says of how well it fitted is kept apart, or it would be another document
        at every query.
        """
        metadata = fields.get("metadata")
        if type(metadata) is dict:
            scores = {k: v for k, v in metadata.items() if _is_score(k, v)}
            if scores:
                self.scores[str(artifact.number)] = {"scores": scores}
                rest = {k: v for k, v in metadata.items() if k not in scores}
                fields = {**fields, "metadata": rest}
        data = encode_json(fields)
        # one without its text must not stand for one with it
        stored = self.ties.document(b"bare" + data if self._sheet.bare else data)
        if isinstance(stored, int):
            artifact.payload = extra["g"] = stored
            self._sheet.write(artifact, "document", None, extra)
        elif stored in self._fresh:
            equal = self._fresh[stored]
            artifact.payload, extra["sh"] = equal[0].payload, equal[0].number
            self._sheet.write(artifact, "document", None, extra)
            equal.append(artifact)
        else:
            name = self._source_name(fields)
            source = self.ties.tag("source", name)
            extra["fp"], extra["src"] = b64(stored), b64(source)
            place = self._sheet.write(artifact, "document", data, extra, source=source)
            artifact.payload = -1 - place
            equal = self._fresh[stored] = [artifact]
            self._waiting.append((place, stored, equal))
            if self.ties.source_is_new(source):
                at = self._sheet.payload("meta", encode_json({"name": name}), source)
                self._sheet.entries.append([SOURCE, extra["src"], at])

    def _source_name(self, fields: dict[str, Any]) -> str:
        """What a document came from, as its metadata says; else its id; else a digest of it."""
        metadata = fields.get("metadata")
        if type(metadata) is dict:
            for key in SOURCE_FIELDS:
                value = metadata.get(key)
                if type(value) is Typed:
                    value = value.value
                if type(value) is str and value:
                    return value
        name = fields.get("id")
        if name:
            return str(name)
        return "content " + self.ties.tag("content", str(fields.get("page_content"))).hex()

    def drained(self) -> None:
        """What was said so far is on its way into the log."""
        self._flying, self._waiting = self._waiting, []

    def settled(self, numbers: dict[int, int]) -> None:
        """It is committed, under these numbers (place -> payload); what has none is lost."""
        for place, mark, artifacts in self._flying:
            self._fresh.pop(mark, None)
            for artifact in artifacts:
                artifact.payload = numbers.get(place)
        self._flying = []


def _is_score(key: str, value: Any) -> bool:
    return type(value) is float and any(word in key.lower() for word in _SCORES)
