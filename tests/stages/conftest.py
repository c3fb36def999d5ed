"""A small drawn corpus, ingested by the stage itself."""

from collections.abc import Callable
from pathlib import Path

import pytest

from alchemist_core.local.scenes import draw_scenes
from alchemist_core.stages.ingest import IngestConfig, IngestReport
from alchemist_core.stages.ingest import run as ingest


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 training scenes over two nights, 200 for validation, 64 for the test."""
    root = tmp_path_factory.mktemp("scenes")
    draw_scenes(root, n_train=240, n_validation=200, n_test=64, shard_size=40, side=32)
    return root


@pytest.fixture
def ingest_corpus(corpus: Path, database_url: str) -> Callable[[], IngestReport]:
    """Ingest all three parts; returns the training part's report."""

    def run() -> IngestReport:
        for name, part, role in (
            ("v", "validation", "validation"),
            ("t", "test", "evaluation"),
            ("scenes", "train", "train"),
        ):
            report = ingest(IngestConfig.model_validate({"dataset": name, "root": str(corpus / part), "role": role}))
        return report

    return run
