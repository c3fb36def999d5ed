"""Choosing the rank window: from the losses of training on single bands of rank to the window that a selection should favour.

The model: a selection with density π over rank gains ∫ v·π − λ·KL(π ‖ uniform) over a random selection of its size, where v is the
value of a rank and λ the cost of homogeneity. v has mean 0, because a random selection gains nothing; so the bands alone determine
v and λ. A gain is the log of random's loss over the selection's loss: a band without useful samples has a loss ten times random's,
and without the log that loss would be attributed to λ. Over a random selection from the samples that are eligible, a selection gains the
difference: its own gain less that of a density like theirs.

Letters: S seeds · B bands of equal size, the highest scores first · G ranks of a grid · C candidates · R bins of rank.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from typing import Any

from alchemist_core.errors import ConfigError
from alchemist_core.lazy import NDArray, np
from alchemist_core.selection.strategies import Gsample, Random, ShiftGsample
from alchemist_core.statistics import Estimate, estimate

_GRID = 120
_CUTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
_MEANS = tuple(i / 20 for i in range(21))
_SPREADS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0)


@dataclass(frozen=True, slots=True)
class RankWindow:
    """A rank window: a Gaussian of rank above a drop-top ratio."""

    drop_top_ratio: float
    mean_rank: float
    std_rank: float

    @property
    def strategy(self) -> ShiftGsample | Gsample:
        """The strategy with this window. With a drop-top ratio of 0 it is Gsample, so that no warning about a dropped head appears."""
        if self.drop_top_ratio == 0:
            return Gsample(self.mean_rank, self.std_rank)
        return ShiftGsample(self.drop_top_ratio, self.mean_rank, self.std_rank)


@dataclass(frozen=True, slots=True)
class FittedWindow:
    """A rank window with its gain over random, cross-validated over seeds, in the metric's unit.

    The ends of the interval are infinite if there is only one seed.
    """

    window: RankWindow
    retention: float
    gain: float
    gain_low: float
    gain_high: float

    @classmethod
    def of(cls, fit: WindowFit, gain: Estimate) -> FittedWindow:
        """Return a fit's window with the measured gain of its `held_out` windows."""
        low, high = (-math.inf, math.inf) if gain.low is None or gain.high is None else (gain.low, gain.high)
        return cls(fit.window, fit.retention, gain.mean, low, high)

    @property
    def is_significant(self) -> bool:
        """Whether the whole interval of the gain is above 0."""
        return self.gain_low > 0

    @property
    def strategy(self) -> ShiftGsample | Gsample | Random:
        """The strategy that `auto` uses: random if no gain was shown."""
        return self.window.strategy if self.is_significant else Random()

    def describe(self) -> str:
        """Return the result in one sentence."""
        ends = f"[{self.gain_low:.4f}, {self.gain_high:.4f}]" if math.isfinite(self.gain_low) else "(no interval)"
        gain = f"{self.gain:.4f} {ends} nats per token over random at {self.retention:.0%}"
        if not self.is_significant:
            return f"No rank window shows a gain ({gain}): strategy auto selects at random."
        window = self.window
        return (
            f"Strategy auto takes the tuned rank window: drop-top ratio {window.drop_top_ratio:g}, mean {window.mean_rank:g}, "
            f"spread {window.std_rank:g}; windows chosen on other seeds gained {gain}."
        )


@dataclass(frozen=True, slots=True)
class ValuePoint:
    """The value of training on samples of one rank, relative to the mean sample, as a log of the loss, with the interval over seeds."""

    rank: float
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class WindowFit:
    """The best rank window for a retention, and the evidence for it."""

    window: RankWindow
    retention: float
    # λ: the cost of one nat of homogeneity.
    sameness_price: float
    curve: tuple[ValuePoint, ...]
    # For each seed the window that the other seeds choose (cross-validation); a single seed has its own.
    held_out: tuple[RankWindow, ...]
    # The log gain that the curve predicts for those windows, each on its own seed.
    predicted: Estimate

    def as_json(self) -> dict[str, Any]:
        """Return the stored form."""
        return asdict(self)


def fit_window(gain_SB: NDArray[np.float64], retention: float) -> WindowFit:
    """Choose drop-top ratio, mean and spread by the predicted gain at a retention.

    Args:
        gain_SB: Log of random's loss over the loss of training on each band alone, by seed; higher is better.
        retention: Share of the samples that the selection will keep, 0-1.

    Raises:
        ConfigError: There are fewer than 2 bands.
    """
    n_seeds, n_bands = gain_SB.shape
    if n_bands < 2:
        raise ConfigError(f"A rank window cannot be fitted to {n_bands} band. Measure at least 2.")
    windows, density_CG = _candidates(retention, n_bands)
    gain_SC = np.stack([_predict(gain_B, density_CG) for gain_B in gain_SB])
    chosen = _choose(gain_SC.mean(axis=0), windows)
    others_SC = [np.delete(gain_SC, s, axis=0).mean(axis=0) for s in range(n_seeds)] if n_seeds > 1 else [gain_SC[0]]
    held_out_S = [_choose(other_C, windows) for other_C in others_SC]
    return WindowFit(
        window=windows[chosen],
        retention=retention,
        sameness_price=_sameness_price(gain_SB.mean(axis=0)),
        curve=_curve(gain_SB),
        held_out=tuple(windows[c] for c in held_out_S),
        predicted=estimate([float(gain_C[c]) for gain_C, c in zip(gain_SC, held_out_S, strict=True)]),
    )


