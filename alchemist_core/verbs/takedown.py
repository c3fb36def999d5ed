"""Take an image down: every caption, location and later re-crawl of it stops being selectable at once."""

from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config, Report
from alchemist_core.store.audit import current_actor
from alchemist_core.store.engine import open_store
from alchemist_core.store.takedowns import take_down


class TakedownConfig(Config):
    """Which image, and why."""

    image_hash: str = Field(..., pattern=r"^[0-9a-f]{64}$", description="sha256 of the image's bytes, 64 hex digits")
    reason: str = Field(..., min_length=3, max_length=500, description="Why it must go; kept for the record")


class TakedownReport(Report):
    """What it touches."""

    image_hash: str
    is_new: bool
    n_pairs: int
    published_subsets: list[str]


def run(config: TakedownConfig) -> TakedownReport:
    """Record the takedown and name the published subsets that contain the image."""
    is_new, n_pairs, subsets = take_down(
        open_store(), bytes.fromhex(config.image_hash), config.reason, actor=current_actor()
    )
    return TakedownReport(image_hash=config.image_hash, is_new=is_new, n_pairs=n_pairs, published_subsets=subsets)


COMMANDS = {"": Command(TakedownConfig, run)}
