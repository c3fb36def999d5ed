"""Contact sheets: which images of a band are shown, their thumbnails, and how they are laid out."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alchemist_core.report.content import ContactSheet, Tile
from alchemist_core.report.markup import Html, element

# The paper's own three looks at a ranking: its head, the middle that trains best there, its tail.
BANDS = ((0.0, 0.2), (0.4, 0.8), (0.9, 1.0))
_CAPTION_LENGTH = 180


def pick_band(ranks: NDArray[np.float64], band: tuple[float, float], n: int = 24) -> NDArray[np.int64]:
    """Return up to n indices spread evenly over the ranks of a band, lowest rank first.

    >>> pick_band(np.array([0.9, 0.1, 0.0, 0.15]), (0.0, 0.2), n=2).tolist()
    [2, 3]
    """
    inside = np.flatnonzero((ranks >= band[0]) & (ranks <= band[1]))
    ordered = inside[np.argsort(ranks[inside], kind="stable")]
    return ordered[np.unique(np.linspace(0, len(ordered) - 1, min(n, len(ordered))).round().astype(np.int64))]


def encode_thumbnail(image: NDArray[np.uint8]) -> bytes:
    """Return an image as JPEG bytes, small enough for a page that carries all of its pictures."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=86, optimize=True)
    return buffer.getvalue()


def contact_sheet(sheet: ContactSheet) -> Html:
    """Lay out one band: every image with its caption, rank and score."""
    low, high = round(sheet.low_rank * 100), round(sheet.high_rank * 100)
    note = "highest scores" if low == 0 else "lowest scores" if high == 100 else "in between"
    heading = element("h3", f"{low}–{high} %", " ", element("small", note))
    if not sheet.tiles:
        return element("div", heading, element("p", "No pair has a rank in this band.", class_="empty"), class_="band")
    tiles = element("ul", *(_tile(tile) for tile in sheet.tiles), class_="sheet")
    return element("div", heading, tiles, class_="band")


def _tile(tile: Tile) -> Html:
    score = f"{tile.score:+.2f}".replace("-", "−")
    source = "data:image/jpeg;base64," + base64.b64encode(tile.jpeg).decode()
    caption = tile.caption if len(tile.caption) <= _CAPTION_LENGTH else tile.caption[: _CAPTION_LENGTH - 1] + "…"
    return element(
        "li",
        # The caption is read out once, as text.
        element("img", src=source, alt="", loading="lazy", decoding="async"),
        element("p", element("bdi", caption or "(empty caption)"), class_="caption", title=tile.caption[:1000]),
        element("p", element("span", f"rank {tile.rank:.3f}"), element("span", f"score {score}"), class_="figures"),
    )
