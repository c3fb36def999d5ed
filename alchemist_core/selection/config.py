"""What a user may say about a selection; composed into the config of the stage `select`. No numpy, no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from pydantic import Field

from alchemist_core.config import Config, Words, current_names, fingerprint, former_names
from alchemist_core.errors import ConfigError
from alchemist_core.selection.keys import Noise, Reading
from alchemist_core.selection.strategies import STRATEGIES, STRATEGY_OF_RULE, RatingRule, Strategy, StrategyName

RATER_SCORE = "rater"
Duplicates = Literal["exact", "near", "keep"]
SCORE = r"^(rater|aesthetic|clarity|frequency|edge_density|imported\.[A-Za-z0-9_.-]{1,64})$"


@dataclass(frozen=True, slots=True)
class EligibleOptions:
    """What of a policy decides which pairs may be drawn, and by which score they are ranked; part of a snapshot."""

    score: str = RATER_SCORE
    duplicates: Duplicates = "exact"
    decontaminate: tuple[str, ...] = ()
    where: str | None = None
    # Whether each pair's source is read too, for a cap.
    with_sources: bool = False


class SelectionPolicy(Config):
    """Which pairs to keep, and how many. A parameter that is left out takes its strategy's own default."""

    strategy: StrategyName = Field(
        "auto",
        description="How pairs are chosen by rank; auto: the rater's probed region (alchemist tune-selection), "
        "without one shift_gsample for a rater of rule loss, head_gsample for others",
    )
    retention: float = Field(0.2, gt=0, le=1, description="Share of the eligible pairs to keep, ratio 0-1")
    drop_top_ratio: float | None = Field(
        None, ge=0, lt=1, description="Head that is never kept, ratio 0-1 of the rank scale (shift_gsample: 0.25)"
    )
    mean_rank: float | None = Field(
        None, ge=0, le=1, description="Rank that is kept most, 0 = highest score (shift_gsample: 0.625, gsample: 0.5)"
    )
    std_rank: float | None = Field(
        None,
        ge=0.001,
        le=10,
        description="Spread around the mean rank, in ranks (shift_gsample: 0.125, gsample: 0.1667, head_gsample: 0.15)",
    )
    start_rank: float | None = Field(
        None, ge=0, lt=1, description="Where the band of strategy block begins, rank 0-1 (block: 0.4)"
    )
    seed: int = Field(0, ge=0, lt=2**53, description="Seed of the draw, whole number")
    reading: Reading = Field(
        "draws",
        description="What p(rank) is: draws, the chance of each draw without replacement; inclusion, the chance to be kept at all",
    )
    score: str = Field(
        RATER_SCORE,
        pattern=SCORE,
        description="What ranks the pairs: rater, or a heuristic (aesthetic, clarity, frequency, edge_density, imported.NAME)",
    )
    duplicates: Duplicates = Field(
        "exact",
        description="Of which pairs the first-seen one is kept alone: exact, those with the same picture; near, also those whose "
        "fingerprints of brightness and colour differ in at most 2 of 64 bits; keep, none",
    )
    decontaminate: Words = Field(
        (),
        description="Evaluation datasets, comma between them: pictures that are in one or look like one of it are left out",
    )
    where: str | None = Field(
        None,
        min_length=1,
        description="Condition on samples, such as: width * height >= 1e6 and greatest(width, height) / least(width, height) <= 2 "
        "and licence is not null. Comparisons, and, or, not, between, in, like, ilike, is null, + - * /, abs, least, greatest, length, "
        "lower, upper, coalesce; none: all",
    )
    stratify: bool = Field(False, description="Keep the same share of every dataset (quotas by Sainte-Laguë)")
    max_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Largest share of the subset (with --stratify: of each dataset's part) that one dataset or source may have, "
        "ratio 0-1; none: no cap",
    )
    max_share_of: Literal["dataset", "source"] = Field(
        "dataset", description="What --max-share caps: datasets, or sources (hosts of the pictures' addresses)"
    )
    allow_fewer: bool = Field(
        False, description="Take as many as there are where head cut, caps or strata leave fewer than asked for"
    )

    def eligible_options(self) -> EligibleOptions:
        """Return what decides the eligible set."""
        with_sources = self.max_share is not None and self.max_share_of == "source"
        return EligibleOptions(self.score, self.duplicates, self.decontaminate, self.where, with_sources)

    def noise(self) -> Noise:
        """Return the draw's noise."""
        return Noise(self.seed, reading=self.reading)

    @property
    def has_parameters(self) -> bool:
        """Whether any parameter of a strategy is given."""
        return any(value is not None for value in self._parameters().values())

    def resolve(self, rule: RatingRule) -> Strategy:
        """Return the strategy with its parameters, `auto` decided by the rater's rating rule.

        Raises:
            ConfigError: A parameter is given that the strategy does not have, or options contradict each other.
        """
        kind = STRATEGIES[self._auto(rule) if self.strategy == "auto" else self.strategy]
        self._require_sense(kind)
        given = {name: value for name, value in self._parameters().items() if value is not None}
        if unused := sorted(given.keys() - {field.name for field in fields(kind)}):
            known = ", ".join(field.name for field in fields(kind)) or "no parameters"
            raise ConfigError(
                f"Strategy {kind.name} does not use {', '.join(unused)} (it has {known}): "
                f"leave it out, or name the strategy that does."
            )
        return kind(**given)

    def _auto(self, rule: RatingRule) -> str:
        # No rule says where a heuristic puts the useful pairs: what scores high is taken.
        return STRATEGY_OF_RULE[rule] if self.score == RATER_SCORE else "top_k"

    def _require_sense(self, kind: type[Strategy]) -> None:
        if self.reading == "inclusion" and not kind.is_drawn:
            raise ConfigError(f"--reading inclusion: strategy {kind.name} draws nothing. Leave it out.")
        if self.stratify and self.max_share is not None and self.max_share_of == "dataset":
            raise ConfigError(
                "--max-share of datasets contradicts --stratify, which gives every dataset its share: leave one of them out."
            )

    def _parameters(self) -> dict[str, float | None]:
        names = {field.name for kind in STRATEGIES.values() for field in fields(kind)}
        return {name: getattr(self, name) for name in names}


def policy_spec(policy: SelectionPolicy, strategy: Strategy) -> dict[str, Any]:
    """Return what a subset's spec stores of a policy: the strategy that `auto` meant, and every option that is not its default.

    A spec from before an option existed so has the hash that it had.
    """
    given = policy.model_dump(mode="json", exclude_defaults=True)
    always = {"retention": policy.retention, "seed": policy.seed}
    return {**given, **always, **strategy_spec(strategy)}


def hash_spec(spec: Mapping[str, Any]) -> str:
    """Hash a subset's spec; renamed options are hashed under their former names, so that a spec keeps its hash."""
    return fingerprint(former_names(SelectionPolicy, spec))


def policy_of(spec: Mapping[str, Any]) -> SelectionPolicy:
    """Return the policy that a stored spec was made from."""
    given = current_names(SelectionPolicy, spec)
    return SelectionPolicy.model_validate({name: given[name] for name in given if name in SelectionPolicy.model_fields})


def strategy_spec(strategy: Strategy) -> dict[str, Any]:
    """Return what a subset's spec stores of its strategy.

    >>> strategy_spec(STRATEGIES["block"](start_rank=0.3))
    {'strategy': 'block', 'start_rank': 0.3}
    """
    return {"strategy": strategy.name, **asdict(strategy)}
