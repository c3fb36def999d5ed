"""Strategies: the density over ranks that a selection follows. A strategy is a frozen value; a subset's spec stores its fields.

Letters: N samples of a dataset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from alchemist_core.lazy import NDArray, np
from alchemist_core.rating.config import ScoringRule

StrategyName = Literal["auto", "shift_gsample", "gsample", "head_gsample", "top_k", "block", "random"]


@dataclass(frozen=True, slots=True)
class ShiftGsample:
    """Drop the highest scores, then favour ranks around a mean: p = 0 for rank < drop_top_ratio, Gaussian above.

    Source: Alchemist Eq. 11.
    """

    name: ClassVar[str] = "shift_gsample"
    is_stochastic: ClassVar[bool] = True
    drop_top_ratio: float = 0.25
    mean_rank: float = 0.625
    std_rank: float = 0.125

    def log_density(self, rank_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log p(rank) up to a constant.

        >>> ShiftGsample().log_density(np.array([0.2, 0.5, 0.625])).tolist()
        [-inf, -0.5, -0.0]
        """
        log_density_N = -0.5 * ((rank_N - self.mean_rank) / self.std_rank) ** 2
        log_density_N[rank_N < self.drop_top_ratio] = -np.inf
        return log_density_N


@dataclass(frozen=True, slots=True)
class Gsample:
    """Favour ranks around a mean, without dropping any. Source: Alchemist Table 4, the baseline Gsample."""

    name: ClassVar[str] = "gsample"
    is_stochastic: ClassVar[bool] = True
    mean_rank: float = 0.5
    std_rank: float = 1 / 6

    def log_density(self, rank_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log p(rank) up to a constant."""
        return -0.5 * ((rank_N - self.mean_rank) / self.std_rank) ** 2


@dataclass(frozen=True, slots=True)
class HeadGsample:
    """Favour the highest scores softly: a Gaussian whose mean is rank 0.

    The very highest scores are one kind of useful sample (in the synthetic corpus, scenes of two shapes): a model trained on them
    alone forgets the other kinds. The Gaussian keeps useful samples of all kinds.
    """

    name: ClassVar[str] = "head_gsample"
    is_stochastic: ClassVar[bool] = True
    std_rank: float = 0.15

    def log_density(self, rank_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log p(rank) up to a constant.

        >>> HeadGsample(0.2).log_density(np.array([0.0, 0.2])).tolist()
        [-0.0, -0.5]
        """
        return -0.5 * (rank_N / self.std_rank) ** 2


@dataclass(frozen=True, slots=True)
class Random:
    """Weight every rank equally: the control."""

    name: ClassVar[str] = "random"
    is_stochastic: ClassVar[bool] = True

    def log_density(self, rank_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log p(rank) up to a constant: 0."""
        return np.zeros_like(rank_N)


@dataclass(frozen=True, slots=True)
class TopK:
    """Keep the highest scores; without noise, so the seed does not matter."""

    name: ClassVar[str] = "top_k"
    is_stochastic: ClassVar[bool] = False

    def log_density(self, rank_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the order of the samples: lower ranks first."""
        return -rank_N


@dataclass(frozen=True, slots=True)
class Block:
    """Keep one contiguous band of ranks from a start downwards; without noise. Source: Alchemist Fig. 2b, Block test."""

    name: ClassVar[str] = "block"
    is_stochastic: ClassVar[bool] = False
    start_rank: float = 0.4

    def log_density(self, rank_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the order of the samples: from the start downwards; never above it."""
        return np.where(rank_N < self.start_rank, -np.inf, -rank_N)


Strategy = ShiftGsample | Gsample | HeadGsample | Random | TopK | Block
STRATEGIES: dict[str, type[Strategy]] = {
    kind.name: kind for kind in (ShiftGsample, Gsample, HeadGsample, Random, TopK, Block)
}

_MIXED: dict[tuple[str, type[Strategy]], str] = {
    (ScoringRule.ALIGNMENT, ShiftGsample): (
        "Scoring rule 'alignment' gives the most useful samples the highest scores, and strategy shift_gsample drops those. "
        "Strategy auto takes head_gsample for this rule."
    ),
    (ScoringRule.LOSS, TopK): (
        "Scoring rule 'loss' gives the plainest samples the highest scores, and strategy top_k keeps only those. "
        "Strategy auto takes shift_gsample for this rule."
    ),
}


def mixed_pairing_warning(strategy: Strategy, rule: str, *, keeps_accepted: bool = False) -> str | None:
    """Return a warning if the strategy keeps the samples that the scoring rule finds least useful, or drops the most useful; else None.

    Args:
        strategy: The strategy.
        rule: The scoring rule of the rater.
        keeps_accepted: Whether every accepted sample is kept, as with `--retention auto`: then top_k leaves out no others.
    """
    return None if keeps_accepted and isinstance(strategy, TopK) else _MIXED.get((rule, type(strategy)))
