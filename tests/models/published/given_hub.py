"""The hub's cache on the disk, as the hub's own library writes it: repositories with commits, branches and tags."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import constants

FIRST, SECOND = "1" * 40, "2" * 40


@dataclass(frozen=True)
class HubCache:
    folder: Path

    def commit(self, repository: str, commit: str, *, names: tuple[str, ...] = ("main",)) -> Path:
        """Give the folder of a commit, to which branches or tags point from now on."""
        place = self.folder / f"models--{repository.replace('/', '--')}"
        (place / "refs").mkdir(parents=True, exist_ok=True)
        for name in names:
            (place / "refs" / name).write_text(commit)
        snapshot = place / "snapshots" / commit
        snapshot.mkdir(parents=True, exist_ok=True)
        return snapshot


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """An empty cache, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return HubCache(tmp_path / "hub")
