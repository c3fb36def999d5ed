"""The region probe: train on bands of the ranking and at random, fit what ranks are worth, and measure the fitted region on other seeds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alchemist_core.evaluation.paired import Estimate, estimate_gain
from alchemist_core.experiments.arms import Arm, parse_arm
from alchemist_core.experiments.cells import Cell, measure_cell
from alchemist_core.experiments.config import TrialsConfig
from alchemist_core.experiments.results import RANDOM, losses_by_arm, paired_spread
from alchemist_core.experiments.trial import Trial
from alchemist_core.loops.config import DownstreamConfig
from alchemist_core.selection.config import strategy_spec
from alchemist_core.selection.region import FittedRegion, RegionFit, fit_region
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import RaterRow
from alchemist_core.store.regions import store_region
from alchemist_core.telemetry import say


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """What a probe trains."""

    # A kind of rater, trained for every seed; or the name of one rater, whose corpus does not vary.
    kind: str
    n_bands: int
    choose_seeds: tuple[int, ...]
    report_seeds: tuple[int, ...]
    model: DownstreamConfig

    def bands(self) -> list[str]:
        """Return the arms of the bands, the highest scores first."""
        return [f"{self.kind}/block@{b / self.n_bands:g}" for b in range(self.n_bands)]

    def arms(self) -> list[tuple[Arm, float]]:
        """Return what a seed that chooses trains on: a random draw, and every band."""
        size = 1 / self.n_bands
        return [(parse_arm(word, retention=size, first_rater=self.kind), size) for word in (RANDOM, *self.bands())]


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe's outcome at one retention."""

    fit: RegionFit
    measured: Estimate | None
    fitted: FittedRegion
    # Standard deviation of paired differences to random, from the seeds that chose.
    spread: float | None

    def as_json(self) -> dict[str, Any]:
        """Return what the store keeps: `FittedRegion.of` makes the fitted region again."""
        return {
            "fit": self.fit.as_json(), "spread": self.spread, "said": self.fitted.describe(),
            "measured": None if self.measured is None else asdict(self.measured),
        }  # fmt: skip


class Probe:
    """One probe of a kind of rater under a trials' config."""

    def __init__(self, config: TrialsConfig, plan: ProbePlan) -> None:
        self.config, self.plan = config, plan
        self._raters: dict[int, RaterRow] = {}
        self._trials: dict[int, Trial] = {}

    def run(self, retentions: Sequence[float]) -> list[Probed]:
        """Measure the bands once, fit each retention, try each fitted region on the report seeds, store for every rater."""
        cells = [cell for seed in self.plan.choose_seeds for cell in self._measure_bands(seed)]
        return [self._probe(retention, cells) for retention in retentions]

    def _probe(self, retention: float, cells: list[Cell]) -> Probed:
        losses = losses_by_arm(cells)
        random_S = np.array([losses[RANDOM][seed] for seed in self.plan.choose_seeds])
        loss_SB = np.array([[losses[band][seed] for band in self.plan.bands()] for seed in self.plan.choose_seeds])
        fit = fit_region(np.log(random_S[:, None] / loss_SB), retention)
        reported = [cell for seed in self.plan.report_seeds for cell in self._try_region(seed, fit)]
        by_arm = losses_by_arm(reported)
        measured = estimate_gain(by_arm["region"], by_arm[RANDOM]) if reported else None
        fitted = FittedRegion.of(fit, measured, random_loss=float(random_S.mean()))
        self._store(fitted, fit, [*cells, *reported])
        say(fitted.describe())
        return Probed(fit, measured, fitted, paired_spread(losses))

    def _measure_bands(self, seed: int) -> list[Cell]:
        return [self._measure(seed, arm, size) for arm, size in self.plan.arms()]

    def _try_region(self, seed: int, fit: RegionFit) -> list[Cell]:
        random = parse_arm(RANDOM, retention=fit.retention, first_rater=self.plan.kind)
        region = Arm("region", self.plan.kind, strategy_spec(fit.region.strategy))
        return [self._measure(seed, arm, fit.retention) for arm in (random, region)]

    def _measure(self, seed: int, arm: Arm, retention: float) -> Cell:
        trial, rater = self._trial(seed)
        assert arm.policy is not None
        cell = measure_cell(trial, arm, arm.policy, rater, retention=retention, model=self.plan.model)
        say(f"probe {self.plan.kind} seed {seed}: {arm.word} at {retention:.0%} {cell.loss:.4f}")
        return cell

    def _trial(self, seed: int) -> tuple[Trial, RaterRow]:
        if seed not in self._trials:
            self._trials[seed] = Trial(self.config, seed)
            self._trials[seed].prepare()
            self._raters[seed] = self._trials[seed].rater(self.plan.kind)
        return self._trials[seed], self._raters[seed]

    def _store(self, fitted: FittedRegion, fit: RegionFit, cells: Sequence[Cell]) -> None:
        measurements = {
            "retention": fit.retention,
            "choose_seeds": list(self.plan.choose_seeds),
            "report_seeds": list(self.plan.report_seeds),
            "model": self.plan.model.model_dump(mode="json"),
            "fit": fit.as_json(),
            "cells": [cell.as_json() for cell in cells],
        }
        for rater in {rater.rater_id: rater for rater in self._raters.values()}.values():
            store_region(open_store(), rater.rater_id, fitted, measurements)
