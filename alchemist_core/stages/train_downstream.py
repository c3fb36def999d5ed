"""Train a text-to-image model on a subset and on its controls: same model, same initialisation, same epochs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.config import BARE_WORD, Command, Config, Result, Seeds, fingerprint
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import FEATURE_CACHE, artifact_path, folder_sha256, require_artifact
from alchemist_core.project import of_version
from alchemist_core.report.arm_names import ORACLE, ArmNames, arm_title
from alchemist_core.selection.keys import Domain, Noise
from alchemist_core.selection.sampler import sample_members
from alchemist_core.selection.strategies import Random
from alchemist_core.stages.arm_samples import ArmSamples
from alchemist_core.stages.collective import execute_together, hold_together
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, count_processes
from alchemist_core.stages.loss_ranking import MINUS_LOSS, LossRanking, require_validation
from alchemist_core.store import models
from alchemist_core.store.eligible import EligibleSamples
from alchemist_core.store.manifests import find_hashes, hash_rows, read_manifest
from alchemist_core.store.registry import find_dataset
from alchemist_core.store.samples import read_first_locations, read_taken_down, read_training_samples
from alchemist_core.store.snapshots import reload_snapshot
from alchemist_core.store.subsets import (
    VERSION_TEXT,
    SubsetRater,
    SubsetRow,
    choose_version,
    rater_of_subset,
    require_tokenizer,
    store_members,
)
from alchemist_core.subsets.selected import load_manifest
from alchemist_core.training.config import DownstreamConfig
from alchemist_core.training.pinning import before_hashes, pin, without_places
from alchemist_core.training.sample_reading import StoredSamples

VALIDATION, JOINED = "validation", "subset+validation"
ARMS = ("subset", "random", VALIDATION, JOINED, "oracle", "full")
# The kind of samples that the oracle arm trains on.
INFORMATIVE = "informative"
# Arm oracle+plain adds plain samples where there are too few informative ones.
FILLED = f"{ORACLE}+"


@dataclass(frozen=True, slots=True)
class Arms:
    """Chooses the training samples of each arm of one subset."""

    subset: SubsetRow
    eligible: EligibleSamples
    truth: Path | None
    # Returns the hashes of the rater's validation samples; only the arms with validation samples call it.
    read_validation: Callable[[], NDArray[np.uint8]] | None = None

    def samples(self, arm: str, seed: int) -> ArmSamples:
        """Return the samples that an arm trains on; the subset's have the version's weights.

        Raises:
            ConfigError: The arm is unknown, or it is an oracle and no truth file was given.
        """
        if arm == "subset":
            path = artifact_path(self.subset.manifest_uri)
            manifest = read_manifest(path, sha256=self.subset.manifest_sha256)
            return ArmSamples(manifest.pair_hash_K32, manifest.weight_K)
        if arm == JOINED:
            return self.samples("subset", seed).joined(self.samples(VALIDATION, seed))
        return ArmSamples(self._control(arm, seed))

    def _control(self, arm: str, seed: int) -> NDArray[np.uint8]:
        """Return the hashes (32 bytes each) of a control's samples; a repeated hash is trained on twice per epoch."""
        match arm:
            case "random":
                return self._draw(np.arange(len(self.eligible)), self.subset.n_reads, seed, Domain.RANDOM_CONTROL)
            case "validation":
                assert self.read_validation is not None
                return self.read_validation()
            case _ if arm == ORACLE:
                return self._oracle(seed)
            case "full":
                return self.eligible.pair_hash_N32
            case _ if arm.startswith(FILLED):
                return self._oracle(seed, filling=arm.removeprefix(FILLED))
            case _:
                raise ConfigError(
                    f"--arms {arm_title(arm)} is unknown. Arms: {', '.join(ARMS)}, {MINUS_LOSS}, oracle+KIND."
                )

    def _draw(self, among: NDArray[np.int64], k: int, seed: int, domain: Domain) -> NDArray[np.uint8]:
        rank_N, hash_N = np.zeros(len(among)), self.eligible.pair_hash64_N[among]
        drawn = sample_members(rank_N, hash_N, k=k, strategy=Random(), noise=Noise(seed, domain))
        return self.eligible.pair_hash_N32[among[drawn]]

    def _oracle(self, seed: int, filling: str | None = None) -> NDArray[np.uint8]:
        """Return as many informative samples as an epoch of the subset reads; if there are fewer, repeat them evenly.

        With a filling, samples of that kind fill the missing places first, and informative ones are repeated for the rest.
        """
        informative = self._of_kind(INFORMATIVE)
        n_members = self.subset.n_reads
        others = hash_rows([])
        if filling is not None:
            among = self._of_kind(filling)
            n_filled = min(max(0, n_members - len(informative)), len(among))
            others = self._draw(among, n_filled, seed, Domain.ORACLE_FILLING) if n_filled else others
        n_whole, n_rest = divmod(n_members - len(others), len(informative))
        every = np.tile(self.eligible.pair_hash_N32[informative], (n_whole, 1))
        rest = self._draw(informative, n_rest, seed, Domain.ORACLE_CONTROL) if n_rest else hash_rows([])
        return np.concatenate([every, rest, others])

    def _of_kind(self, kind: str) -> NDArray[np.int64]:
        """Return the indices of the eligible samples of a kind."""
        if self.truth is None:
            raise ConfigError(
                "--arms oracle requires --truth FILE, the truth.parquet of a synthetic corpus: it lists the kind of each sample."
            )
        rows = _read_truth(self.truth)
        wanted = {row["pair_hash"] for row in rows if row["kind"] == kind}
        if not wanted:
            kinds = ", ".join(sorted({row["kind"] for row in rows}))
            raise ConfigError(f"--truth {self.truth} has no sample of kind {kind!r}. Its kinds: {kinds}.")
        among = np.flatnonzero(find_hashes(hash_rows(sorted(wanted)), self.eligible.pair_hash_N32) >= 0)
        if not len(among):
            raise ConfigError(
                f"--truth {self.truth}: none of its {len(wanted):,} {kind} samples is eligible. Give the file of this subset's corpus."
            )
        return among


