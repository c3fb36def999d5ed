"""Tuning of a selection: train on bands of the ranking and at random, fit the rank window, and measure the fitted window.

On each seed the rank window is measured that the other seeds choose. A gain predicted from the fitted curve ignores the error of the fit;
such a prediction was once significant without a real gain (see the README).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alchemist_core.experiments.arms import Arm, paper_policy, parse_arm
from alchemist_core.experiments.config import TrialsConfig
from alchemist_core.experiments.results import RANDOM, losses_by_arm, paired_spread
from alchemist_core.experiments.trial import Cell, Trial, measure_cell
from alchemist_core.selection.config import strategy_spec
from alchemist_core.selection.rank_window import FittedWindow, RankWindow, WindowFit, fit_window
from alchemist_core.statistics import Estimate, estimate_gain
from alchemist_core.store.engine import open_store
from alchemist_core.store.rank_windows import store_window
from alchemist_core.store.raters import RaterRow
from alchemist_core.telemetry import say
from alchemist_core.training.config import DownstreamConfig

# The arm that tries a rank window.
WINDOW = "window"


@dataclass(frozen=True, slots=True)
class TuningPlan:
    """The models that a tuning trains."""

    # A kind of rater, trained for every seed; or the name of one rater, with one corpus.
    kind: str
    n_bands: int
    seeds: tuple[int, ...]
    model: DownstreamConfig

    def bands(self) -> list[str]:
        """Return the arms of the bands, the highest scores first."""
        return [f"{self.kind}/block@{b / self.n_bands:g}" for b in range(self.n_bands)]

    def band_arms(self) -> list[tuple[Arm, float]]:
        """Return the arms that a seed trains first: a random selection and all bands."""
        size = 1 / self.n_bands
        return [(parse_arm(word, retention=size, first_rater=self.kind), size) for word in (RANDOM, *self.bands())]

    def arms(self, retentions: Sequence[float]) -> list[tuple[Arm, float]]:
        """Return all arms of a seed, for their cost: the rank windows are not fitted yet, but selections of one size cost the same."""
        windows = [(self.window_arm(paper_policy(retention)), retention) for retention in retentions]
        return [*self.band_arms(), *[(self.random_arm(retention), retention) for retention in retentions], *windows]

    def random_arm(self, retention: float) -> Arm:
        """Return the arm that a rank window is compared with."""
        return parse_arm(RANDOM, retention=retention, first_rater=self.kind)

    def window_arm(self, policy: dict[str, Any]) -> Arm:
        """Return the arm that tries a rank window."""
        return Arm(WINDOW, self.kind, policy)


@dataclass(frozen=True, slots=True)
class TunedWindow:
    """The result of a tuning at one retention."""

    fit: WindowFit
    measured: Estimate
    fitted: FittedWindow
    # Standard deviation of paired differences to random, over the seeds and bands.
    spread: float | None

    def as_json(self) -> dict[str, Any]:
        """Return what the store keeps: `FittedWindow.of` computes the fitted rank window from it."""
        return {
            "fit": self.fit.as_json(), "spread": self.spread, "said": self.fitted.describe(),
            "measured": asdict(self.measured),
        }  # fmt: skip


class Tuning:
    """One tuning for a kind of rater.

    Args:
        config: Corpora and raters.
        plan: The models.
        should_store: Whether strategy `auto` uses the rank windows from then on.
    """

    def __init__(self, config: TrialsConfig, plan: TuningPlan, *, should_store: bool = True) -> None:
        self.config, self.plan, self._should_store = config, plan, should_store
        self._raters: dict[int, RaterRow] = {}
        self._trials: dict[int, Trial] = {}
        self._n_done = self._n_total = 0

    def run(self, retentions: Sequence[float]) -> list[TunedWindow]:
        """Measure the bands once; for each retention fit a rank window, try it, and store it for every rater if asked to."""
        n_seeds, n_of_windows = len(self.plan.seeds), 2 * len(retentions)
        self._n_total = n_seeds * (len(self.plan.band_arms()) + n_of_windows)
        cells = [cell for seed in self.plan.seeds for cell in self._measure_bands(seed)]
        return [self._tune(retention, cells) for retention in retentions]

    def _tune(self, retention: float, cells: list[Cell]) -> TunedWindow:
        losses = losses_by_arm(cells)
        random_S = np.array([losses[RANDOM][seed] for seed in self.plan.seeds])
        loss_SB = np.array([[losses[band][seed] for band in self.plan.bands()] for seed in self.plan.seeds])
        fit = fit_window(np.log(random_S[:, None] / loss_SB), retention)
        tried = [
            cell
            for seed, window in zip(self.plan.seeds, fit.held_out, strict=True)
            for cell in self._try_window(seed, window, retention)
        ]
        by_arm = losses_by_arm(tried)
        measured = estimate_gain(by_arm[WINDOW], by_arm[RANDOM])
        assert measured is not None
        fitted = FittedWindow.of(fit, measured)
        if self._should_store:
            self._store(fitted, fit, [*cells, *tried])
        say(fitted.describe())
        return TunedWindow(fit, measured, fitted, paired_spread(losses))

    def _measure_bands(self, seed: int) -> list[Cell]:
        return [self._measure(seed, arm, size) for arm, size in self.plan.band_arms()]

    def _try_window(self, seed: int, window: RankWindow, retention: float) -> list[Cell]:
        arms = (self.plan.random_arm(retention), self.plan.window_arm(strategy_spec(window.strategy)))
        return [self._measure(seed, arm, retention) for arm in arms]

    def _measure(self, seed: int, arm: Arm, retention: float) -> Cell:
        trial, rater = self._trial(seed)
        assert arm.policy is not None
        cell = measure_cell(trial, arm, arm.policy, rater, retention=retention, model=self.plan.model)
        self._n_done += 1
        count = f"{self._n_done}/{self._n_total}"
        say(f"tune-selection {self.plan.kind} {count} seed {seed}: {arm.word} at {retention:.0%}: loss {cell.loss:.4f}")
        return cell

    def _trial(self, seed: int) -> tuple[Trial, RaterRow]:
        if seed not in self._trials:
            self._trials[seed] = Trial(self.config, seed)
            self._trials[seed].prepare()
            self._raters[seed] = self._trials[seed].rater(self.plan.kind)
        return self._trials[seed], self._raters[seed]

    def _store(self, fitted: FittedWindow, fit: WindowFit, cells: Sequence[Cell]) -> None:
        measurements = {
            "retention": fit.retention,
            "seeds": list(self.plan.seeds),
            "model": self.plan.model.model_dump(mode="json"),
            "fit": fit.as_json(),
            "cells": [cell.as_json() for cell in cells],
        }
        for rater in {rater.rater_id: rater for rater in self._raters.values()}.values():
            store_window(open_store(), rater.rater_id, fitted, measurements)
