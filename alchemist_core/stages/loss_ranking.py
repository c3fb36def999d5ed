"""Arm minus_loss, a control without a rater: rank samples by a low loss L(θ_val; x) of a model trained on validation data only.

If a rater is not better than this ranking, training it is not worth the cost. The losses are computed once and stored as an artifact.
Letters: N eligible samples · K members.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alchemist_core.config import fingerprint
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import FEATURE_CACHE, artifact_path, atomic_write, require_artifact
from alchemist_core.selection.ranks import fit_rank_scale
from alchemist_core.stages.arm_samples import ArmSamples
from alchemist_core.stages.collective import hold_together, wait_for_all
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun
from alchemist_core.store.eligible import EligibleSamples
from alchemist_core.store.manifests import hashes_sha256
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.samples import read_training_samples
from alchemist_core.store.subsets import SubsetRater, SubsetRow
from alchemist_core.subsets.selected import reselect, select_members
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.pinning import without_places

MINUS_LOSS = "minus_loss"
"""Name of the arm."""

ReadSamples = Callable[[NDArray[np.uint8]], Any]


class LossRanking:
    """Selects by the ranking by loss, with the subset's own policy, size and seed."""

    def __init__(self, stage_run: StageRun, subset: SubsetRow, rater: SubsetRater, read: ReadSamples) -> None:
        self._stage_run, self._subset, self._rater, self._read = stage_run, subset, rater, read

    def members(self, config: DownstreamConfig) -> ArmSamples:
        """Return the selected samples, weighted as the subset's policy demands; the sample with the lowest loss has rank 0."""
        drawn = reselect(self._stage_run.engine, self._subset)
        pairs = drawn.snapshot.pairs
        score_K = -self._losses(pairs.open_pairs(), config)
        rank_N = np.ones(len(pairs))
        rank_N[pairs.eligible_mask()] = fit_rank_scale(score_K).rank(score_K)
        # Without the threshold, which the rater sets: this arm ranks without it.
        again = select_members(
            drawn.policy.without_threshold(),
            replace(drawn.snapshot, rank_N=rank_N),
            k=self._subset.n_reads,
            ties_by_name=drawn.ties_by_name,
        )
        return ArmSamples(pairs.pair_hash_N32[again.member_K], again.weight_K)

    def _losses(self, eligible: EligibleSamples, config: DownstreamConfig) -> NDArray[np.float64]:
        engine = self._stage_run.engine
        dataset = find_dataset(engine, require_validation(self._rater, MINUS_LOSS))
        rows = read_training_samples(engine, dataset.dataset_id)
        validation = rows.hashes("pair_hash")
        trained = fingerprint(
            [without_places(DownstreamConfig, config.as_json()), self._rater.name, hashes_sha256(validation)]
        )
        path = artifact_path(f"loss_rankings/{trained}-{eligible.sha256()[:16]}.npy")
        if not path.exists():
            hold_device(self._stage_run)
        # Subsets of one rater share the model; those with the same eligible samples share the losses.
        with hold_together(self._stage_run, f"model:validation-{trained}"):
            if not path.exists():
                model = self._train(f"models/validation-{trained}", validation, config)
                if self._stage_run.is_leader:
                    _measure(path, model, self._read(eligible.pair_hash_N32), n_wanted=len(eligible))
            wait_for_all()
        losses: NDArray[np.float64] = np.load(path)
        return losses

    def _train(self, uri: str, validation: NDArray[np.uint8], config: DownstreamConfig) -> Path:
        from alchemist_core.training.downstream_training import train_downstream  # noqa: PLC0415  torch only when there is work

        tokenizer_from = require_artifact(self._rater.checkpoint_uri, self._rater.checkpoint_sha256)
        train_downstream(
            config, self._read(validation), tokenizer_from=tokenizer_from, out=artifact_path(uri),
            on_progress=self._stage_run.report, cache=artifact_path(FEATURE_CACHE),
        )  # fmt: skip
        return artifact_path(uri)


def require_validation(rater: SubsetRater, arm: str) -> str:
    """Return the name of a rater's validation dataset, which an arm learns from.

    Raises:
        ConfigError: The rater names none, such as a scorer.
    """
    name: str | None = rater.config.get("validation")
    if name is None:
        raise ConfigError(
            f"--arms {arm}: rater {rater.name} was trained without a validation dataset. Omit the arm, or select by another rater."
        )
    return name


def _measure(path: Path, model: Path, pairs: Any, *, n_wanted: int) -> None:
    from alchemist_core.metrics.heldout import heldout_losses  # noqa: PLC0415  as above

    loss_N = heldout_losses(model, pairs, cache=artifact_path(FEATURE_CACHE)).astype(np.float64)
    if len(loss_N) < n_wanted:
        raise DataError(
            f"Arm {MINUS_LOSS} cannot rank {n_wanted - len(loss_N):,} of {n_wanted:,} samples: they have scores, but their images are not "
            "readable. Restore their shards as they were ingested, or take the samples down."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.save(file, loss_N)
