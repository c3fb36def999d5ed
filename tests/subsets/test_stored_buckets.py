"""Buckets of a stored version: counted by a command, batched from the source tars, and computed again from a copy's manifest."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from alchemist_core import Buckets, SubsetDataset
from alchemist_core.cli.sample import TakedownConfig, takedown
from alchemist_core.cli.subset import BucketsConfig, PublishSubsetConfig, count_buckets, publish
from alchemist_core.errors import DataError
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.stages.materialize import MaterializeConfig
from alchemist_core.stages.materialize import run as materialize
from alchemist_core.subsets.buckets import Reader
from alchemist_core.subsets.dataset import crop_to_bucket
from tests.trained_store import (
    copy_trained,
    corpus,
    scored_once,
    scored_store,
    select_subset,
    trained_once,
    trained_store,
)

__all__ = ["copy_trained", "corpus", "scored_once", "scored_store", "trained_once", "trained_store"]
pytestmark = [pytest.mark.db, pytest.mark.e2e]


@pytest.mark.usefixtures("scored_store")
def test_a_stored_version_is_counted_and_read_by_buckets_also_after_a_takedown() -> None:
    small = Buckets(squares=(16, 64), step=16)
    chosen = select_subset("s", 0.5, where="megapixels between 0.001 and 0.0011 and aspect_ratio = 1")
    assert chosen.n_samples == 120
    counted = count_buckets(BucketsConfig(name="s", buckets=small))
    # Images of 32 px would be enlarged to 64 px.
    assert [(row.width, row.height, row.n_samples, row.n_enlarged) for row in counted.rows] == [(16, 16, 120, 0)]
    assert (counted.cropped_ratio, counted.n_enlarged) == (0.0, 0)
    assert "16 x 16" in counted.summary()

    copied = Path(materialize(MaterializeConfig(subset="s")).folder)
    table = pq.read_table(copied / "manifest.parquet", columns=["width", "height"])
    sizes = [table.column(name).to_numpy().astype(np.int64) for name in ("width", "height")]
    assert set(small.assign(*sizes).bucket_N.tolist()) == {0}

    dataset = SubsetDataset("s", reader=Reader(batch_size=32), buckets=small, transform=crop_to_bucket)
    batches = list(DataLoader(dataset, batch_size=None, collate_fn=list))
    assert sorted(map(len, batches)) == [24, 32, 32, 32]
    assert {sample["image"].shape for batch in batches for sample in batch} == {(16, 16, 3)}
    publish(PublishSubsetConfig(name="s"))
    state, gone = dataset.state_after(32), batches[2][0]
    data = next(gone[ext] for ext in gone if ext in IMAGE_EXTS)
    takedown(TakedownConfig(image_hash=hashlib.sha256(data).hexdigest(), reason="asked"))
    # The running training does not learn of it; the published version is now the one without the image.
    assert gone["pair_hash"] in [sample["pair_hash"] for batch in dataset for sample in batch]
    with pytest.raises(DataError, match="saved with another version"):
        SubsetDataset("s", reader=Reader(batch_size=32), buckets=small).load_state_dict(state)
    resumed = SubsetDataset("s", version=1, reader=Reader(batch_size=32), buckets=small)
    resumed.load_state_dict(state)
    left = [
        [sample["pair_hash"] for sample in batch if sample["pair_hash"] != gone["pair_hash"]] for batch in batches[1:]
    ]
    assert [[sample["pair_hash"] for sample in batch] for batch in resumed] == left
