"""The study counts its work, keeps each trial, reads tables without training, and judges by intervals."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alchemist_core.config import fingerprint
from alchemist_core.errors import DataError
from alchemist_core.experiments.arms import parse_arm
from alchemist_core.settings import load_settings
from alchemist_core.training.critic_training import hold_out
from tests.benchmarks import study, worlds
from tests.benchmarks.study import (
    CONTROLS,
    FUSION,
    PLANS,
    Study,
    accepted_by,
    aucs_of,
    compare_promises,
    draw_promises,
    lines_of,
    make_table,
    mean_aucs,
    selection_seconds,
    value_rows,
)

ARMS = ("random", "planted", "learnability/auto", FUSION, "validation")


def trial(world: str, seed: int, losses: dict[str, float]) -> dict[str, Any]:
    cells = [
        {"arm": arm, "retention": 0.5, "seed": seed, "n_samples": 6, "n_steps": 9, "loss": loss, "losses": [loss, loss]}
        for arm, loss in losses.items()
    ]
    return {
        "world": world,
        "seed": seed,
        "cells": cells,
        "costs": {"learnability": 60.0, "trained_critic": 12.0, "image_density": 2.0},
    }


def five(world: str, gain: float, spread: float = 0.001) -> list[dict[str, Any]]:
    """Five seeds: random at 1, the oracle 0.4 lower, rule `learnability` `gain` lower, the fusion no better than random."""
    wiggle = (-2, -1, 0, 1, 2)
    return [
        trial(world, 30 + i, dict(zip(ARMS, (1.0, 0.6, 1.0 - gain + spread * w, 1.0 + 0.2 * w, 0.8), strict=True)))
        for i, w in enumerate(wiggle)
    ]


def test_the_table_names_the_best_selection_of_each_world_if_it_is_shown_to_be_better() -> None:
    table = make_table([*five("scenes", 0.4), *five("real", 0.0, spread=0.01)])
    assert table["best"] == {"scenes 50%": "learnability/auto", "real 50%": "not shown"}
    found = {(row["world"], row["arm"]): row for row in table["rows"]}
    assert found["scenes", "learnability/auto"]["gap_closed"]["mean"] == pytest.approx(1.0)
    assert found["scenes", "learnability/auto"]["selection_seconds"] == 60.0
    assert found["scenes", FUSION]["selection_seconds"] == 74.0
    assert found["scenes", "random"]["selection_seconds"] == 0.0
    json.dumps(table)
    text = "\n".join(lines_of(table["rows"]))
    assert "5 0.4000 [0.39" in text
    assert "oracle" in text


def test_a_recipe_with_the_validation_dataset_can_be_the_best_and_a_control_cannot() -> None:
    recipe, losses = CONTROLS[3], {"random": 1.0, "planted": 0.4, "validation": 0.3, "full": 0.4, FUSION: 0.9}
    trials = [trial("scenes", seed, losses | {"random": 1.0 + 0.001 * seed, recipe: 0.5}) for seed in (30, 31, 32)]
    assert make_table(trials)["best"] == {"scenes 50%": recipe}


def test_costs_are_of_the_trials_that_ran_alone_if_there_are_any() -> None:
    first, *others = five("scenes", 0.4)
    busy = [{**one, "costs": {**one["costs"], "learnability": 600.0}, "beside_other_work": True} for one in others]
    for trials, seconds in (([first, *busy], 60.0), (busy, 600.0)):
        rows = {row["arm"]: row for row in make_table(trials)["rows"]}
        assert rows["learnability/auto"]["selection_seconds"] == seconds


def test_a_recipe_is_judged_by_the_ends_of_its_intervals() -> None:
    rows = {row.name: row for row in value_rows(five("scenes", 0.4))}
    auto, fusion = "scenes: learnability/auto at 50%", f"scenes: {FUSION} at 50%"
    assert rows[f"{auto}: gap closed"].ok
    assert rows[f"{auto}: gap closed, lower end"].ok
    assert rows[f"{auto}: gain over the validation dataset alone"].ok
    assert rows[f"{auto}: gain over random"].ok
    assert not rows[f"{fusion}: gap closed"].ok
    # Its mean is that of random, but it may be much worse.
    assert rows[f"{fusion}: gain over random"].value == 0.0
    assert not rows[f"{fusion}: gain over random"].ok


def test_every_plan_has_arms_that_can_be_parsed_and_seeds_of_its_own() -> None:
    for plan in PLANS.values():
        for retention in plan.retentions:
            assert [parse_arm(arm, retention=retention) for arm in plan.arms]
        assert plan.quick().name.endswith("-quick")
        trains = {parse_arm(arm, retention=0.5).trains for arm in plan.arms}
        # Those that report answer why to select at all.
        assert plan.name in ("choice", "topics") or trains >= {"subset", "validation", "subset+validation"}, plan.name
    # Seeds that nobody has seen: those of the older benchmarks end at 13.
    assert all(min(plan.seeds) >= 30 for plan in PLANS.values())
    assert not set(PLANS["methods"].seeds) & set(PLANS["worlds"].seeds)
    assert not set(PLANS["choice"].seeds) & {*PLANS["default"].seeds, *PLANS["sizes-100"].seeds}


def test_a_plan_with_a_number_of_validation_samples_has_so_many_and_datasets_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path))
    load_settings.cache_clear()
    monkeypatch.setattr(study, "draw_scenes", lambda _root, *, n_validation, **_: drawn.append(n_validation))
    monkeypatch.setattr(study, "ingest", lambda _config: None)
    plans = [PLANS[f"sizes-{n}"] for n in study.SIZES]
    for plan in plans:
        study.make_trial(study.Trial(plan, "scenes", plan.seeds[0]), None)
    assert tuple(drawn) == study.SIZES
    assert len({study.Trial(replace(plan, name="same"), "scenes", 70).dataset for plan in plans}) == len(plans)


def test_only_missing_trials_are_counted_and_an_unknown_source_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path))
    load_settings.cache_clear()
    monkeypatch.setattr(study, "_time_steps", lambda _trial: (0.01, 0.02))
    plan = replace(PLANS["value"].quick(), arms=ARMS[:3], seeds=(30, 31))
    made = Study(plan, None, 2)
    assert "World damaged is left out" in capsys.readouterr().out
    # 3 arms x 2 trainings x 2 seeds of 200 samples in batches of 32, one epoch: 6 steps each.
    assert "2 trials, 0 done. Missing: 12 models of 72 steps together at 10.0 ms, 2 raters" in made.describe()
    result = five("scenes", 0.3)[0]
    for other in (result, result | {"plan": "another"}):
        made.trials[0].path.write_text(json.dumps(other))
        assert len(made.missing()) == 2
    made.trials[0].path.write_text(json.dumps(result | {"plan": fingerprint(plan.measured())}))
    assert [one.seed for one in made.missing()] == [31]
    assert "2 trials, 1 done. Missing: 6 models of 36 steps" in made.describe()
    made.write()
    table = json.loads((made.trials[0].path.parent / "table.json").read_text())
    assert (table["n_trials"], table["n_missing"]) == (1, 1)
    assert (tmp_path / "study/value-quick/scenes-r50.svg").exists()
    # Kept in the repository, the trial need not be measured again on another machine.
    monkeypatch.setattr(study, "KEPT", tmp_path / "trials")
    made.keep()
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path / "another"))
    load_settings.cache_clear()
    again = Study(plan, None, 2)
    assert [one.seed for one in again.missing()] == [31]
    # A file of another plan is not kept in its place.
    again.trials[0].path.write_text(json.dumps(result | {"plan": "another"}))
    again.keep()
    assert [one.seed for one in again.missing()] == [31]
    load_settings.cache_clear()


def test_promises_are_compared_with_the_seeds_that_neither_chose_nor_tested() -> None:
    promised = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 4}
    search = {
        "winner": "learnability/auto", "recipe": "learnability/auto", "promised": promised, "searched": 0.7, "said": "", "retention": 0.5,
    }  # fmt: skip
    (found,) = compare_promises(five("scenes", 0.4), {"scenes": search, "real": search})
    assert found["came"]["mean"] == pytest.approx(np.log(1 / 0.6), abs=1e-3)
    assert found["came"]["n"] == 5
    drawn = draw_promises([found])
    assert "promised, log(loss of random / loss)" in drawn
    assert all(name in drawn for name in ("as promised", "scenes"))
    plan = PLANS["worlds"]
    assert not {*plan.seeds} & {*plan.search_seeds, *plan.confirmation_seeds}
    options = study.Trial(plan, "skewed", 30).search_options()
    assert options["dataset"].format(seed=30) == study.Trial(plan, "skewed", 30).dataset
    assert options["seeds"] == "50,51,52,53"
    # A search is of its world: it is found whichever seeds are measured.
    assert study.Trial(plan, "skewed", 31).search_options() == options


def test_the_search_of_a_world_is_kept_and_found_by_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path))
    load_settings.cache_clear()
    monkeypatch.setattr(study, "KEPT", tmp_path / "trials")
    made = Study(replace(PLANS["worlds"], worlds=("skewed",), seeds=(30, 31)), None, 2)
    first = made.trials[0]
    first.search_path.write_text(json.dumps({"winner": "random", "plan": fingerprint(first.search_options())}))
    made.keep()
    first.search_path.unlink()
    assert [trial.find_search() is not None for trial in made.trials] == [True, True]
    assert made.missing_searches() == []
    load_settings.cache_clear()


def test_another_plan_measures_another_experiment_and_another_size_another_corpus() -> None:
    plan = PLANS["value"]
    others = replace(plan, arms=plan.arms[:2]), replace(plan, n_train=400)
    (own, fewer_arms, smaller) = (study.Trial(one, "scenes", 35) for one in (plan, *others))
    assert fewer_arms.dataset == own.dataset != smaller.dataset
    assert len({own.name, fewer_arms.name, smaller.name}) == 3


def test_a_failed_trial_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path))
    load_settings.cache_clear()
    seen = []

    def measure(trial: study.Trial, _corpus: Path | None) -> None:
        seen.append(trial.seed)
        if trial.seed < 32:
            raise SystemExit(1) if trial.seed == 30 else DataError("too few captions")

    monkeypatch.setattr(study, "_run_trial", measure)
    monkeypatch.setattr(study, "create_store", lambda: None)
    made = Study(replace(PLANS["methods"], worlds=("scenes",), seeds=(30, 31, 32, 33)), None, 2)
    assert made.run(1.0) == [trial.name for trial in made.trials[:2]]
    assert sorted(seen) == [30, 31, 32, 33]
    assert f"{made.trials[1].name} failed: too few captions" in capsys.readouterr().out
    assert made.run(-1.0) == []
    load_settings.cache_clear()


@pytest.mark.slow
def test_a_critic_can_be_trained_for_every_seed_of_the_world_with_the_fewest_captions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worlds, "_png", lambda _: b"")
    plan = PLANS["worlds"]
    for seed in (*plan.seeds, *plan.search_seeds, *plan.confirmation_seeds):
        world = worlds.World("shifted", seed, plan.n_train, 12, plan.validation_share)
        validation = worlds._shifted(world, random.Random(f"shifted {seed}"))["validation"]
        train, heldout = hold_out([one.caption for one in validation], [bytes([n // 256, n % 256]) for n in range(300)])
        assert len(train) > len(heldout) > 0


@pytest.mark.slow
def test_scores_are_compared_by_how_well_they_tell_good_samples_from_each_kind_of_bad_ones() -> None:
    kinds = {bytes([n]): ("informative", "blur", "noise")[n % 3] for n in range(30)}
    blind = {pair: float(pair[0] % 2) for pair in kinds}
    sharp = {pair: 1.0 if kind == "informative" else 0.0 for pair, kind in kinds.items()}
    found = aucs_of({"learnability": blind, "trained_critic": sharp}, kinds)
    assert found["trained_critic"] == {"blur": 1.0, "noise": 1.0}
    assert found["learnability"]["blur"] == pytest.approx(0.5, abs=0.1)
    # The mean of the ranks: between the two.
    assert 0.7 < found["learnability+trained_critic"]["blur"] < 1.0
    trials = [{"world": "damaged", "aucs": {"trained_critic": {"blur": area}}} for area in (0.7, 0.9)]
    assert mean_aucs(trials)["damaged"]["trained_critic"]["blur"]["mean"] == pytest.approx(0.8)


def test_a_threshold_is_judged_by_the_good_samples_that_it_keeps() -> None:
    kinds = {bytes([n]): "informative" if n < 4 else "noise" for n in range(10)}
    descending = {pair: -float(pair[0]) for pair in kinds}
    scores = dict.fromkeys(("learnability", "trained_critic", "image_density"), descending)
    # The mean ranks are 0, 1/9, 2/9 and so on: the first five samples reach a score of 0.5.
    found = accepted_by(0.5, scores, kinds)
    assert found == {"threshold": 0.5, "share": 0.5, "good_kept": 1.0, "precision": 0.8}
    assert accepted_by(None, scores, kinds) is accepted_by(0.5, {"learnability": descending}, kinds) is None


def test_a_fusion_costs_what_all_its_scores_cost() -> None:
    costs = {"learnability": 1.0, "loss": 2.0, "dsir": 4.0, "semdedup": 8.0, "seal": 16.0}
    assert selection_seconds("loss/paper", costs) == 2.0
    assert selection_seconds("dsir/top_k", costs) == 4.0
    assert selection_seconds("learnability+dsir+semdedup/top_k;accept=auto", costs) == 13.0
    assert selection_seconds("seal/auto", costs) == 16.0
    assert selection_seconds("validation", costs) == 0.0
    assert selection_seconds("learnability+pmi/head_gsample", costs | {"pmi": 64.0}) == 65.0
    assert selection_seconds("random;variety=1", costs | {"clusters": 128.0}) == 128.0
    assert selection_seconds("learnability/auto;variety=0.5", costs | {"clusters": 128.0}) == 129.0
    assert selection_seconds("rho_batches/top_k", costs | {"rho_batches": 32.0}) == 33.0
