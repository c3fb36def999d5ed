"""A crawl of two shards, and the location of each of its samples, found without a store."""

from pathlib import Path

import pytest

from alchemist_core.subsets.member_table import MemberLocation
from tests.shards.conftest import endpoint, object_store, picture, read, real_corpus, record, tar
from tests.subsets.given_subset import find_sources

__all__ = ["endpoint", "object_store", "picture", "read", "real_corpus", "record", "tar"]


@pytest.fixture
def crawl(tar, record, tmp_path: Path) -> Path:
    """Two shards of seven records each, with the same keys in both."""
    root = tmp_path / "crawl"
    root.mkdir()
    for shard in range(2):
        raw = tar([entry for number in range(7) for entry in record(f"key{number}", 10 * shard + number)])
        (root / f"{shard:06d}.tar").write_bytes(raw)
    return root


@pytest.fixture
def sources(crawl: Path) -> list[MemberLocation]:
    return find_sources(crawl)
