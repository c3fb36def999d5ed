"""Select a subset version from a rank snapshot: exactly k members, a pure function of snapshot, strategy, retention and seed."""

import re
from functools import cached_property
from typing import Any

from pydantic import Field

from alchemist_core.config import WITHOUT_DRY_RUN, Command, Config, Result, Words
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import artifact_path
from alchemist_core.project import next_of_selected
from alchemist_core.selection.config import SelectionPolicy, hash_spec, policy_spec, strategy_spec
from alchemist_core.selection.curves import SelectionCurve
from alchemist_core.selection.rank_window import FittedWindow
from alchemist_core.selection.strategies import Gsample, ShiftGsample
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.statistics import Estimate
from alchemist_core.store.audit import current_actor
from alchemist_core.store.eligible import scale_fingerprint
from alchemist_core.store.engine import open_store
from alchemist_core.store.manifests import Manifest, read_manifest, write_manifest
from alchemist_core.store.rank_windows import (
    describe_worse,
    expected_gain,
    is_worse,
    other_windows,
    resolve_auto,
)
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.store.snapshots import take_snapshot
from alchemist_core.store.subsets import SubsetRow, describe_withdrawal, find_by_spec, store_subset
from alchemist_core.subsets.ablation import describe_ablation
from alchemist_core.subsets.acceptance import resolve_acceptance
from alchemist_core.subsets.preview import describe, dropped_shares
from alchemist_core.subsets.selected import manifest_of, select_members, suits, with_stored_ties

# A plus sign is allowed, because the default name joins datasets by it.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$"


class SelectConfig(Config):
    """Datasets to select from, and the selection policy."""

    dataset: Words = Field(..., description="Training datasets to select from, separated by commas")
    name: str | None = Field(
        None,
        pattern=NAME_PATTERN,
        description="Name of the subset; default: <dataset>-<strategy>-r<percent>",
    )
    rater: str = Field(
        "production", description="Rater whose scores rank the samples: its name, or production, or newest"
    )
    policy: SelectionPolicy = Field(
        default_factory=SelectionPolicy, description="Selection strategy and its parameters"
    )
    rescale: bool = Field(
        False,
        description="Compute the ranks from the current scores instead of the stored rank scale; members may then leave the "
        "subset because their ranks changed",
    )
    dry_run: bool = Field(False, description="Only print what would be selected; store nothing")


class SelectResult(Result):
    """The selection: its members by rank, dataset and night, and its expected gain."""

    name: str
    version: int | None
    is_new: bool
    strategy: str
    retention: float
    n_eligible: int
    n_samples: int
    # Estimated from the mean sample size of each night.
    n_bytes: int
    datasets: dict[str, int]
    crawl_dates: dict[str, int]
    # Members in 20 equal bins of rank, the highest scores first.
    rank_histogram: list[int]
    n_removed: dict[str, int]
    rater: str
    # Hash of the eligible samples.
    eligible_hash: str
    # The tuned rank window that strategy auto used; None without one.
    rank_window: str | None
    # Predicted log of (loss of random / loss of this selection); positive is better. None if the rater was not tuned.
    expected_gain: float | None
    expected_gain_low: float | None
    expected_gain_high: float | None
    # True or False if the whole interval lies above or below 0; None if it contains 0.
    is_better_than_random: bool | None
    manifest_sha256: str
    overlap_with_published: float | None
    # Estimated from the newest downstream training; None before the first one.
    training_hours: float | None
    # How many samples --accept auto or --min-score accepts, and why; None without a threshold.
    accepted: str | None = None
    # With --rank-by A+B: which share of the members stays if one of the scores is left out; None without a fusion.
    fused: str | None = None
    # Which models can be trained on it, if a scorer ranks it; None: all.
    models: str | None = None
    # Samples that an epoch reads, if members are repeated or weighted; None: each member once.
    epoch_size: int | None = None
    warnings: list[str]

    def summary(self) -> str:
        """Return the fields; of contaminated samples also what counts as one, and what excluded others."""
        removed: dict[str, object] = dict(self.n_removed)
        if n := removed.get("contaminated"):
            removed["contaminated"] = (
                f"{n:,} (same image as an evaluation or validation sample, or a near-duplicate by perceptual hash)"
            )
        if n := removed.pop("predicate", None):
            removed["condition"] = f"{n:,} (excluded by --where)"
        return Result.summary(self.model_copy(update={"n_removed": removed}))


