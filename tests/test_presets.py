"""A preset is a size, a recipe is a scoring rule with its window of ranks; they combine, and a miniature must be named."""

import re
from itertools import product
from typing import Any

import pytest

from alchemist_core.__main__ import main
from alchemist_core.cli.command_line import build_parser, read_config
from alchemist_core.cli.verbs import STAGES, load_commands
from alchemist_core.config import Config
from alchemist_core.errors import ConfigError
from alchemist_core.presets import (
    NETWORKS,
    PRESETS,
    RECIPE_STAGES,
    RECIPES,
    WEIGHTS,
    line_of,
    preset_values,
    presets_of,
    refuse_missing_weights,
)
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.train_downstream import TrainDownstreamConfig
from alchemist_core.stages.train_rater import TrainRaterConfig

RATER = "train-rater --dataset d --validation v"
MODEL = "train-downstream s"
TRAININGS = {"train_rater": RATER, "train_downstream": MODEL}


def config_of(line: str) -> Any:
    words = line.split()
    options = vars(build_parser(words).parse_args(words))
    return read_config(options["command"].config, options)


def refusal_of(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as refused:
        main(line.split())
    assert refused.value.code == 2
    (told,) = capsys.readouterr().err.splitlines()
    return told


def weights_of(stage: str, preset: str) -> str:
    return "".join(f" --{name.replace('_', '-')} clip:x" for name in PRESETS[preset].needs.get(stage, ()))


@pytest.mark.parametrize("stage", NETWORKS)
def test_every_preset_with_every_recipe_is_a_valid_config(stage: str) -> None:
    recipes = RECIPES if stage in RECIPE_STAGES else (None,)
    for preset, recipe in product(presets_of(stage), recipes):
        chosen = f" --recipe {recipe}" if recipe else ""
        config = config_of(f"{TRAININGS[stage]} --preset {preset}{chosen}{weights_of(stage, preset)}")
        assert config.as_json() == type(config).model_validate(config.as_json()).as_json(), (preset, recipe)


def test_a_recipe_keeps_the_networks_of_its_preset() -> None:
    sizes = config_of(f"{RATER} --preset gpu80{weights_of('train_rater', 'gpu80')}").training
    both = config_of(f"{RATER} --preset gpu80 --recipe paper_exact{weights_of('train_rater', 'gpu80')}").training
    assert (both.rule, both.objective) == ("loss", "paper_exact")
    assert both == sizes.model_copy(update={"rule": both.rule, "objective": both.objective})


@pytest.mark.parametrize(("recipe", "rule"), [("ours", "alignment"), ("learnability", "learnability")])
def test_a_recipe_is_a_scoring_rule(recipe: str, rule: str) -> None:
    assert config_of(f"{RATER} --preset tiny --recipe {recipe}").training.rule == rule
    assert config_of(f"select --dataset d --recipe {recipe}") == SelectConfig(dataset=("d",))


def test_the_recipe_fusion_trains_the_default_rater_and_selects_by_three_scores() -> None:
    assert config_of(f"{RATER} --preset tiny --recipe fusion") == TrainRaterConfig(dataset="d", validation="v")
    policy = config_of("select --dataset d --recipe fusion --retention 0.2").policy
    assert (policy.rank_by, policy.strategy, policy.accept, policy.fill) == (
        "rater+critic+density", "head_gsample", "auto", "repeat",
    )  # fmt: skip
    # What it accepts is then the retention, with nothing to repeat.
    every = config_of("select --dataset d --recipe fusion --retention auto --fill none").policy
    assert (every.rank_by, every.keeps_all_accepted) == (policy.rank_by, True)


def test_an_option_of_one_command_does_not_change_the_preset_of_the_next() -> None:
    before = preset_values("train_rater", preset="gpu80")
    config_of(f"{RATER} --preset gpu80 --max-train-steps 7{weights_of('train_rater', 'gpu80')}")
    assert preset_values("train_rater", preset="gpu80") == before


def test_tiny_is_the_defaults_of_the_config_models_and_ours_the_default_recipe() -> None:
    assert config_of(f"{RATER} --preset tiny") == TrainRaterConfig(dataset="d", validation="v")
    assert config_of(f"{RATER} --preset tiny --recipe ours") == TrainRaterConfig(dataset="d", validation="v")
    assert config_of(f"{MODEL} --preset tiny") == TrainDownstreamConfig(subset="s")


@pytest.mark.parametrize("recipe", ["paper", "paper_exact"])
@pytest.mark.parametrize(
    ("retention", "cut"), [("0.2", 0.25), ("0.75", 0.25), ("0.8", 0.15), ("0.9", 0.05), (None, 0.25)]
)
def test_the_recipe_paper_lowers_the_drop_top_ratio_as_the_authors_did(
    recipe: str, retention: str | None, cut: float
) -> None:
    line = f"select --dataset d --recipe {recipe}{f' --retention {retention}' if retention else ''}"
    policy = config_of(line).policy
    assert (policy.strategy, policy.drop_top_ratio, policy.mean_rank, policy.std_rank) == (
        "shift_gsample", cut, 0.625, 0.125,
    )  # fmt: skip
    # An option overrides the recipe and leaves the rest.
    changed = config_of(f"{line} --drop-top-ratio 0.1").policy
    assert changed == policy.model_copy(update={"drop_top_ratio": 0.1})


def test_a_retention_that_is_not_a_number_is_refused_under_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["select", "--dataset", "web", "--recipe", "paper", "--retention", "most"]) == 2
    assert "--retention" in capsys.readouterr().err


