"""docs/compatibility.md: one section per benchmark that writes into it, each between two marks of its own.

Whoever writes a section leaves the others, and what people wrote around them, as they are.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
TITLE = "# Compatibility\n\nWhat other people's operators and models come to. The sections are written by benchmarks.\n"


def write_section(name: str, text: str, document: Path = DOCUMENT) -> None:
    """Write a section, in place of the one of that name if there is one, at the end otherwise."""
    begin, end = (f"<!-- {name}: {which} -->" for which in ("begin", "end"))
    section = f"{begin}\n{text.strip()}\n{end}"
    whole = document.read_text(encoding="utf-8") if document.exists() else TITLE
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    whole = pattern.sub(lambda _: section, whole) if pattern.search(whole) else f"{whole.rstrip()}\n\n{section}\n"
    document.write_text(whole, encoding="utf-8")
