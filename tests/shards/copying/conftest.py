from pathlib import Path

import pytest

from alchemist_core.subsets.member_table import MemberSource
from tests.shards.copying.copies import find_sources


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
def sources(crawl: Path) -> list[MemberSource]:
    return find_sources(crawl)
