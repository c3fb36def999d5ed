"""The image-text head from dataset to value: training is reproducible, the first evaluation pins it, and a changed head is refused."""

from pathlib import Path

import pytest
from sqlalchemy import text

from alchemist_core.cli import image_text_head
from alchemist_core.cli.image_text_head import HeadConfig, HeadResult, run
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.models.image_text import load_head
from alchemist_core.models.image_text_config import LEAST_AUC
from alchemist_core.stages.evaluate import EvaluateConfig, EvaluateResult
from alchemist_core.stages.evaluate import run as evaluate
from alchemist_core.stages.train_downstream import TrainDownstreamConfig
from alchemist_core.stages.train_downstream import run as train_downstream
from alchemist_core.store.backups import checksum
from alchemist_core.store.engine import open_store
from tests.trained_store import TrainedStore, select_subset

pytestmark = [pytest.mark.db, pytest.mark.e2e]

TITLE = "image_text_similarity_efficientnet_lite0_minilm_head"
CONTRACT = """
metric = "image_text_similarity"
extractor = "efficientnet_lite0_minilm_head"
resolution = 32
n_images = 24
sampling = { guidance = 1.0, batch_size = 8 }
"""


def train(out: Path, **changed: object) -> HeadResult:
    """Train on the 200 clean scenes of the validation set, measure on those of the test set."""
    given = {
        "dataset": "v",
        "heldout": "t",
        "out": out,
        "resolution": 32,
        "training": {"max_train_steps": 60},
    } | changed
    return run(HeadConfig.model_validate(given))


@pytest.mark.slow
def test_a_head_is_trained_twice_to_the_same_bytes_and_changes_no_store(
    trained_store: TrainedStore, tmp_path: Path
) -> None:
    before = checksum(trained_store.url)
    first, second = (train(tmp_path / name) for name in ("one.safetensors", "two.safetensors"))
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    assert first.sha256 == second.sha256
    assert checksum(trained_store.url) == before
    _, record = load_head(tmp_path / "one.safetensors")
    assert round(record.heldout_auc, 4) == first.heldout_auc > LEAST_AUC
    assert (record.n_heldout, record.resolution, record.dataset, record.heldout) == (64, 32, "v", "t")


@pytest.mark.slow
def test_what_is_held_out_is_never_trained_on(
    trained_store: TrainedStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a second dataset some captions are held out, and with the same dataset twice nothing would be left."""
    monkeypatch.setattr(image_text_head, "_ONE_IN", 4)  # A tenth of so few would be refused.
    report = train(tmp_path / "head.safetensors", dataset="scenes", heldout=None)
    with open_store().connect() as connection:
        n_pairs = connection.execute(text("SELECT count(*) FROM alchemist.samples")).scalar_one()
    assert 0 < report.n_heldout < report.n_train < n_pairs
    with pytest.raises(DataError, match="v has 0 different captions to train on, but at least 20 are needed"):
        train(tmp_path / "none.safetensors", heldout="v")


@pytest.mark.slow
def test_a_head_that_learnt_nothing_is_not_written(trained_store: TrainedStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^heldout_auc of .* and must be above {LEAST_AUC}"):
        train(tmp_path / "weak.safetensors", training={"max_train_steps": 1, "learning_rate": 1e-9})
    assert not (tmp_path / "weak.safetensors").exists()


@pytest.mark.slow
def test_a_changed_head_is_refused_by_the_field_s_name(scored_store: TrainedStore, tmp_path: Path) -> None:
    select_subset()
    given = {"subset": "s", "arms": "subset,random", "model": {"max_train_steps": 1, "batch_size": 32}}
    train_downstream(TrainDownstreamConfig.model_validate(given))
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    pinned = train(one).sha256
    train(other, training={"max_train_steps": 60, "seed": 1})
    (tmp_path / "mine.toml").write_text(CONTRACT)

    def measure(weights: Path | None) -> EvaluateResult:
        return evaluate(EvaluateConfig(subset="s", protocol=str(tmp_path / "mine.toml"), weights=weights))

    with pytest.raises(ConfigError, match="requires --weights: the file that alchemist image-text-head writes"):
        measure(None)
    first = measure(one)
    assert (first.metric, first.n_measured, first.means.keys()) == (TITLE, 2, {"subset", "random"})
    assert all(-1 <= value <= 1 for value in first.means.values())
    assert measure(one).n_reused == 2
    with pytest.raises(ConfigError, match=rf"^weights_sha256 is '.*', but protocol mine, .* has '{pinned}'"):
        measure(other)
    (tmp_path / "mine.toml").write_text(CONTRACT.replace("n_images", f'weights_sha256 = "{"0" * 64}"\nn_images'))
    with pytest.raises(ConfigError, match=rf"^weights_sha256 is '{pinned}', but the protocol's file has '0000"):
        measure(one)