def run(config: SelectConfig, *, slot: int = 0) -> SelectResult:
    """Select a subset version; if the same spec on the same eligible samples exists, return that version."""
    if config.dry_run:
        selection = Selection(config, should_store=False)
        known = find_by_spec(open_store(), selection.name, hash_spec(selection.spec()))
        if known is not None:
            _require_not_withdrawn(known)
            selection.follow(known)
        return selection.result(None, is_new=known is None)
    return execute("select", config, lambda stage_run: select(config, stage_run), SelectResult, slot=slot)


def select(config: SelectConfig, stage_run: StageRun) -> SelectResult:
    """Select, write the manifest, then store the row that refers to it."""
    selection = Selection(config, should_store=True)
    spec = selection.spec()
    spec_hash = hash_spec(spec)
    known = find_by_spec(stage_run.engine, selection.name, spec_hash)
    if known is not None:
        return _use_again(known, selection)
    manifest = selection.manifest
    uri = f"subsets/{selection.name}/{spec_hash}.parquet"
    write_manifest(artifact_path(uri), manifest)
    subset, is_new = store_subset(
        stage_run.engine,
        name=selection.name, snapshot_id=selection.drawn.snapshot.snapshot_id, strategy=selection.drawn.strategy.name,
        retention=selection.drawn.policy.retention, seed=config.policy.seed, spec=spec, spec_hash=spec_hash,
        n_samples=len(manifest), epoch_size=selection.epoch_size, manifest_sha256=selection.manifest_sha256, manifest_uri=uri,
        created_by=current_actor(), run_id=stage_run.run_id, curves=selection.curve.as_json() | dropped_shares(selection.drawn),
    )  # fmt: skip
    return selection.result(subset, is_new=True) if is_new else _use_again(subset, selection)


def _use_again(known: SubsetRow, selection: "Selection") -> SelectResult:
    """Return the result of a selection that equals a version; write the version's manifest if it is missing.

    Raises:
        ConfigError: The version was withdrawn: the next commands would check, copy and publish another one.
        DataError: The version has other members.
    """
    _require_not_withdrawn(known)
    selection.follow(known)
    if known.manifest_sha256 != selection.manifest_sha256:
        raise DataError(
            f"The same options and the same snapshot now give other members (sha256 {selection.manifest_sha256}) than "
            f"{known.title} has ({known.manifest_sha256}). Nothing was stored. Restore the database from a backup, or "
            "report this as a bug."
        )
    # Not by the hash of the specification: renaming a dataset changes that, but not where the manifest is.
    path = artifact_path(known.manifest_uri)
    if not path.exists():
        write_manifest(path, selection.manifest)
    read_manifest(path, sha256=known.manifest_sha256)
    return selection.result(known, is_new=False)


def _require_not_withdrawn(known: SubsetRow) -> None:
    if known.state == "withdrawn":
        raise ConfigError(
            f"This selection is {known.title}. {describe_withdrawal(known)} Select with other options, or publish it again: "
            f"alchemist subset publish {known.name} --version {known.version} --reinstate."
        )


