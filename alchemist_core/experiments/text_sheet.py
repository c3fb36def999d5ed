"""A sheet whose rows are texts already: what is no comparison of arms at retentions."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TextSheet:
    """What a reader gets: notes (the title first), a table of texts, figures by name."""

    notes: list[str]
    head: tuple[str, ...]
    lines: list[tuple[str, ...]]
    # Title and SVG.
    figures: dict[str, tuple[str, str]]

    def as_json(self) -> dict[str, Any]:
        """Return what a page needs: texts and pictures."""
        return {"notes": self.notes, "table": [self.head, *self.lines], "figures": list(self.figures.values())}
