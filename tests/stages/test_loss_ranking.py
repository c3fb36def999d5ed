"""The ranking by loss ranks all eligible samples or none."""

import hashlib
import shutil
from pathlib import Path

import pytest
from sqlalchemy import text

from alchemist_core.errors import ChangedShardError, DataError
from alchemist_core.files import FEATURE_CACHE, artifact_path
from alchemist_core.stages.train_downstream import TrainDownstreamConfig, TrainDownstreamResult
from alchemist_core.stages.train_downstream import run as train_downstream
from alchemist_core.store.engine import open_store
from tests.trained_store import TrainedStore, select_subset

pytestmark = [pytest.mark.db, pytest.mark.e2e]


def train(arms: str = "minus_loss") -> TrainDownstreamResult:
    model = {"max_train_steps": 1, "batch_size": 32, "width": 16, "depth": 1}
    return train_downstream(TrainDownstreamConfig.model_validate({"subset": "s", "arms": arms, "model": model}))


def move_corpus(root: Path) -> tuple[Path, int, int]:
    """Let the dataset lie in this folder; return the tar of one training image, and its position in the tar."""
    with open_store().begin() as connection:
        connection.execute(
            text("UPDATE alchemist.datasets SET root_uri = :root WHERE name = 'scenes'"), {"root": str(root)}
        )
        uri, offset, size = connection.execute(
            text("""
            SELECT h.uri, l.file_offsets[1], l.file_sizes[1]
            FROM alchemist.sample_locations AS l JOIN alchemist.shards AS h USING (shard_id) JOIN alchemist.datasets AS d USING (dataset_id)
            WHERE d.name = 'scenes' ORDER BY h.uri, l.ordinal LIMIT 1
        """)
        ).one()
    return root / uri, offset, size


def register(former: bytes, image_hash: bytes) -> None:
    with open_store().begin() as connection:
        statement = text("UPDATE alchemist.samples SET image_hash = :new WHERE image_hash = :old")
        connection.execute(statement, {"old": former, "new": image_hash})


def test_an_image_that_is_lost_after_it_was_scored_refuses_the_ranking_and_leaves_no_file(
    scored_store: TrainedStore, corpus: Path, tmp_path: Path
) -> None:
    select_subset()
    # The encoded images are cached from the rater's training; delete them, as if another machine ranked.
    shutil.rmtree(artifact_path(FEATURE_CACHE))
    shutil.copytree(corpus / "train", tmp_path / "train")
    tar, offset, size = move_corpus(tmp_path / "train")
    whole = tar.read_bytes()
    tar.write_bytes(whole[:offset] + bytes(size) + whole[offset + size :])
    with pytest.raises(ChangedShardError, match=rf"{tar.name} is not the tar that was registered"):
        train()
    # As if this decoder refused an image that another one had decoded.
    image_hash = hashlib.sha256(whole[offset : offset + size]).digest()
    register(image_hash, hashlib.sha256(bytes(size)).digest())
    with pytest.raises(
        DataError, match=r"^Arm minus_loss cannot rank 1 of \d+ samples: they have scores, but their images"
    ):
        train()
    tar.write_bytes(whole)
    register(hashlib.sha256(bytes(size)).digest(), image_hash)
    assert not list((scored_store.home / "artifacts" / "loss_rankings").glob("*"))
    assert len(train().identities) == 1


@pytest.mark.usefixtures("scored_store")
def test_the_ranking_by_loss_knows_no_threshold_of_the_rater() -> None:
    with open_store().connect() as connection:
        median = connection.execute(
            text("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY score) FROM alchemist.current_scores")
        ).scalar_one()
    # All accepted samples are members; the ranking by loss chooses as many from all.
    select_subset(retention="auto", min_score=median)
    train("subset,minus_loss")
    with open_store().connect() as connection:
        members = connection.execute(text("SELECT config ->> 'members' FROM alchemist.models")).scalars().all()
    assert len(set(members)) == 2
