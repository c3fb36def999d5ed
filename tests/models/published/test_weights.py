from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from alchemist_core.errors import ConfigError
from alchemist_core.models.published.weights import read_weights


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's own cache, offline, with one revision of one repository in it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository, revision = tmp_path / "models--org--name", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    folder = repository / "snapshots" / revision / "deep"
    folder.mkdir(parents=True)
    torch.save({"weight": torch.arange(3.0)}, folder / "file.pth")
    return tmp_path


def test_a_hub_name_is_read_through_the_hub_s_cache(hub: Path) -> None:
    assert read_weights("hf:org/name/deep/file.pth")["weight"].tolist() == [0, 1, 2]


def test_a_file_that_the_hub_cannot_give_is_refused_with_a_remedy(hub: Path) -> None:
    with pytest.raises(ConfigError, match="Download the file and give its path"):
        read_weights("hf:org/name/other.pth")


@pytest.mark.parametrize("source", ["hf:org/name", "hf:org", "hf:"])
def test_a_hub_name_without_a_file_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match=r"does not name a file\. Write hf:ORG/NAME/FILE"):
        read_weights(source)
