"""Whether one version of a subset is better than another one: held-out losses of both under one protocol, paired by seed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sqlalchemy import Engine

from alchemist_core.errors import ConfigError
from alchemist_core.project import of_version, train_downstream_command
from alchemist_core.report.comparison import LOSSES, name_loss
from alchemist_core.statistics import Estimate, ValueOfSeed, detectable_effect, estimate, estimate_gain, pooled_spread
from alchemist_core.store.models import VersionLoss, read_version_losses
from alchemist_core.store.subsets import SubsetRow, find_by_id

MOST_SEEDS = 100
"""A difference that needs more seeds than this is called too small to be shown."""
LIKE_STEPS = 0.05
"""Numbers of steps that differ by at most this share count as equal."""
GAINS_NOTE = (
    "Do not compare the gains over random of two versions: each version has random samples of its own, so its gain also depends on "
    "them. Compare the losses."
)
VersionVerdict = Literal["better", "worse", "not shown"]


@dataclass(frozen=True, slots=True)
class VersionSummary:
    """One version: the models that were trained on it, under the seeds that both versions have."""

    version: int
    metric: str
    n_samples: int
    n_steps: int
    loss: Estimate
    seeds: tuple[int, ...]
    """All of its seeds, those that the other version lacks included."""


@dataclass(frozen=True, slots=True)
class VersionComparison:
    """Two versions of one subset, evaluated under the same protocol."""

    name: str
    protocol_id: int
    own: VersionSummary
    other: VersionSummary
    difference: Estimate
    """Loss of the version minus loss of the other one, paired by seed: below 0 it is better."""
    verdict: VersionVerdict
    text: str
    """What the difference shows, as one sentence, and the commands that would show more."""
    others: tuple[int, ...]
    """Versions that it can be compared with, the newest first."""

    @property
    def title(self) -> str:
        """The verdict in words, without a full stop."""
        words = {"better": "better than", "worse": "worse than", "not shown": "no difference shown to"}[self.verdict]
        if self.verdict == "not shown" and self.difference.low is None:
            words = "not known yet against"
        return f"v{self.own.version}: {words} v{self.other.version}"


def read_version_comparison(engine: Engine, subset: SubsetRow, against: int | None = None) -> VersionComparison | None:
    """Compare a version with another one of its name by the losses in the store.

    Args:
        engine: The store.
        subset: The version.
        against: The other version; None: the one that was published before it, else the newest earlier one that was evaluated under the
            same protocol with a common seed.

    Returns:
        The comparison; None without `against` if there is no such version.

    Raises:
        ConfigError: The version `against` cannot be compared with it.
    """
    rows = read_version_losses(engine, subset.name, LOSSES)
    others = _comparable(rows, subset.version)
    if against is None:
        before = find_by_id(engine, subset.predecessor_id).version if subset.predecessor_id is not None else None
        earlier = [version for version in others if version < subset.version]
        against = before if before in others else max(earlier, default=None)
    elif against not in others:
        raise _incomparable(rows, subset, against)
    return None if against is None else compare_versions(rows, subset.name, subset.version, against)


def _incomparable(rows: Sequence[VersionLoss], subset: SubsetRow, against: int) -> ConfigError:
    if against == subset.version:
        return ConfigError(f"{subset.title} cannot be compared with itself. Give another version.")
    possible = ", ".join(map(str, _comparable(rows, subset.version))) or "none"
    own = [row for row in rows if row.version == subset.version]
    metric = next((one for one in LOSSES if any(row.metric == one for row in own)), LOSSES[0])
    seeds = tuple(sorted({row.seed for row in own if row.metric == metric})) or (0, 1, 2)
    return ConfigError(
        f"{subset.title} cannot be compared with v{against}: models of both must have been trained with the same options and a common "
        f"seed, and evaluated under the same protocol (versions that can be compared: {possible}). "
        f"{_commands(subset.name, against, seeds, metric)}"
    )


def compare_versions(rows: Sequence[VersionLoss], name: str, version: int, against: int) -> VersionComparison:
    """Compare two versions by the losses of the models that were trained on them.

    Args:
        rows: Losses of both versions, and of others of the name; of several models of one seed the last one counts.
        name: Name of the subset, for the commands.
        version: The version that is judged.
        against: The version that it is compared with; it has a common seed under the same protocol.
    """
    # The first metric of `LOSSES`, its newest protocol, as in the view `subset_comparisons`; then the training with the most common seeds.
    shared = _shared_conditions(rows, version, against)
    alike = max(shared, key=lambda one: (-LOSSES.index(one.metric), one.protocol_id, len(shared[one]), one.training))
    losses = {one: _losses(rows, one, alike) for one in (version, against)}
    common = tuple(sorted(losses[version].keys() & losses[against].keys()))
    own, other = (_summarize(rows, one, alike, losses[one], common) for one in (version, against))
    gain = estimate_gain(losses[version], losses[against], metric=alike.metric)
    assert gain is not None, "they have a common seed"
    low, high = (None, None) if gain.low is None or gain.high is None else (-gain.high, -gain.low)
    difference = Estimate(-gain.mean, low, high, gain.n)
    verdict: VersionVerdict = "not shown"
    if gain.is_positive:
        verdict = "better"
    elif gain.high is not None and gain.high < 0:
        verdict = "worse"
    text = _describe(name, own, other, difference, verdict, pooled_spread([losses[version]], losses[against]))
    return VersionComparison(name, alike.protocol_id, own, other, difference, verdict, text, _comparable(rows, version))


def seeds_to_show(spread: float, effect: float) -> int | None:
    """Return how many common seeds would show a difference of this size in 80% of all repetitions; None above `MOST_SEEDS`.

    >>> seeds_to_show(1.0, 2.0), seeds_to_show(1.0, 0.001)
    (5, None)
    """
    enough = (n for n in range(2, MOST_SEEDS + 1) if detectable_effect(spread, n) <= abs(effect))
    return None if detectable_effect(spread, MOST_SEEDS) > abs(effect) else next(enough, None)


def _describe(
    name: str, own: VersionSummary, other: VersionSummary, difference: Estimate, verdict: VersionVerdict, spread: float | None
) -> str:  # fmt: skip
    way = f"{'lower' if difference.mean < 0 else 'higher'} by {abs(difference.mean):.4f}"
    text = f"{name_loss(own.metric)} {own.loss.mean:.4f}, that of v{other.version} {other.loss.mean:.4f}, {way}"
    if difference.low is None or difference.high is None:
        more = "One common seed has no interval: at least 2 more seeds are needed."
        return f"{text}. {more} {_missing_commands(name, own, other, _more_seeds(own, other, 2))}"
    interval = f"{difference.low:.4f} to {difference.high:.4f}".replace("-", "−")
    measured = f"95% interval of the difference {interval}; paired by seed, {difference.n} common seeds"
    if verdict != "not shown":
        return f"{text} ({measured}).{_note_steps(own, other)}"
    text += f", but the interval includes 0 ({measured})."
    n_needed = seeds_to_show(spread, difference.mean) if spread else None
    if n_needed is None:
        return f"{text} To show a difference as small as this, more than {MOST_SEEDS} seeds are needed.{_note_steps(own, other)}"
    n_more = max(n_needed - difference.n, 2)
    commands = _missing_commands(name, own, other, _more_seeds(own, other, n_more))
    return f"{text} To show a difference of this size, about {n_more} more seeds are needed.{_note_steps(own, other)} {commands}"


def _note_steps(own: VersionSummary, other: VersionSummary) -> str:
    if abs(own.n_steps - other.n_steps) <= LIKE_STEPS * max(own.n_steps, other.n_steps):
        return ""
    steps = f"v{own.version} was trained for {own.n_steps:,} steps and v{other.version} for {other.n_steps:,}"
    return f" {steps}: part of the difference may be due to that."


def _more_seeds(own: VersionSummary, other: VersionSummary, n_more: int) -> tuple[int, ...]:
    """Return the seeds that both should have: those that any of them has, and new ones until both have `n_more` more in common."""
    known = sorted({*own.seeds, *other.seeds})
    n_wanted = len(set(own.seeds) & set(other.seeds)) + n_more
    fresh = [seed for seed in range(len(known) + n_wanted) if seed not in known]
    return tuple(sorted(known + fresh[: max(n_wanted - len(known), 0)]))


def _missing_commands(name: str, own: VersionSummary, other: VersionSummary, seeds: tuple[int, ...]) -> str:
    lacking = [one.version for one in (own, other) if not set(seeds) <= set(one.seeds)]
    return " ".join(_commands(name, version, seeds, own.metric) for version in lacking)


def _commands(name: str, version: int, seeds: tuple[int, ...], metric: str) -> str:
    train, which = train_downstream_command(name, version), of_version(name, version)
    protocol = "" if metric == LOSSES[0] else f" --protocol {metric}"
    return (
        f"Next, with the preset and the options of the former training: {train} --arms subset "
        f"--seeds {','.join(map(str, seeds))}, then alchemist evaluate {which}{protocol}."
    )


class _Conditions(NamedTuple):
    """What two models must have in common to be compared: metric and evaluation protocol, and the configuration of the training."""

    metric: str
    protocol_id: int
    training: str

    def are_of(self, row: VersionLoss) -> bool:
        return (row.metric, row.protocol_id, row.training) == self


def _losses(rows: Sequence[VersionLoss], version: int, alike: _Conditions) -> dict[int, float]:
    return {row.seed: row.value for row in rows if row.version == version and alike.are_of(row)}


def _summarize(
    rows: Sequence[VersionLoss], version: int, alike: _Conditions, losses: ValueOfSeed, common: tuple[int, ...]
) -> VersionSummary:
    last = [row for row in rows if row.version == version and alike.are_of(row)][-1]
    return VersionSummary(
        version,
        alike.metric,
        last.n_samples,
        last.n_steps,
        estimate([losses[seed] for seed in common]),
        tuple(sorted(losses)),
    )


def _shared_conditions(rows: Sequence[VersionLoss], version: int, other: int) -> dict[_Conditions, set[int]]:
    """Return the seeds that both versions have under the same conditions, where there are any."""
    seeds: dict[int, dict[_Conditions, set[int]]] = {version: defaultdict(set), other: defaultdict(set)}
    for row in rows:
        if row.version in seeds:
            seeds[row.version][_Conditions(row.metric, row.protocol_id, row.training)].add(row.seed)
    common = {one: found & seeds[other].get(one, set()) for one, found in seeds[version].items()}
    return {one: found for one, found in common.items() if found}


def _comparable(rows: Sequence[VersionLoss], version: int) -> tuple[int, ...]:
    versions = sorted({row.version for row in rows} - {version}, reverse=True)
    return tuple(one for one in versions if _shared_conditions(rows, version, one))
