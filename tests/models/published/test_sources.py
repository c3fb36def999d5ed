"""A source of weights is a file, a folder or a hub name, and a hub name gets its commit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alchemist_core.errors import ConfigError
from alchemist_core.models.published.sources import HubName, Located, locate_encoder, locate_file
from tests.models.published.given_hub import FIRST, SECOND, HubCache, hub

__all__ = ["hub"]


def write(path: Path, content: str = "weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def write_encoder(model: Path, tokenizer: Path) -> None:
    write(model / "config.json", "{}")
    write(model / "model.safetensors")
    write(tokenizer / "vocab.json", "words")
    write(tokenizer / "merges.txt", "merges")


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("hf:org/name/star.pth", ("hf:", "org/name", "star.pth", None)),
        ("hf:org/name/a/b.pth@v1.0", ("hf:", "org/name", "a/b.pth", "v1.0")),
        ("clip:org/name", ("clip:", "org/name", "", None)),
        ("clip:org/name/text_encoder@main", ("clip:", "org/name", "text_encoder", "main")),
        ("clip:bert", ("clip:", "bert", "", None)),
    ],
)
def test_a_hub_name_has_a_repository_a_path_and_a_revision(source: str, parts: tuple[str, ...]) -> None:
    assert tuple(HubName.parse(source)) == parts
    assert str(HubName.parse(source)) == source


def test_a_hub_name_without_a_revision_gets_the_commit_of_the_main_branch(hub: HubCache) -> None:
    path = write(hub.commit("org/name", FIRST) / "deep" / "star.pth")
    assert locate_file("hf:org/name/deep/star.pth") == Located(f"hf:org/name/deep/star.pth@{FIRST}", path)


def test_a_pinned_name_means_the_same_file_after_the_publisher_changed_it(hub: HubCache) -> None:
    write(hub.commit("org/name", FIRST) / "star.pth", "first")
    pinned = locate_file("hf:org/name/star.pth").source
    write(hub.commit("org/name", SECOND) / "star.pth", "second")
    assert locate_file("hf:org/name/star.pth").path.read_text() == "second"
    assert locate_file(pinned).path.read_text() == "first"
    assert locate_file(pinned).source == pinned


def test_a_tag_is_a_revision_too(hub: HubCache) -> None:
    write(hub.commit("org/name", FIRST, names=("v1",)) / "star.pth")
    assert locate_file("hf:org/name/star.pth@v1").source == f"hf:org/name/star.pth@{FIRST}"


@pytest.mark.parametrize("source", ["hf:org/name/other.pth", "hf:org/name/star.pth@v9", "hf:org/else/star.pth"])
def test_what_neither_hub_nor_cache_can_give_is_refused_with_a_remedy(hub: HubCache, source: str) -> None:
    write(hub.commit("org/name", FIRST) / "star.pth")
    with pytest.raises(ConfigError, match=r"cannot be downloaded.*Download the file and give its path") as refused:
        locate_file(source)
    assert str(refused.value).startswith(source)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("source", ["hf:org/name", "hf:org", "hf:"])
def test_a_hub_name_without_a_file_is_refused(source: str) -> None:
    with pytest.raises(
        ConfigError, match=r"does not name a file\. Write hf:ORG/NAME/FILE or hf:ORG/NAME/FILE@REVISION"
    ):
        locate_file(source)


def test_a_folder_means_the_one_file_of_weights_in_it(tmp_path: Path) -> None:
    path = write(tmp_path / "star.pth")
    write(tmp_path / "README.md")
    assert locate_file(str(tmp_path)) == Located(str(tmp_path), path)


def test_a_folder_of_a_model_that_was_trained_here_means_the_model_and_not_its_tokenizer(tmp_path: Path) -> None:
    for name in ("adapters", "model", "tokenizer"):
        write(tmp_path / f"{name}.safetensors")
    assert locate_file(str(tmp_path)).path.name == "model.safetensors"


@pytest.mark.parametrize("names", [(), ("ep1.pth", "ep2.pth")])
def test_a_folder_that_does_not_decide_is_refused_with_what_it_holds(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write(tmp_path / name)
    with pytest.raises(ConfigError, match=rf"it holds: {', '.join(names) or 'none'}\. Name the file"):
        locate_file(str(tmp_path))


def test_a_file_that_is_not_there_is_refused_with_what_to_give() -> None:
    with pytest.raises(ConfigError, match=r"no file of weights at /nowhere/star\.pth\. Give a path, a folder"):
        locate_file("/nowhere/star.pth")


def test_the_hub_s_cache_of_this_machine_is_read_without_a_network(tmp_path: Path) -> None:
    """As a job on a machine without internet does: HF_HOME names the cache, HF_HUB_OFFLINE forbids to ask the hub."""
    write(HubCache(tmp_path / "hub").commit("org/name", FIRST) / "star.pth")
    program = "from alchemist_core.models.published.sources import locate_file; print(locate_file('hf:org/name/star.pth').source)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True,
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.stdout.strip() == f"hf:org/name/star.pth@{FIRST}"


def test_an_encoder_of_the_hub_is_found_in_the_folders_of_its_pipeline(hub: HubCache) -> None:
    snapshot = hub.commit("org/diffusion", FIRST)
    write_encoder(snapshot / "text_encoder", snapshot / "tokenizer")
    stored, encoder = locate_encoder("clip:org/diffusion/text_encoder")
    assert stored == f"clip:org/diffusion/text_encoder@{FIRST}"
    assert encoder == (snapshot / "text_encoder", snapshot / "tokenizer")


def test_a_pipeline_in_a_folder_of_a_repository_is_found_too(hub: HubCache) -> None:
    """As STAR's publishers keep their text encoder."""
    snapshot = hub.commit("org/star", FIRST)
    write_encoder(snapshot / "CLIP" / "text_encoder", snapshot / "CLIP" / "tokenizer")
    stored, encoder = locate_encoder("clip:org/star/CLIP/text_encoder")
    assert stored == f"clip:org/star/CLIP/text_encoder@{FIRST}"
    assert encoder.tokenizer == snapshot / "CLIP" / "tokenizer"


