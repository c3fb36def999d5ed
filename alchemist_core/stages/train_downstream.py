"""Train a text-to-image model on a subset and on its controls: same model, same initialisation, same epochs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from alchemist_core.config import Command, Config, Result, Seeds, Words, fingerprint, former_names
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import FEATURE_CACHE, artifact_path, folder_sha256, require_artifact
from alchemist_core.selection.draw import draw_members
from alchemist_core.selection.keys import Domain, Noise
from alchemist_core.selection.strategies import Random
from alchemist_core.stages.collective import execute_together, hold_together
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun
from alchemist_core.stages.loss_ranking import MINUS_LOSS, LossRanking
from alchemist_core.store import models
from alchemist_core.store.eligible import EligibleSamples
from alchemist_core.store.manifests import list_hashes, members_sha256, read_manifest
from alchemist_core.store.samples import read_first_locations
from alchemist_core.store.snapshots import reload_snapshot
from alchemist_core.store.subsets import (
    VERSION_TEXT,
    SubsetRater,
    SubsetRow,
    choose_version,
    rater_of_subset,
    store_members,
)
from alchemist_core.subsets.selected import load_manifest
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.sample_reading import StoredSamples

ARMS = ("subset", "random", "planted", "full")
PLANTED, WORTHY = "planted", "informative"
# planted+plain: where the undamaged pairs are too few, plain ones fill the rest.
FILLED = f"{PLANTED}+"


@dataclass(frozen=True, slots=True)
class Arms:
    """What the arms of one subset are drawn from."""

    subset: SubsetRow
    eligible: EligibleSamples
    truth: Path | None

    def members(self, arm: str, seed: int) -> list[bytes]:
        """Return the pair hashes that an arm trains on; a pair that stands twice is seen twice an epoch.

        Raises:
            ConfigError: If the arm is unknown, or planted and the truth is not given.
        """
        match arm:
            case "subset":
                return read_manifest(
                    artifact_path(self.subset.manifest_uri), sha256=self.subset.manifest_sha256
                ).pair_hashes()
            case "random":
                return self._draw(np.arange(len(self.eligible)), self.subset.n_samples, seed, Domain.RANDOM_CONTROL)
            case "planted":
                return self._planted(seed)
            case "full":
                return list_hashes(self.eligible.pair_hash_N32)
            case _ if arm.startswith(FILLED):
                return self._planted(seed, filling=arm.removeprefix(FILLED))
            case _:
                raise ConfigError(f"--arms {arm}: unknown. Arms: {', '.join(ARMS)}, {FILLED}KIND.")

    def _draw(self, among: NDArray[np.int64], k: int, seed: int, domain: Domain) -> list[bytes]:
        rank_N, hash_N = np.zeros(len(among)), self.eligible.pair_hash64_N[among]
        drawn = draw_members(rank_N, hash_N, k=k, strategy=Random(), noise=Noise(seed, domain))
        return list_hashes(self.eligible.pair_hash_N32[among[drawn]])

    def _planted(self, seed: int, filling: str | None = None) -> list[bytes]:
        """Draw as many undamaged pairs as the subset has; where there are fewer, each is repeated as evenly as can be.

        With a filling, pairs of that kind are drawn first for the places that are left, and what they leave is repeated.
        """
        worthy = self._of_kind(WORTHY, seed)
        n_places = self.subset.n_samples
        others: list[bytes] = []
        if filling is not None:
            among = self._of_kind(filling, seed)
            n_filled = min(max(0, n_places - len(worthy)), len(among))
            others = self._draw(among, n_filled, seed, Domain.PLANTED_FILLING) if n_filled else []
        n_whole, n_rest = divmod(n_places - len(others), len(worthy))
        every = list_hashes(self.eligible.pair_hash_N32[worthy])
        return every * n_whole + (self._draw(worthy, n_rest, seed, Domain.PLANTED_CONTROL) if n_rest else []) + others

    def _of_kind(self, kind: str, seed: int) -> NDArray[np.int64]:
        """Return the places of the eligible pairs of a kind."""
        if self.truth is None:
            raise ConfigError(
                "--arms planted needs --truth FILE: the Parquet file of a drawn corpus that says what each pair is worth."
            )
        rows = _read_truth(self.truth)
        wanted = {row["pair_hash"] for row in rows if row["kind"] == kind}
        if not wanted:
            kinds = ", ".join(sorted({row["kind"] for row in rows}))
            raise ConfigError(f"--truth {self.truth}: it knows no pair of kind {kind!r}. Its kinds: {kinds}.")
        among = [i for i, pair_hash in enumerate(self.members("full", seed)) if pair_hash in wanted]
        if not among:
            raise ConfigError(
                f"--truth {self.truth}: none of its {len(wanted):,} {kind} pairs is eligible. Is it another corpus's?"
            )
        return np.array(among, dtype=np.int64)


def _read_truth(path: Path) -> list[dict[str, Any]]:
    """Read what each pair of a synthetic corpus is worth."""
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=["pair_hash", "kind"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        why = str(error).partition("\n")[0]
        raise ConfigError(
            f"--truth {path} is not a Parquet file with the columns pair_hash and kind ({why}). Name the truth.parquet of a drawn corpus."
        ) from error
    return rows


def _identity(what: dict[str, Any]) -> str:
    """Hash what a model was trained from, under the names that its fields have always had there."""
    return fingerprint({**what, "model": former_names(DownstreamConfig, what["model"])})


class TrainDownstreamConfig(Config):
    """Which arms to train."""

    subset: str = Field(..., description="Name of the subset")
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)
    arms: Words = Field(
        ("subset", "random"), description="Arms, comma between them: subset, random, minus_loss, planted, full"
    )
    seeds: Seeds = Field((0,), description="Seeds, comma between them; the arms of one seed share their initialisation")
    truth: Path | None = Field(
        None, description="Parquet file of a drawn corpus that says what each pair is worth (arm planted)"
    )
    model: DownstreamConfig = Field(default_factory=DownstreamConfig, description="The model and its training")


class TrainDownstreamResult(Result):
    """What was trained."""

    subset: str
    n_trained: int
    n_reused: int
    arms: list[str]
    seeds: list[int]
    # By seed, then by arm, as they were asked for.
    identities: list[str]


def run(config: TrainDownstreamConfig, *, slot: int = 0) -> TrainDownstreamResult:
    """Train every arm with every seed that does not exist yet."""
    work = Comparison(config).train
    return execute_together("train_downstream", config, work, TrainDownstreamResult, slot=slot)


class Comparison:
    """The arms of one subset, trained one after another; each is stored when it is finished."""

    def __init__(self, config: TrainDownstreamConfig) -> None:
        self.config = config

    def train(self, stage_run: StageRun) -> TrainDownstreamResult:
        """Train what is missing."""
        config, n_trained, identities = self.config, 0, []
        subset = choose_version(stage_run.engine, config.subset, version=config.version)
        if stage_run.is_leader:
            # So that a takedown finds the models of a version that was never published, too.
            store_members(stage_run.engine, subset.subset_id, load_manifest(stage_run.engine, subset))
        rater = rater_of_subset(stage_run.engine, subset)
        arms = Arms(subset, reload_snapshot(stage_run.engine, subset.snapshot_id).pairs.open_pairs(), config.truth)
        for seed in config.seeds:
            for arm in config.arms:
                members = self._members(stage_run, arms, rater, arm=arm, seed=seed)
                what = self._identify(subset, rater, arm=arm, seed=seed, members=members)
                identities.append(_identity(what))
                if models.find_model(stage_run.engine, identities[-1]) is None:
                    # Before the model's own lease, and so in every run: else two could wait for each other.
                    hold_device(stage_run)
                # Full is every subset's arm, and another run may have been asked for it under another name.
                with hold_together(stage_run, f"model:{identities[-1]}"):
                    n_trained += self._train_arm(stage_run, subset, rater, what, members=members)
        return TrainDownstreamResult(
            subset=subset.title,
            n_trained=n_trained,
            n_reused=len(identities) - n_trained,
            arms=list(config.arms),
            seeds=list(config.seeds),
            identities=identities,
        )

    def _members(self, stage_run: StageRun, arms: Arms, rater: SubsetRater, *, arm: str, seed: int) -> list[bytes]:
        if arm != MINUS_LOSS:
            return arms.members(arm, seed)
        ranking = LossRanking(stage_run, arms.subset, rater, lambda hashes: self._pairs(stage_run, rater, hashes))
        return ranking.members(self._model_config(seed))

    def _model_config(self, seed: int) -> DownstreamConfig:
        return self.config.model.model_copy(update={"seed": seed})

    def _identify(
        self, subset: SubsetRow, rater: SubsetRater, *, arm: str, seed: int, members: list[bytes]
    ) -> dict[str, Any]:
        return {
            "model": self._model_config(seed).model_dump(mode="json"), "arm": arm, "rater": rater.name,
            "members": members_sha256(members), "subset": None if arm == "full" else subset.spec_hash,
        }  # fmt: skip

    def _train_arm(
        self, stage_run: StageRun, subset: SubsetRow, rater: SubsetRater, what: dict[str, Any], *, members: list[bytes]
    ) -> bool:
        identity, arm, seed = _identity(what), what["arm"], what["model"]["seed"]
        if models.find_model(stage_run.engine, identity) is not None:
            return False
        from alchemist_core.training.downstream_training import train_downstream  # noqa: PLC0415  torch only when there is work

        folder = artifact_path(f"models/{identity}")
        title = f"{arm} of {subset.name}, seed {seed}"
        tokenizer_from = require_artifact(rater.checkpoint_uri, rater.checkpoint_sha256)
        pairs = self._pairs(stage_run, rater, members)
        result = train_downstream(
            self._model_config(seed), pairs, tokenizer_from=tokenizer_from, out=folder, cache=artifact_path(FEATURE_CACHE),
            on_progress=lambda done, total, note: stage_run.report(done, total, f"{title} {note}"),
        )  # fmt: skip
        if stage_run.is_leader:
            models.store_model(
                stage_run.engine, identity_hash=identity, arm=arm, subset_id=None if arm == "full" else subset.subset_id,
                retention=1.0 if arm == "full" else subset.retention, seed=seed, config=what, n_samples=len(members),
                n_steps=int(result["n_steps"]), members_sha256=what["members"], checkpoint_uri=f"models/{identity}",
                checkpoint_sha256=folder_sha256(folder), run_id=stage_run.run_id,
            )  # fmt: skip
        return True

    def _pairs(self, stage_run: StageRun, rater: SubsetRater, members: list[bytes]) -> StoredSamples:
        rows = read_first_locations(stage_run.engine, sorted(set(members)))
        row_of = {bytes(row.pair_hash): row for row in rows}
        if gone := [pair_hash for pair_hash in members if pair_hash not in row_of]:
            raise DataError(
                f"{len(gone):,} of {len(members):,} members cannot be read, the first is pair {gone[0].hex()[:16]}."
            )
        flux = self.config.model.flux
        side = rater.config["training"]["resolution"] if flux is None else flux.resolution
        return StoredSamples([row_of[pair_hash] for pair_hash in members], side, stage_run.report)


COMMANDS = {"": Command(TrainDownstreamConfig, run, lambda config, _: f"alchemist evaluate --subset {config.subset}")}
