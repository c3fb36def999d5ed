"""Options of experiments: bounds, and no seed is used for both tuning and testing."""

from typing import Any

import pytest
from pydantic import ValidationError

from alchemist_core.errors import ConfigError
from alchemist_core.experiments.config import TrialsConfig
from alchemist_core.experiments.running import RunConfig


def test_a_seed_that_chooses_does_not_report() -> None:
    with pytest.raises(ValidationError, match=r"seeds \[1\] are in both"):
        RunConfig(experiment="rank_window", tuning_seeds=(0, 1), seeds=(1, 2))


def test_arms_without_a_tuned_window_may_be_compared_on_any_seed() -> None:
    assert RunConfig.model_validate({"experiment": "methods", "arms": "random,loss/paper", "seeds": "3,4"}).seeds == (
        3,
        4,
    )
    with pytest.raises(ValidationError, match=r"seeds \[3\] are in both"):
        RunConfig.model_validate({"experiment": "methods", "arms": "random,loss/auto;accept=auto", "seeds": "3,4"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"model": "width=32,max_train_steps=400"},
            r"max_train_steps=400 would train all lengths \(0.2, 0.5, 1, 2\) for as",
        ),
        ({"budget_multiples": "0.25,0.5"}, r"num_train_epochs is 0.25 × 10 = 2.5: give"),
        ({"num_train_epochs": 1}, r"is 0.2 × 1 = 0.2, 0.5 × 1 = 0.5: give"),
        ({"num_train_epochs": 1, "budget": "steps", "budget_multiples": "0.5"}, r"is 0.5 × 1 = 0.5: give"),
    ],
)
def test_a_length_that_no_model_would_have_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RunConfig.model_validate({"experiment": "training_time", **given})


@pytest.mark.parametrize("given", [
    {"experiment": "training_time"},
    {"experiment": "training_time", "num_train_epochs": 30, "budget_multiples": "0.1,0.7"},
    {"experiment": "methods", "model": "max_train_steps=400"},
])  # fmt: skip
def test_other_lengths_are_taken(given: dict[str, Any]) -> None:
    assert RunConfig.model_validate(given).question_lengths


@pytest.mark.parametrize("given", ["0,1,0", (0, 1, 0)])
def test_a_seed_that_would_count_twice_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match="0 is repeated"):
        RunConfig(experiment="rank_window", tuning_seeds=given)


@pytest.mark.parametrize(
    "given", [{"dataset": "d"}, {"dataset": "d", "evaluation": "e"}, {"evaluation": "e"}, {"rater": "production"}]
)
def test_half_a_corpus_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="or none of them for a synthetic corpus"):
        TrialsConfig.model_validate(given)


@pytest.mark.parametrize("given", [{}, {"dataset": "d", "evaluation": "e", "rater": "r"}])
def test_a_whole_corpus_or_none_is_taken(given: dict[str, str]) -> None:
    assert TrialsConfig.model_validate(given).dataset == given.get("dataset")


def test_recipes_come_from_the_preset_then_from_the_given_fields() -> None:
    config = TrialsConfig(training=("max_train_steps=7",), model=("width=32",), scenes=("n_train=9",))
    training = config.training_of("alignment", 3)
    # Options of an arm override the preset of its rater.
    assert (training.rule, training.max_train_steps, training.seed) == ("alignment", 7, 3)
    assert (config.model_of(num_train_epochs=2).width, config.scenes_of(4).n_train, config.scenes_of(4).seed) == (
        32,
        9,
        4,
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"training": ("n_step=7",)}, "n_step: Extra inputs.*Its fields: rule"),
        ({"training": ("max_train_steps=0",)}, "greater than or equal to 1"),
        ({"training": ("seed=7",)}, "seed: set by the experiment itself"),
        ({"preset": "huge"}, "--preset huge is unknown. Presets: tiny"),
        ({"preset": "flux_mini"}, "train-rater has no preset 'flux_mini'"),
        ({"preset": "gpu24", "training": ("text_encoder=words",)}, "needs weights.*\\n  --tokenizer-weights: "),
    ],
)
def test_a_wrong_recipe_names_the_field(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrialsConfig.model_validate(given).training_of("loss", 0)


def test_the_full_corpus_is_trained_once_whatever_the_retentions() -> None:
    cells = RunConfig(experiment="rank_window", arms=("random", "full"), retentions=(0.2, 0.5)).cells()
    assert [(arm.word, retention) for arm, retention in cells] == [("random", 0.2), ("full", 0.2), ("random", 0.5)]


def test_an_experiment_is_what_its_result_depends_on() -> None:
    first = RunConfig(experiment="rank_window", name="a", dry_run=True).identity()
    assert first == RunConfig(experiment="rank_window").identity()
    assert first != RunConfig(experiment="rank_window", seeds=(4, 5)).identity()
    assert first["arms"], "the question's own arms are written down: a later version may ask for others"