def test_an_encoder_of_the_hub_in_one_folder_is_found(hub: HubCache) -> None:
    snapshot = hub.commit("org/clip", FIRST, names=("v1",))
    write_encoder(snapshot, snapshot)
    stored, encoder = locate_encoder("clip:org/clip@v1")
    assert stored == f"clip:org/clip@{FIRST}"
    assert encoder.is_complete()


def test_an_encoder_has_the_same_content_in_a_folder_and_on_the_hub(hub: HubCache, tmp_path: Path) -> None:
    snapshot = hub.commit("org/clip", FIRST)
    write_encoder(snapshot, snapshot)
    write_encoder(tmp_path / "text_encoder", tmp_path / "tokenizer")
    for unread in ("README.md", "text_encoder/model.fp16.safetensors", "text_encoder/pytorch_model.bin"):
        write(tmp_path / unread, "something else")
    stored, encoder = locate_encoder(f"clip:{tmp_path}")
    assert stored == f"clip:{tmp_path}"
    assert encoder.sha256() == locate_encoder("clip:org/clip")[1].sha256()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.json", "merges.txt"])
def test_a_changed_part_of_an_encoder_changes_its_content(tmp_path: Path, name: str) -> None:
    write_encoder(tmp_path, tmp_path)
    _, encoder = locate_encoder(f"clip:{tmp_path}")
    before = encoder.sha256()
    write(tmp_path / name, "changed")
    assert encoder.sha256() != before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "merges.txt"])
def test_an_encoder_that_lacks_a_part_is_refused_with_what_is_needed(tmp_path: Path, name: str) -> None:
    write_encoder(tmp_path, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(
        ConfigError, match=r"config\.json, model\.safetensors .* and a vocabulary are needed\. Give a folder"
    ):
        locate_encoder(f"clip:{tmp_path}")


def test_a_folder_that_is_not_there_is_not_asked_for_on_the_hub() -> None:
    with pytest.raises(ConfigError, match="There is no folder /nowhere/clip"):
        locate_encoder("clip:/nowhere/clip")


def test_an_encoder_that_the_cache_lacks_is_refused_with_a_remedy(hub: HubCache) -> None:
    with pytest.raises(
        ConfigError, match=r"clip:org/clip@v1 cannot be downloaded.*Download the folder and give its path"
    ):
        locate_encoder("clip:org/clip@v1")
