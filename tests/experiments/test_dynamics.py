"""Fig. 3: samples of every rank followed through a rater's training, read back from the store, in two figures."""

import html
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from alchemist_core.cli.experiment import ListConfig, RunResult, ShowConfig, follow, list_, show
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.experiments.dynamics import (
    REFERENCE,
    DynamicsConfig,
    choose_followed,
    conclude,
    make_dynamics_sheet,
)
from alchemist_core.stages.report import ReportConfig
from alchemist_core.stages.report import run as report

NAMED = {"dataset": "scenes", "evaluation": "t", "rater": "production"}


def config(**fields: Any) -> DynamicsConfig:
    return DynamicsConfig.model_validate(
        {"n_followed": 200, "n_gradients": 20, "n_bands": 4, "n_marks": 2, **NAMED, **fields}
    )


def course(seed: int = 3, shift: float = 0.0, difference: float = 0.0) -> dict[str, Any]:
    marks = [
        {
            "step": step, "epoch": step / 10, "loss_of_band": [4.0 - step / 20 + shift, 5.0 - step / 40 + shift],
            "gradient_norm_of_band": [2.0, 1.0 + step / 20], "reference_loss": 3.5 if step > 10 else None,
        }
        for step in (0, 10, 20)
    ]  # fmt: skip
    return {
        "seed": seed, "rater": f"r{seed}", "n_in_band": [60, 40], "n_gradients": 10, "marks": marks,
        "largest_difference": difference,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.db
@pytest.mark.e2e
@pytest.mark.usefixtures("scored_store")
def test_a_training_is_followed_once_and_appears_in_the_report(tmp_path: Path) -> None:
    first = follow(config())
    assert first.table is not None
    assert "The repeated trainings are bit-identical to the raters' own." in first.table
    assert len(re.findall(r"^ranks \d", first.table, re.MULTILINE)) == 4
    found = {path.name: path.read_bytes() for path in Path(str(first.folder)).iterdir()}
    assert {
        "dynamics-loss.svg",
        "dynamics-gradient.svg",
        "table.txt",
        "table.md",
        "result.json",
        "index.html",
    } == found.keys()
    again: list[RunResult] = [follow(config()), show(ShowConfig(name="dynamics"))]
    assert [other.table for other in again] == [first.table] * 2
    assert {path.name: path.read_bytes() for path in Path(str(first.folder)).iterdir()} == found
    assert [(row["state"], row["question"][-8:]) for row in list_(ListConfig()).experiments] == [
        ("finished", "(Fig. 3)")
    ]
    page = Path(report(ReportConfig(dataset="scenes", out=tmp_path / "page.html")).path).read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "Norm of a sample's own gradient" in html.unescape(page)
    with pytest.raises(ConfigError, match="exists with other options: n_bands"):
        follow(config(n_bands=3))


def test_a_course_is_concluded_in_one_sentence() -> None:
    assert conclude([course()]) == "the loss fell by 1.0000 for ranks 0–50% and by 0.5000 for ranks 50–100%"


def test_followed_samples_fill_every_band_and_each_band_has_its_share_of_gradients() -> None:
    ranks = np.linspace(0, 1, 1000)
    ranks[::7] = np.nan
    found = choose_followed(ranks, config(n_followed=500, n_gradients=40), 0)
    places, bands, has_gradient = found.values()
    assert len(set(places.tolist())) == 500
    assert not np.isnan(ranks[places]).any()
    assert (bands == np.minimum(np.floor(ranks[places] * 4), 3)).all()
    assert np.bincount(bands[has_gradient]).tolist() == [10] * 4
    fewer = choose_followed(ranks, config(n_followed=500, n_gradients=20), 0)
    assert (fewer["place_N"] == places).all()
    assert (has_gradient | ~fewer["has_gradient_N"]).all()


def test_all_are_followed_where_they_are_fewer() -> None:
    found = choose_followed(np.linspace(0, 1, 90), config(n_followed=500), 0)
    assert found["place_N"].tolist() == list(range(90))


def test_a_band_without_samples_is_refused() -> None:
    with pytest.raises(DataError, match="none is in band 2 of 4"):
        choose_followed(np.array([0.0, 0.1, 0.6, 0.9]), config(), 0)


def test_one_rater_is_not_followed_over_seeds() -> None:
    with pytest.raises(ValidationError, match="has one training: give one seed"):
        config(seeds="3,4")


def test_rows_show_the_first_and_last_loss_of_each_band() -> None:
    sheet = make_dynamics_sheet({"courses": [course()]})
    assert sheet.lines == [
        ("ranks 0–50%", "60", "4.0000", "3.0000", "1.0000", "2.00", "2.00"),
        ("ranks 50–100%", "40", "5.0000", "4.5000", "0.5000", "1.00", "2.00"),
    ]
    assert any("reference θ̂ ends at 3.5000" in note for note in sheet.notes)


def test_several_seeds_give_intervals_and_a_different_training_is_reported() -> None:
    sheet = make_dynamics_sheet({"courses": [course(), course(4, shift=0.2, difference=0.01)]})
    assert sheet.lines[0][2].startswith("4.1000 ± ")
    assert sheet.lines[0][4] == "1.0000 ± 0.0000"
    assert "not bit-identical to the raters' own: losses differ by up to 0.01" in sheet.notes[-1]


def test_the_figures_name_every_band_and_the_loss_alone_the_reference() -> None:
    figures = make_dynamics_sheet({"courses": [course()]}).figures
    for name, (_, svg) in figures.items():
        root = ET.fromstring(svg)
        texts = {element.text for element in root.iter() if element.tag.endswith("text")}
        paths = [element for element in root.iter() if element.tag.endswith("path")]
        assert {"ranks 0–50%", "ranks 50–100%"} <= texts
        assert (REFERENCE in texts) == (name == "dynamics-loss")
        assert len(paths) == (3 if name == "dynamics-loss" else 2)


def test_a_line_passes_through_its_marks() -> None:
    _, svg = make_dynamics_sheet({"courses": [course()]}).figures["dynamics-loss"]
    root = ET.fromstring(svg)
    path = next(element.get("d", "") for element in root.iter() if element.tag.endswith("path"))
    points = np.array([[float(word) for word in point.split()] for point in path.removeprefix("M").split("L")])
    ticks = [
        e for e in root.iter() if e.tag.endswith("text") and e.get("class") == "end" and "epochs" not in (e.text or "")
    ]
    # The marks are in a square of 100 × 100, which the figure stretches to a height of 234 below its upper margin of 16.
    places = [(float(e.get("y", 0)) - 4 - 16) / 2.34 for e in ticks]
    scale = np.polyfit(places, [float(e.text or 0) for e in ticks], 1)
    assert np.polyval(scale, points[:, 1]) == pytest.approx([4.0, 3.5, 3.0], abs=0.01)
    assert np.diff(points[:, 0])[0] == pytest.approx(np.diff(points[:, 0])[1])
