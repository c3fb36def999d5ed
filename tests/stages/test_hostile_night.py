"""Problems of one dataset do not stop the nights of others: all kinds at once, beside a clean dataset."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from alchemist_core.__main__ import main
from alchemist_core.shards.tar_writer import write_tar
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import open_store
from tests.trained_store import TrainedStore, use_store

pytestmark = [pytest.mark.db, pytest.mark.e2e]

NIGHT = ["ingest", "score --rater nightly", "check --suite scores", "night check-drift", "night publish"]
OF_CLEAN = """
SELECT encode(pair_hash, 'hex') AS pair, score FROM alchemist.scores JOIN alchemist.samples USING (sample_id)
WHERE sample_id IN (
    SELECT sample_id FROM alchemist.sample_locations JOIN alchemist.shards USING (shard_id) JOIN alchemist.datasets USING (dataset_id)
    WHERE name = 'scenes'
) ORDER BY 1
"""


def rows(sql: str) -> list[tuple[object, ...]]:
    with open_store().connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def spoil(root: Path, tars: list[Path]) -> None:
    """After the first ingest: what can go wrong with a root between two nights."""
    (root / "gone.tar").unlink()
    shutil.copy(tars[3], root / "changed.tar")
    (root / "growing.tar").write_bytes(tars[0].read_bytes()[:30_000])
    (root / "begun.tar").write_bytes(b"")
    (root / "no-tar.tar").write_bytes(b"<html>404</html>" * 100)
    shutil.copy(tars[0], os.fsencode(root) + b"/caf\xe9.tar")
    shutil.copy(tars[0], root / "zipped.tar.gz")
    (root / "2026-02-30").mkdir()
    shutil.copy(tars[0], root / "2026-02-30" / "x.tar")
    (root / "2026-01-09").symlink_to(tars[0].parent)
    (root / "nowhere.tar").symlink_to(root / "absent")
    (root / ".part").mkdir()
    shutil.copy(tars[0], root / ".part" / "y.tar")
    write_tar(root / "broken.tar", [("a.png", b"no image"), ("a.txt", b"one"), ("b.txt", b"no image at all")])


@pytest.mark.slow
def test_a_clean_dataset_s_night_is_complete_and_equal_to_an_undisturbed_twin_s(
    copy_trained: Callable[[], TrainedStore], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    twin, store = copy_trained(), copy_trained()
    use_store(monkeypatch, twin)
    assert [main([*line.split(), "--dataset", "scenes"]) for line in NIGHT] == [0] * 5
    undisturbed = rows(OF_CLEAN)
    use_store(monkeypatch, store)
    tars, root = sorted((corpus / "train").rglob("*.tar")), tmp_path / "messy"
    root.mkdir()
    for name, tar in zip(("good.tar", "gone.tar", "changed.tar"), tars, strict=False):
        shutil.copy(tar, root / name)
    (tmp_path / "away").mkdir()
    # Samples that no other dataset has, because known samples are scored without being read.
    shutil.copy(next((corpus / "validation").rglob("*.tar")), tmp_path / "away" / "a.tar")
    for name in ("away", "messy"):
        assert main(["ingest", "--dataset", name, "--root", str(tmp_path / name)]) == 0
    spoil(root, tars)
    (tmp_path / "away").rename(tmp_path / "unmounted")
    capsys.readouterr()
    codes = [main(line.split()) for line in NIGHT]
    said = capsys.readouterr().err
    assert codes[:2] == [6, 6]
    for trouble in (
        "gone.tar: missing", "changed.tar: replaced", "growing.tar is being uploaded", "begun.tar is being uploaded", "not UTF-8",
        "zipped.tar.gz: is compressed", "2026-02-30 is not a valid date", "2026-01-09: is a symbolic link",
        "nowhere.tar: is a broken link",
        ".part/y.tar: is hidden", "/away is unreachable", "alchemist shard reread", "alchemist shard retire",
    ):  # fmt: skip
        assert trouble in said
    assert rows(OF_CLEAN) == undisturbed
    states = dict(rows(
        "SELECT name || ' ' || nights.crawl_date, nights.state FROM alchemist.nights JOIN alchemist.datasets USING (dataset_id)"
    ))  # fmt: skip
    assert [states[f"scenes 2026-01-0{day}"] for day in (1, 2)] == ["selectable"] * 2
    scored = rows("""
        SELECT uri, n_scored, shard_scores.n_quarantined FROM alchemist.shard_scores JOIN alchemist.shards USING (shard_id)
        WHERE uri IN ('good.tar', 'broken.tar') ORDER BY uri
    """)
    assert scored == [("broken.tar", 0, 2), ("good.tar", 40, 0)]
    before = table_checksums(store.url)
    assert [main(line.split()) for line in NIGHT[:2]] == [6, 6]
    assert table_checksums(store.url) == before
