"""The share of random's steps is the product's, judged by its interval; a trial that fails costs no other."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alchemist_core.experiments.results import share_of_steps
from alchemist_core.experiments.trial import Cell
from alchemist_core.settings import load_settings
from tests.benchmarks import steps_to_random
from tests.benchmarks.rows import write_rows
from tests.benchmarks.steps_to_random import AIMS, judge, keep, measure_all
from tests.benchmarks.study import PLANS, RECIPES, Trial

SHARES = (0.1, 0.2, 0.4, 1.0)


def seed(number: int, *losses: float, retention: float = 0.5) -> list[dict[str, Any]]:
    """The recipe's losses at each length, beside random samples that end at 1."""
    lengths = zip(SHARES, losses, (4.0, 3.0, 2.0, 1.0), strict=True)
    return [
        {
            "arm": arm, "retention": retention, "seed": number, "n_samples": 6, "n_steps": round(100 * length),
            "loss": loss, "length": length,
        }
        for length, mine, random in lengths
        for arm, loss in ((RECIPES[-1], mine), ("random", random))
    ]  # fmt: skip


def test_the_share_is_that_of_the_experiments_own_sheet() -> None:
    cells = [*seed(1, 3.0, 1.0, 0.9, 0.8), *seed(2, 3.0, 2.0, 1.0, 0.8)]
    row, share = judge("scenes", 0.5, cells), share_of_steps([Cell(**cell) for cell in cells], RECIPES[-1], 0.5)
    assert share is not None
    assert row.value == round(share.mean, 4) == 0.3
    # The mean of the reciprocals, 3.75, is larger than the reciprocal of the mean.
    assert 1 / row.value < 3.75
    assert "2 corpus seeds: 0.200, 0.400" in row.detail


def test_the_upper_end_of_the_interval_is_judged_and_not_the_mean() -> None:
    def of(*reached: float) -> list[dict[str, Any]]:
        # Seeds that reach random's loss of 1 between 10 and 20% of the steps.
        return [cell for i, one in enumerate(reached) for cell in seed(i, one, 0.99, 0.9, 0.8)]

    close, wide = judge("scenes", 0.5, of(1.1, 1.1, 1.2)), judge("scenes", 0.5, of(1.01, 2.0, 9.0))
    assert close.ok
    assert wide.value is not None
    assert wide.value < 1 / AIMS[0.5]
    assert not wide.ok
    assert not judge("scenes", 0.5, of(1.1)).ok, "one seed has no interval"


def test_seeds_that_never_reach_random_leave_no_share_and_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = judge(
        "damaged", 0.2, [*seed(35, 2.0, 1.0, 0.9, 0.8, retention=0.2), *seed(36, 4.0, 3.0, 2.0, 1.5, retention=0.2)]
    )
    assert (row.value, row.ok) == (None, False)
    assert "never reached: seeds 36" in row.detail
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path))
    load_settings.cache_clear()
    write_rows("steps", [row])
    assert "MISS damaged: share" in capsys.readouterr().out


def test_seeds_that_reach_random_at_the_shortest_length_are_named() -> None:
    row = judge("scenes", 0.5, [*seed(1, 0.9, 0.8, 0.7, 0.6), *seed(2, 3.0, 2.0, 1.0, 0.8)])
    assert "at most, since reached at the shortest length: seeds 1" in row.detail


def test_a_trial_that_fails_is_named_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # No trial can be measured while the store is unreachable.
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path))
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", "postgresql://someone@127.0.0.1:1/nowhere")
    load_settings.cache_clear()
    plan = replace(PLANS["value"].quick(), n_train=48)
    trials = [Trial(plan, "scenes", number) for number in (1, 2)]
    assert measure_all(trials, None, 2) == ({}, [trial.name for trial in trials])
    said = capsys.readouterr().out
    assert [trial.name for trial in trials if f"{trial.name} failed:" not in said] == []


def test_losses_that_another_clone_measured_stay_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_to_random, "KEPT_STEPS", tmp_path / "kept.json")
    first, second = (Trial(PLANS["value"], "scenes", number) for number in (35, 36))
    keep({first: seed(35, 4.0, 3.0, 2.0, 1.0)})
    keep({second: seed(36, 4.0, 3.0, 2.0, 1.0)})
    keep({first: seed(35, 0.9, 0.8, 0.7, 0.6)})
    kept = json.loads((tmp_path / "kept.json").read_text("utf-8"))
    assert [(one["seed"], one["cells"][0]["loss"]) for one in kept] == [(35, 0.9), (36, 4.0)]