def predict_gain(gain_SB: NDArray[np.float64], n_kept_R: NDArray[np.int64], n_pool_R: NDArray[np.int64]) -> Estimate:
    """Predict the log gain of a selection over a random one from the same eligible samples, with its interval over seeds.

    Conditions, other datasets and drift can leave eligible samples unevenly over the ranks, so that a random selection from them has a
    gain of its own over one from all ranks.

    Args:
        gain_SB: Log of random's loss over the loss of training on each band alone, by seed; higher is better.
        n_kept_R: Samples kept in equal bins of rank, the highest scores first.
        n_pool_R: Eligible samples in equal bins of rank, at least one.

    >>> found = predict_gain(np.array([[0.3, -0.5], [0.3, -0.5]]), np.array([0, 10]), np.array([10, 10]))
    >>> round(found.mean, 2), found.is_positive
    (-0.5, False)
    >>> predict_gain(np.array([[0.3, -0.5], [0.3, -0.5]]), np.array([0, 10]), np.array([0, 20])).mean
    0.0
    """
    kept_1G, pool_1G = _density(n_kept_R)[None, :], _density(n_pool_R)[None, :]
    return estimate([float((_predict(gain_B, kept_1G) - _predict(gain_B, pool_1G))[0]) for gain_B in gain_SB])


def value_curve(gain_B: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the flattest curve over rank whose mean on each band is the band's value: its gain less the mean gain.

    Source: Boneva, Kendall, Stefanov 1971 (histospline), with the first derivative in place of the second, so that the curve
    does not overshoot beyond the outermost bands.

    >>> value_curve(np.array([0.3, -0.1, -0.2])).reshape(3, -1).mean(axis=1).round(3).tolist()
    [0.3, -0.1, -0.2]
    """
    n_bands = len(gain_B)
    band_G = np.minimum((_ranks() * n_bands).astype(int), n_bands - 1)
    mean_BG = (band_G[None, :] == np.arange(n_bands)[:, None]) / np.bincount(band_G, minlength=n_bands)[:, None]
    slope = np.diff(np.eye(_GRID), axis=0)
    system = np.block([[slope.T @ slope, mean_BG.T], [mean_BG, np.zeros((n_bands, n_bands))]])
    wanted = np.concatenate([np.zeros(_GRID), gain_B - gain_B.mean()])
    solved: NDArray[np.float64] = np.linalg.solve(system, wanted)[:_GRID]
    return solved


def _choose(gain_C: NDArray[np.float64], windows: list[RankWindow]) -> int:
    """Return the best candidate; among those within 2% of it, the one that excludes least."""
    best = float(gain_C.max())
    near = np.flatnonzero(gain_C >= best - abs(best) / 50)
    return int(min(near, key=lambda i: (windows[i].drop_top_ratio, -windows[i].std_rank, -gain_C[i])))


def _predict(gain_B: NDArray[np.float64], density_CG: NDArray[np.float64]) -> NDArray[np.float64]:
    sameness_C = np.mean(density_CG * np.log(np.maximum(density_CG, 1e-300)), axis=1)
    predicted_C: NDArray[np.float64] = density_CG @ value_curve(gain_B) / _GRID - _sameness_price(gain_B) * sameness_C
    return predicted_C


def _density(n_R: NDArray[np.int64]) -> NDArray[np.float64]:
    n_G = n_R[np.minimum((_ranks() * len(n_R)).astype(int), len(n_R) - 1)]
    density_G: NDArray[np.float64] = n_G / n_G.mean()
    return density_G


def _sameness_price(gain_B: NDArray[np.float64]) -> float:
    """Return λ: each band is log B nats from uniform and loses −mean(gain) against random; a positive mean gain is noise."""
    return max(0.0, -float(gain_B.mean()) / math.log(len(gain_B)))


def _curve(gain_SB: NDArray[np.float64]) -> tuple[ValuePoint, ...]:
    value_SG = np.stack([value_curve(gain_B) for gain_B in gain_SB])
    found = [estimate(value_S.tolist()) for value_S in value_SG.T]
    return tuple(
        ValuePoint(round(float(rank), 4), point.mean, point.low, point.high)
        for rank, point in zip(_ranks(), found, strict=True)
    )


@cache
def _candidates(retention: float, n_bands: int) -> tuple[list[RankWindow], NDArray[np.float64]]:
    """Return the windows that can give a retention, with the density over rank of sampling without replacement from each."""
    windows = [
        RankWindow(cut, mean, spread)
        for cut, mean, spread in product(_CUTS, _MEANS, _SPREADS)
        # Bands carry no information about windows narrower than themselves.
        if mean >= cut and 1 - cut >= 1.02 * retention and spread * 2 * n_bands >= 1
    ]
    if not windows:
        windows = [RankWindow(0.0, mean, _SPREADS[-1]) for mean in _MEANS]
    cut_C, mean_C, spread_C = (np.array([getattr(r, name) for r in windows])[:, None] for name in RankWindow.__slots__)
    log_CG = -0.5 * ((_ranks() - mean_C) / spread_C) ** 2
    log_CG[_ranks() < cut_C] = -np.inf
    weight_CG = np.exp(log_CG - log_CG.max(axis=1, keepdims=True))
    low_C, high_C = np.full(len(windows), -60.0), np.full(len(windows), 60.0)
    for _ in range(60):
        middle_C = (low_C + high_C) / 2
        is_short_C = -np.expm1(-np.exp(middle_C)[:, None] * weight_CG).mean(axis=1) < retention
        low_C, high_C = np.where(is_short_C, middle_C, low_C), np.where(is_short_C, high_C, middle_C)
    share_CG = -np.expm1(-np.exp(high_C)[:, None] * weight_CG)
    return windows, share_CG / share_CG.mean(axis=1, keepdims=True)


def _ranks() -> NDArray[np.float64]:
    ranks: NDArray[np.float64] = (np.arange(_GRID) + 0.5) / _GRID
    return ranks