@pytest.mark.parametrize("stage", NETWORKS)
def test_a_training_without_a_preset_is_refused_with_a_line_for_each(
    stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(TRAININGS[stage].split()) == 2
    head, *lines = capsys.readouterr().err.splitlines()
    place = f"preset in [{stage.removeprefix('train_')}] of alchemist.toml, which alchemist init writes"
    assert head == f"error: {stage.replace('_', '-')} requires --preset, or {place}. The sizes of the networks:"
    assert [line.split()[0] for line in lines] == list(presets_of(stage))
    for line, name in zip(lines, presets_of(stage), strict=True):
        assert line.endswith(line_of(stage, name))


@pytest.mark.parametrize("stage", NETWORKS)
def test_help_shows_a_line_for_each_preset(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([stage.replace("_", "-"), "--help"])
    told = re.sub(r"\s+", " ", capsys.readouterr().out)
    for name in presets_of(stage):
        assert f" {name} {line_of(stage, name)}" in told


@pytest.mark.parametrize(
    ("stage", "preset"), [(stage, name) for stage in NETWORKS for name in presets_of(stage) if PRESETS[name].needs]
)
def test_a_preset_names_each_of_its_weights_that_no_option_names_and_its_publisher(
    stage: str, preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needs = PRESETS[preset].needs[stage]
    for given in needs:
        flags = weights_of(stage, preset).replace(f" --{given.replace('_', '-')} clip:x", "")
        assert main(f"{TRAININGS[stage]} --preset {preset}{flags}".split()) == 2
        told = capsys.readouterr().err
        (line,) = [line for line in told.splitlines() if line.startswith("  --")]
        assert line == f"  --{given.replace('_', '-')}: {WEIGHTS[given].what} ({WEIGHTS[given].source})"
        assert "Hugging Face" in line
    assert PRESETS["tiny"].needs == {}


def test_the_refusal_of_the_size_paper_names_the_recipe_that_had_its_name() -> None:
    with pytest.raises(ConfigError, match="--recipe paper"):
        refuse_missing_weights("paper", "train_rater", {})


@pytest.mark.parametrize(
    ("line", "now"),
    [
        (f"{RATER} --preset paper_size", "--preset: paper_size is now gpu80."),
        (f"{RATER} --preset paper_exact", "--preset: paper_exact is now --recipe paper_exact."),
        (f"{MODEL} --preset paper_size", "--preset: paper_size is now gpu80."),
        (f"{MODEL} --preset paper_exact", "--preset: paper_exact is now tiny."),
        ("select --dataset d --preset paper", "The option --preset is now --recipe."),
        ("ingest --preset=tiny", "The option --preset is only an option of train-rater and train-downstream. Omit it."),
        (f"{RATER} --preset flux_mini", "--preset 'flux_mini' is not one of tiny, gpu24, gpu80, paper."),
    ],
)
def test_a_former_choice_is_refused_in_one_line_with_the_new_spelling(
    line: str, now: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"error: {now}" in refusal_of(line, capsys)


def test_only_the_stages_that_use_a_choice_offer_it() -> None:
    for verb in STAGES:
        actions = build_parser([verb])._subparsers._group_actions[0].choices[verb]._option_string_actions  # type: ignore[union-attr,index,call-overload]
        stage = verb.replace("-", "_")
        assert ("--preset" in actions, "--recipe" in actions) == (stage in NETWORKS, stage in RECIPE_STAGES)
        # Neither reads the recipe of the other.
        assert "--recipe" not in actions or "reads a recipe of its own" in (actions["--recipe"].help or "")


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"preset": "flux_mini"}, "train-rater has no preset 'flux_mini'. Choose from: tiny, gpu24, gpu80, paper."),
        ({"preset": "tiny", "recipe": "best"}, "There is no recipe 'best'. Choose from: ours, paper, "),
    ],
)
def test_a_name_from_elsewhere_that_a_stage_does_not_have_is_refused(choice: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        preset_values("train_rater", **choice)


def test_a_preset_declares_values_only_for_stages_that_have_presets() -> None:
    for preset in PRESETS.values():
        assert set(preset.values) == set(preset.networks) <= set(NETWORKS)
        assert set(preset.needs) <= set(preset.values)
        assert all(set(names) <= set(WEIGHTS) for names in preset.needs.values())
    for stage, section in NETWORKS.items():
        model: type[Config] = load_commands(stage.replace("_", "-"))[""].config
        assert section in model.model_fields