def read_validation(engine: Engine, rater: SubsetRater) -> NDArray[np.uint8]:
    """Return the hashes of the validation samples that a rater was trained with, without those taken down since.

    Raises:
        ConfigError: The rater names no validation dataset, or none of its samples is readable.
    """
    name = require_validation(rater, VALIDATION)
    members = read_training_samples(engine, find_dataset(engine, name).dataset_id).hashes("pair_hash")
    if not len(members):
        raise ConfigError(f"--arms validation: validation dataset {name} has no readable sample. Restore its shards.")
    return members


def _read_truth(path: Path) -> list[dict[str, Any]]:
    """Read the kind of each sample of a synthetic corpus."""
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=["pair_hash", "kind"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        why = str(error).partition("\n")[0]
        raise ConfigError(
            f"--truth {path} is not a Parquet file with the columns pair_hash and kind ({why}). "
            "Give the truth.parquet of a synthetic corpus."
        ) from error
    return rows


def _identity(what: dict[str, Any]) -> str:
    """Return the identity of a model: a hash of its training inputs, by the content of weights and the former names of fields."""
    return fingerprint({**what, "model": without_places(DownstreamConfig, what["model"])})


class TrainDownstreamConfig(Config):
    """Arms, seeds and the model to train."""

    subset: str = Field(..., description="Name of the subset", json_schema_extra=BARE_WORD)
    version: int | None = Field(None, ge=1, description=VERSION_TEXT)
    arms: ArmNames = Field(
        ("subset", "random"),
        description="Arms, separated by commas: subset, random (same size), minus_loss (ranked without a rater, by a low loss "
        "under a model that is trained on the validation dataset), validation (the rater's validation dataset alone), subset+validation "
        "(both together), oracle (samples known to be good), full. All but full are trained for the same number of steps",
    )
    seeds: Seeds = Field(
        (0,), description="Seeds, separated by commas; with the same seed all arms start from the same weights"
    )
    truth: Path | None = Field(
        None, description="truth.parquet of a synthetic corpus, with the kind of each sample; required by arm oracle"
    )
    model: DownstreamConfig = Field(default_factory=DownstreamConfig, description="Model and training options")


class TrainDownstreamResult(Result):
    """Models of the arms."""

    subset: str
    n_trained: int
    n_reused: int
    n_processes: int = 1
    arms: list[str]
    seeds: list[int]
    # By seed, then by arm, in the order of the options.
    identities: list[str]


def run(config: TrainDownstreamConfig, *, slot: int = 0) -> TrainDownstreamResult:
    """Train every arm with every seed; skip the models that exist."""
    return execute_together(
        "train_downstream",
        config,
        lambda stage_run: Comparison(config).train(stage_run),
        TrainDownstreamResult,
        slot=slot,
    )


class Comparison:
    """Trains the arms of one subset one after another; stores each model when it is finished."""

    def __init__(self, config: TrainDownstreamConfig) -> None:
        self.config, self.model = config, pin(config.model)

    def train(self, stage_run: StageRun) -> TrainDownstreamResult:
        """Train the missing models.

        Raises:
            ConfigError: A scorer ranked the subset, and the models need a rater's tokenizer.
        """
        config, n_trained, identities = self.config, 0, []
        subset = choose_version(stage_run.engine, config.subset, version=config.version)
        if stage_run.is_leader:
            # A takedown must find the models of unpublished versions too.
            store_members(stage_run.engine, subset.subset_id, load_manifest(stage_run.engine, subset))
        rater = rater_of_subset(stage_run.engine, subset)
        if self.model.flux is None:
            require_tokenizer(rater)
        eligible = reload_snapshot(stage_run.engine, subset.snapshot_id).pairs.open_pairs()
        arms = Arms(subset, eligible, config.truth, lambda: read_validation(stage_run.engine, rater))
        for seed in config.seeds:
            for arm in config.arms:
                samples = self._samples(stage_run, arms, rater, arm=arm, seed=seed)
                what = self._identify(subset, rater, arm=arm, seed=seed, samples=samples)
                identities.append(self._find_identity(stage_run, what))
                if models.find_model(stage_run.engine, identities[-1]) is None:
                    # Always claim the device before the model's lease, so that two runs cannot wait for each other.
                    hold_device(stage_run)
                # All subsets share arm full, so another run may be training the same model.
                with hold_together(stage_run, f"model:{identities[-1]}"):
                    n_trained += self._train_arm(
                        stage_run, subset, rater, what, identity=identities[-1], samples=samples
                    )
        return TrainDownstreamResult(
            subset=subset.title,
            n_trained=n_trained,
            n_reused=len(identities) - n_trained,
            n_processes=count_processes(),
            arms=list(config.arms),
            seeds=list(config.seeds),
            identities=identities,
        )

    def _samples(self, stage_run: StageRun, arms: Arms, rater: SubsetRater, *, arm: str, seed: int) -> ArmSamples:
        if arm != MINUS_LOSS:
            return arms.samples(arm, seed)
        ranking = LossRanking(stage_run, arms.subset, rater, lambda hashes: self._pairs(stage_run, rater, hashes))
        return ranking.members(self._model_config("subset", subset=arms.subset, seed=seed))

    def _model_config(self, arm: str, *, subset: SubsetRow, seed: int) -> DownstreamConfig:
        """Return the training options of an arm. Its samples may be more or fewer than the subset's, but its steps are as many."""
        given: dict[str, Any] = {"seed": seed}
        if arm in (VALIDATION, JOINED):
            given["max_train_steps"] = self.model.steps(subset.n_reads)
        return self.model.model_copy(update=given)

    def _identify(
        self, subset: SubsetRow, rater: SubsetRater, *, arm: str, seed: int, samples: ArmSamples
    ) -> dict[str, Any]:
        return {
            "model": self._model_config(arm, subset=subset, seed=seed).model_dump(mode="json"), "arm": arm, "rater": rater.name,
            "members": samples.sha256(), "subset": None if arm == "full" else subset.spec_hash,
        }  # fmt: skip

    def _find_identity(self, stage_run: StageRun, what: dict[str, Any]) -> str:
        """Return the identity of a model; a model from before weights were hashed keeps its own, in which paths take their place."""
        own = {name: what["model"][name] for name in ("seed", "max_train_steps")}
        given = before_hashes(self.config.model, self.model).model_copy(update=own)
        former = _identity({**what, "model": given.model_dump(mode="json")})
        return _identity(what) if models.find_model(stage_run.engine, former) is None else former

    def _train_arm(
        self,
        stage_run: StageRun,
        subset: SubsetRow,
        rater: SubsetRater,
        what: dict[str, Any],
        *,
        identity: str,
        samples: ArmSamples,
    ) -> bool:
        arm, seed = what["arm"], what["model"]["seed"]
        if models.find_model(stage_run.engine, identity) is not None:
            return False
        from alchemist_core.training.downstream_training import train_downstream  # noqa: PLC0415  torch only when there is work
        from alchemist_core.training.samples import WeightedSamples  # noqa: PLC0415  as above

        folder = artifact_path(f"models/{identity}")
        title = f"{arm_title(arm)} of {subset.name}, seed {seed}"
        tokenizer_from = require_artifact(rater.checkpoint_uri, rater.checkpoint_sha256)
        pairs = WeightedSamples(self._pairs(stage_run, rater, samples.pair_hash_M32), samples.weight_M)
        model = self._model_config(arm, subset=subset, seed=seed)
        result = train_downstream(
            model, pairs, tokenizer_from=tokenizer_from, out=folder, cache=artifact_path(FEATURE_CACHE),
            on_progress=lambda done, total, note: stage_run.report(done, total, f"{title} {note}"),
        )  # fmt: skip
        if stage_run.is_leader:
            models.store_model(
                stage_run.engine, identity_hash=identity, arm=arm, subset_id=None if arm == "full" else subset.subset_id,
                retention=1.0 if arm == "full" else subset.retention, seed=seed, config=what, n_samples=samples.n_reads,
                n_steps=int(result["n_steps"]), members_sha256=what["members"], checkpoint_uri=f"models/{identity}",
                checkpoint_sha256=folder_sha256(folder), run_id=stage_run.run_id,
            )  # fmt: skip
        return True

    def _pairs(self, stage_run: StageRun, rater: SubsetRater, members: NDArray[np.uint8]) -> StoredSamples:
        rows = read_first_locations(stage_run.engine, members)
        place_K = find_hashes(rows.hashes("pair_hash"), members)
        if (missing_M32 := members[place_K < 0]).size:
            raise _unreadable(stage_run.engine, missing_M32, n_members=len(members))
        flux = self.config.model.flux
        if flux is None:
            return StoredSamples.as_read_by(rater.config["training"], rows.take(place_K), stage_run.report)
        # FLUX-mini has encoders of its own, and does not read the rater's images.
        return StoredSamples(rows.take(place_K), flux.resolution, stage_run.report)


def _unreadable(engine: Engine, missing_M32: NDArray[np.uint8], *, n_members: int) -> DataError:
    """Return the error that says why samples of an arm cannot be read. Controls are drawn as of the selection of the version."""
    missing, taken_down = [one.tobytes() for one in missing_M32], set(read_taken_down(engine))
    lost = [pair_hash for pair_hash in missing if pair_hash not in taken_down]
    if lost:
        return DataError(
            f"{len(lost):,} of {n_members:,} members have no readable location, the first is sample {lost[0].hex()[:16]}. "
            "Restore the missing shards; list them: alchemist shard list."
        )
    return DataError(
        f"{len(missing):,} of {n_members:,} samples of the arm were taken down after the version was selected, the first is sample "
        f"{missing[0].hex()[:16]}. Select again, and train on the new version: its arms leave them out."
    )


def _next(config: TrainDownstreamConfig, _result: TrainDownstreamResult) -> str:
    return f"alchemist evaluate {of_version(config.subset, config.version)}"


COMMANDS = {"": Command(TrainDownstreamConfig, run, _next)}
