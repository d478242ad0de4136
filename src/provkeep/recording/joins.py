"""Messages joined by their ids: to the call of a tool they answer, to the call that made them."""

from __future__ import annotations

from typing import Any

from provkeep.model.records import GIVES, TAKES
from provkeep.recording.edges import Explainer
from provkeep.recording.parts import MAKERS, Artifact, Run
from provkeep.recording.sheet import Sheet
from provkeep.recording.state import State
from provkeep.recording.ties import Ties


class Joins:
    """The ids of one trace's messages and tool calls."""

    def __init__(
        self, sheet: Sheet, ties: Ties, runs: dict[int, Run], edges: Explainer, state: State
    ) -> None:
        self._sheet, self.ties, self._runs = sheet, ties, runs
        self._edges, self._state = edges, state
        self.calls: dict[str, Artifact] = {}  # tool calls by id, the latest if it is used again

    def join(
        self,
        artifact: Artifact,
        fields: dict[str, Any],
        run: Run,
        extra: dict[str, Any],
        *,
        out: bool,
    ) -> None:
        """Say what the ids in a new message join it to; what has none may stand in the state.

        Args:
            artifact: the message, explained by content already.
            fields: of it.
            run: who was given it or returned it.
            extra: options of its entry; gains what it is taken under.
            out: it was returned.
        """
        made_by = artifact.made_by
        call = self.calls.get(str(fields.get("tool_call_id")))
        if call is not None and (made_by is None or made_by.kind != "tool"):
            self._edges.link(call, artifact, "id")
            artifact.exact = True
        name = fields.get("id")
        if type(name) is not str:
            if not artifact.causes and not (out and run.kind in MAKERS):
                self._state.take(artifact, artifact.text or "", extra, out=out)
            return
        other = self._runs.get(message_run(name) or -1)
        if other is not None and other.outs and other.number != run.number:
            if not artifact.causes:
                self._edges.link(other.outs[0], artifact, "id")
                artifact.exact = not (out and run.kind in MAKERS)
            return
        tag = self.ties.tag("message", name)
        if out and run.kind in MAKERS:
            if message_run(name) not in (None, run.rid) and self.ties.given(tag):
                extra["ext"] = self._sheet.link(tag, artifact, TAKES)
            elif run.kind == "model":
                self._sheet.link(self.ties.give(tag), artifact, GIVES)
        elif not artifact.causes:
            if self.ties.given(tag):
                extra["ext"] = self._sheet.link(tag, artifact, TAKES)
                artifact.exact = True
            else:
                self._state.take(artifact, artifact.text or "", extra, out=out)


def message_run(message_id: str) -> int | None:
    """The run that a message id of LangChain's names, ``lc_run--<uuid>`` with or without suffix."""
    if not message_id.startswith("lc_run--"):
        return None
    digits = message_id[8:44].replace("-", "")
    try:
        return int(digits, 16) if len(digits) == 32 else None
    except ValueError:
        return None
