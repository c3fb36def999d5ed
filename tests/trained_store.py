"""A store that was trained once, as the tests of stages name it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from alchemist_core.settings import load_settings


@dataclass(frozen=True)
class TrainedStore:
    """A store with the corpus ingested and a rater in production, and the home of its artifacts."""

    url: str
    home: Path


def use_store(patch: pytest.MonkeyPatch, store: TrainedStore) -> None:
    """Let settings name this store."""
    patch.setenv("ALCHEMIST_DATABASE_URL", store.url)
    patch.setenv("ALCHEMIST_HOME", str(store.home))
    load_settings.cache_clear()
