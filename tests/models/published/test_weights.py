"""Files of weights are read without running what is in them, and a damaged file is told from a wrong one."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from alchemist_core.errors import ConfigError
from alchemist_core.models.config import published_star
from alchemist_core.models.published.recognition import recognise
from alchemist_core.models.published.star import export_star
from alchemist_core.models.published.weights import read_weights, shapes_of
from alchemist_core.models.star import Star
from tests.models.published.given_hub import FIRST, HubCache, hub
from tests.models.published.published_keys import Shapes, rater_keys, star_keys, tokenizer_keys

__all__ = ["hub"]
TWO = {"first": torch.arange(1000.0), "second": torch.arange(2000.0)}


def reason_to_refuse(path: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        read_weights(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def cut(path: Path, n_bytes: int) -> Path:
    path.write_bytes(path.read_bytes()[:-n_bytes])
    return path


def test_a_hub_name_is_read_through_the_hub_s_cache(hub: HubCache) -> None:
    torch.save({"weight": torch.arange(3.0)}, hub.commit("org/name", FIRST) / "file.pth")
    assert read_weights("hf:org/name/file.pth")["weight"].tolist() == [0, 1, 2]


def test_a_safetensors_file_that_is_cut_off_is_refused_by_the_first_key_that_is_lost(tmp_path: Path) -> None:
    save_file(TWO, tmp_path / "star.safetensors")
    n_all = (tmp_path / "star.safetensors").stat().st_size
    told = reason_to_refuse(cut(tmp_path / "star.safetensors", 4))
    assert f"it ends inside of second ({n_all - 4:,} of {n_all:,} bytes are there)" in told
    assert "it ends inside of first" in reason_to_refuse(cut(tmp_path / "star.safetensors", 8000))
    assert "cut off or damaged" in reason_to_refuse(cut(tmp_path / "star.safetensors", 4100))


@pytest.mark.parametrize(
    "header",
    [
        '{"a": {"dtype": "F32"}}',
        '["a"]',
        '{"a": {"data_offsets": [0]}}',
        '{"a": {"data_offsets": [0, "4"]}}',
        "[" * 100_000,
    ],
)
def test_a_safetensors_file_with_a_damaged_header_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "star.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    assert "cut off or damaged" in reason_to_refuse(path)


def test_a_torch_file_that_is_cut_off_is_told_from_one_that_is_none(tmp_path: Path) -> None:
    torch.save(TWO, tmp_path / "star.pth")
    assert "is cut off: its table of contents, which comes last, is missing" in reason_to_refuse(
        cut(tmp_path / "star.pth", 40)
    )
    (tmp_path / "star.pth").write_text("<html>Log in first</html>")
    assert "is not a file of weights" in reason_to_refuse(tmp_path / "star.pth")


def test_a_torch_file_of_the_older_format_is_read(tmp_path: Path) -> None:
    torch.save(TWO, tmp_path / "star.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path / "star.pth")["second"], TWO["second"])
    cut(tmp_path / "star.pth", 40)
    assert "cut off or damaged" in reason_to_refuse(tmp_path / "star.pth")


def test_a_pointer_of_git_lfs_is_told_from_the_weights(tmp_path: Path) -> None:
    (tmp_path / "star.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "is a pointer of Git LFS, not the weights" in reason_to_refuse(tmp_path / "star.safetensors")


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_file_is_not_run_and_gets_one_line(tmp_path: Path, is_zip: bool) -> None:
    torch.save({"weight": Hostile(tmp_path / "OWNED")}, tmp_path / "star.pth", _use_new_zipfile_serialization=is_zip)
    told = reason_to_refuse(tmp_path / "star.pth")
    assert f"{os.system.__module__}.system" in told
    assert "holds more than tensors" in told
    assert not (tmp_path / "OWNED").exists()


def test_a_checkpoint_of_another_model_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    with torch.device("meta"):
        star = {
            key: torch.zeros(weight.shape, device="cpu") for key, weight in export_star(Star(published_star(1))).items()
        }
    torch.save({"epoch": 1, "trainer": {"var_wo_ddp": star, "config": {}}}, tmp_path / "star.pth")
    with pytest.raises(
        ConfigError, match=r"no state dict at its top or under trainer → varRater_wo_ddp\. Trainer → var_wo_ddp holds"
    ) as told:
        read_weights(tmp_path / "star.pth", ("trainer", "varRater_wo_ddp"))
    assert "a STAR of 1 blocks (depth 1, width 64, captions of 1,024 features)" in str(told.value)


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        (star_keys(8), "STAR-40M (depth 8, width 512, captions of 1,024 features)"),
        (star_keys(16), "STAR-0.3B (depth 16, width 1024, captions of 1,024 features)"),
        (star_keys(24), "STAR-0.9B (depth 24, width 1536, captions of 1,024 features)"),
        (star_keys(30), "STAR-1.7B (depth 30, width 1920, captions of 1,024 features)"),
        (star_keys(2), "a STAR of 2 blocks (depth 2, width 128, captions of 1,024 features)"),
        (rater_keys(8), "the paper's rater (depth 8, width 512)"),
        (tokenizer_keys(), "a published tokenizer (4,096 codes of 32 features)"),
        ({"layer.weight": (3, 3)}, None),
    ],
)  # fmt: skip
def test_a_state_dict_is_recognised_by_its_keys(shapes: Shapes, name: str | None) -> None:
    assert recognise(shapes) == name


def test_a_model_that_was_trained_here_is_recognised() -> None:
    with torch.device("meta"):
        ours: dict[str, Tensor] = Star(published_star(8)).state_dict()
    assert (
        recognise(shapes_of(ours)) == "STAR-40M (depth 8, width 512, captions of 1,024 features) that was trained here"
    )
