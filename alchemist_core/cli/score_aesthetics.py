"""Score the images of a dataset with CLIP and a linear aesthetic head; `select --rank-by aesthetic` ranks by these scores."""

import numpy as np
from pydantic import Field

from alchemist_core.config import Command, Config, Result
from alchemist_core.errors import ConfigError
from alchemist_core.scorers.aesthetic import AestheticOptions, AestheticScore
from alchemist_core.scorers.scorer import Batch
from alchemist_core.settings import load_settings
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.samples import samples_without_aesthetic, store_aesthetic
from alchemist_core.training.sample_reading import StoredSamples


class AestheticConfig(Config):
    """Which images to score."""

    dataset: str = Field(..., description="Dataset; only images without an aesthetic score are scored")


class AestheticResult(Result):
    """Images scored, and images that cannot be decoded, which `score` quarantines."""

    n_judged: int
    n_unreadable: int


def run(config: AestheticConfig) -> AestheticResult:
    """Score the images that have no aesthetic score; an interrupted run resumes.

    Raises:
        ConfigError: No encoder or no head is configured.
    """
    return execute("aesthetic", config, lambda stage_run: score_images(config, stage_run), AestheticResult)


def score_images(config: AestheticConfig, stage_run: StageRun) -> AestheticResult:
    """Score images in batches and store each batch."""
    settings = load_settings()
    if settings.aesthetic_clip is None or settings.aesthetic_head is None:
        raise ConfigError(
            "No aesthetic model is configured. Set ALCHEMIST_AESTHETIC_CLIP to the folder of a CLIP model, and "
            "ALCHEMIST_AESTHETIC_HEAD to a safetensors file with weight and bias."
        )
    engine = stage_run.engine
    dataset = find_dataset(engine, config.dataset)
    hold_device(stage_run)
    from alchemist_core.training.launching import own_device  # noqa: PLC0415  imports torch

    # In fp32, because its scores do not name a number format.
    options = AestheticOptions(model=str(settings.aesthetic_clip), head=str(settings.aesthetic_head), half=False)
    scorer = AestheticScore(options, str(own_device()))
    assert scorer.image_side is not None
    n_judged = n_wanted = n_seen = 0
    for rows, n_left in samples_without_aesthetic(engine, dataset.dataset_id):
        ids = np.array([row.sample_id for row in rows], np.int64)
        for place_M, image_MHWC in StoredSamples(rows, scorer.image_side, lambda *_: None).read(np.arange(len(rows))):
            stage_run.require_leases()
            n_judged += store_aesthetic(engine, ids[place_M], scorer.score(Batch(image_MHWC, [""] * len(image_MHWC))))
        n_wanted, n_seen = n_wanted + len(rows), n_seen + len(rows)
        stage_run.report(n_seen, n_seen + n_left)
    return AestheticResult(n_judged=n_judged, n_unreadable=n_wanted - n_judged)


COMMANDS = {"": Command(AestheticConfig, run)}
