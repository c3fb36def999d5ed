"""The common training libraries can read materialized datasets."""

import gc
import json
import tarfile
from pathlib import Path

import pytest

from alchemist_core.shards.storage import read_ranges
from alchemist_core.subsets.member_table import MemberLocation
from tests.subsets.given_subset import copy, find_sources


@pytest.fixture
def mixed(tar, record, picture, tmp_path: Path) -> list[MemberLocation]:
    """Images of two formats, and records with and without JSON."""
    root = tmp_path / "mixed"
    root.mkdir()
    entries = []
    for number in range(12):
        png, text, about = record(f"k{number}", number)
        image = (f"k{number}.jpg", picture(number, kind="JPEG")) if number % 2 else png
        entries += [image, text, about] if number % 3 else [image, text]
    (root / "000000.tar").write_bytes(tar(entries))
    return find_sources(root)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("is_signalled", [True, False])
def test_mixed_records_become_one_table_for_hugging_face(
    mixed: list[MemberLocation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_signalled: bool,
    seed: int | None,
) -> None:
    """With the dataset card in the folder, or from the tars alone."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    copy(mixed, tmp_path / "copy", shard_size=8, seed=seed)
    tars = sorted(str(path) for path in (tmp_path / "copy").glob("*.tar"))
    given = {"path": str(tmp_path / "copy")} if is_signalled else {"path": "webdataset", "data_files": {"train": tars}}
    loaded = datasets.load_dataset(**given, split="train", cache_dir=str(tmp_path / "cache"))
    rows = sorted(loaded, key=lambda row: row["__key__"])
    assert len(rows) == 12
    assert {row["txt"] for row in rows} == {f"picture number {number}" for number in range(12)}
    assert all(next(row[ext] for ext in ("jpg", "png") if ext in row).size == (20, 16) for row in rows)
    assert sum(row["json"] is not None for row in rows) == 8


# The library's reader leaves its open tars to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.slow
def test_webdataset_reads_a_copy(mixed: list[MemberLocation], tmp_path: Path) -> None:
    import webdataset

    copy(mixed, tmp_path / "copy", shard_size=8)
    index = json.loads((tmp_path / "copy" / "wids.json").read_text())
    assert [shard["nsamples"] for shard in index["shardlist"]] == [8, 4]
    tars = [str(tmp_path / "copy" / shard["url"]) for shard in index["shardlist"]]
    rows = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    gc.collect()
    assert {row["txt"] for row in rows} == {f"picture number {number}" for number in range(12)}
    assert all(next(row[ext] for ext in ("jpg", "png") if ext in row).size == (20, 16) for row in rows)


@pytest.mark.slow
def test_the_real_corpus_is_copied_without_losing_a_byte_of_its_json(real_corpus: Path, tmp_path: Path) -> None:
    sources = [source for source in find_sources(real_corpus) if source.uri.endswith("000003.tar")][::5]
    made = copy(sources, tmp_path / "copy", shard_size=1000)
    with tarfile.open(made.folder / "000000.tar") as tar:
        members = [member for member in tar if member.name.endswith(".json")]
        copied = {tar.extractfile(member).read() for member in members}
    originals = {
        read_ranges(source.uri, [(source.offsets[at], source.sizes[at])])[0]
        for source in sources
        for at in [source.exts.index("json")]
    }
    assert copied == originals
    assert all(json.loads(about)["license"] for about in copied)
