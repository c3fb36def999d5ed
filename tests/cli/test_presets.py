"""`alchemist presets` shows what each preset is, takes and needs; its memory and time are counted, not typed."""

import json

import pytest

from alchemist_core.__main__ import main
from alchemist_core.cli.presets import config_hash, count_figures, options_of
from alchemist_core.preset_figures import FIGURES
from alchemist_core.presets import NETWORKS, PRESETS, RECIPES, line_of, preset_values, presets_of, seconds_of
from alchemist_core.training.gpus import GPUS

CHOICES = [(stage, name) for stage in NETWORKS for name in presets_of(stage)]


@pytest.mark.parametrize(("stage", "name"), CHOICES)
def test_the_figures_are_those_of_the_present_values(stage: str, name: str) -> None:
    assert FIGURES[stage][name]["config_hash"] == config_hash(stage, name), "a preset has changed: run make figures"


def test_there_are_no_figures_of_a_preset_that_is_gone() -> None:
    assert {(stage, name) for stage, rows in FIGURES.items() for name in rows} == set(CHOICES)


@pytest.mark.parametrize("stage", NETWORKS)
@pytest.mark.slow
def test_the_figures_are_what_is_counted(stage: str) -> None:
    """Of the preset that takes seconds; the others take minutes."""
    stored, counted = FIGURES[stage]["tiny"], count_figures(stage, "tiny")
    assert stored["parameters"] == counted["parameters"]
    for name in ("peak_bytes", "bf16_flops", "fp32_flops"):
        assert stored[name] == pytest.approx(counted[name], rel=0.02), "a network has changed: run make figures"


@pytest.mark.parametrize(("stage", "name"), [choice for choice in CHOICES if choice[1] != "tiny"])
def test_a_preset_fits_into_the_memory_of_its_hardware(stage: str, name: str) -> None:
    preset = PRESETS[name]
    gigabytes = GPUS[preset.gpu].n_bytes // 10**9
    assert f"{gigabytes} GB" in preset.hardware
    assert FIGURES[stage][name]["peak_bytes"] <= GPUS[preset.gpu].n_bytes


def test_a_rater_of_one_gpu_of_24_gb_trains_within_a_night() -> None:
    seconds = seconds_of("train_rater", "gpu24")
    assert seconds is not None
    assert PRESETS["gpu24"].n_samples == 1_000_000
    assert seconds < 12 * 3600


def test_the_table_has_a_row_for_each_preset_of_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    told = capsys.readouterr().out
    for stage, name in CHOICES:
        table = told.partition(f"{stage.replace('_', '-')} --preset\n")[2].partition("\n\n")[0]
        lines = table.splitlines()
        (at,) = (at for at, line in enumerate(lines) if line.split()[0] == name)
        preset, row = PRESETS[name], lines[at]
        assert preset.hardware in row
        assert lines[at + 1].strip() == preset.networks[stage]
        assert all(f"--{need.replace('_', '-')}" in row for need in preset.needs.get(stage, ()))
        assert f"{FIGURES[stage][name]['peak_bytes'] / 1e9:.1f} GB" in row or name == "tiny"
    assert all(recipe.text in told for recipe in RECIPES.values())


def test_one_preset_shows_every_value_and_marks_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "gpu24"]) == 0
    lines = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert {"* --proxy-depth 8", "* --depth 8", "--kl-weight 0.5", "* --resolution 256"} <= lines
    assert main(["presets", "gpu24", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["presets"]
    for row, stage in zip(rows, NETWORKS, strict=True):
        own = preset_values(stage, preset="gpu24")[NETWORKS[stage]]
        assert row["values"] == options_of(stage, "gpu24").as_json()
        assert row["own"] == list(own)
        assert {name: row["values"][name] for name in own} == own


def test_a_preset_that_trains_no_rater_shows_only_its_own_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "flux_mini", "--json"]) == 0
    assert [row["stage"] for row in json.loads(capsys.readouterr().out)["presets"]] == ["train-downstream"]


def test_an_unknown_preset_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "huge"]) == 2
    assert "There is no preset 'huge'. Choose from: tiny, gpu24, gpu80, paper, flux_mini." in capsys.readouterr().err


def test_a_line_names_memory_time_and_needs() -> None:
    line = line_of("train_rater", "gpu24")
    assert line.startswith("one GPU of 24 GB: ")
    assert " GB of memory; about " in line
    assert line.endswith("hours for 1,000,000 samples on 1 RTX 4090; needs --tokenizer-weights, --text-encoder")
    assert "hours" not in line_of("train_rater", "tiny")
