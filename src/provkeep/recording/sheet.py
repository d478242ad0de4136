"""What a trace has said and not yet committed: entries, and the plaintexts they count."""

from __future__ import annotations

from typing import Any, Final

from provkeep.model import records as r
from provkeep.model.values import encode_json
from provkeep.recording.clear import role_word
from provkeep.recording.parts import Artifact, Run
from provkeep.sealing.sealer import Payload

NOTHING_KEPT: Final = encode_json(None)  # a document is known by its payload, so it has one
SHARED_PAYLOAD: Final = 512  # bytes up to which equal skeletons of a trace share a payload
_MESSAGE_COMPARTMENT: Final = {"ai": "output", "AIMessageChunk": "output", "tool": "tool"}


def message_compartment(role: str) -> str:
    """Which class of payloads a message of a role belongs to."""
    return _MESSAGE_COMPARTMENT.get(role, "prompt")


class Sheet:
    """Entries and payloads of one trace since its last record."""

    def __init__(self, *, bare: bool = False) -> None:
        self.bare = bare  # no text is kept: see FORMAT, "bare"
        self.entries: list[list[Any]] = []
        self.payloads: list[Payload] = []
        self.now = 0  # nanoseconds since the trace began, at the event being taken in
        self.made = 0  # artifacts that have a number
        self.drained = 0  # artifacts whose entries are in a record already
        self._shared: dict[tuple[str, bytes], int] = {}

    def new(self, kind: str, key: Any, made_by: Run | None, text: str | None) -> Artifact:
        """A new artifact with the next number; ``write`` its entry when it is explained."""
        artifact = Artifact(self.made, kind, key, made_by, text)
        self.made += 1
        return artifact

    def wake(self, item: Artifact) -> None:
        """Number a message of an earlier trace that is met on its own, and write its entry."""
        if item.number >= 0 or item.origin is None:
            return
        item.number = self.made
        self.made += 1
        role = str(item.value.fields.get("type"))
        extra = {"ty": role_word(role), "b": [item.origin.number, item.place]}
        self.write(item, message_compartment(role), None, extra)

    def write(
        self,
        artifact: Artifact,
        compartment: str,
        data: bytes | None,
        extra: dict[str, Any] | None = None,
        *,
        source: bytes | None = None,
        share: bool = False,
    ) -> int:
        """Write an artifact's entry and put its payload in line; return the payload's place."""
        more = extra if extra is not None else {}
        place = -1
        if self.bare and data is not None:
            data = NOTHING_KEPT if compartment == "document" else None
        if data is not None:
            known = self._shared.get((compartment, data)) if share else None
            if known is not None:
                more["sh"] = known
            else:
                place = self.payload(compartment, data, source)
                if share and len(data) <= SHARED_PAYLOAD:
                    self._shared[compartment, data] = artifact.number
        if artifact.exact:
            more["x"] = 1
        artifact.more = more
        self.entries.append(
            [
                r.ARTIFACT,
                artifact.number,
                r.KIND_CODE[artifact.kind],
                r.CLASS_CODE[compartment],
                -1 if artifact.made_by is None else artifact.made_by.number,
                -1 if artifact.text is None else len(artifact.text),
                place,
                more,
            ]
        )
        return place

    def payload(self, compartment: str, data: bytes, source: bytes | None = None) -> int:
        """Put a plaintext in line; return its place among those not yet committed."""
        self.payloads.append(Payload(compartment, data, source))
        return len(self.payloads) - 1

    def link(self, tag: bytes, artifact: Artifact, role: int) -> str:
        """Say that an artifact is given to, or taken from, another trace; return the tag's text."""
        text = r.b64(tag)
        self.entries.append([r.LINK, text, artifact.number, role])
        return text

    def drain(self) -> tuple[list[list[Any]], list[Payload]]:
        """Take what was added since the last call."""
        self.drained = self.made
        entries, payloads = self.entries[:], self.payloads[:]
        self.entries.clear()
        self.payloads.clear()
        return entries, payloads