class Selection:
    """One selection and its description; expensive parts are computed once."""

    def __init__(self, config: SelectConfig, *, should_store: bool) -> None:
        self.config, self._engine = config, open_store()
        self.name = config.name or name_subset(config)
        rater = _require_rater(config)
        given = config.policy
        if given.keeps_all_accepted and given.strategy == "auto" and given.weight_by == "none":
            # A rank window may leave out accepted samples.
            given = given.model_copy(update={"strategy": "top_k"})
        snapshot = take_snapshot(
            self._engine, rater, config.dataset,
            options=given.eligible_options(), rescale=config.rescale, should_store=should_store,
        )  # fmt: skip
        # First the accepted share: the window that was tuned nearest to it counts.
        sized, self.accepted = resolve_acceptance(self._engine, given, snapshot)
        keeps_all = given.keeps_all_accepted and given.strategy == "auto" and given.drop_top_ratio is None
        policy, self.window = resolve_auto(self._engine, rater.rater_id, sized)
        self._passed_over: FittedWindow | None = None
        self._tuning = _tuning_command(config, rater, sized.retention)
        if self.window and not keeps_all:
            by_rule = sized.resolve(rater.rule)
            if not suits(sized, snapshot, self.window.strategy, instead=by_rule):
                self._passed_over = self.window
                policy, self.window = sized, None
        if keeps_all:
            whole = _without_drop(policy, rater.rule)
            if whole is not policy:
                self.window = None  # Tuning measured it with its drop-top ratio.
            policy = whole
        try:
            self.drawn = select_members(policy, snapshot)
        except ConfigError as error:
            if self._passed_over is None:
                raise
            told = _describe_passed_over(self._passed_over, sized.retention, self._tuning)
            raise ConfigError(f"{error} {told}") from error

    @cached_property
    def manifest(self) -> Manifest:
        """The members with their ranks and scores."""
        return manifest_of(self.drawn)

    @cached_property
    def manifest_sha256(self) -> str:
        """The hash of the members and their weights."""
        return self.drawn.sha256()

    def follow(self, known: SubsetRow) -> None:
        """Select as a stored version did, before anything else is computed from the members."""
        self.drawn = with_stored_ties(self.drawn, known.manifest_sha256)

    @property
    def epoch_size(self) -> int | None:
        """Number of samples that an epoch reads; None if it reads each member once."""
        return None if self.drawn.weight_K is None else self.drawn.epoch_size

    @cached_property
    def curve(self) -> SelectionCurve:
        """The distribution of the members' ranks."""
        return self.drawn.curve()

    @cached_property
    def expected_gain(self) -> Estimate | None:
        """The gain over random that the rater's tuning predicts; None without a tuning."""
        rater_id = self.drawn.snapshot.rater.rater_id
        return expected_gain(self._engine, rater_id, self.spec(), self.curve)

    def spec(self) -> dict[str, Any]:
        """Return everything that determines the members; the snapshot is identified by hashes, not by ids."""
        snapshot, given = self.drawn.snapshot, self.config.policy
        # The policy has the share and the threshold that were found; a later selection finds its own.
        asked = {"asked": {"retention": "auto", "min_score": given.min_score}} if given.keeps_all_accepted else {}
        return {
            **policy_spec(self.drawn.policy, self.drawn.strategy),
            **asked,
            "rater": snapshot.rater.name,
            "eligible_hash": snapshot.eligible_hash,
            "scale": scale_fingerprint(snapshot.scale),
        }

    def result(self, subset: SubsetRow | None, *, is_new: bool) -> SelectResult:
        """Return the result of the stage."""
        snapshot = self.drawn.snapshot
        return SelectResult(
            name=self.name, version=subset.version if subset else None, is_new=is_new, strategy=self.drawn.strategy.name,
            retention=self.drawn.policy.retention, n_eligible=snapshot.n_eligible, n_samples=len(self.drawn.member_K),
            rater=snapshot.rater.name, eligible_hash=snapshot.eligible_hash, manifest_sha256=self.manifest_sha256,
            accepted=self.accepted, fused=describe_ablation(self.drawn), epoch_size=self.epoch_size,
            models=None if snapshot.rater.kind == "trained" else f"FLUX-mini only: {snapshot.rater.name} has no tokenizer for others",
            rank_window=self.window.describe() if self.window else None,
            **_expectation(self.expected_gain), **self._description(),
        )  # fmt: skip

    def _description(self) -> dict[str, Any]:
        keeps = self.config.policy.keeps_all_accepted
        found = describe(self._engine, self.drawn, self.name, self.curve, keeps_accepted=keeps)
        if self.window is not None and (
            others := other_windows(self._engine, self.drawn.snapshot.rater.rater_id, self.window)
        ):
            found["warnings"].append(_describe_nesting(self.window, others))
        retention = self.drawn.policy.retention
        if self.window is not None and (warning := _describe_distance(self.window, retention)):
            found["warnings"].append(f"{warning} {self._tuning}")
        if self._passed_over is not None:
            found["warnings"].append(_describe_passed_over(self._passed_over, retention, self._tuning))
        if self.expected_gain is not None and is_worse(self.expected_gain):
            # With parameters beside it, auto does not take the rank window.
            is_auto = self.config.policy.strategy == "auto" and not self.config.policy.has_parameters
            found["warnings"].append(describe_worse(self.expected_gain, is_auto=is_auto))
        return found


