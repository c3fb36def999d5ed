"""Boxes, arrows, bars and lines as SVG text, for the figures of the documentation.

A figure is a light card, so that it is readable on a page of either scheme. Positions are pixels from the top left.
"""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from math import hypot

# Colours that people with red-green blindness can distinguish (Okabe, Ito 2008).
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
INK, MUTED, RULE, CARD, PANEL = "#1f2933", "#52606d", "#cbd2d9", "#ffffff", "#f1f5f9"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
Place = tuple[float, float]


class Drawing:
    """An SVG that grows by one element at a time."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self._parts: list[str] = []

    def rect(
        self, at: Place, size: Place, *, fill: str = CARD, stroke: str = RULE, radius: float = 6, opacity: float = 1
    ) -> None:
        """Draw a rectangle."""
        self._parts.append(
            f'<rect x="{_n(at[0])}" y="{_n(at[1])}" width="{_n(size[0])}" height="{_n(size[1])}" rx="{_n(radius)}" '
            f'fill="{fill}" stroke="{stroke}"{_opacity(opacity)}/>'
        )

    def text(
        self, at: Place, words: str, *, size: float = 13, weight: int = 400, colour: str = INK, anchor: str = "middle"
    ) -> None:
        """Write one line; `anchor` is start, middle or end."""
        self._parts.append(
            f'<text x="{_n(at[0])}" y="{_n(at[1])}" font-size="{_n(size)}" font-weight="{weight}" fill="{colour}" '
            f'text-anchor="{anchor}">{escape(words)}</text>'
        )

    def box(self, at: Place, size: Place, lines: Sequence[str], *, colour: str = BLUE, fill: str = CARD) -> None:
        """Draw a box whose first line is its name."""
        self.rect(at, size, fill=fill, stroke=colour)
        middle = at[0] + size[0] / 2
        first = at[1] + size[1] / 2 - 8.5 * (len(lines) - 1) + 4.5
        for number, line in enumerate(lines):
            is_name = number == 0
            self.text(
                (middle, first + 17 * number), line, size=13 if is_name else 11.5, weight=600 if is_name else 400,
                colour=INK if is_name else MUTED,
            )  # fmt: skip

    def line(
        self, places: Sequence[Place], *, colour: str = MUTED, width: float = 1.5, is_dashed: bool = False
    ) -> None:
        """Draw a line through some places."""
        path = " ".join(f"{'L' if i else 'M'}{_n(x)} {_n(y)}" for i, (x, y) in enumerate(places))
        dash = ' stroke-dasharray="5 4"' if is_dashed else ""
        self._parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{_n(width)}"{dash}/>')

    def area(self, places: Sequence[Place], *, colour: str, opacity: float = 0.25) -> None:
        """Fill a polygon."""
        path = " ".join(f"{'L' if i else 'M'}{_n(x)} {_n(y)}" for i, (x, y) in enumerate(places))
        self._parts.append(f'<path d="{path} Z" fill="{colour}" stroke="none"{_opacity(opacity)}/>')

    def dot(self, at: Place, radius: float, *, colour: str, is_filled: bool = True) -> None:
        """Draw a disc or a ring."""
        fill = colour if is_filled else CARD
        self._parts.append(
            f'<circle cx="{_n(at[0])}" cy="{_n(at[1])}" r="{_n(radius)}" fill="{fill}" stroke="{colour}" stroke-width="1.2"/>'
        )

    def arrow(
        self,
        places: Sequence[Place],
        *,
        colour: str = MUTED,
        is_dashed: bool = False,
        is_double: bool = False,
        label: str = "",
        label_at: Place | None = None,
    ) -> None:
        """Draw an arrow through some places; its label lies in the middle of its longest part, on the card's colour."""
        self.line(places, colour=colour, is_dashed=is_dashed)
        self._head(places[-2], places[-1], colour)
        if is_double:
            self._head(places[1], places[0], colour)
        if label:
            (x0, y0), (x1, y1) = max(pairwise(places), key=lambda pair: hypot(*_minus(*pair)))
            x, y = label_at or ((x0 + x1) / 2, (y0 + y1) / 2)
            width = 6.1 * len(label) + 8
            self.rect((x - width / 2, y - 9), (width, 17), stroke="none", radius=3)
            self.text((x, y + 3.5), label, size=11, colour=MUTED)

    def legend(self, at: Place, entries: Iterable[tuple[str, str]], *, step: float = 130) -> None:
        """Write names beside squares of their colours, in a row."""
        for number, (name, colour) in enumerate(entries):
            x = at[0] + number * step
            self.rect((x, at[1] - 10), (12, 12), fill=colour, stroke="none", radius=2)
            self.text((x + 18, at[1]), name, size=12, colour=MUTED, anchor="start")

    def svg(self) -> str:
        """Return the file's text."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" aria-label="{escape(self.title)}" font-family="{FONT}">'
        )
        card = f'<rect width="{self.width}" height="{self.height}" rx="10" fill="{CARD}"/>'
        return "\n".join([head, f"<title>{escape(self.title)}</title>", card, *self._parts, "</svg>", ""])

    def _head(self, before: Place, tip: Place, colour: str) -> None:
        x, y = _minus(before, tip)
        length = hypot(x, y) or 1
        x, y = x / length, y / length
        back = (tip[0] - 8 * x, tip[1] - 8 * y)
        sides = [(back[0] - 4 * y, back[1] + 4 * x), (back[0] + 4 * y, back[1] - 4 * x)]
        self.area([tip, *sides], colour=colour, opacity=1)


def _minus(start: Place, end: Place) -> Place:
    return end[0] - start[0], end[1] - start[1]


def _n(value: float) -> str:
    # One decimal is enough on a screen, and the same on every machine.
    return f"{value:.1f}".removesuffix(".0")


def _opacity(value: float) -> str:
    return "" if value == 1 else f' opacity="{value}"'
