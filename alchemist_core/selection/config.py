"""What a user may say about a selection; composed into the config of the stage `select`. No numpy, no torch."""

from dataclasses import asdict, fields
from typing import Any

from pydantic import Field

from alchemist_core.config import Config
from alchemist_core.errors import ConfigError
from alchemist_core.selection.strategies import STRATEGIES, STRATEGY_OF_RULE, RatingRule, Strategy, StrategyName


class SelectionPolicy(Config):
    """Which pairs to keep, and how many. A parameter that is left out takes its strategy's own default."""

    strategy: StrategyName = Field(
        "auto",
        description="How pairs are chosen by rank; auto: head_gsample for a rater of rule alignment, shift_gsample for loss",
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

    def resolve(self, rule: RatingRule) -> Strategy:
        """Return the strategy with its parameters, `auto` decided by the rater's rating rule.

        Raises:
            ConfigError: A parameter is given that the strategy does not have.
        """
        kind = STRATEGIES[STRATEGY_OF_RULE[rule] if self.strategy == "auto" else self.strategy]
        given = {name: value for name, value in self._parameters().items() if value is not None}
        if unused := sorted(given.keys() - {field.name for field in fields(kind)}):
            known = ", ".join(field.name for field in fields(kind)) or "no parameters"
            raise ConfigError(
                f"Strategy {kind.name} does not use {', '.join(unused)} (it has {known}): "
                f"leave it out, or name the strategy that does."
            )
        return kind(**given)

    def _parameters(self) -> dict[str, float | None]:
        names = {field.name for kind in STRATEGIES.values() for field in fields(kind)}
        return {name: getattr(self, name) for name in names}


def strategy_spec(strategy: Strategy) -> dict[str, Any]:
    """Return what a subset's spec stores of its strategy.

    >>> strategy_spec(STRATEGIES["block"](start_rank=0.3))
    {'strategy': 'block', 'start_rank': 0.3}
    """
    return {"strategy": strategy.name, **asdict(strategy)}
