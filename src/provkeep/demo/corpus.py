"""The documents of the demo: provkeep's own manual, one passage a section."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

from langchain_core.documents import Document

_COMMENT: Final = re.compile(r"^<!--.*?-->\n?", re.DOTALL | re.MULTILINE)
_SECTION: Final = re.compile(r"^## ", re.MULTILINE)


def pages() -> dict[str, str]:
    """The pages of the manual by file name, as a reader sees them."""
    folder = files("provkeep.demo").joinpath("manual")
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".md")), key=lambda f: f.name)
    return {file.name: _COMMENT.sub("", file.read_text(encoding="utf-8")) for file in found}


def passages() -> list[Document]:
    """The sections of all pages; each names its page as its source."""
    out = []
    for name, text in pages().items():
        head, *sections = _SECTION.split(text)
        title = head.partition("\n")[0].lstrip("# ").strip()
        for section in sections:
            heading, _, body = section.partition("\n")
            out.append(
                Document(
                    page_content=f"{title}: {heading.strip()}\n\n{body.strip()}",
                    metadata={"source": f"manual/{name}", "section": heading.strip()},
                )
            )
    return out
