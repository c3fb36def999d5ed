"""The recipes of a search: what they cover, what a selection by them needs, and clusters for those that vary."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from alchemist_core.cli.command_line import build_parser, read_config
from alchemist_core.cli.tune_selection import SearchConfig, _plan_search
from alchemist_core.errors import ConfigError
from alchemist_core.experiments.arms import RATERS, parse_arm
from alchemist_core.experiments.clusters import KeptEmbeddings, KeptOptions
from alchemist_core.experiments.recipes import BALANCED, RECIPES, _typed, describe_needs, flags_of
from alchemist_core.presets import FUSION
from alchemist_core.scorers.scorer import Batch
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.settings import load_settings
from alchemist_core.stages.select import SelectConfig


def policies() -> list[SelectionPolicy]:
    arms = [parse_arm(word, retention=0.5) for word in RECIPES]
    return [SelectionPolicy.model_validate({"retention": 0.5, **(arm.policy or {})}) for arm in arms]


def test_the_default_recipes_differ_in_rule_fusion_window_repeats_weights_and_variety() -> None:
    arms = [parse_arm(word, retention=0.5) for word in RECIPES]
    assert {"learnability", "alignment", "loss"} <= {arm.rater for arm in arms}
    assert {("trained_critic",), ("pmi",)} <= {
        arm.scores for arm in arms if "rater+" in (arm.policy or {}).get("rank_by", "")
    }
    found = policies()
    assert len({policy.resolve(arm.rater) for arm, policy in zip(arms, found, strict=True)}) >= 5
    assert {(policy.accept, policy.fill) for policy in found} == {("all", "none"), ("auto", "repeat")}
    assert {policy.weight_by for policy in found} == {"none", "rank"}
    assert {policy.variety for policy in found} == {0.0, 0.5, 1.0}
    assert BALANCED in RECIPES
    assert len(set(RECIPES)) == len(RECIPES)


def test_recipe_fusion_of_select_is_among_the_default_recipes_so_that_a_search_can_confirm_it() -> None:
    arm = parse_arm(RECIPES[1], retention=0.5)
    policy = dict(FUSION) | {"rank_by": "rater+trained_critic+image_density"}
    assert (arm.rater, arm.policy) == ("alignment", policy)


@pytest.mark.parametrize(
    ("budget", "n_recipes", "n_seeds"),
    [
        (None, 14, 4),
        (45, 14, 4),
        (44, 14, 3),
        (35, 14, 2),
        (34, 13, 2),
        (33, 12, 2),
        (26, 8, 2),
        (21, 7, 2),
        (15, 3, 2),
    ],
)
def test_a_budget_takes_the_first_recipes_and_then_seeds(budget: int | None, n_recipes: int, n_seeds: int) -> None:
    recipes, plan = _plan_search(SearchConfig(budget=budget))
    assert recipes == RECIPES[:n_recipes]
    assert len(plan.search_seeds) == n_seeds
    assert plan.has_fallback == (BALANCED in recipes)
    # Each training of a recipe counts.
    if budget is not None:
        assert _plan_search(SearchConfig(budget=3 * budget, trainings=3)) == (recipes, plan)


def test_recipes_that_are_given_are_all_compared() -> None:
    given = SearchConfig.model_validate({"recipes": ",".join(RECIPES[:4]), "budget": 22})
    recipes, plan = _plan_search(given)
    assert recipes == RECIPES[:4]
    assert plan.n_trainings == 19
    assert not plan.has_fallback


def test_a_search_reads_percentages_and_tells_why_auto_is_no_retention() -> None:
    def read(words: str) -> object:
        given = shlex.split(f"tune-selection search {words}")
        return read_config(SearchConfig, vars(build_parser(given).parse_args(given)))

    search = read("--retention 50%")
    assert isinstance(search, SearchConfig)
    assert search.retention == 0.5
    assert read("--retention 0.5") == search
    with pytest.raises(ConfigError, match=r"--retention.*auto.*compared at one retention.*accept=auto;fill=repeat"):
        read("--retention auto")


@pytest.mark.parametrize(
    ("recipes", "told"),
    [
        ("random,learnability/auto", "Every recipe is compared with random anyway"),
        ("learnability/auto,alignment/auto,learnability/auto", "Repeated in --recipes: .*Give each recipe once"),
    ],
)
def test_the_control_and_a_repeated_recipe_are_refused_because_they_would_be_counted(recipes: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        _plan_search(SearchConfig.model_validate({"recipes": recipes}))


@pytest.mark.parametrize("word", ["validation", "full", "oracle", "minus_loss", "learnability/auto+validation"])
def test_a_recipe_that_no_selection_makes_is_refused(word: str) -> None:
    config = SearchConfig.model_validate({"recipes": f"learnability/auto,{word}"})
    with pytest.raises(ConfigError, match=rf"^Recipe {re.escape(word)} does not train on a selection alone"):
        _plan_search(config)


def test_a_recipe_of_another_size_than_the_random_subset_is_refused() -> None:
    config = SearchConfig.model_validate({"recipes": "learnability/auto,learnability/top_k;retention=auto"})
    with pytest.raises(ConfigError, match=r"retention=auto would give .*in a search --retention"):
        _plan_search(config)


def test_the_refusal_of_a_small_budget_counts_every_training() -> None:
    with pytest.raises(ConfigError, match=r"^A budget of 20 trainings is too small: 2 recipes .* need 33\."):
        _plan_search(SearchConfig(budget=20, trainings=3))
    assert _plan_search(SearchConfig(budget=33, trainings=3))[1].n_trainings == 11


OPTIONS = (
    "learnability/auto;where=megapixels >= 1",
    "random;stratify=true;stratify_by=cluster",
    "loss/paper;allow_fewer=false;dedup=semantic",
    "learnability/top_k;max_share=0.2;max_share_of=cluster;decontaminate=bench;min_score=-0.00001",
    "alignment/gsample;mean_rank=none;stratify=no",
)


@pytest.mark.parametrize("word", [*RECIPES, *OPTIONS])
def test_the_printed_options_are_read_back_as_the_policy_of_the_recipe(word: str) -> None:
    arm = parse_arm(word, retention=0.5)
    given = {"retention": 0.5, **arm.resolve({"strategy": "head_gsample"})}
    words = ["select", "--dataset", "web", *shlex.split(flags_of(_typed(given)))]
    read = read_config(SelectConfig, vars(build_parser(words).parse_args(words)))
    assert read.policy == SelectionPolicy.model_validate(given)


def test_every_option_that_reads_clusters_needs_them() -> None:
    needs = [describe_needs(parse_arm(word, retention=0.5)) for word in OPTIONS]
    assert ["clusters: alchemist duplicates find-semantic --threshold 0.95 --no-whiten" in each for each in needs] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_what_a_selection_needs_is_named() -> None:
    needs = {word: describe_needs(parse_arm(word, retention=0.5)) for word in (*RECIPES, "seal/auto", "dsir/top_k")}
    assert needs["alignment/auto"] == ["a rater: alchemist train-rater --rule alignment"]
    assert needs["seal/auto"] == ["a rater: alchemist train-rater --rule alignment --penalty-schedule seal"]
    assert needs[BALANCED] == ["clusters: alchemist duplicates find-semantic --threshold 0.95 --no-whiten"]
    assert needs["learnability+trained_critic+image_density/head_gsample"] == [
        "a rater: alchemist train-rater --rule learnability",
        "in place of trained_critic the name of your critic: alchemist scorer train critic",
        "in place of image_density the name of your density ratio: alchemist scorer train density --kind density",
    ]
    # It needs no rater, and was nowhere shown to be worse than rule `learnability` (research page 036).
    assert (
        needs["trained_critic+image_density/head_gsample"]
        == needs["learnability+trained_critic+image_density/head_gsample"][1:]
    )
    assert needs["dsir/top_k"] == ["in place of dsir the name of imported scores: alchemist import scores"]
    for word in RECIPES:
        arm = parse_arm(word, retention=0.5)
        assert sum("train-rater" in need for need in needs[word]) == len(
            [kind for kind in arm.raters if kind in word and kind in RATERS]
        )


def test_embeddings_are_found_by_the_hash_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALCHEMIST_HOME", str(tmp_path))
    load_settings.cache_clear()
    folder = tmp_path / "artifacts"
    folder.mkdir()
    hashes = np.random.default_rng(0).integers(0, 256, (3, 32), np.uint8)
    np.savez(folder / "e.npz", image_hash=hashes, embedding=np.arange(6, dtype=np.float16).reshape(3, 2))
    scorer = KeptEmbeddings(KeptOptions(dataset="web", file="e.npz"))
    given = [hashes[2].tobytes(), bytes(32), hashes[0].tobytes()]
    batch = Batch(np.zeros((3, 0, 0, 3), np.uint8), ["a", "b", "c"], given)
    np.testing.assert_array_equal(scorer.embed(batch), np.array([[4, 5], [np.nan, np.nan], [0, 1]], np.float32))
    assert scorer.score(batch).tolist() == [0, 0, 0]
    assert len(scorer.identity()["embeddings_sha256"]) == 64
    load_settings.cache_clear()