def _without_drop(policy: SelectionPolicy, rule: str) -> SelectionPolicy:
    """Return the policy with the same density at all ranks: a drop-top ratio would leave out accepted samples."""
    strategy = policy.resolve(rule)
    if not isinstance(strategy, ShiftGsample):
        return policy
    whole = strategy_spec(Gsample(strategy.mean_rank, strategy.std_rank))
    return policy.model_copy(update={**whole, "drop_top_ratio": None})


def _describe_nesting(used: FittedWindow, others: list[float]) -> str:
    """Return the warning that other retentions do not nest, with the options that select from the same rank window."""
    strategy = strategy_spec(used.strategy)
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in strategy.items())
    return (
        f"Strategy auto took what was tuned for a retention of {used.retention:g}. Near {', '.join(f'{other:g}' for other in others)} it "
        f"takes another rank window, so subsets of such a retention need not be nested with this one. To nest them, select with {options}."
    )


_FAR = 1.5
"""A rank window is far from a retention if one is more than this multiple of the other: tuning measured no such subset."""


def _describe_distance(used: FittedWindow, retention: float) -> str | None:
    """Return the warning that what auto does was tuned for another retention; None if it is near."""
    if max(used.retention / retention, retention / used.retention) <= _FAR:
        return None
    if not used.is_significant:
        return (
            f"Strategy auto selects at random, because tuning measured no gain at a retention of {used.retention:g}, far from "
            f"{retention:g}."
        )
    return (
        f"Strategy auto took a rank window that was tuned for a retention of {used.retention:g}, far from {retention:g}: its gain was not "
        "measured here."
    )


def _describe_passed_over(found: FittedWindow, retention: float, tuning: str) -> str:
    """Return the warning that the rank window leaves too few samples for the retention, and what tunes one that does not."""
    drop = found.window.drop_top_ratio
    is_too_small = 1 - drop < retention
    why = (
        f"it leaves out the highest {drop:g} of the ranks, so it cannot give {retention:g}"
        if is_too_small
        else f"with the conditions, thresholds and caps of this selection it cannot give {retention:g}"
    )
    told = (
        f"Strategy auto passed over the rank window that was tuned for a retention of {found.retention:g}: {why}. The scoring rule decides "
        "instead."
    )
    # A tuning does not take conditions into account, and with retention 1 every window selects all samples.
    return f"{told} {tuning}" if is_too_small and retention < 1 else told


def _tuning_command(config: SelectConfig, rater: RaterRow, retention: float) -> str:
    """Return the command that fits a rank window of this rater for this retention; the evaluation dataset is the user's choice."""
    return (
        f"Tune for this one: alchemist tune-selection run --rater {rater.name} --dataset {config.dataset[0]} --evaluation NAME "
        f"--retentions {retention:g}."
    )


def _expectation(gain: Estimate | None) -> dict[str, float | bool | None]:
    low, high = (None, None) if gain is None else (gain.low, gain.high)
    is_better = None if low is None or high is None or low <= 0 <= high else low > 0
    return {
        "expected_gain": gain.mean if gain else None, "expected_gain_low": low, "expected_gain_high": high,
        "is_better_than_random": is_better,
    }  # fmt: skip


def name_subset(config: SelectConfig) -> str:
    """Return the default name of a subset.

    Raises:
        ConfigError: The name of a dataset has characters that are not allowed in a subset's name.
    """
    size = "auto" if config.policy.keeps_all_accepted else f"{config.policy.retention * 100:g}"
    name = f"{'+'.join(config.dataset)}-{config.policy.strategy}-r{size}"
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(
            f"{name!r} is not a valid subset name (letters, digits and . _ + -, at most 100 characters). Pass --name."
        )
    return name


def _require_rater(config: SelectConfig) -> RaterRow:
    rater = find_rater(open_store(), config.rater)
    if rater is None:
        raise ConfigError(
            "There is no rater in production. Train one (alchemist train-rater) and promote it (alchemist rater promote). To select "
            "without one, publish the nights under a scorer (alchemist night check-drift --rater NAME, alchemist night publish --rater "
            "NAME), and add --rater NAME here."
        )
    return rater


def _next(_config: SelectConfig, result: SelectResult) -> str:
    if result.version is None:
        return WITHOUT_DRY_RUN
    return next_of_selected(result.name, result.version, scorer=None if result.models is None else result.rater)


COMMANDS = {"": Command(SelectConfig, run, _next)}
