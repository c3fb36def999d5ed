from pathlib import Path

import pytest

from alchemist_core.errors import DataError
from alchemist_core.files import artifact_path, folder_sha256, require_artifact


@pytest.fixture
def rater() -> tuple[Path, bytes]:
    """A checkpoint's folder and its registered hash."""
    folder = artifact_path("raters/one")
    folder.mkdir(parents=True)
    (folder / "rater.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder, folder_sha256(folder)


def test_an_untouched_artifact_is_given(rater: tuple[Path, bytes]) -> None:
    folder, sha256 = rater
    assert require_artifact("raters/one", sha256) == folder


@pytest.mark.parametrize("change", ["bytes", "name", "added", "removed"])
def test_an_artifact_that_was_changed_in_any_way_is_refused(rater: tuple[Path, bytes], change: str) -> None:
    folder, sha256 = rater
    weights = folder / "rater.safetensors"
    match change:
        case "bytes":
            weights.write_bytes(b"Weights")
        case "name":
            weights.rename(folder / "other.safetensors")
        case "added":
            (folder / "more").write_bytes(b"")
        case _:
            weights.unlink()
    with pytest.raises(DataError, match="it was changed after it was made"):
        require_artifact("raters/one", sha256)


def test_an_artifact_that_is_gone_names_the_remedy(rater: tuple[Path, bytes]) -> None:
    with pytest.raises(DataError, match="Restore it from a backup, or run the stage"):
        require_artifact("raters/two", rater[1])
