"""Fig. 3: what happens to each band of ranks while the proxies train. A rater's training is taken again, and its pairs are followed.

Letters: N training pairs · M of them that are followed.
"""

from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from alchemist_core.config import Report, Seeds, fingerprint
from alchemist_core.errors import DataError
from alchemist_core.experiments.config import TrialsConfig
from alchemist_core.experiments.trial import Trial
from alchemist_core.files import FEATURE_CACHE, artifact_path, require_artifact
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.stages.train_rater import TrainRaterConfig, read_both
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import RaterRow
from alchemist_core.store.snapshots import take_snapshot
from alchemist_core.telemetry import say
from alchemist_core.training.sample_reading import StoredSamples

NAME = "dynamics"
TITLE = "What do pairs of each rank do while the proxy trains? (Fig. 3)"
Kind = Literal["alignment", "loss"]


class DynamicsConfig(TrialsConfig):
    """Whose training is followed, and how closely."""

    name: str = Field(NAME, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$", description="Name of the result")
    kind: Kind = Field("alignment", description="Kind of the raters whose ranks make the bands: alignment or loss")
    seeds: Seeds = Field((3,), min_length=1, description="Seeds; each is a training that is followed")
    n_followed: int = Field(10_000, ge=10, le=1_000_000, description="Training pairs that are followed, or all")
    n_gradients: int = Field(
        2_000, ge=10, le=1_000_000, description="Of these, pairs whose gradients are measured: a backward each a mark"
    )
    n_bands: int = Field(5, ge=2, le=8, description="Bands of rank, each a line of the figures")
    n_marks: int = Field(12, ge=1, le=1000, description="Marks at which is measured, beside the one before any step")

    @model_validator(mode="after")
    def _one_rater_is_followed_once(self) -> "DynamicsConfig":
        if self.rater is not None and len(self.seeds) > 1:
            message = f"--rater {self.rater} names one training: give one seed, or leave the rater out"
            raise ValueError(message)
        return self

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on: the stored name stands for it."""
        return {"experiment": NAME, **self.model_dump(mode="json", exclude={"name"})}


class FollowedReport(Report):
    """One training that was followed."""

    largest_difference: float
    marks: list[dict[str, Any]]


def follow(config: DynamicsConfig) -> dict[str, Any]:
    """Follow the training of every seed; what was measured is found again."""
    return {"courses": [{"seed": seed, **_follow_seed(config, seed)} for seed in config.seeds]}


def choose_followed(rank_N: NDArray[np.float64], config: DynamicsConfig, seed: int) -> dict[str, Any]:
    """Draw which pairs are followed, and of each band as many whose gradients are measured.

    Args:
        rank_N: Each training pair's rank; NaN where a pair has none.
        config: How many, in how many bands.
        seed: Seed of the draw.

    Raises:
        DataError: A band has no pair.
    """
    among = np.flatnonzero(~np.isnan(rank_N))
    place_M = np.sort(np.random.default_rng(seed).permutation(among)[: config.n_followed])
    band_M = np.minimum((rank_N[place_M] * config.n_bands).astype(np.int64), config.n_bands - 1)
    has_gradient_M = np.zeros(len(place_M), bool)
    # A generator of its own: how many gradients are measured does not change who is followed.
    order_M = np.random.default_rng(seed + 1).permutation(len(place_M))
    for band in range(config.n_bands):
        of_band = order_M[band_M[order_M] == band]
        if not len(of_band):
            raise DataError(
                f"Of {len(place_M):,} followed pairs none is of band {band + 1} of {config.n_bands}: the scores have too "
                "few different values, or --n-bands is too large."
            )
        has_gradient_M[of_band[: max(1, config.n_gradients // config.n_bands)]] = True
    return {"place_N": place_M, "band_N": band_M, "has_gradient_N": has_gradient_M}


def _follow_seed(config: DynamicsConfig, seed: int) -> dict[str, Any]:
    trial = Trial(config, seed)
    trial.prepare()
    rater = trial.rater(config.kind)
    trained = TrainRaterConfig.from_stored(rater.config)
    rows, _ = read_both(trained, open_store())
    hashes = [bytes(row.pair_hash) for row in rows["dataset"]]
    chosen = choose_followed(_ranks(rater, trained.dataset, hashes), config, seed)
    n_in_band = np.bincount(chosen["band_N"], minlength=config.n_bands).tolist()
    say(f"seed {seed}: rater {rater.name}, {len(chosen['place_N']):,} pairs are followed, by bands {n_in_band}")

    def work(stage_run: StageRun) -> FollowedReport:
        return _follow_training(config, stage_run, rater, rows, chosen)

    alone = config.model_copy(update={"seeds": (seed,)})
    followed = execute("follow_training", alone, work, FollowedReport)
    return {
        "rater": rater.name, "n_in_band": n_in_band, "n_gradients": int(chosen["has_gradient_N"].sum()),
        **followed.model_dump(),
    }  # fmt: skip


def _follow_training(
    config: DynamicsConfig, stage_run: StageRun, rater: RaterRow, rows: dict[str, Any], chosen: dict[str, Any]
) -> FollowedReport:
    hold_device(stage_run)
    from alchemist_core.training.followed_training import Followed, follow_training  # noqa: PLC0415  torch only when something is followed
    from alchemist_core.training.samples import JoinedSamples  # noqa: PLC0415

    side = TrainRaterConfig.from_stored(rater.config).training.resolution
    validation, train = (StoredSamples(rows[name], side, stage_run.report) for name in ("validation", "dataset"))
    # Who is followed is in the name: after a takedown it may be others.
    who = fingerprint([config.n_marks, *(values.tolist() for values in chosen.values())])
    course = follow_training(
        require_artifact(rater.checkpoint_uri, rater.checkpoint_sha256), JoinedSamples(validation, train),
        Followed(**chosen, n_bands=config.n_bands, n_marks=config.n_marks),
        out=artifact_path(f"dynamics/{rater.name}-{who[:8]}"), cache=artifact_path(FEATURE_CACHE), report=stage_run.report,
    )  # fmt: skip
    return FollowedReport(largest_difference=course.largest_difference, marks=[asdict(mark) for mark in course.marks])


def _ranks(rater: RaterRow, dataset: str, hashes: list[bytes]) -> NDArray[np.float64]:
    snapshot = take_snapshot(open_store(), rater, [dataset], should_store=False)
    ranks = {snapshot.pairs.pair_hash_N32[i].tobytes(): float(rank) for i, rank in enumerate(snapshot.rank_N)}
    return np.array([ranks.get(pair_hash, np.nan) for pair_hash in hashes])
