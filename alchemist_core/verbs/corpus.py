"""Make a corpus to try the platform with: drawn scenes of known worth, or real pictures from ordinary packages."""

from pathlib import Path

from pydantic import Field

from alchemist_core.command import Command
from alchemist_core.config import Config, Report
from alchemist_core.local.scenes import ScenesConfig, draw_scenes
from alchemist_core.settings import load_settings
from alchemist_core.telemetry import say


class ScenesCorpusConfig(Config):
    """How many scenes, and where."""

    out: Path | None = Field(None, description="Folder to write; none: corpora/scenes under the home")
    scenes: ScenesConfig = Field(default_factory=ScenesConfig, description="What is drawn")


class EmojiConfig(Config):
    """Which pictures."""

    out: Path | None = Field(None, description="Folder to write; none: corpora/emoji under the home")
    permissive_only: bool = Field(
        True, description="Only licences that allow any use (public domain, CC0, CC-BY, MIT, Apache-2.0)"
    )
    side: int = Field(96, ge=16, le=512, description="Side of a picture in pixels")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the split by concept")


class CorpusReport(Report):
    """Where the corpus lies."""

    folder: str
    counts: dict[str, int]


def scenes(config: ScenesCorpusConfig) -> CorpusReport:
    """Draw captioned scenes with planted plain, chaotic and wrongly captioned samples; the truth stays in its own file."""
    folder = config.out or load_settings().home / "corpora" / "scenes"
    drawn = draw_scenes(folder, **config.scenes.model_dump())
    if drawn.is_reused:
        say(f"{folder} holds these scenes already: reused.")
    counts = {"train": drawn.n_train, "validation": drawn.n_validation, "test": drawn.n_test}
    return CorpusReport(folder=str(folder.resolve()), counts=counts)


def emoji(config: EmojiConfig) -> CorpusReport:
    """Build a corpus of real pictures from ordinary package installs; each keeps its licence."""
    from alchemist_core.local.emoji import build_emoji_corpus  # noqa: PLC0415  as above

    folder = config.out or load_settings().home / "corpora" / "emoji"
    counts = build_emoji_corpus(folder, permissive_only=config.permissive_only, side=config.side, seed=config.seed)
    return CorpusReport(folder=str(folder.resolve()), counts=counts)


COMMANDS = {"scenes": Command(ScenesCorpusConfig, scenes), "emoji": Command(EmojiConfig, emoji)}
