"""Which tools a model was offered, in whichever shape its provider wants them described.

A tool's name is the program's while the program describes it; a name that a model calls is what the
model said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

MAX_OFFERED: Final = 1_000  # names taken from one call
_PLACES: Final = ("tools", "functions")
_WRAPPERS: Final = ("function", "toolSpec", "custom")  # a description that stands one level down


def tool_names(*params: Any) -> tuple[str, ...]:
    """Names of the tools in a call's parameters, each once."""
    found: dict[str, None] = {}
    for param in params:
        if not isinstance(param, Mapping):
            continue
        for place in _PLACES:
            tools = param.get(place)
            for tool in tools if isinstance(tools, list | tuple) else ():
                for name in _names(tool):
                    if len(found) < MAX_OFFERED:
                        found[name] = None
    return tuple(found)


def _names(tool: Any) -> Iterator[str]:
    if isinstance(tool, str):
        yield tool
        return
    if not isinstance(tool, Mapping):
        return
    for place in (tool, *(tool.get(w) for w in _WRAPPERS)):
        name = place.get("name") if isinstance(place, Mapping) else None
        if isinstance(name, str):
            yield name
    several = tool.get("function_declarations")
    for each in several if isinstance(several, list | tuple) else ():
        yield from _names(each)
