import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from alchemist_core.errors import DataError
from alchemist_core.local.scenes import draw_scenes

SMALL = {"n_train": 200, "n_validation": 60, "n_test": 20, "n_nights": 3, "side": 32, "shard_size": 30}


def digest_tree(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_samples(folder: Path) -> list[tuple[bytes, str, dict[str, object]]]:
    samples = []
    for path in sorted(folder.rglob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        keys = dict.fromkeys(name.partition(".")[0] for name in members)
        samples += [
            (members[f"{key}.png"], members[f"{key}.txt"].decode(), json.loads(members[f"{key}.json"])) for key in keys
        ]
    return samples


def hash_pair(image: bytes, caption: str) -> bytes:
    return hashlib.sha256(hashlib.sha256(image).digest() + hashlib.sha256(caption.encode()).digest()).digest()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes") / "corpus"
    draw_scenes(root, **SMALL)
    return root


def test_the_same_seed_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    draw_scenes(tmp_path, **SMALL)
    assert digest_tree(tmp_path) == digest_tree(corpus)


def test_another_seed_gives_other_images(corpus: Path, tmp_path: Path) -> None:
    draw_scenes(tmp_path, **SMALL, seed=1)
    theirs = {image for image, _, _ in read_samples(tmp_path / "test")}
    assert not theirs & {image for image, _, _ in read_samples(corpus / "test")}


def test_kinds_come_in_the_ratios_of_the_pilot(corpus: Path) -> None:
    truth = pq.read_table(corpus / "truth.parquet").to_pylist()
    train = Counter(row["kind"] for row in truth if row["split"] == "train")
    assert train == {"informative": 80, "plain": 50, "chaotic": 40, "wrong_caption": 30}
    assert {row["kind"] for row in truth if row["split"] != "train"} == {"informative"}


def test_the_truth_file_lists_every_sample_and_the_shards_contain_no_truth(corpus: Path) -> None:
    truth = {row["pair_hash"] for row in pq.read_table(corpus / "truth.parquet").to_pylist()}
    samples = read_samples(corpus)
    assert {hash_pair(image, caption) for image, caption, _ in samples} == truth
    assert all(about == {"width": 32, "height": 32, "licence": "CC0-1.0"} for _, _, about in samples)


def test_no_image_is_drawn_twice(corpus: Path) -> None:
    pixels = [Image.open(io.BytesIO(image)).tobytes() for image, _, _ in read_samples(corpus)]
    assert len(set(pixels)) == len(pixels) == 280


def test_nights_are_folders_and_each_holds_every_kind(corpus: Path) -> None:
    kinds = {row["pair_hash"]: row["kind"] for row in pq.read_table(corpus / "truth.parquet").to_pylist()}
    nights = sorted(path.name for path in (corpus / "train").iterdir())
    assert nights == ["2026-01-01", "2026-01-02", "2026-01-03"]
    for night in nights:
        samples = read_samples(corpus / "train" / night)
        assert len({kinds[hash_pair(image, caption)] for image, caption, _ in samples}) == 4


def test_a_finished_corpus_is_reused(corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    assert draw_scenes(corpus, **SMALL).is_reused
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_a_half_made_corpus_is_finished(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "scenes.unfinished.json").write_bytes((corpus / "scenes.json").read_bytes())
    (tmp_path / "truth.parquet").write_bytes(b"half")
    assert not draw_scenes(tmp_path, **SMALL).is_reused
    assert digest_tree(tmp_path) == digest_tree(corpus)


def test_a_corpus_of_other_parameters_is_not_overwritten(corpus: Path) -> None:
    with pytest.raises(DataError, match="Give another folder"):
        draw_scenes(corpus, **(SMALL | {"seed": 7}))


def test_a_folder_of_other_things_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        draw_scenes(tmp_path, **SMALL)


def test_wrong_captions_are_captions_of_other_images(corpus: Path) -> None:
    kinds = {row["pair_hash"]: row["kind"] for row in pq.read_table(corpus / "truth.parquet").to_pylist()}
    captions: dict[str, set[str]] = {}
    for image, caption, _ in read_samples(corpus / "train"):
        captions.setdefault(kinds[hash_pair(image, caption)], set()).add(caption)
    assert captions["wrong_caption"] <= captions["informative"]
