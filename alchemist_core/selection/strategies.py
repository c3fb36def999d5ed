"""Strategies: how much each rank is wanted. A strategy is a frozen value; its fields are what a subset's spec stores.

Knows nothing of pairs, seeds or counts: the draw does. Letters: N pairs of a dataset.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

StrategyName = Literal["auto", "shift_gsample", "gsample", "head_gsample", "top_k", "block", "random"]
RatingRule = Literal["alignment", "loss", "learnability"]


@dataclass(frozen=True, slots=True)
class ShiftGsample:
    """Drop the head, then favour ranks around a mean: p = 0 for rank < drop_top_ratio, Gaussian above.

    Source: Alchemist Eq. 11.
    """

    name: ClassVar[str] = "shift_gsample"
    is_drawn: ClassVar[bool] = True
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
    is_drawn: ClassVar[bool] = True
    mean_rank: float = 0.5
    std_rank: float = 1 / 6

    def log_density(self, rank_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log p(rank) up to a constant."""
        return -0.5 * ((rank_N - self.mean_rank) / self.std_rank) ** 2


@dataclass(frozen=True, slots=True)
class HeadGsample:
    """Favour the head softly: a Gaussian whose mean is rank 0.

    The highest scores alone are one kind of useful pair (in the drawn corpus, scenes of two shapes): a model trained on them
    forgets the other kinds. The soft head takes what is useful with the variety that it has.
    """

    name: ClassVar[str] = "head_gsample"
    is_drawn: ClassVar[bool] = True
    std_rank: float = 0.15

    def log_density(self, rank_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log p(rank) up to a constant.

        >>> HeadGsample(0.2).log_density(np.array([0.0, 0.2])).tolist()
        [-0.0, -0.5]
        """
        return -0.5 * (rank_N / self.std_rank) ** 2


@dataclass(frozen=True, slots=True)
class Random:
    """Want every rank alike: the control."""

    name: ClassVar[str] = "random"
    is_drawn: ClassVar[bool] = True

    def log_density(self, rank_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log p(rank) up to a constant: 0."""
        return np.zeros_like(rank_N)


@dataclass(frozen=True, slots=True)
class TopK:
    """Keep the highest scores; nothing is drawn, so the seed does not matter."""

    name: ClassVar[str] = "top_k"
    is_drawn: ClassVar[bool] = False

    def log_density(self, rank_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what orders the pairs: the lower the rank, the more wanted."""
        return -rank_N


@dataclass(frozen=True, slots=True)
class Block:
    """Keep one contiguous band of ranks from a start downwards; nothing is drawn. Source: Alchemist Fig. 2b, Block test."""

    name: ClassVar[str] = "block"
    is_drawn: ClassVar[bool] = False
    start_rank: float = 0.4

    def log_density(self, rank_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what orders the pairs: the nearer below the start, the more wanted; never above it."""
        return np.where(rank_N < self.start_rank, -np.inf, -rank_N)


Strategy = ShiftGsample | Gsample | HeadGsample | Random | TopK | Block
STRATEGIES: dict[str, type[Strategy]] = {
    kind.name: kind for kind in (ShiftGsample, Gsample, HeadGsample, Random, TopK, Block)
}
# Which region of the ranking each rating rule puts its useful pairs in.
STRATEGY_OF_RULE: dict[RatingRule, str] = {
    "alignment": HeadGsample.name,
    "loss": ShiftGsample.name,
    "learnability": HeadGsample.name,
}

_MIXED = {
    ("alignment", "shift_gsample"): (
        "Rating rule 'alignment' gives the most useful samples the highest scores, and strategy shift_gsample drops those. "
        "Strategy auto takes head_gsample for this rule."
    ),
    ("loss", "top_k"): (
        "Rating rule 'loss' gives the plainest samples the highest scores, and strategy top_k keeps only those. "
        "Strategy auto takes shift_gsample for this rule."
    ),
}


def mixed_pairing_warning(strategy: Strategy, rule: RatingRule) -> str | None:
    """Return a warning where the strategy keeps what the rating rule puts least trust in, or drops what it values most; else None."""
    return _MIXED.get((rule, strategy.name))
