"""The run of another framework that a LlamaIndex call is made in, if it is recorded here too.

LangChain keeps the configuration of the current runnable in a context variable. It is read only if
the program has loaded LangChain, and only a run that the same recorder knows becomes a parent.
"""

from __future__ import annotations

import sys
from typing import Final
from uuid import UUID

from provkeep.model.events import RunId
from provkeep.recording.recorder import Recorder

_CONFIG: Final = "langchain_core.runnables.config"


def outer_run(recorder: Recorder) -> RunId | None:
    """The open run that the caller's code is part of, as another framework says; else None."""
    module = sys.modules.get(_CONFIG)
    variable = getattr(module, "var_child_runnable_config", None)
    config = variable.get() if variable is not None else None
    callbacks = config.get("callbacks") if isinstance(config, dict) else None
    found = getattr(callbacks, "parent_run_id", None)
    if isinstance(found, UUID) and recorder.knows(found.int):
        return found.int
    return None
